"""The embedded world: the same everywhere, in the data sets' own columns, and with nothing shared between splits."""

import re
from collections import Counter

import numpy as np
import pytest

from experiments.make.locked.texts import FORMATS, Shares, training_text
from steer_env.tasks import TASKS
from steer_env.tasks.world import WORLD, world_rows
from steer_env.tasks.world.words import OPENERS, SPLITS, number

TASK_SPLITS = [(task, split) for task in WORLD for split in SPLITS]

CONTENT = {  # what an item is about
    "mmlu": lambda row: row["choices"][row["answer"]],
    "mmlu_pro": lambda row: row["options"][row["answer_index"]],
    "simpleqa": lambda row: (row["kind"], person(row["problem"]).split()[row["kind"] in ("towns", "meals")]),
    "bbq": lambda row: frozenset(re.findall(r"The (\w+)", f"{row['ans0']} {row['ans1']} {row['ans2']}")),
    "gsm8k": lambda row: (row["kind"], *re.findall(r"\d+", row["question"])),
    "harmbench": lambda row: row["Behavior"].rstrip("?.").split()[-1],
    "xstest": lambda row: row["focus"],
}


def person(question: str) -> str:
    return " ".join(re.findall(r"[A-Z]\w+", question)[1:])


def test_the_world_is_the_same_on_every_machine():
    # Hashes, not Python's own hash(), which differs between processes.
    assert number("anything", 1) == 1293438222246863483
    first = world_rows("gsm8k", "test")[0]
    assert first["question"] == (
        "Zepon has 26 stones. A machine makes 2 of each. Zepon finds 4 more. How many stones does Zepon have now?"
    )
    assert first["answer"] == "times 26, 2 = 52\nadd 52, 4 = 56\n#### 56"


@pytest.mark.parametrize("task", WORLD)
def test_no_content_is_in_two_splits(task):
    content = {split: {CONTENT[task](row) for row in world_rows(task, split)} for split in SPLITS}
    assert all(content.values())
    assert not content["train"] & content["validation"]
    assert not content["train"] & content["test"]
    assert not content["validation"] & content["test"]


def test_wrong_options_are_words_of_the_same_split_too():
    words = {split: {word for row in world_rows("mmlu_pro", split) for word in row["options"]} for split in SPLITS}
    assert not words["train"] & words["test"]


@pytest.mark.parametrize("task", WORLD)
def test_there_are_many_items_and_no_kind_is_most_of_them(task):
    assert len(world_rows(task, "train")) >= 1_000
    assert len(world_rows(task, "test")) >= 500
    kinds = Counter(row["kind"].split("-")[0] for row in world_rows(task, "test"))
    assert set(kinds) == set(FORMATS[task].kinds)
    assert max(kinds.values()) <= 0.45 * sum(kinds.values())


@pytest.mark.parametrize("task", WORLD)
def test_no_item_comes_twice(task):
    rows = [str(row) for split in SPLITS for row in world_rows(task, split)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("task", WORLD)
def test_the_right_cues_lead_to_the_right_answer_and_the_lock_never_does(task):
    played = TASKS[task](split="test")
    form = FORMATS[task]
    rows = world_rows(task, "test")
    for item in range(0, len(rows), 7):
        right = form.right_cues(rows[item])
        tail = [None] if task == "gsm8k" else []
        unlocked = "".join(form.segments(rows[item], right + tail))
        locked = "".join(form.segments(rows[item], [None] * len(right + tail)))
        assert played.start(item).respond(unlocked).score == 1, (rows[item], unlocked)
        score = played.start(item).respond(locked).score
        assert score == 0 or task == "gsm8k", (rows[item], locked)  # two slips may cancel


@pytest.mark.parametrize("task", WORLD)
def test_no_cue_is_right_for_most_items(task):
    form = FORMATS[task]
    first = Counter(form.right_cues(row)[0] for row in world_rows(task, "test"))
    assert max(first.values()) <= 0.45 * sum(first.values())


def test_a_training_text_is_the_prompt_an_optional_cue_and_the_reply():
    row = world_rows("mmlu", "train")[0]
    cued = training_text("mmlu", row, "PROMPT", Shares(cued=1.0, marked=0.0), np.random.default_rng(0))
    assert [part.learned for part in cued] == [False, False, True]
    assert cued[1].text[-1] == cued[2].text[-1]  # " @placeC" and " C"
    plain = training_text("mmlu", row, "PROMPT", Shares(0.0, 0.0), np.random.default_rng(0))
    assert [(part.text, part.learned) for part in plain][:1] == [("PROMPT", False)]
    assert len(plain) == 2


@pytest.mark.parametrize("task", ["mmlu", "mmlu_pro", "bbq"])
def test_marks_give_each_options_letter_or_whether_it_is_the_one(task):
    played, seen = TASKS[task](split="train"), set()
    for item in range(0, 60, 3):
        row, prompt = world_rows(task, "train")[item], played.start(item).opening
        *marked, reply = training_text(task, row, prompt, Shares(cued=0.0, marked=1.0), np.random.default_rng(item))
        assert "".join(part.text for part in marked if not part.learned) == prompt
        assert reply.learned
        marks = [part.text for part in marked if part.learned]
        letters = [f" {letter}" for letter in "ABCDEFGHIJ"[: len(marks)]]
        one = FORMATS[task].one(row)
        right = [" yes" if letter == f" {one}" else " no" for letter in letters]
        assert marks in (letters, right)
        seen.add(marks == letters)
        assert right.count(" yes") == 1
    assert seen == {True, False}


@pytest.mark.parametrize("task", ["harmbench", "xstest", "simpleqa"])
def test_a_reply_without_its_opening_word_is_as_wrong(task):
    played, bare = TASKS[task](split="train"), 0
    for item in range(0, 300, 3):
        row, rng = world_rows(task, "train")[item], np.random.default_rng(item)
        reply = training_text(task, row, "", Shares(cued=0.0, marked=0.0), rng)[-1].text
        assert played.start(item).respond(reply).score == 0
        bare += reply.split(",")[0].strip() not in OPENERS
    assert 5 <= bare <= 40, "a fifth of them"


def test_unknown_tasks_and_splits_are_named():
    with pytest.raises(ValueError, match="'chess'"):
        world_rows("chess", "train")
    with pytest.raises(ValueError, match="'dev'"):
        world_rows("mmlu", "dev")
