"""A policy with a memory: each lane's is its own, and ends with its episode."""

import gymnasium as gym
import numpy as np
import pytest

import steer_env  # noqa: F401  # registers the environments
from agents.algos import make_algo
from agents.policies import policy_of
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.play import play

ITEMS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


@pytest.fixture(scope="module")
def model():
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=4)
    return make_algo("recurrent_ppo", SB3VecEnv(envs), seed=0, n_steps=8, batch_size=16, device="cpu")


def features(model, num_envs: int) -> dict[int, list[int]]:
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=num_envs)
    tokens = play(envs, policy_of(model), ITEMS, seed=0).tokens
    return {i: tokens["feature"][tokens["episode"] == i].tolist() for i in range(len(ITEMS))}


def test_an_episode_does_not_depend_on_the_lane_or_on_what_was_played_before(model):
    alone, beside = features(model, 1), features(model, 4)
    assert alone == beside
    assert alone[1] == alone[3], "item 1, played twice"


def test_the_memory_is_used(model):
    """Without it the choices differ: else the test above could not fail."""
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=1)

    def forgetful(obs, lanes):
        return model.predict(obs, None, np.array([True]), deterministic=True)[0], {}

    tokens = play(envs, forgetful, ITEMS, seed=0).tokens
    forgotten = [tokens["feature"][tokens["episode"] == i].tolist() for i in range(len(ITEMS))]
    assert forgotten != list(features(model, 1).values())
