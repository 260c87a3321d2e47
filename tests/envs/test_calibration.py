"""What a unit of the coefficient is worth: measured on the whole train split, whatever is chosen of the one played."""

import inspect
import json

import pytest

from steer_env.envs import calibration, registry
from steer_env.envs.calibration import calibrate
from steer_env.envs.registry import make_env
from steer_env.errors import SteeringError
from steer_env.tasks import TASKS

SUBJECTS = ("anatomy", "astronomy")


def question(text, subject=""):
    return {"question": text, "subject": subject, "choices": ["1", "2", "3", "4"], "answer": 1}


@pytest.fixture
def mmlu(tmp_path):
    """Arguments that play questions of two subjects; rows for training name none, as in the data set."""

    def write(train):
        test = [question(f"{i} 2 3", subject) for subject in SUBJECTS for i in range(4)]
        dev = [question(f"{i} 5 6", subject) for subject in SUBJECTS for i in range(2)]
        for split, rows in {"auxiliary_train": train, "test": test, "dev": dev}.items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"task": "mmlu", "data": str(tmp_path), "decode": "free", "max_new_tokens": 1, "coefficient": 1.0}

    return write


def coefficient(tiny, given, **more):
    return make_env(coefficient_unit="norm", **given, **tiny, **more).episode.scene.actuator.coefficient


@pytest.mark.parametrize("narrowed", [{"few_shot": 1}, {"subject": "astronomy"}, {"subject": "anatomy", "few_shot": 1}])
def test_a_train_split_that_cannot_be_narrowed_measures_all_the_same(tiny, mmlu, narrowed):
    given = mmlu([question(f"{i} 7 8 9") for i in range(20)])
    assert coefficient(tiny, given, split="test", **narrowed) == coefficient(tiny, given, split="train")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_arguments_that_narrow_are_arguments_of_the_task(name):
    narrowing = set(TASKS[name].narrowing)
    arguments = set(inspect.signature(TASKS[name]).parameters)
    assert narrowing == {"few_shot", "subject", "category", "letters", "shuffle_options"} & arguments


def test_training_items_that_the_model_cannot_read_are_passed_over(tiny, mmlu):
    short, long = [question(f"{i} 7 8 9") for i in range(100)], [question("1 " * 100)]
    measured = coefficient(tiny, mmlu(short[:64]), split="test")
    assert coefficient(tiny, {**mmlu(long + short), "template": "crl"}, split="test") == measured
    with pytest.raises(SteeringError, match=r"none of 2 items has room in the model's context of 64 tokens"):
        coefficient(tiny, {**mmlu(long + long), "max_new_tokens": 2}, split="test")


def test_a_later_process_finds_what_an_earlier_one_measured(tiny, mmlu, tmp_path, monkeypatch):
    """A process of its own is one that has measured nothing: whatever differs in what is measured is measured anew."""
    given = mmlu([question(f"{i} 7 8 9") for i in range(20)])
    measured: list[float] = []

    def measuring(scene):
        found = calibrate(scene)
        measured.append(found.residual_norm)
        return found

    def again(given=given, **more) -> float:
        registry._calibration.cache_clear()
        return coefficient(tiny, given, split="test", prompt_store=str(tmp_path / "kept"), **more)

    monkeypatch.setattr(calibration, "calibrate", measuring)
    first = again()
    assert again() == first == measured[0]
    assert again(observation="residual", limit=3) == first
    assert len(measured) == 1
    assert again({**given, "max_new_tokens": 3}) != first
    mmlu([question(f"{i} 9 8 7") for i in range(20)])
    assert again() != first
    assert len(measured) == 3
    for path in (tmp_path / "kept" / "calibrations").iterdir():
        path.write_text("{")
    again()
    assert len(measured) == 4, "a damaged file is measured anew"
    assert len(list((tmp_path / "kept" / "calibrations").iterdir())) == 3
