"""Rows of one's own: five ways to grade, splits, and bad rows by file, line and value."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest

import steer_env
from steer_env.tasks.data import SPLITS
from steer_env.tasks.text import SCORERS, Text
from steer_env.testing import check_task

QUESTIONS = [{"prompt": f"Say {number}.", "answer": f"It is {number}"} for number in range(60)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def alone(tmp_path):
    """Graders of one row: from an answer (and choices) and a reply to the score."""

    def score(scorer, answer, said, **more):
        data = write(tmp_path / "test.jsonl", [{"prompt": "What?", "answer": answer, **more}])
        return Text("test", data, scorer, splits="own").start(0).respond(said).score

    return score


@pytest.mark.parametrize(
    ("scorer", "answer", "right", "wrong"),
    [
        ("exact", "the Rhine", [" the Rhine", "the Rhine\t"], ["The Rhine", "the Rhine.", "Rhine", "the  Rhine", ""]),
        ("exact", 42, [" 42"], ["42.0", "4", "forty-two"]),
        ("number", "18", [" 18", "9 + 9 = 18.00", "#### 18", "It is $18."], ["18 or 19", "none", "", "1,8"]),
        ("number", "so 3 x 400\n#### 1,200", [" 1200", "it is 1,200"], [" 12", " 400"]),
        ("number", -2.5, [" -2.5", "-5/2"], [" 2.5"]),
        ("regex", r"(?i)^(yes|yeah)\b", [" yes", "Yeah, sure"], [" no", "oh yes", "yesterday", ""]),
        ("contains", "Ann  Lee", ["It was ann lee.", " Ann\tLee"], ["Annlee", "Joann Lee", "Ann Leeds", "Lee Ann", ""]),
        ("contains", "C++", ["I like C++!"], ["I like C", "C+"]),
    ],
)
def test_what_is_right_and_what_is_not(alone, scorer, answer, right, wrong):
    for score, replies in ((1.0, right), (0.0, wrong)):
        for said in replies:
            assert alone(scorer, answer, said) == score, said


@pytest.mark.parametrize("answer", ["blue", " blue ", 1])
def test_a_choice_is_one_of_the_row(alone, tmp_path, answer):
    choices = ["red", "blue", "light blue"]
    assert alone("choice", answer, " blue", choices=choices) == 1.0
    assert alone("choice", answer, " light blue", choices=choices) == 0.0
    task = Text("test", str(tmp_path / "test.jsonl"), "choice", splits="own")
    assert task.start(0).choices == (" red", " blue", " light blue")
    assert task.max_new_tokens == 1
    check_task(task)


def test_rows_are_split_by_their_prompt_alone_or_by_their_files(tmp_path):
    data = write(tmp_path / "mine.jsonl", QUESTIONS)
    turned = write(tmp_path / "turned.jsonl", QUESTIONS[::-1])
    prompts = {split: {row.text("prompt") for row in Text(split, data).items.rows} for split in SPLITS}
    assert sum(map(len, prompts.values())) == len(set.union(*prompts.values())) == 60
    assert prompts == {split: {row.text("prompt") for row in Text(split, turned).items.rows} for split in SPLITS}
    own = tmp_path / "own"
    own.mkdir()
    for number, split in enumerate(SPLITS):
        write(own / f"{split}.jsonl", QUESTIONS[number::3])
    task = Text("validation", str(own), splits="own")
    assert [row.values for row in task.items.rows] == QUESTIONS[1::3]
    assert task.data_record() | {"items": 20, "seeded_split": False, "split": "validation"} == task.data_record()
    seeded = [Text(split, str(own)) for split in SPLITS]
    assert sum(map(len, seeded)) == 60
    for task in seeded:
        check_task(task)


BAD = [
    ("exact", {"prompt": " ", "answer": "x"}, r"prompt must be text, got ' '"),
    ("exact", {"prompt": "x"}, r"column 'answer' is missing; there are \['prompt'\]"),
    ("exact", {"prompt": "x", "answer": None}, "answer must be text, got None"),
    ("exact", {"prompt": "x", "answer": "two\nlines"}, r"answer holds '\\n', at which replies stop .*'two\\nlines'"),
    ("number", {"prompt": "x", "answer": "none"}, "answer must have a number, got 'none'"),
    ("regex", {"prompt": "x", "answer": "(a"}, r"answer must be a regular expression \(missing \), .*got '\(a'"),
    ("regex", {"prompt": "x", "answer": "a*"}, r"answer must not match an empty reply, got 'a\*'"),
    ("choice", {"prompt": "x", "answer": "a"}, "choices must be a list of two or more different texts, got None"),
    (
        "choice",
        {"prompt": "x", "answer": "a", "choices": ["a", "a "]},
        r"two or more different texts, got \['a', 'a '\]",
    ),
    ("choice", {"prompt": "x", "answer": "a", "choices": ["a"]}, r"two or more different texts, got \['a'\]"),
    ("choice", {"prompt": "x", "answer": "c", "choices": ["a", "b"]}, r"one of \['a', 'b'\] or its place.*got 'c'"),
    ("choice", {"prompt": "x", "answer": 2, "choices": ["a", "b"]}, r"its place from 0, got 2"),
    ("choice", {"prompt": "x", "answer": True, "choices": ["a", "b"]}, r"its place from 0, got True"),
]


@pytest.mark.parametrize(("scorer", "row", "message"), BAD)
def test_a_bad_row_is_refused_by_file_line_and_value(tmp_path, scorer, row, message):
    good = {"prompt": "x", "answer": "7", "choices": ["7", "8"]}
    data = write(tmp_path / "test.jsonl", [good, row])
    with pytest.raises(ValueError, match=rf"test\.jsonl:2: .*{message}"):
        Text("test", data, scorer, splits="own")


def test_a_bad_row_of_another_split_is_refused_at_once(tmp_path):
    data = write(tmp_path / "mine.jsonl", [*QUESTIONS, {"prompt": "Say more.", "answer": " "}])
    for split in SPLITS:
        with pytest.raises(ValueError, match=r"mine\.jsonl:61: answer must be text, got ' '"):
            Text(split, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scorer": "bleu"}, "scorer must be one of 'exact', .*, got 'bleu'"),
        ({"splits": "random"}, "splits must be one of 'seeded', 'own', got 'random'"),
        ({"stop": ""}, "stop must be a text or a list of texts that are not empty, got ''"),
        ({"stop": ["a", 3]}, r"stop must be .*, got \['a', 3\]"),
        ({"data": "hub"}, "data must name rows of your own .*, got 'hub'"),
        ({"data": "nowhere.jsonl"}, "data must be .*, got 'nowhere.jsonl'"),
        ({"split": "dev"}, "split must be one of .*, got 'dev'"),
    ],
)
def test_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Text(**arguments)


def test_a_reply_goes_on_to_the_stop_that_is_asked_for(tmp_path):
    data = write(tmp_path / "test.jsonl", [{"prompt": "x", "answer": "two\nlines"}])
    task = Text("test", data, splits="own", stop=["\n\n", "END"])
    assert task.stop == ("\n\n", "END")
    check_task(task)
    assert Text("test", data, splits="own", stop=[]).stop == ()


def test_a_pattern_that_does_not_match_itself_has_no_reference(tmp_path):
    data = write(tmp_path / "test.jsonl", [{"prompt": "x", "answer": r"\d+"}, {"prompt": "y", "answer": "ye?s"}])
    task = Text("test", data, "regex", splits="own")
    assert [task.reference(item) for item in range(2)] == [None, None]
    check_task(task)


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_users_file_is_an_environment(tmp_path, scorer):
    """Played singly and batched, with choices among which the model must stay."""
    rows = [
        {"prompt": f"Which is a {number}?\nA. pa\nB. pe\nAnswer:", "answer": "7", "choices": ["7", "B"]}
        for number in range(60)
    ]
    arguments = {"data": write(tmp_path / "mine.jsonl", rows), "scorer": scorer, "preset": "embedded-locked"}
    env = gym.make("Steer-Text-v0", **arguments, max_new_tokens=2 if scorer != "choice" else 1)
    env.reset(seed=0, options={"item": 3})
    ended, steps = False, 0
    while not ended:
        _, _, ended, _, info = env.step(env.action_space.n - 1)
        steps += 1
    assert steps <= 2
    assert info["target"] == "7"
    assert (info["answer"] in ("7", "B")) or scorer != "choice"
    envs = gym.make_vec("Steer-Text-v0", num_envs=3, split="test", **arguments)
    played = steer_env.evaluate(envs, lambda seen, lanes: np.full(3, 5), 4)
    assert len(played.episodes) == 4


def test_without_an_embedded_model_of_its_own_the_id_says_what_to_give(tiny, tmp_path):
    with pytest.raises(ValueError, match="no embedded model knows task 'text'; give model=, sae= and layer="):
        gym.make("Steer-Text-v0", data=write(tmp_path / "mine.jsonl", QUESTIONS))
    with pytest.raises(ValueError, match="data must name rows of your own"):
        gym.make("Steer-Text-v0", preset="gpt2", **tiny)
