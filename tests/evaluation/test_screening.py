"""Which features are kept: the greedy cover by hand and by brute force, and the environment's own scores."""

from itertools import combinations

import gymnasium as gym
import numpy as np
import pytest

import steer_env  # noqa: F401  # registers the environments
from steer_env.evaluation.play import play
from steer_env.evaluation.screening import greedy_cover, screen_features


def test_the_next_row_is_the_best_addition_and_not_the_best_alone():
    scores = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    assert greedy_cover(scores, 4) == [1, 2, 0, 3]


@pytest.mark.parametrize("seed", range(20))
def test_the_cover_is_as_good_as_theory_says(seed):
    scores = np.random.default_rng(seed).random((9, 12)) < 0.2
    reached = scores[greedy_cover(scores, 3)].max(axis=0).mean()
    best = max(scores[list(rows)].max(axis=0).mean() for rows in combinations(range(9), 3))
    assert best * (1 - 1 / np.e) <= reached <= best


def test_what_is_kept_solves_the_items_that_the_environment_says():
    kwargs = {"split": "train", "features": list(range(30, 60))}
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=32, **kwargs)
    items = list(range(8))
    kept = screen_features(envs, 3, items, seed=0)
    scores = {}
    for place, feature in enumerate(kwargs["features"]):
        played = play(envs, lambda obs, lanes, place=place: (np.full(32, place), {}), items, seed=0)
        scores[feature] = played.scores
    assert scores[kept[0]].mean() == max(row.mean() for row in scores.values())
    second = {feature: np.maximum(scores[kept[0]], row).mean() for feature, row in scores.items()}
    assert second[kept[1]] == max(second.values())
    assert len(set(kept)) == 3


@pytest.mark.parametrize(("count", "message"), [(0, r"must be in \[1, 4\], got 0"), (5, r"in \[1, 4\], got 5")])
def test_wrong_numbers_are_named(count, message):
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=2, features=[1, 2, 3, 4])
    with pytest.raises(ValueError, match=message):
        screen_features(envs, count, [0], seed=0)


def test_strengths_are_refused():
    envs = gym.make_vec("AutoSteer-TicTacToe-v0", num_envs=2, k=3)
    with pytest.raises(ValueError, match="actions must be choices"):
        screen_features(envs, 2, [0], seed=0)
