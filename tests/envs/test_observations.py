"""What an agent sees: standardised by what train shows, the same on every split, and checked when a run goes on."""

import gymnasium as gym
import numpy as np
import pytest
import torch

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
