"""What an agent sees: standardised by what train shows, the same on every split, and checked when a run goes on."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import agents
from agents.runs.steering import require_same_actions, steering_record
from steer_env.envs.base import unwrap
from steer_env.evaluation.linear_probe import first_observations

ITEMS = list(range(300))


@pytest.mark.parametrize("env_id", ["Steer-BBQ-v0", "Steer-MMLU-v0"])
def test_on_train_the_default_observation_has_mean_0_and_deviation_1(env_id):
    envs = gym.make_vec(env_id, num_envs=32)
    seen, _ = first_observations(envs, [item for item in ITEMS if item < len(unwrap(envs).task)], seed=0)
    assert np.abs(seen.mean(axis=0)).mean() < 0.3
    assert np.abs(seen.std(axis=0) - 1).mean() < 0.3
    plain, _ = first_observations(gym.make_vec(env_id, num_envs=32, observation="normalized"), ITEMS[:100], seed=0)
    assert np.abs(plain.mean(axis=0)).mean() > 0.3, "what all have in common would pass the test above anyway"


def test_the_statistics_are_those_of_train_on_every_split():
    found = [unwrap(gym.make("Steer-BBQ-v0", split=split)).statistics for split in ("train", "validation", "test")]
    for mean, deviation in found[1:]:
        np.testing.assert_array_equal(mean, found[0].mean)
        np.testing.assert_array_equal(deviation, found[0].deviation)


def test_it_is_the_normalised_residual_less_the_mean_over_the_deviation():
    env = gym.make("Steer-BBQ-v0")
    observation, _ = env.reset(seed=0, options={"item": 5})
    inner = unwrap(env)
    residual = inner.residual[0]
    by_hand = (residual / residual.square().mean().sqrt() - torch.from_numpy(inner.statistics.mean)).numpy()
    np.testing.assert_allclose(observation, by_hand / inner.statistics.deviation, rtol=1e-4, atol=1e-5)


def test_nothing_beyond_ten_deviations_is_shown():
    env = gym.make("Steer-BBQ-v0")
    unwrap(env).statistics.deviation[:] = 1e-9
    again = gym.make("Steer-BBQ-v0")
    try:
        observation, _ = again.reset(seed=0)
        assert np.abs(observation).max() == 10
        assert again.observation_space.contains(observation)
    finally:
        from steer_env.envs.registry import _calibration

        _calibration.cache_clear()


@pytest.mark.parametrize("kind", ["normalized", "prompted", "residual", "features"])
def test_the_others_need_no_statistics(kind):
    assert unwrap(gym.make("Steer-BBQ-v0", observation=kind)).statistics is None


@pytest.mark.parametrize("name", ["mean", "deviation"])
def test_other_statistics_than_in_training_are_refused(name):
    envs = gym.make_vec("Steer-BBQ-v0", num_envs=2)
    record = steering_record(envs)
    require_same_actions(record, envs)
    seen = {key: list(rows) for key, rows in record["observation"].items()}
    seen[name][3] += 0.03 * seen["deviation"][3]
    with pytest.raises(RuntimeError, match="does not see what it saw in training"):
        require_same_actions({**record, "observation": seen}, envs)
    with pytest.raises(RuntimeError, match="does not see what it saw in training"):
        require_same_actions(record, gym.make_vec("Steer-BBQ-v0", num_envs=2, observation="normalized"))


@pytest.mark.parametrize(("env_id", "kind"), [("Steer-BBQ-v0", "standardized"), ("Steer-XSTest-v0", "normalized")])
def test_where_none_is_asked_for_it_goes_by_the_length_of_a_turn(env_id, kind):
    usual, named = gym.make(env_id), gym.make(env_id, observation=kind)
    np.testing.assert_array_equal(usual.reset(seed=0)[0], named.reset(seed=0)[0])


def test_a_trained_agent_sees_what_it_saw_whatever_else_is_changed(tmp_path):
    run = agents.train("Steer-TicTacToe-v0", "a", 64, mask="off", runs_dir=tmp_path, wandb="disabled", num_envs=8)
    before = unwrap(run.envs("test", 2)).statistics
    for changed in ({"opponent": "random"}, {"max_new_tokens": 3}):
        after = unwrap(run.envs("test", 2, **changed)).statistics
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("given", [[[0.0], [1.0]], [[np.nan] * 128, [1.0] * 128], [[0.0] * 128]])
def test_statistics_of_another_shape_or_kind_are_refused(given):
    with pytest.raises(ValueError, match="statistics must be two finite rows of 128 numbers"):
        gym.make("Steer-BBQ-v0", statistics=given)
