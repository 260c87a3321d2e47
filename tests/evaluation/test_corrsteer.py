"""CorrSteer against its definition: peaks collected one item at a time, SciPy's correlation, NumPy's mean."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr

import steer_env  # noqa: F401  # registers the environments
from steer_env.evaluation import corrsteer
from steer_env.evaluation.corrsteer import fit_corrsteer, peak_activations, pearson
from steer_env.evaluation.play import Lanes, play

ENV = "Steer-TicTacToe-v0"
GAME = {"opponent": "random", "illegal": "random_move", "coefficient": 2.0, "coefficient_unit": "residual"}
ITEMS = list(range(40))


@pytest.fixture(scope="module")
def make(tiny):
    def build(num_envs=6, **kwargs):
        return gym.make_vec(ENV, num_envs=num_envs, **{**tiny, **GAME, **kwargs})

    return build


@pytest.fixture(scope="module")
def one_by_one(tiny):
    """Peaks ``[n, F]`` and rightness ``[n]`` of unsteered games, from the single environment, item by item."""
    env = gym.make(ENV, **tiny, **GAME, temperature=1.0)
    peaks, right = [], []
    for item in ITEMS:
        env.reset(seed=5, options={"item": item})
        seen, ended = [], False
        while not ended:
            seen.append(env.unwrapped.episode.encode()[0].numpy().copy())
            _, _, ended, _, info = env.step(env.action_space.n - 1)
        peaks.append(np.max(seen, axis=0))
        right.append(info["score"] > 0.5)
    return np.array(peaks), np.array(right)


def test_peaks_are_those_of_the_single_environment(make, one_by_one):
    peaks, right = peak_activations(make(temperature=1.0), ITEMS, seed=5)
    np.testing.assert_allclose(peaks, one_by_one[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(right, one_by_one[1])
    assert 5 < right.sum() < 35


@pytest.mark.parametrize("features", [None, [20, 3, 11, 7]])
def test_the_feature_and_its_strength_are_the_published_ones(make, one_by_one, features):
    peaks, right = one_by_one
    kept = list(range(24)) if features is None else features
    expected = {f: pearsonr(peaks[:, f], right).statistic for f in kept if np.ptp(peaks[:, f])}
    best = max(expected, key=expected.get)
    found = fit_corrsteer(make(temperature=1.0, features=features), ITEMS, seed=5)
    assert found.feature == best
    assert kept[found.push] == best
    assert found.correlation == pytest.approx(expected[best], rel=1e-4)
    assert found.coefficient == pytest.approx(peaks[right, best].mean(), rel=1e-4)
    assert (found.n, found.correct, found.temperature, found.reason) == (40, right.sum(), 1.0, "")


def test_correlation_agrees_with_numpy_and_constants_have_none():
    rng = np.random.default_rng(0)
    values = rng.random((50, 6)).astype(np.float32)
    values[:, 2] = 0.1
    labels = rng.random(50) < 0.3
    found = pearson(values, labels)
    assert found[2] == 0
    for column in (0, 1, 3, 4, 5):
        assert found[column] == pytest.approx(np.corrcoef(values[:, column], labels)[0, 1], abs=1e-6)


def test_it_writes_what_the_sae_writes_and_nothing_else(make, tiny, tmp_path):
    """Also with directions that are not of length 1: the strength is an activation, its unit is ``W_dec``'s row."""
    folder = tmp_path / "sae"
    folder.mkdir()
    for file in Path(tiny["sae"]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"] = weights["W_dec"] * 3
    save_file(weights, folder / "sae_weights.safetensors")
    found = fit_corrsteer(make(temperature=1.0, sae=str(folder)), ITEMS, seed=5)
    envs = make(sae=str(folder), **{**GAME, **found.env_kwargs})
    played = play(envs, found.policy(), ITEMS[:5], seed=0)
    assert set(played.tokens["feature"]) == {found.feature}
    assert played.tokens["coefficient"] == pytest.approx(found.coefficient)
    actions, _ = found.policy()(None, Lanes.at_reset(envs, 1))
    added = envs.unwrapped.episode.scene.actuator.delta(actions)
    assert added[0].tolist() == pytest.approx((found.coefficient * weights["W_dec"][found.feature]).tolist(), rel=1e-5)
    equal = play(make(sae=str(folder)), found.policy(), ITEMS[:5], seed=0)
    assert set(equal.tokens["coefficient"]) == {GAME["coefficient"]}


def test_a_model_that_is_always_wrong_is_sampled(make):
    greedy, sampled = make(), make(temperature=1.0)
    wrong = [item for item, score in zip(ITEMS, play(greedy, idle, ITEMS, 5).scores, strict=True) if score == 0]
    assert len(wrong) > 10
    alone = fit_corrsteer(greedy, wrong, seed=5)
    assert (alone.feature, alone.push, alone.coefficient) == (None, None, 0.0)
    assert alone.reason == f"none of {len(wrong)} answers are right"
    assert alone.temperature == 0.0
    found = fit_corrsteer(greedy, wrong, seed=5, sampled=sampled)
    assert found == fit_corrsteer(sampled, wrong, seed=5)
    assert found.temperature == 1.0
    assert found.feature is not None
    # Where greedy answers differ, they are what counts.
    assert fit_corrsteer(greedy, ITEMS, seed=5, sampled=sampled).temperature == 0.0


def idle(obs, lanes):
    return np.full(lanes.envs.num_envs, lanes.envs.single_action_space.n - 1), {}


def test_nothing_is_pushed_where_nothing_goes_with_being_right(make, monkeypatch):
    envs = make(features=[4, 9])
    peaks = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    monkeypatch.setattr(corrsteer, "peak_activations", lambda *_: (peaks, np.array([True, False, False])))
    found = fit_corrsteer(envs, [0, 1, 2], seed=0)
    assert (found.feature, found.reason) == (None, "no feature correlates positively with right answers")
    monkeypatch.undo()
    assert set(play(envs, found.policy(), ITEMS[:3], seed=0).tokens["feature"]) == {-1}


def test_strengths_are_refused(tiny):
    envs = gym.make_vec("AutoSteer-TicTacToe-v0", num_envs=2, **tiny, k=3)
    with pytest.raises(ValueError, match="choices, got Box"):
        fit_corrsteer(envs, [0], seed=0)
