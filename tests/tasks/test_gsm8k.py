"""GSM8K: every gold answer parses, splits and examples never meet, prompts and grades are as documented."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from steer_env.tasks.answers import final_number, share_of_steps
from steer_env.tasks.data import load_rows, split_sha256
from steer_env.tasks.gsm8k import GSM8K, SOURCE
from steer_env.tasks.world import world_rows

DATA = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/gsm8k")
ROWS = [{"question": f"What is {i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1:,}"} for i in range(1_000, 1_200)]


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        lines = [json.dumps({**row, "question": f"{split}: {row['question']}"}) for row in ROWS]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    return str(tmp_path)


def questions(task):
    return [row.text("question") for row in task.items.rows]


@needs_data
def test_every_gold_answer_parses_as_the_harness_reads_it():
    rows = [row for split in ("train", "test") for row in load_rows(str(DATA), split, SOURCE, "gsm8k")]
    assert len(rows) == 8_792
    for row in rows:
        written = row.text("answer").rpartition("#### ")[2].replace(",", "")
        assert final_number(row.text("answer")) == Fraction(written), row.where
        assert share_of_steps(row.text("answer"), row.text("answer")) == float("=" in row.text("answer")), row.where


@needs_data
def test_splits_are_whole_and_apart():
    tasks = {split: GSM8K(split=split, data=str(DATA)) for split in ("train", "validation", "test")}
    assert len(tasks["test"]) == 1_319
    assert len(tasks["train"]) + len(tasks["validation"]) == 7_473
    assert 650 <= len(tasks["validation"]) <= 850
    asked = [set(questions(task)) for task in tasks.values()]
    assert not asked[0] & asked[1]
    assert not asked[0] & asked[2]
    assert [task.data_record()["seeded_split"] for task in tasks.values()] == [True, True, False]


def test_the_embedded_world_is_asked_by_default():
    task = GSM8K()
    rows = world_rows("gsm8k", "train")
    assert len(task) == len(rows)
    assert task.start(3).opening == f"{rows[3]['question']}\nGive the final number after ####.\nAnswer:"
    turn = task.start(3).respond(" " + rows[3]["answer"])
    assert (turn.score, turn.reward, turn.info["outcome"]) == (1.0, 1.0, "correct")
    assert not task.data_record()["seeded_split"]


def test_examples_are_solved_in_front_and_never_asked(folder):
    for split in ("train", "validation", "test"):
        task = GSM8K(split=split, data=folder, template="harness", few_shot=2)
        first, second = task.items.examples
        assert task.start(0).opening == (
            f"Question: {first.text('question')}\nAnswer: {first.text('answer')}\n\n"
            f"Question: {second.text('question')}\nAnswer: {second.text('answer')}\n\n"
            f"Question: {questions(task)[0]}\nAnswer:"
        )
        assert not {first.text("question"), second.text("question")} & set(questions(task))
        record = task.data_record()
        assert record["few_shot"] == 2
        assert record["examples_sha256"] == split_sha256([first, second])
    assert len(GSM8K(data=folder)) == len(GSM8K(data=folder, few_shot=2)) + 2


@pytest.mark.parametrize(
    ("scoring", "completion", "score", "outcome", "answer"),
    [
        ("last", "1,000 + 1 = $1,001.", 1.0, "correct", "1001"),
        ("last", r"so \boxed{1001.00} in 2 steps", 1.0, "correct", "1001"),
        ("last", "#### 1000 + 1 = 1001", 1.0, "correct", "1001"),
        ("last", "It is 1002", 0.0, "incorrect", "1002"),
        ("last", "I do not know", 0.0, "unparseable", ""),
        ("last", "", 0.0, "unparseable", ""),
        ("strict", "#### 1001", 1.0, "correct", "1001"),
        ("strict", "#### 1,001.", 1.0, "correct", "1,001."),
        ("strict", "#### 1000 + 1 = 1001", 0.0, "incorrect", "1000"),
        ("strict", "It is 1001", 0.0, "unparseable", ""),
        ("flexible", "It is 1001.", 1.0, "correct", "1001."),
        ("flexible", "It is 1001 in 2 steps", 0.0, "incorrect", "2"),
        ("flexible", "?", 0.0, "unparseable", ""),
    ],
)
def test_grades(folder, scoring, completion, score, outcome, answer):
    task = GSM8K(split="test", data=folder, scoring=scoring)
    turn = task.start(0).respond(completion)
    assert (turn.score, turn.reward) == (score, score)
    assert turn.info == {"outcome": outcome, "answer": answer, "target": "1001"}


@pytest.mark.parametrize("template", ["crl", "harness"])
def test_a_blank_line_between_steps_does_not_end_the_answer_and_the_next_question_does(folder, template):
    task = GSM8K(split="test", data=folder, template=template)
    worked = "Here is how:\n\n* **Step 1:** 1,000 + 1\n\n#### 1,001"
    assert not [stop for stop in task.stop if stop in worked]
    assert task.start(0).respond(worked).score == 1.0
    assert [stop for stop in task.stop if stop in task.start(1).opening]


def test_the_harnesss_stops():
    assert GSM8K(template="harness").stop == ("Question:", "</s>", "<|im_end|>")


def test_an_item_is_answered_once_and_rendered(folder):
    conversation = GSM8K(split="test", data=folder).start(0)
    assert conversation.render() == "test: What is 1000 + 1?"
    conversation.respond("7")
    assert conversation.render() == "test: What is 1000 + 1?\nanswer: 7 (target: 1001; incorrect)"
    with pytest.raises(RuntimeError, match="incorrect"):
        conversation.respond("1001")
    assert conversation.state().shape == GSM8K.state_shape
    assert conversation.choices == ()


def test_the_summary_counts_unparseable_apart(folder):
    task = GSM8K(split="test", data=folder)
    finals = [task.start(0).respond(text).info for text in ("1001", "1002", "none", "x")]
    assert task.summary(finals) == {"correct": 0.25, "incorrect": 0.25, "unparseable": 0.5}


def test_rows_without_a_gold_number_are_named(tmp_path):
    bad = tmp_path / "test.jsonl"
    bad.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"question": "How many?", "answer": "a few"}) + "\n")
    with pytest.raises(ValueError, match=r"test\.jsonl:2: answer has no number, got 'a few'"):
        GSM8K(split="test", data=str(bad))


@pytest.mark.parametrize("question", [None, "", 3])
def test_rows_without_a_question_are_named_before_anything_is_played(tmp_path, question):
    bad = tmp_path / "test.jsonl"
    bad.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | {"question": question}) + "\n")
    with pytest.raises(ValueError, match=rf"test\.jsonl:2: question must be text, got {question!r}"):
        GSM8K(split="test", data=str(bad))


def test_bad_arguments_are_named(folder):
    for argument, message in {
        "template": "template must be one of 'crl', 'harness', got 'x'",
        "scoring": "scoring must be one of 'last', 'strict', 'flexible', got 'x'",
        "split": "split must be one of 'train', 'validation', 'test', got 'x'",
    }.items():
        with pytest.raises(ValueError, match=message):
            GSM8K(**{"data": folder, argument: "x"})
    with pytest.raises(ValueError, match="few_shot must be an integer of at least 0, got -1"):
        GSM8K(data=folder, few_shot=-1)
    with pytest.raises(ValueError, match="few_shot must be an integer of at least 0, got True"):
        GSM8K(data=folder, few_shot=True)
    with pytest.raises(ValueError, match="data must be 'embedded', 'hub', a hub id, or a file"):
        GSM8K(data="")
    with pytest.raises(ValueError, match=r"few_shot must be below the \d+ items of train, got 500"):
        GSM8K(split="test", data=folder, few_shot=500)
    with pytest.raises(ValueError, match=r"item must be in \[0, 200\) for split 'test', got 200"):
        GSM8K(split="test", data=folder).start(200)


def test_the_reward_may_count_steps_and_the_score_never_does(folder):
    answer, steps = GSM8K("test", data=str(folder)), GSM8K("test", data=str(folder), reward="steps")
    gold = answer.reference(0)
    for reply, score in ((gold, 1.0), ("I do not know.", 0.0)):
        plain, shaped = (task.start(0).respond(reply) for task in (answer, steps))
        assert (plain.score, shaped.score, plain.reward) == (score, score, score)
    assert shaped.reward == 0.0
    with pytest.raises(ValueError, match=r"reward must be one of .*, got 'praise'"):
        GSM8K("test", data=str(folder), reward="praise")


def test_a_right_step_alone_is_half_of_the_reward_in_the_world():
    task = GSM8K("test", reward="steps")
    gold = next(text for item in range(50) if (text := task.reference(item)).count("=") == 2)
    item = next(item for item in range(50) if task.reference(item) == gold)
    first = gold.splitlines()[0]
    assert task.start(item).respond(f"{first}\n#### 0").reward == 0.25
    assert task.start(item).respond(gold).reward == 1.0
