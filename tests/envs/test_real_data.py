"""All of the real data, through the tasks' own code: exact counts, golden answers, and no test item in training.

The numbers were counted in the raw files, by other means than the code under test.
"""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from steer_env.tasks import TASKS
from steer_env.tasks.answers import final_number
from steer_env.tasks.data import SPLITS, Source, load_rows

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")

# Where a task's items are, the arguments that give all of them three splits, and how many there are in the three.
WHOLE = {
    "mmlu": ("mmlu", {"splits": "seeded"}, 7_658),
    "mmlu_pro": ("mmlu_pro", {}, 400),
    "bbq": ("bbq", {}, 3_680 + 1_200),
    "gsm8k": ("gsm8k", {}, 7_473 + 1_319),
    "harmbench": ("harmbench", {}, 20),
    "xstest": ("xstest/prompts.jsonl", {}, 450),
    "simpleqa": ("simpleqa", {}, 400),
}
MMLU_TEST = {
    "abstract_algebra": 100,
    "astronomy": 152,
    "clinical_knowledge": 265,
    "college_chemistry": 100,
    "college_mathematics": 100,
    "college_physics": 102,
    "conceptual_physics": 235,
    "electrical_engineering": 145,
    "formal_logic": 126,
    "high_school_biology": 310,
    "high_school_computer_science": 100,
    "high_school_geography": 198,
    "high_school_macroeconomics": 390,
    "high_school_microeconomics": 238,
    "high_school_psychology": 545,
    "high_school_us_history": 204,
    "human_aging": 223,
    "international_law": 121,
    "logical_fallacies": 163,
    "management": 103,
    "medical_genetics": 100,
    "moral_disputes": 346,
    "nutrition": 306,
    "prehistory": 324,
    "professional_law": 1_534,
    "professional_psychology": 612,
    "security_studies": 245,
    "us_foreign_policy": 100,
    "world_religions": 171,
}


def raw(name):
    with (DATA / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def place(name):
    return str(DATA / name)


@pytest.fixture(scope="module")
def tasks():
    """The three splits of every task."""
    return {
        name: {split: TASKS[name](split=split, data=place(where), **kwargs) for split in SPLITS}
        for name, (where, kwargs, _) in WHOLE.items()
    }


def openings(task):
    """What is asked, without letter case and spacing."""
    return {" ".join(task.start(item).opening.casefold().split()) for item in range(len(task))}


# ---------------------------------------------------------------- every task


@pytest.mark.parametrize("name", WHOLE)
def test_every_row_is_in_one_split(tasks, name):
    assert sum(len(task) for task in tasks[name].values()) == WHOLE[name][2]
    assert len({row.where for task in tasks[name].values() for row in task.items.rows}) == WHOLE[name][2]


@pytest.mark.parametrize("name", WHOLE)
def test_no_item_of_test_or_validation_is_in_train(tasks, name):
    asked = {split: openings(task) for split, task in tasks[name].items()}
    assert all(asked.values())
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert not asked["validation"] & asked["test"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_reference_reply_to_every_item_scores_one(tasks, name):
    for task in tasks[name].values():
        for item in range(len(task)):
            reference = task.reference(item)
            assert not any(stop in reference for stop in task.stop)
            assert task.start(item).respond(reference).score == 1.0, (item, reference)


@pytest.mark.parametrize("name", WHOLE)
def test_the_record_says_which_items(tasks, name):
    records = [task.data_record() for task in tasks[name].values()]
    assert len({record["sha256"] for record in records}) == 3
    assert [record["seeded_split"] for record in records] == [True, True, name != "gsm8k"]


# ---------------------------------------------------------------- multiple choice


def test_all_of_mmlu_and_its_golden_letters():
    task = TASKS["mmlu"](split="test", data=place("mmlu"), template="harness", few_shot=5)
    rows = raw("mmlu/test.jsonl")
    assert len(task) == len(rows) == 7_658
    targets = Counter()
    for item, row in enumerate(rows):
        right = "ABCD"[row["answer"]]
        turn = task.start(item).respond(f" {right}")
        assert (turn.score, turn.info["target"], turn.info["subject"]) == (1.0, right, row["subject"])
        targets[right] += 1
    assert targets == {"A": 1_769, "B": 1_855, "C": 1_948, "D": 2_086}
    assert not task.data_record()["seeded_split"]


def test_subjects_of_mmlu():
    rows = load_rows(place("mmlu"), "dev", Source("", ("subject",)), "mmlu")
    assert Counter(row.values["subject"] for row in rows) == dict.fromkeys(MMLU_TEST, 5)
    assert sum(MMLU_TEST.values()) == 7_658
    task = TASKS["mmlu"](split="test", data=place("mmlu"))
    assert Counter(row.values["subject"] for row in task.items.rows) == MMLU_TEST
    for subject in ("college_physics", "professional_law"):
        assert len(TASKS["mmlu"](split="test", data=place("mmlu"), subject=subject)) == MMLU_TEST[subject]
    with pytest.raises(ValueError, match=r"unknown subject 'college_phisics' .* \['college_physics', "):
        TASKS["mmlu"](split="test", data=place("mmlu"), subject="college_phisics")


def test_a_prompt_of_mmlu_is_that_of_the_harness():
    task = TASKS["mmlu"](split="test", data=place("mmlu"), template="harness")
    assert task.start(0).opening == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n"
        "A. 0\nB. 4\nC. 2\nD. 6\nAnswer:"
    )
    shown = TASKS["mmlu"](split="test", data=place("mmlu"), template="harness", few_shot=5).start(0).opening
    assert shown.count("\nAnswer: ") == 5
    assert shown.endswith(task.start(0).opening.split("\n\n", 1)[1])


def test_all_of_mmlu_pro_and_its_golden_letters(tasks):
    letters = {row["question_id"]: (row["answer"], len(row["options"])) for row in raw("mmlu_pro/sample.jsonl")}
    counts = Counter()
    for task in tasks["mmlu_pro"].values():
        for item, row in enumerate(task.items.rows):
            letter, count = letters[row.values["question_id"]]
            conversation = task.start(item)
            assert len(conversation.choices) == count
            assert conversation.respond(f" {letter}").score == 1.0
            counts[count] += 1
    assert counts == {10: 383, 9: 5, 8: 3, 7: 4, 6: 2, 4: 3}


def test_every_stereotyped_answer_of_bbq_is_found(tasks):  # a row without one would be a warning, and so an error
    found = Counter()
    for task in tasks["bbq"].values():
        for item, row in enumerate(task.items.rows):
            groups = [row.values["answer_info"][f"ans{i}"][1] for i in range(3)]
            people = [i for i in range(3) if groups[i] != "unknown"]
            hit = [i for i in people if groups[i] in row.values["additional_metadata"]["stereotyped_groups"]]
            negative = row.values["question_polarity"] == "neg"
            named = next(i for i in people if (i in hit) == negative)
            info = task.start(item).respond(" A").info
            assert len(hit) == 1, row.where
            assert (info["stereotyped"], info["unknown"]) == ("ABC"[named], "ABC"[groups.index("unknown")]), row.where
            found[info["category"], info["condition"]] += 1
    assert found == {
        ("Age", "ambiguous"): 1_840,
        ("Age", "disambiguated"): 1_840,
        ("Religion", "ambiguous"): 600,
        ("Religion", "disambiguated"): 600,
    }


def test_scores_of_three_models_of_bbq(tasks):
    """One always answers as the stereotype has it, one against it, one always right."""
    task = tasks["bbq"]["test"]
    labels = ["ABC"[row.values["label"]] for row in task.items.rows]
    blank = [task.start(item).respond(" A").info for item in range(len(task))]
    biased = [info["stereotyped"] for info in blank]
    against = [next(iter(set("ABC") - {info["stereotyped"], info["unknown"]})) for info in blank]
    scores = []
    for letters in (biased, against, labels):
        finals = [task.start(item).respond(f" {letter}").info for item, letter in enumerate(letters)]
        scores.append(task.summary(finals))
    assert [score["ambiguous_accuracy"] for score in scores] == [0.0, 0.0, 1.0]
    assert [score["ambiguous_bias"] for score in scores] == [1.0, -1.0, 0.0]
    assert [score["disambiguated_bias"] for score in scores[:2]] == [1.0, -1.0]
    assert scores[2]["disambiguated_accuracy"] == 1.0
    assert scores[0]["disambiguated_accuracy"] + scores[1]["disambiguated_accuracy"] == pytest.approx(1.0)
    aligned = Counter(
        label == named
        for label, named, info in zip(labels, biased, blank, strict=True)
        if info["condition"] == "disambiguated"
    )
    expected = (aligned[True] - aligned[False]) / (aligned[True] + aligned[False])
    assert scores[2]["disambiguated_bias"] == pytest.approx(expected)


# ---------------------------------------------------------------- the others


def test_every_gold_answer_of_gsm8k_parses(tasks):
    gold = {row["question"]: row["answer"] for split in ("train", "test") for row in raw(f"gsm8k/{split}.jsonl")}
    assert len(gold) == 8_792
    assert len(tasks["gsm8k"]["test"]) == 1_319
    for task in tasks["gsm8k"].values():
        for item, row in enumerate(task.items.rows):
            answer = gold.pop(row.values["question"])
            assert final_number(answer) == Fraction(answer.rpartition("####")[2].replace(",", "").strip()), row.where
            assert task.start(item).respond(f" {answer}").score == 1.0, row.where
    assert not gold


def test_labels_and_categories(tasks):
    xstest = Counter(row.values["label"] for task in tasks["xstest"].values() for row in task.items.rows)
    assert xstest == {"safe": 250, "unsafe": 200}
    harmbench = Counter(
        row.values["FunctionalCategory"] for task in tasks["harmbench"].values() for row in task.items.rows
    )
    assert harmbench == {"copyright": 20}


def test_gold_answers_of_simpleqa_are_correct(tasks):
    for task in tasks["simpleqa"].values():
        for item, row in enumerate(task.items.rows):
            assert task.start(item).respond(row.values["answer"]).info["outcome"] == "correct", row.where


@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("xstest/completions_llama2orig.jsonl", ("prompt", "completion", "final_label"), 450),
        ("xstest/completions_mistralinstruct.jsonl", ("prompt", "completion", "final_label"), 450),
        ("text/tinystories.jsonl", ("text",), 800),
    ],
)
def test_the_files_beside_the_tasks_are_whole(name, columns, count):
    rows = load_rows(place(name), "all", Source("", columns), "")
    assert len(rows) == count
    assert all(row.text(column) for row in rows for column in columns)
