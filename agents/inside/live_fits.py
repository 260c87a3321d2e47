"""Does a score go with a count? Linear and quadratic fits over agents, with permutation tests within groups or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steer_env.evaluation.statistics import holm

Floats = npt.NDArray[np.float64]
DEGREES = {"linear": 1, "quadratic": 2}


def fit(counts: npt.ArrayLike, scores: npt.ArrayLike, degree: int) -> Floats:
    """Least squares: ``[degree + 1]`` coefficients, the highest power first."""
    x = np.asarray(counts, dtype=np.float64)
    shift, spread = x.mean(), x.std() or 1.0  # powers of large counts are ill-conditioned
    powers = np.vander((x - shift) / spread, degree + 1)
    inner = np.poly1d([1 / spread, -shift / spread])
    outer = np.poly1d(np.linalg.lstsq(powers, np.asarray(scores, dtype=np.float64), rcond=1e-9)[0])
    found: Floats = np.zeros(degree + 1)
    whole = np.atleast_1d(outer(inner).coeffs)  # shorter where the highest powers are zero
    found[-len(whole) :] = whole
    return found


def best_count(quadratic: Floats) -> float | None:
    """Where a quadratic fit is highest; None where it has no highest point."""
    bend, slope, _ = quadratic
    return float(-slope / (2 * bend)) if bend < 0 else None


def explained(counts: npt.ArrayLike, scores: npt.ArrayLike, degree: int, groups: Sequence[Any] | None = None) -> float:
    """R2 of a polynomial fit: of all there is, or of what groups do not explain.

    Args:
        counts: ``[n]``.
        scores: ``[n]``.
        degree: of the polynomial.
        groups: ``[n]`` what each row has in common with others, such as the length of its training. Every group then
            has a mean of its own, so that only differences inside groups count (the partial R2 of a regression with a
            dummy a group, by the theorem of Frisch, Waugh and Lovell).

    Returns:
        In [0, 1]; NaN where the scores do not vary.
    """
    x, y = np.asarray(counts, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    x = (x - x.mean()) / (x.std() or 1.0)
    design = centred(np.stack([x**power for power in range(1, degree + 1)], axis=1), groups)
    target = centred(y, groups)
    total = float(target @ target)
    if total < 1e-12 * max(float(y @ y), 1.0):
        return float("nan")
    left = target - design @ np.linalg.lstsq(design, target, rcond=1e-9)[0]
    return 1.0 - float(left @ left) / total


def correlation(counts: npt.ArrayLike, scores: npt.ArrayLike, groups: Sequence[Any] | None = None) -> float:
    """Pearson's r of all, or of what is left when the groups' means are taken away; NaN where a side is constant."""
    x, y = (centred(np.asarray(values, dtype=np.float64), groups) for values in (counts, scores))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 1e-12 else float("nan")


def chance(
    counts: npt.ArrayLike,
    scores: npt.ArrayLike,
    degree: int,
    groups: Sequence[Any] | None = None,
    trainings: Sequence[Any] | None = None,
    shuffles: int = 10_000,
    seed: int = 0,
) -> float:
    """How often shuffled scores are explained as well: permutation p-value, never 0.

    Args:
        counts: as in :func:`explained`.
        scores: as in :func:`explained`.
        degree: as in :func:`explained`.
        groups: as in :func:`explained`; scores are then shuffled inside groups.
        trainings: ``[n]`` of which training each row is. Rows of one are not independent: where every group has a row
            of every training, whole trainings are shuffled, the same way in all groups.
        shuffles: number of them.
        seed: of the shuffles.
    """
    y = np.asarray(scores, dtype=np.float64)
    value = explained(counts, y, degree, groups)
    if np.isnan(value):
        return 1.0
    rng = np.random.default_rng(seed)
    names = np.zeros(len(y)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    places = [np.flatnonzero(names == name) for name in np.unique(names)]
    table = None if trainings is None else _complete(places, np.asarray(trainings))
    as_good = 0
    for _ in range(shuffles):
        mixed = y.copy()
        if table is not None:
            mixed[table] = y[table[:, rng.permutation(table.shape[1])]]
        else:
            for place in places:
                mixed[place] = y[rng.permutation(place)]
        as_good += explained(counts, mixed, degree, groups) >= value - 1e-12
    return (1 + as_good) / (1 + shuffles)


def _complete(places: Sequence[npt.NDArray[np.int64]], trainings: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """``[groups, trainings]`` rows, each group's in the order of trainings; None where one is missing or twice."""
    rows = [place[np.argsort(trainings[place], kind="stable")] for place in places]
    wanted = np.unique(trainings).tolist()
    return np.stack(rows) if all(trainings[row].tolist() == wanted for row in rows) else None


def centred(values: Floats, groups: Sequence[Any] | None = None) -> Floats:
    """``[n]`` or ``[n, k]`` less the mean of each group, or of all."""
    if groups is None:
        return values - values.mean(axis=0)
    left, names = values.copy(), np.asarray(groups)
    for name in np.unique(names):
        left[names == name] -= values[names == name].mean(axis=0)
    return left


def relation(
    counts: npt.ArrayLike,
    scores: npt.ArrayLike,
    lengths: Sequence[Any],
    trainings: Sequence[Any],
    shuffles: int,
    seed: int,
) -> dict[str, Any]:
    """Everything about a score and a count.

    Args:
        counts: ``[n]``.
        scores: ``[n]``.
        lengths: ``[n]`` length of each agent's training.
        trainings: ``[n]`` of which training it is.
        shuffles: of the permutation tests.
        seed: of the permutation tests.

    Returns:
        ``r`` and ``r_within`` (what lengths explain taken away); by fit ``coefficients``, ``r2``, and ``r2_within`` and
        ``p_within`` inside lengths (over all lengths there is no p: agents of one training are no independent cases);
        ``best_count`` of the quadratic, None where that is outside the counts; ``by_length``, r and n of each.
    """
    x, y, names = np.asarray(counts, dtype=np.float64), np.asarray(scores, dtype=np.float64), np.asarray(lengths)
    fits = {
        name: {
            "coefficients": fit(x, y, degree).tolist(),
            "r2": explained(x, y, degree),
            "r2_within": explained(x, y, degree, lengths),
            "p_within": chance(x, y, degree, lengths, trainings, shuffles, seed),
        }
        for name, degree in DEGREES.items()
    }
    best = best_count(fit(x, y, 2))
    alone = {length: names == length for length in np.unique(names)}
    return {
        "r": correlation(x, y),
        "r_within": correlation(x, y, lengths),
        "fits": fits,
        "best_count": best if best is not None and x.min() <= best <= x.max() else None,
        "by_length": {
            str(length): {"n": int(rows.sum()), "r": correlation(x[rows], y[rows])} for length, rows in alone.items()
        },
    }


def correct(relations: Mapping[str, Any]) -> None:
    """Write into every fit ``p_holm``, its ``p_within`` after Holm's correction over all fits of all relations."""
    fits = {f"{name} {kind}": found for name, one in relations.items() for kind, found in one["fits"].items()}
    for name, p in holm({name: found["p_within"] for name, found in fits.items()}).items():
        fits[name]["p_holm"] = p
