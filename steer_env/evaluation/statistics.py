"""Intervals and tests for the tables: each a plain function of counts or values, seeds as arguments.

SciPy takes a second to import, so it is imported by the functions that need it.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), which stays inside [0, 1] and works at 0 and ``n``.

    Args:
        successes: Number of successes; it may be a mean over runs.
        n: Number of trials.
        confidence: How often such an interval holds the true share.

    Raises:
        ValueError: ``n`` is below 1, or ``successes`` is not in ``[0, n]``.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in [0, n] with n at least 1, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends rounding would leave a trace such as 1e-17.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def mcnemar(corrected: int, broken: int) -> float:
    """Exact two-sided p-value of paired yes/no results (McNemar 1947).

    Args:
        corrected: Items wrong in the first arm and right in the second.
        broken: Items right in the first arm and wrong in the second.
    """
    from scipy import stats

    discordant = corrected + broken
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(corrected, discordant, 0.5).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of several tests (Holm 1979).

    Args:
        p_values: The raw p-value of each test by name.

    Returns:
        The adjusted ones, in the order given.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def bootstrap_mean(
    values: Sequence[float], seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile interval of the mean.

    Args:
        values: What is resampled: a score of each item, or of each training seed.
        seed: Seed of the resampling.
        confidence: How often such an interval holds the true mean.
        resamples: Number of resamples.

    Raises:
        ValueError: ``values`` is empty.
    """
    if len(values) == 0:
        raise ValueError("a bootstrap needs at least one value")
    rng = np.random.default_rng(seed)
    data = np.asarray(values, dtype=float)
    # In portions: all the resamples of a long list at once would take gigabytes.
    portion = max(1, 10_000_000 // len(data))
    means = [
        data[rng.integers(len(data), size=(min(portion, resamples - start), len(data)))].mean(axis=1)
        for start in range(0, resamples, portion)
    ]
    low, high = np.quantile(np.concatenate(means), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def score_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean score: Wilson where scores are 0 or 1, bootstrap over items otherwise.

    Args:
        scores: Score of each item.
        seed: Seed of the bootstrap.
    """
    if set(scores) <= {0.0, 1.0}:
        return wilson(int(sum(scores)), len(scores))
    return bootstrap_mean(scores, seed)


def runs_interval(runs: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean score of several training runs on the same items.

    Both other runs and other items could have come: the interval reaches as far as the wider of :func:`over_runs` and
    of :func:`score_interval` over items, on either side, and never beyond the scores themselves.

    Args:
        runs: Scores ``[R, n]`` of each run by item.
        seed: Seed of the bootstrap over items, where scores are not 0 or 1.
    """
    if len(runs) == 1:
        return score_interval(runs[0], seed)
    values = np.asarray(runs, dtype=float)
    means = values.mean(axis=1).tolist()
    if set(np.unique(values)) <= {0.0, 1.0}:
        return over_runs(means, values.shape[1])
    low, high = _widest(_student(means), bootstrap_mean(values.mean(axis=0).tolist(), seed))
    return max(low, float(values.min())), min(high, float(values.max()))


def over_runs(shares: Sequence[float], n: int) -> tuple[float, float]:
    """95 % interval of the mean of shares of ``n`` items each: Student's t over runs, at least Wilson over items.

    With three or five runs a percentile bootstrap covers 77 and 83 % (normal scores, by simulation), not 95.

    Args:
        shares: Mean score of each run.
        n: Number of items of each run.
    """
    low, high = _widest(_student(shares), wilson(float(np.mean(shares)) * n, n))
    return max(low, 0.0), min(high, 1.0)


def _student(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of few normal values; of one value the value itself, twice."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def _widest(*intervals: tuple[float, float]) -> tuple[float, float]:
    return min(low for low, _ in intervals), max(high for _, high in intervals)
