"""What is asked otherwise: instructions, ways of decoding, and the reference replies, over the whole task table."""

import gymnasium as gym
import numpy as np
import pytest

import steer_env  # noqa: F401  # registers the environments
from steer_env.evaluation.controls import unsteered_variants
from steer_env.tasks import TASKS
from steer_env.tasks.data import SPLITS
from tests.toys import MISSING

TEXT_TASKS = [name for name, task in TASKS.items() if task.instruction is not None]


@pytest.mark.parametrize("name", TEXT_TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_reference_reply_to_every_item_scores_one(name, split):
    task = TASKS[name](split=split)
    for item in range(len(task)):
        reference = task.reference(item)
        assert reference.startswith(" ")
        assert not any(stop in reference for stop in task.stop)
        turn = task.start(item).respond(reference)
        assert turn.score == turn.reward == 1.0, (item, reference, turn.info)


def test_references_are_what_the_data_says():
    rows = {name: TASKS[name]().items.rows[0].values for name in TEXT_TASKS}
    assert TASKS["mmlu"]().reference(0) == " " + "ABCD"[rows["mmlu"]["answer"]]
    assert TASKS["mmlu_pro"]().reference(0) == f" {rows['mmlu_pro']['answer']}"
    assert TASKS["bbq"]().reference(0) == " " + "ABC"[rows["bbq"]["label"]]
    assert TASKS["gsm8k"]().reference(0) == f" {rows['gsm8k']['answer']}"
    assert TASKS["simpleqa"]().reference(0) == f" {rows['simpleqa']['answer']}"
    assert TASKS["harmbench"]().reference(0) == " I cannot help with that."
    xstest = TASKS["xstest"]()
    said = {row.values["label"]: xstest.reference(i) for i, row in enumerate(xstest.items.rows)}
    assert said == {"unsafe": " I cannot help with that.", "safe": " Right, here is how."}


@pytest.mark.parametrize("name", [name for name in TASKS if name not in MISSING])
def test_there_is_no_reference_for_an_item_that_is_not_there(name):
    with pytest.raises(ValueError, match="item must be in"):
        TASKS[name]().reference(-1)


def test_a_move_has_no_reference():
    assert TASKS["tictactoe"]().reference(0) is None


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_an_instruction_stands_in_front_of_the_prompt_and_changes_nothing_else(name):
    plain, told = TASKS[name](), TASKS[name]()
    told.instruct()
    for item in (0, 1, len(plain) - 1):
        assert told.start(item).opening == f"{told.instruction}\n\n{plain.start(item).opening}"
        assert told.start(item).choices == plain.start(item).choices
        assert told.start(item).respond(plain.reference(item)).score == 1.0
    assert told.data_record() == {**plain.data_record(), "instruction": told.instruction}


def test_an_environment_with_an_instruction_asks_with_it_and_steers_as_hard(tiny):
    made = {told: gym.make("Steer-SimpleQA-v0", **tiny, instruction=told) for told in (False, True)}
    openings, strengths, residuals = {}, {}, {}
    for told, env in made.items():
        env.reset(seed=0, options={"item": 3})
        episode = env.unwrapped.episode
        openings[told] = episode.conversations[0].opening
        strengths[told] = episode.scene.actuator.coefficient
        residuals[told] = episode.hidden[0].numpy().copy()
    assert openings[True] == f"{TASKS['simpleqa'].instruction}\n\n{openings[False]}"
    assert strengths[True] == strengths[False]
    assert not np.allclose(residuals[True], residuals[False])  # the model has read it


def test_a_task_without_an_instruction_refuses_one(tiny):
    with pytest.raises(ValueError, match="'tictactoe' has no instruction"):
        gym.make("Steer-TicTacToe-v0", **tiny, instruction=True)


def test_ways_of_decoding():
    choices = {"mmlu", "mmlu_pro", "bbq"}
    for name in TASKS:
        ways = TASKS[name].variants.get("decode", ())
        assert ways == (("constrained", "free", "words") if name in choices else ())
        for decode in ways:
            task = TASKS[name](decode=decode)
            assert task.decode == decode
            assert bool(task.start(0).choices) == (decode != "free")


def test_the_arms_of_a_task():
    told = {"prompt_only": {"instruction": True}}
    decoded = {f"{way}_only": {"decode": way} for way in ("constrained", "free", "words")}
    assert unsteered_variants("mmlu") == told | decoded
    assert unsteered_variants("xstest") == told
    assert unsteered_variants("tictactoe") == {}
