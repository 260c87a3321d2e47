"""SimpleQA: splits, aliases, grades, and the published summary numbers."""

import json
from pathlib import Path

import pytest

from steer_env.tasks.simpleqa import SimpleQA

DATA = Path(__file__).parents[3] / "shared" / "data" / "simpleqa"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/simpleqa")
SPLITS = ("train", "validation", "test")


def write(folder, rows):
    path = folder / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def facts(tmp_path):
    return write(tmp_path, [{"problem": f"Who was number {i}?", "answer": f"Ann {i}"} for i in range(50)])


@needs_data
def test_every_question_is_in_one_split():
    tasks = [SimpleQA(split=split, data=str(DATA / "sample.jsonl")) for split in SPLITS]
    asked = [row.text("problem") for task in tasks for row in task.items.rows]
    assert len(asked) == len(set(asked)) == 400
    for task in tasks:
        for item in range(len(task)):
            gold = task.items.rows[item].text("answer")
            assert task.start(item).respond(f" {gold.strip()}.").score == 1.0, gold
            assert task.start(item).respond("nobody knows that").score == 0.0


def test_splits_do_not_depend_on_the_order_of_rows(facts, tmp_path):
    (tmp_path / "other").mkdir()
    rows = [json.loads(line) for line in Path(facts).read_text().splitlines()]
    turned = write(tmp_path / "other", rows[::-1])
    for split in SPLITS:
        mine, other = (SimpleQA(split=split, data=data).items.rows for data in (facts, turned))
        assert {row.text("problem") for row in mine} == {row.text("problem") for row in other}


def test_the_embedded_world_has_aliases():
    task = SimpleQA(split="test")
    row = task.items.rows[0].values
    assert task.start(0).opening == f"Question: {row['problem']}\nAnswer:"
    for answer in (row["answer"], *row["aliases"]):
        turn = task.start(0).respond(f" {answer}.")
        assert (turn.score, turn.reward, turn.info["target"]) == (1.0, 1.0, row["answer"])


def test_the_summary_is_the_published_one(facts):
    task = SimpleQA(split="test", data=facts)
    gold = task.items.rows[0].text("answer")
    finals = [task.start(0).respond(text).info for text in (gold, "Bob", "Bob", "I don't know", "")]
    found = task.summary(finals)
    assert found == pytest.approx(
        {
            "correct": 0.2,
            "incorrect": 0.4,
            "not_attempted": 0.4,
            "correct_given_attempted": 1 / 3,
            "f_score": 2 / (1 / 0.2 + 3),  # the harmonic mean
        }
    )
    assert task.summary(finals[-1:])["f_score"] == task.summary(finals[-1:])["correct_given_attempted"] == 0.0
    assert task.summary([]) == {}


def test_a_similarity_and_its_threshold(facts):
    def likeness(first, second):
        return 0.7

    assert SimpleQA(data=facts, similarity=likeness).start(0).respond("Bob").score == 0.0
    assert SimpleQA(data=facts, similarity=likeness, similarity_threshold=0.6).start(0).respond("Bob").score == 1.0


def test_bad_rows_and_arguments_are_named(facts, tmp_path):
    (tmp_path / "bad").mkdir()
    bad = write(tmp_path / "bad", [{"problem": f"Who {i}?", "answer": "Ann", "aliases": "Anne"} for i in range(50)])
    with pytest.raises(ValueError, match=r"facts\.jsonl:\d+: aliases must be a list of texts, got 'Anne'"):
        SimpleQA(split="test", data=bad)
    with pytest.raises(ValueError, match=r"similarity_threshold must be in \(0, 1\], got 0"):
        SimpleQA(data=facts, similarity_threshold=0)
    for wrong in ("x", None, True):
        with pytest.raises(ValueError, match=rf"similarity_threshold must be in \(0, 1\], got {wrong!r}"):
            SimpleQA(data=facts, similarity_threshold=wrong)
    with pytest.raises(ValueError, match=r"similarity must be a function.*'org/encoder'"):
        SimpleQA(data=facts, similarity="org/encoder")
