"""Fits and permutation tests on data with known answers, agents saved on their way, and the study on tiny agents."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from agents.inside.live_features import (
    Decomposed,
    best_count,
    centred,
    chance,
    correct,
    correlation,
    count_live,
    explained,
    find_agents,
    fit,
    relation,
)
from agents.inside.worlds.agents import WorldAgent, greedy_actions
from experiments.inside.live_features import LiveFeaturesConfig
from experiments.inside.live_features import main as study
from experiments.make.agents import AgentsConfig, main


def test_a_parabola_is_found_and_its_peak() -> None:
    counts = np.array([300.0, 400, 460, 520, 700, 250])
    scores = 7 - 0.002 * (counts - 460) ** 2
    np.testing.assert_allclose(fit(counts, scores, 2), [-0.002, 1.84, 7 - 0.002 * 460**2], rtol=1e-6)
    assert best_count(fit(counts, scores, 2)) == pytest.approx(460)
    assert best_count(fit(counts, -scores, 2)) is None
    assert explained(counts, scores, 2) == pytest.approx(1)
    assert explained(counts, scores, 1) == pytest.approx(stats.linregress(counts, scores).rvalue ** 2)
    np.testing.assert_allclose(fit(counts, 3 + 0.5 * counts, 2), [0, 0.5, 3], atol=1e-9)
    np.testing.assert_allclose(fit(np.ones(4), [1, 2, 3, 6], 1)[-1] + fit(np.ones(4), [1, 2, 3, 6], 1)[0], 3)
    assert np.isnan(explained(counts, np.ones(6), 1))
    assert chance(counts, np.ones(6), 1, shuffles=9) == 1.0


def test_the_p_value_is_that_of_all_orders() -> None:
    """Five agents have 120 orders: the share that fits as well is counted out."""
    counts, scores = np.array([1.0, 2, 3, 4, 6]), np.array([2.0, 1, 4, 3, 7])
    r2 = np.corrcoef(counts, scores)[0, 1] ** 2
    orders = [np.corrcoef(counts, order)[0, 1] ** 2 for order in itertools.permutations(scores)]
    exact = np.mean(np.array(orders) >= r2 - 1e-12)
    assert chance(counts, scores, 1, shuffles=4_000) == pytest.approx(exact, abs=0.015)
    assert chance(counts, counts, 1, shuffles=9) >= 0.1  # never 0


def test_p_is_uniform_where_there_is_nothing() -> None:
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found.append(chance(rng.normal(size=12), rng.normal(size=12), 2, shuffles=49, seed=seed))
    assert 0.38 < np.mean(found) < 0.62


def confounded(slope: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Longer training raises both; inside a length they are tied by ``slope`` alone."""
    rng = np.random.default_rng(3)
    lengths, trainings = np.repeat([1, 2, 3, 4], 8), np.tile(np.arange(8), 4)
    own = np.tile(rng.normal(size=8), 4) * 10
    counts = 100 * lengths + own
    return counts, 5.0 * lengths + slope * own + np.tile(rng.normal(size=8), 4), lengths, trainings


def test_a_common_cause_is_told_from_a_relation() -> None:
    counts, scores, lengths, trainings = confounded(0.0)
    found = relation(counts, scores, lengths.tolist(), trainings.tolist(), 400, 0)
    assert found["r"] > 0.9
    assert found["fits"]["linear"]["r2"] > 0.8
    assert found["best_count"] is None or counts.min() <= found["best_count"] <= counts.max()
    assert abs(found["r_within"]) < 0.7
    assert found["fits"]["linear"]["p_within"] > 0.1
    counts, scores, lengths, trainings = confounded(1.0)
    found = relation(counts, scores, lengths.tolist(), trainings.tolist(), 400, 0)
    assert found["r_within"] > 0.9
    assert found["fits"]["linear"]["p_within"] < 0.01
    assert {row["n"] for row in found["by_length"].values()} == {8}


def test_all_fits_are_corrected_together() -> None:
    relations = {name: {"fits": {"linear": {"p_within": p}, "quadratic": {"p_within": 0.5}}} for name, p in PAIR}
    correct(relations)
    found = {name: one["fits"]["linear"]["p_holm"] for name, one in relations.items()}
    assert found == {"live": pytest.approx(0.04), "live_on_same": pytest.approx(0.09)}


PAIR = (("live", 0.01), ("live_on_same", 0.03))


def test_a_peak_outside_the_counts_is_none() -> None:
    counts = np.array([1.0, 2, 3, 4, 5, 6])
    scores = -((counts - 20) ** 2)
    assert relation(counts, scores, [1] * 6, list("abcdef"), 9, 0)["best_count"] is None
    assert relation(counts, -((counts - 4) ** 2), [1] * 6, list("abcdef"), 9, 0)["best_count"] == pytest.approx(4)


def test_taking_lengths_out_is_a_regression_with_dummies() -> None:
    counts, scores, lengths, _ = confounded(0.3)
    dummies = np.eye(4)[lengths - 1]

    def left(design: np.ndarray) -> float:
        return float(np.sum((scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]) ** 2))

    x = counts / 100
    both = left(np.column_stack([dummies, x, x**2]))
    assert explained(counts, scores, 2, lengths.tolist()) == pytest.approx(1 - both / left(dummies), rel=1e-6)
    x, y = (values - dummies @ (dummies.T @ values / 8) for values in (counts, scores))
    assert correlation(counts, scores, lengths.tolist()) == pytest.approx(np.corrcoef(x, y)[0, 1])
    np.testing.assert_allclose(centred(counts, lengths.tolist()), x)


def test_rows_of_one_training_are_shuffled_together() -> None:
    """Three trainings at twenty lengths are three cases, not sixty, and two of their six orders fit as well."""
    lengths, trainings = np.repeat(np.arange(20), 3), np.tile(np.arange(3), 20)
    counts, scores = np.tile([1.0, 2.0, 3.0], 20), np.tile([1.0, 2.0, 4.0], 20) + lengths
    together = chance(counts, scores, 1, lengths.tolist(), trainings.tolist(), shuffles=300)
    assert together == pytest.approx(1 / 3, abs=0.08)
    assert chance(counts, scores, 1, lengths.tolist(), shuffles=300) < 0.01
    some = trainings[:-1].tolist()  # one is missing: inside lengths, row by row
    assert chance(counts[:-1], scores[:-1], 1, lengths[:-1].tolist(), some, shuffles=300) < 0.01


def test_agents_are_saved_on_their_way_and_arrive_the_same(tmp_path: Path) -> None:
    cards = main(AgentsConfig(tmp_path / "on", seeds=(3,), steps=5_600, saves=(320, 5_360), hidden=(12,)))
    assert [card.steps for card in cards] == [320, 5_360, 5_600]
    main(AgentsConfig(tmp_path / "off", seeds=(3,), steps=5_600, hidden=(12,)))
    way = [tmp_path / "on" / "seed-3" / name for name in ("steps-320", "steps-5360", "")]
    early, late, last, alone = (greedy_actions(WorldAgent.load(f).model) for f in (*way, tmp_path / "off" / "seed-3"))
    np.testing.assert_array_equal(last, alone)
    assert (early != late).any()
    assert (late != last).any()
    assert json.loads((way[1] / "agent.json").read_text())["evaluation"] == cards[1].evaluation
    with pytest.raises(ValueError, match="between 0 and the 100 steps of the training, got 100"):
        main(AgentsConfig(tmp_path / "no", steps=100, saves=(100,)))


class Numbers(nn.Module):
    """An SAE by hand: one feature a number, its positive part."""

    cfg = SimpleNamespace(d_sae=4, d_in=4)

    def __init__(self) -> None:
        super().__init__()
        self.W_dec = torch.eye(4)

    def encode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts.relu()

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_features_are_counted_on_as_many_states_of_every_agent() -> None:
    few, many = -torch.ones(10, 4), -torch.ones(50, 4)
    few[0, 0] = few[9, 1] = many[3, 2] = 1.0
    many[30] = 1.0  # beyond what the other agent has
    one, other = (
        Decomposed({}, Numbers(), acts, acts.numpy(), lambda seen: ({"layer": torch.from_numpy(seen["obs"])}, None))
        for acts in (few, many)
    )
    assert count_live([one, other], 4_000) == 10
    assert (one.row["live"], other.row["live"]) == (2, 1)
    assert one.row["live_on_same"] == other.row["live_on_same"] == 1  # the first half of the one's, then of the other's
    assert count_live([one, other], 4) == 4
    assert one.row["live"] == 1


def test_the_study_of_tiny_agents(tmp_path: Path) -> None:
    kwargs = {"layout": '["...", "..G"]'}
    agents = AgentsConfig(tmp_path / "agents", "GridWorld-v0", kwargs, (0, 1), 3_000, (1_024,), (8, 6), 5)
    main(agents)
    cfg = LiveFeaturesConfig(
        tmp_path / "live", (tmp_path / "agents",), width=16, k=2, samples=2_048, episodes=40, states=50, shuffles=20
    )
    result = study(cfg)
    rows = result.agents
    assert [row["steps"] for row in rows] == [3_072, 1_024] * 2
    assert len({row["training"] for row in rows}) == 2
    assert result.states <= 50
    assert all(2 <= row[name] <= 16 and row["l0"] <= 2 for row in rows for name in ("live", "live_on_same"))
    assert set(result.relations["live"]["by_length"]) == {"1024", "3072"}
    text = (cfg.out / "live_features.md").read_text()
    assert "4 agents of 2 trainings, 2 lengths" in text
    assert "| quadratic |" in text
    assert "p cannot be below 0.5" in text
    assert (cfg.out / "live_features.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FileExistsError, match="live exists"):
        study(cfg)
    with pytest.raises(ValueError, match="has no 'mated'; it has: episodes, return"):
        find_agents([tmp_path / "agents"], "mated")
    with pytest.raises(ValueError, match="at least 4 agents, got 2"):
        find_agents([tmp_path / "agents" / "seed-0"], "return")
