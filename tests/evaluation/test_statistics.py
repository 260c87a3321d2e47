"""Intervals and tests against published tables and numbers worked out by hand."""

import numpy as np
import pytest

from steer_env.evaluation.statistics import (
    bootstrap_mean,
    holm,
    mcnemar,
    over_runs,
    runs_interval,
    score_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


@pytest.mark.parametrize(
    ("corrected", "broken", "p"),
    # Two tails of the binomial by hand: 2 * 1/32, 2 * (1 + 10)/1024, and everything.
    [(5, 0, 0.0625), (0, 5, 0.0625), (9, 1, 22 / 1024), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_the_exact_binomial_on_discordant_pairs(corrected, broken, p):
    assert mcnemar(corrected, broken) == pytest.approx(p)


def test_holm_gives_the_published_step_down():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert list(adjusted.values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_bootstrap_agrees_with_the_normal_interval_where_that_holds():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / 20
    assert bootstrap_mean(values.tolist(), seed=0) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.02
    )
    assert bootstrap_mean([0.7], seed=0) == (0.7, 0.7)
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([], seed=0)


def test_graded_scores_get_a_bootstrap_and_verdicts_get_wilson():
    assert score_interval([1.0, 0.0, 1.0]) == wilson(2, 3)
    low, high = score_interval([0.2, 0.4, 0.9])
    assert 0.2 <= low < 0.5 < high <= 0.9


def test_intervals_over_few_runs_cover():
    rng = np.random.default_rng(0)
    for runs in (3, 5):
        shares = np.clip(rng.normal(0.5, 0.05, size=(1_000, runs)), 0, 1)
        covered = [low <= 0.5 <= high for low, high in (over_runs(row, 100_000) for row in shares)]
        assert 0.93 < np.mean(covered) < 0.97


def test_runs_that_agree_are_no_surer_than_their_items():
    assert over_runs([1.0, 1.0, 1.0], 576) == wilson(576, 576)
    assert runs_interval([[1.0] * 576] * 5) == wilson(576, 576)
    assert over_runs([0.4], 50) == pytest.approx(wilson(20, 50))
    low, high = over_runs([0.9, 1.0, 1.0], 1_000)
    assert low < 0.9
    assert high == 1.0


def test_graded_runs_are_resampled_over_items():
    values = np.random.default_rng(0).random((3, 200))
    low, high = runs_interval(values.tolist())
    inner = bootstrap_mean(values.mean(axis=0).tolist(), 0)
    assert low <= inner[0] < inner[1] <= high
