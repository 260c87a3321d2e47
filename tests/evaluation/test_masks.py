"""The mask table: invariants over all of it, and the adaptive rule against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import MASKS, AdaptiveMask, EffectMask, ScopeMask, make_mask
from tests.toys import CueVectorEnv

MADE = [name for name, spec in MASKS.items() if spec.make is not None]
NOOP = 40  # of 41 actions


def play(mask, steps: int = 300, lanes: int = 5, seed: int = 0) -> list[np.ndarray]:
    """Random play through ``mask``: feature 3 earns 1, feature 5 costs 1, the rest is worth 0."""
    rng = np.random.default_rng(seed)
    rows = []
    returns = np.zeros(lanes)
    for _ in range(steps):
        active = rng.random((lanes, NOOP + 1)) < 0.05
        legal = mask.legal(active)
        assert legal.dtype == bool
        assert legal.shape == active.shape
        assert legal[:, -1].all()
        assert (legal | ~active).all(), "active features are legal"
        rows.append(legal)
        actions = np.array([rng.choice(np.flatnonzero(row)) for row in legal])
        returns += (actions == 3) * 1.0 - (actions == 5) * 1.0
        ended = rng.random(lanes) < 0.5
        mask.update(actions, ended, returns)
        returns[ended] = 0.0
    return rows


@pytest.mark.parametrize("name", MADE)
def test_invariants_and_determinism(name: str) -> None:
    """No-op and active features are always legal (so no row is empty); the seed decides the rest."""
    first, same = (play(make_mask(name, NOOP + 1, seed=2)) for _ in range(2))
    np.testing.assert_array_equal(first, same)
    other = play(make_mask(name, NOOP + 1, seed=3))
    assert (name == "adaptive") != np.array_equal(first, other)


@pytest.mark.parametrize("name", MADE)
def test_answers_are_new_arrays_and_shapes_are_checked(name: str) -> None:
    mask = make_mask(name, 4)
    active = np.zeros((2, 4), bool)
    mask.legal(active)[:] = True
    assert not active.any()
    with pytest.raises(ValueError, match=r"shape \(2, 5\), want \[B, 4\]"):
        mask.legal(np.zeros((2, 5), bool))


def test_off_is_no_mask_and_scopes_are_the_environments() -> None:
    assert make_mask("off", 5) is None
    assert {name: spec.scope for name, spec in MASKS.items()} == {
        "off": "off",
        "current": "current",
        "generation": "generation",
        "all": "all",
        "opening": "opening",
        "adaptive": "generation",
        "effects": "off",
    }


def test_bad_input_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"'sideways'; known masks: off, current, generation, all, opening, adaptive, effects"
    ):
        make_mask("sideways", 5)
    with pytest.raises(ValueError, match="no settings, got width"):
        make_mask("off", 5, width=3)
    for setting, value in (("width", -1), ("beta", np.nan), ("tries", 0), ("interval", 0), ("discount", 0.0)):
        with pytest.raises(ValueError, match=f"{setting} is out of range, got {value}"):
            AdaptiveMask(5, **{setting: value})
    for setting, value in (("states", 1), ("first", 0), ("each", 0)):
        with pytest.raises(ValueError, match=f"{setting} is out of range, got {value}"):
            EffectMask(5, **{setting: value})


def test_bounds_by_hand() -> None:
    """Feature 0 used in both episodes (returns 1, 0), twice in the first, credited once; feature 1 in one."""
    mask = AdaptiveMask(4, beta=0.5, discount=1.0)
    mask.begin(1)
    steps = [(0, False, 9.0), (0, True, 1.0), (0, False, 9.0), (1, False, 9.0), (3, True, 0.0)]
    for action, ended, returned in steps:
        mask.update(np.array([action]), np.array([ended]), np.array([returned]))
    assert mask.counts.tolist() == [2, 1, 0]
    bonus = 0.5 * np.sqrt(np.log(3))
    np.testing.assert_allclose(mask.bounds(), [0.5 + bonus / np.sqrt(2), bonus, np.inf])


def test_at_most_width_untried_features_are_open_and_all_have_their_turn() -> None:
    mask = AdaptiveMask(NOOP + 1, width=4, interval=1)
    mask.begin(2)
    turns = np.zeros(NOOP, int)
    for _ in range(400):
        assert mask.open.sum() == 4
        turns += mask.open
        mask.update(np.array([NOOP, NOOP]), np.array([True, True]), np.zeros(2))
    assert turns.min() > 10  # 400 * 4 / 40 = 40 expected


def test_good_features_stay_open_and_bad_ones_close_outside_their_context() -> None:
    mask = AdaptiveMask(NOOP + 1, width=4, beta=0.3, tries=5, interval=4)
    play(mask, steps=1_500)
    assert mask.open[3]
    assert not mask.open[5]
    inside = np.zeros((1, NOOP + 1), bool)
    inside[0, 5] = True
    assert mask.legal(inside)[0, 5], "a closed feature is legal where it is active"


def test_the_rule_by_hand() -> None:
    """After 10 episodes each with features 0 (return 1) and 1 (return 0): mean 0.5, log(21) = 3.04.

    Bounds 1 + b and b with b = beta * sqrt(3.04 / 10) = 0.55 beta: feature 1 closes for beta < 0.907.
    """
    for beta, open_now in ((0.90, [True, False, False]), (0.92, [True, True, False])):
        mask = AdaptiveMask(4, width=0, beta=beta, tries=10, interval=20, discount=1.0)
        for episode in range(20):
            feature = episode % 2
            mask.update(np.array([feature]), np.array([True]), np.array([1.0 - feature]))
        assert mask.open.tolist() == open_now, "feature 2 is untried and the width is 0"


def test_frozen_in_evaluation() -> None:
    mask = AdaptiveMask(NOOP + 1, interval=4)
    play(mask, steps=50)
    before = mask.state_dict()
    mask.frozen = True
    play(mask, steps=50)
    after = mask.state_dict()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_checkpoint_continues_the_same_stream() -> None:
    mask = AdaptiveMask(NOOP + 1, seed=1, interval=4)
    play(mask, steps=50)
    resumed = AdaptiveMask(NOOP + 1, seed=99, interval=4)
    resumed.load_state_dict(mask.state_dict())
    mask.begin(5)  # resuming begins new episodes in every lane
    np.testing.assert_array_equal(play(mask, seed=8), play(resumed, seed=8))
    with pytest.raises(ValueError, match=r"'counts' has shape \(40,\), this mask has 6 features"):
        AdaptiveMask(7).load_state_dict(mask.state_dict())
    with pytest.raises(ValueError, match="lacks clock, counts"):
        AdaptiveMask(7).load_state_dict({})


def test_vec_env_tells_the_mask_what_happened() -> None:
    """Oracle: the return credited to each feature, summed from the rewards that SB3 sees."""
    envs = CueVectorEnv(num_envs=3, horizon=2)
    mask = AdaptiveMask(13, width=13, interval=10_000, discount=1.0)
    vec_env = SB3VecEnv(envs, mask)
    vec_env.reset()
    rng = np.random.default_rng(0)
    vec_env.step(np.zeros(3, np.int64))
    vec_env.reset()  # drops the half-played episodes
    uses, sums = np.zeros(13), np.zeros(13)
    for _ in range(50):
        pair = rng.integers(13, size=(2, 3))
        vec_env.step(pair[0])
        _, rewards, dones, _ = vec_env.step(pair[1])
        assert dones.all()
        for lane in range(3):
            for feature in set(pair[:, lane]):
                uses[feature] += 1
                sums[feature] += rewards[lane]
    np.testing.assert_array_equal(mask.counts, uses[:-1])
    np.testing.assert_allclose(mask.sums, sums[:-1])
    assert isinstance(ScopeMask(3).state_dict(), dict)


def test_what_is_kept_by_effect_is_legal_whatever_is_active_and_survives_a_checkpoint() -> None:
    mask = EffectMask(7)
    active = np.eye(6, 7, dtype=bool)
    assert mask.legal(active).all(), "all features are open before any is looked at"
    mask.load_state_dict({"listed": np.isin(np.arange(6), [1, 4]), "tokens": np.array(30)})
    assert (np.flatnonzero(mask.legal(active)[0]) == [1, 4, 6]).all()
    resumed = EffectMask(7)
    resumed.load_state_dict(mask.state_dict())
    assert resumed.tokens == 30
    np.testing.assert_array_equal(resumed.legal(active), mask.legal(active))
    with pytest.raises(ValueError, match=r"shape \(6,\), this mask has 3 features"):
        EffectMask(4).load_state_dict(resumed.state_dict())
    with pytest.raises(ValueError, match="lacks tokens"):
        EffectMask(7).load_state_dict({"listed": np.ones(6, dtype=bool)})
