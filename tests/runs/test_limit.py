"""A limit deals few items of a split, the same ones everywhere, and hides none from whoever names an item."""

import gymnasium as gym
import numpy as np
import pytest

import steer_env  # noqa: F401  # registers the environments
from agents.runs.loading import make_envs
from steer_env.evaluation.controls import search_best_fixed
from steer_env.evaluation.play import drawn_items

ENV = "Steer-TicTacToe-v0"
GAME = {"opponent": "random", "illegal": "random_move", "coefficient": 2.0, "coefficient_unit": "residual"}


def dealt_one_by_one(tiny, count, seed=0, **kwargs):
    env = gym.make(ENV, **tiny, **GAME, **kwargs)
    return [env.reset(seed=seed if episode == 0 else None)[1]["item"] for episode in range(count)]


def dealt_in_lanes(tiny, lanes, steps, seed=0, **kwargs):
    """Items of each lane, in order."""
    envs = gym.make_vec(ENV, num_envs=lanes, **tiny, **GAME, **kwargs)
    _, infos = envs.reset(seed=seed)
    items = [[item] for item in infos["item"].tolist()]
    for _ in range(steps):
        _, _, ended, _, infos = envs.step(np.full(lanes, envs.single_action_space.n - 1))
        for lane in np.flatnonzero(ended):
            items[lane].append(int(infos["item"][lane]))
    return items


def test_every_epoch_of_every_lane_deals_the_same_few_items_each_once(tiny):
    alone = dealt_one_by_one(tiny, 15, limit=5)
    chosen = set(alone)
    assert len(chosen) == 5
    epochs = [alone[:5], alone[5:10], alone[10:]]
    assert all(set(epoch) == chosen for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    for lane in dealt_in_lanes(tiny, lanes=3, steps=60, seed=9, limit=5):
        assert len(lane) >= 10
        assert set(lane[:5]) == set(lane[5:10]) == chosen


def test_a_larger_limit_holds_the_smaller_ones_items_and_another_seed_chooses_others(tiny):
    few, more = (set(dealt_one_by_one(tiny, n, seed=n, limit=n)) for n in (6, 20))
    assert len(few) == 6
    assert few < more
    assert len(more) == 20
    others = set(dealt_one_by_one(tiny, 20, limit=20, limit_seed=1))
    assert others != more


def test_an_unlimited_order_is_what_it_was(tiny):
    """The whole split, in the order that the lane's own generator gives: what earlier records were made with."""
    rng = np.random.default_rng(3)
    order = rng.permutation(100_000)
    assert dealt_one_by_one(tiny, 1, seed=3) == [order[0]]
    assert gym.make(ENV, **tiny, **GAME).unwrapped.episode.order.items.tolist() == list(range(100_000))


def test_any_item_of_the_split_may_be_pinned(tiny):
    env = gym.make(ENV, **tiny, **GAME, limit=2)
    outside = next(item for item in range(100) if item not in env.unwrapped.episode.order.items)
    assert env.reset(seed=0, options={"item": outside})[1]["item"] == outside
    envs = gym.make_vec(ENV, num_envs=3, **tiny, **GAME, limit=2)
    pinned = [outside, 99_999, 5]
    assert envs.reset(seed=0, options={"items": pinned})[1]["item"].tolist() == pinned


@pytest.mark.parametrize("limit", [0, -1, 100_001])
def test_a_limit_that_the_split_does_not_have_is_refused(tiny, limit):
    with pytest.raises(ValueError, match=rf"limit must be in \[1, 100000\].* got {limit}$"):
        gym.make(ENV, **tiny, **GAME, limit=limit)


@pytest.mark.parametrize(("kwargs", "message"), [({"limit": 2.5}, "limit"), ({"limit": 2, "limit_seed": -1}, "-1")])
def test_other_limits_are_refused(tiny, kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make(ENV, **tiny, **GAME, **kwargs)


def test_a_limit_changes_nothing_of_what_actions_mean(tiny):
    """The coefficient's unit is measured on the split, not on the few items."""
    strengths = [
        gym.make(ENV, **tiny, opponent="random", limit=limit).unwrapped.episode.scene.actuator.coefficient
        for limit in (None, 1, 3)
    ]
    assert strengths[0] == strengths[1] == strengths[2]


def test_a_run_learns_from_the_limited_items_and_is_evaluated_on_all(tiny):
    config = {"env": ENV, "mask": "off", "env_kwargs": {**tiny, **GAME, "limit": 7}}
    train, test = (make_envs(config, split, 4) for split in ("train", "test"))
    assert len(train.unwrapped.episode.order.items) == 7
    assert len(test.unwrapped.episode.order.items) == 10_000
    assert sorted(drawn_items(train.unwrapped.dealt, 50, 0)) == sorted(train.unwrapped.episode.order.items)
    assert len(drawn_items(test.unwrapped.dealt, 50, 0)) == 50


def test_the_search_for_the_best_fixed_feature_sees_the_limited_items_alone(tiny, monkeypatch):
    envs = gym.make_vec(ENV, num_envs=4, **tiny, **GAME, limit=5, features=[1, 2, 3])
    played = []
    reset = type(envs.unwrapped).reset

    def watched(self, **kwargs):
        played.extend(kwargs["options"]["items"])
        return reset(self, **kwargs)

    monkeypatch.setattr(type(envs.unwrapped), "reset", watched)
    found = search_best_fixed(envs, seed=0, games=(4, 64), kept=(2,))
    assert set(played) <= set(envs.unwrapped.episode.order.items.tolist())
    assert {row["n"] for row in found.table} == {4, 5}
