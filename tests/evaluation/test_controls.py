"""Controls do what their names say, and the search for the best fixed feature agrees with brute force."""

import gymnasium as gym
import numpy as np
import pytest

import steer_env  # noqa: F401  # registers the environments
from steer_env.evaluation import controls
from steer_env.evaluation.controls import (
    CONTROLS,
    Setting,
    controls_for,
    fixed,
    pushes,
    score_pushes,
    search_best_fixed,
)
from steer_env.evaluation.masks import make_mask
from steer_env.evaluation.play import Lanes, play

ITEMS = list(range(20))
GAME = {"opponent": "random", "illegal": "random_move", "coefficient": 2.0}
AUTOSTEER = "AutoSteer-TicTacToe-v0"


@pytest.fixture(scope="module")
def make(tiny):
    def build(env="Steer-TicTacToe-v0", **kwargs):
        return gym.make_vec(env, num_envs=6, **{**tiny, **GAME, **kwargs})

    return build


def tokens_of(name, envs, **setting):
    return play(envs, CONTROLS[name](Setting(**setting)), ITEMS, seed=0).tokens


@pytest.mark.parametrize("env", ["Steer-TicTacToe-v0", AUTOSTEER])
def test_every_control_of_the_action_space_plays_and_is_reproducible(make, env):
    envs = make(env, **({"k": 4} if env == AUTOSTEER else {}))
    for name in controls_for(envs):
        setting = Setting(seed=1, best=2)
        first, again = (play(envs, CONTROLS[name](setting), ITEMS, seed=0) for _ in range(2))
        assert len(first.episodes) == len(ITEMS)
        assert first.episodes == again.episodes, name
    assert ("random_strengths" in controls_for(envs)) == (env == AUTOSTEER)


@pytest.mark.parametrize("env", ["Steer-TicTacToe-v0", AUTOSTEER])
def test_unsteered_is_the_model_alone(make, env):
    kwargs = {"k": 4} if env == AUTOSTEER else {}
    tokens = tokens_of("unsteered", make(env, compare=True, **kwargs))
    assert not tokens["changed"].any()
    assert (tokens["feature"] == -1).all()


def test_random_feature_uses_all_features_about_equally_and_never_the_no_op(make):
    policy = CONTROLS["random_feature"](Setting(seed=0))
    envs = make()
    envs.reset(seed=0)
    drawn = np.concatenate([policy(None, Lanes.at_reset(envs, 1))[0] for _ in range(2000)])
    counts = np.bincount(drawn, minlength=24)
    assert len(counts) == 24
    # 500 each; five standard deviations of a binomial.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


def test_random_in_mask_draws_uniformly_among_the_active(make):
    envs = make()
    envs.reset(seed=0)
    active = envs.encode().numpy() > 0
    policy = CONTROLS["random_in_mask"](Setting(seed=0))
    drawn = np.array([policy(None, Lanes.at_reset(envs, 1))[0] for _ in range(3000)])
    for lane in range(6):
        features = np.flatnonzero(active[lane])
        counts = np.bincount(drawn[:, lane], minlength=24)
        assert set(np.flatnonzero(counts)) == set(features)
        expected = 3000 / len(features)
        assert np.abs(counts[features] - expected).max() < 5 * np.sqrt(expected)


def test_random_in_mask_follows_the_mask_of_the_trained_policy(make):
    envs = make(mask="current", features=[3, 9, 14])
    mask = make_mask("adaptive", 4, width=1)
    open_place = int(np.flatnonzero(mask.open)[0])
    envs.reset(seed=0)
    legal = mask.legal(envs.action_masks())
    assert legal[:, open_place].all()
    policy = CONTROLS["random_in_mask"](Setting(seed=0, mask=mask))
    drawn = np.array([policy(None, Lanes.at_reset(envs, 1))[0] for _ in range(300)])
    for lane in range(6):
        assert set(drawn[:, lane]) == set(np.flatnonzero(legal[lane, :-1]))


def test_most_active_is_the_strongest_feature_behind_the_actions(make):
    envs = make(features=[5, 2, 20])
    tokens = tokens_of("most_active", envs)
    envs.reset(seed=0)
    activations = envs.encode().numpy()[:, [5, 2, 20]]
    actions, _ = CONTROLS["most_active"](Setting())(None, Lanes.at_reset(envs, 1))
    expected = np.where(activations.max(axis=1) > 0, activations.argmax(axis=1), 3)
    np.testing.assert_array_equal(actions, expected)
    assert set(tokens["feature"]) <= {5, 2, 20, -1}


def test_pushes_of_a_box_are_one_strength_at_either_bound(make):
    envs = make(AUTOSTEER, k=3, bound=0.5)
    envs.reset(seed=0)
    assert pushes(envs).tolist() == [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [-0.5, 0, 0], [0, -0.5, 0], [0, 0, -0.5]]
    actions, _ = fixed(4)(None, Lanes.at_reset(envs, 1))
    assert actions.tolist() == [[0, -0.5, 0]] * 6
    assert tokens_of("best_fixed", envs, best=4)["coefficient"].max() < 0


def test_random_strengths_fill_the_box(make):
    envs = make(AUTOSTEER, k=3, bound=0.5)
    envs.reset(seed=0)
    policy = CONTROLS["random_strengths"](Setting(seed=0))
    drawn = np.concatenate([policy(None, Lanes.at_reset(envs, 1))[0] for _ in range(500)])
    assert drawn.min() >= -0.5
    assert drawn.max() <= 0.5
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(drawn.std(axis=0), 1 / np.sqrt(12), atol=0.02)


def test_best_fixed_without_a_search_is_refused():
    with pytest.raises(ValueError, match="search_best_fixed"):
        CONTROLS["best_fixed"](Setting())


@pytest.mark.parametrize("env", ["Steer-TicTacToe-v0", AUTOSTEER])
def test_the_search_agrees_with_playing_every_push_by_itself(make, env):
    envs = make(env, temperature=1.0, **({"k": 3} if env == AUTOSTEER else {}))
    count = len(pushes(envs))
    found = search_best_fixed(envs, seed=3, games=(20, 30), kept=(5,))
    first = [row for row in found.table if row["round"] == 0]
    last = [row for row in found.table if row["round"] == 1]
    items = np.random.default_rng([3, 1]).permutation(100_000)
    brute = {push: play(envs, fixed(push), items[:20].tolist(), seed=3).scores.mean() for push in range(count)}
    assert {row["push"]: row["score"] for row in first} == pytest.approx(brute)
    assert [row["score"] for row in first] == sorted(brute.values(), reverse=True)
    assert {row["push"] for row in last} == {row["push"] for row in first[:5]}
    finals = {row["push"]: play(envs, fixed(row["push"]), items[:30].tolist(), seed=3).scores.mean() for row in last}
    assert found.best == last[0]["push"]
    assert finals[found.best] == max(finals.values())
    assert last[0]["feature"] == envs.unwrapped.features[found.best % len(envs.unwrapped.features)]


def test_some_candidates_are_drawn_and_score_as_they_do_among_all(make):
    envs = make()
    some, all_of_them = (search_best_fixed(envs, seed=3, games=(6, 8), kept=(2,), candidates=n) for n in (5, None))
    scores = {row["push"]: row["score"] for row in all_of_them.table if row["round"] == 0}
    tried = {row["push"]: row["score"] for row in some.table if row["round"] == 0}
    assert len(tried) == 5
    assert tried.items() <= scores.items()
    assert some.best in tried
    other = search_best_fixed(envs, seed=4, games=(6, 8), kept=(2,), candidates=5)
    assert {row["push"] for row in other.table} - set(tried)


@pytest.mark.parametrize("at_a_time", [1, 12])
def test_candidates_may_play_in_portions(make, monkeypatch, at_a_time):
    envs = make()
    whole = score_pushes(envs, np.arange(7), ITEMS[:4], seed=0)
    monkeypatch.setattr(controls, "EPISODES", at_a_time)
    np.testing.assert_array_equal(score_pushes(envs, np.arange(7), ITEMS[:4], seed=0), whole)
    assert whole.std() > 0


def test_a_search_plan_that_does_not_fit_is_refused(make):
    with pytest.raises(ValueError, match="one shorter"):
        search_best_fixed(make(), seed=0, games=(4, 8), kept=())
