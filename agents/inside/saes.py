"""What the features of an RL agent's SAE stand for, and what they do: scores against predicates, and substitution.

A feature is any column of numbers over states, so that raw neurons, principal components and the features of an
untrained network are measured by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from agents.inside.recordings import Recording

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@contextmanager
def playing_through(policy: BasePolicy, module: str, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, ``replace`` stands between a module and what reads it: ``[n, M]`` to ``[n, M]``.

    Raises:
        AttributeError: the policy has no such module.
    """
    handle = policy.get_submodule(module).register_forward_hook(lambda _, inputs, output: replace(output))
    try:
        yield
    finally:
        handle.remove()


def without_feature(sae: Any, feature: int) -> Callable[[Tensor], Tensor]:
    """For :func:`playing_through`: the reconstruction with one feature at zero."""

    def replace(acts: Tensor) -> Tensor:
        active = sae.encode(acts)
        active[..., feature] = 0.0
        kept: Tensor = sae.decode(active)
        return kept

    return replace


def split_rows(recording: Recording, seed: int, unit: str) -> Bools:
    """``[N]`` rows to learn from (True) and to test on, about half each.

    Args:
        recording: what is split.
        seed: of the draw.
        unit: what is kept together: ``"trajectory"``, or ``"observation"`` for worlds with so few states that they
            come again and again. An observation is on the same side in every recording.

    Raises:
        ValueError: ``unit`` is neither.
    """
    if unit == "observation":
        rows, which = _distinct(recording)
        sides = np.array([_side(row.tobytes(), seed) for row in rows])
        learn: Bools = sides[which]
        return learn
    if unit != "trajectory":
        raise ValueError(f"unit must be 'observation' or 'trajectory', got {unit!r}")
    trajectory = recording.steps["trajectory"]
    names = np.unique(trajectory)
    return ~np.isin(trajectory, np.random.default_rng(seed).permutation(names)[: round(len(names) / 2)])


def distinct_rows(recording: Recording, learn: Bools) -> tuple[Rows, Rows]:
    """Rows that hold each observation once, in order: those learnt from, and those never learnt from."""
    which = _distinct(recording)[1]
    known, unknown = np.flatnonzero(learn), np.flatnonzero(~np.isin(which, which[learn]))
    first, later = (np.sort(rows[np.unique(which[rows], return_index=True)[1]]) for rows in (known, unknown))
    return first, later


def _distinct(recording: Recording) -> tuple[npt.NDArray[Any], Rows]:
    """The distinct observations, flat, and which one each row has."""
    flat = np.concatenate([rows.reshape(len(recording), -1) for rows in recording.observations.values()], axis=1)
    kinds, which = np.unique(flat, axis=0, return_inverse=True)
    return kinds, which.reshape(-1)


def _side(content: bytes, seed: int) -> bool:
    return bool(blake2b(content, key=str(seed).encode(), digest_size=1).digest()[0] & 1)


def auroc(scores: npt.ArrayLike, truths: npt.ArrayLike) -> Floats:
    """Area under the ROC curve of every score for every truth, ties counted half (Mann and Whitney 1947).

    Args:
        scores: ``[N, F]``.
        truths: ``[N, P]`` booleans.

    Returns:
        ``[F, P]``; NaN where a truth holds everywhere or nowhere.
    """
    ranks = stats.rankdata(np.asarray(scores), axis=0)
    labels = np.asarray(truths, dtype=np.float64)
    positive = labels.sum(axis=0)
    pairs = positive * (len(labels) - positive)
    wins = ranks.T @ labels - positive * (positive + 1) / 2
    return np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0)


@dataclass(frozen=True)
class Match:
    """The feature that tells a predicate best, chosen on one set of states and measured on another.

    Attributes:
        feature: its column.
        sign: 1 where high values mean true, -1 where low ones do.
        chosen: AUROC where it was chosen.
        auroc: AUROC where it is measured.
        f1: harmonic mean of precision and recall there, at the threshold that was best where it was chosen.
        p: share of shuffled predicates that the feature tells as well, that is, chance.
    """

    feature: int
    sign: int
    chosen: float
    auroc: float
    f1: float
    p: float


def best_matches(
    train: Floats,
    train_truths: Mapping[str, Bools],
    test: Floats,
    test_truths: Mapping[str, Bools],
    shuffles: int = 1000,
    seed: int = 0,
    groups: npt.NDArray[Any] | None = None,
) -> dict[str, Match]:
    """For every predicate the feature that tells it best.

    Args:
        train: ``[N, F]`` features of the states on which the choice is made.
        train_truths: ``[N]`` by predicate.
        test: ``[N', F]`` features of the other states.
        test_truths: ``[N']`` by predicate; one that holds everywhere or nowhere on either side is left out.
        shuffles: of :func:`chance`.
        seed: of :func:`chance`.
        groups: of :func:`chance`, ``[N']``.
    """
    names = [
        name
        for name, truth in train_truths.items()
        if all(labels.any() and not labels.all() for labels in (truth, test_truths[name]))
    ]
    if not names:
        return {}
    areas = auroc(train, np.stack([train_truths[name] for name in names], axis=1))
    found = {}
    for name, scores in zip(names, areas.T, strict=True):
        truth, later = train_truths[name], test_truths[name]
        feature = int(np.abs(scores - 0.5).argmax())
        sign = 1 if scores[feature] >= 0.5 else -1
        chosen, measured = sign * train[:, feature], sign * test[:, feature]
        value = float(auroc(measured[:, None], later[:, None])[0, 0])
        found[name] = Match(
            feature,
            sign,
            float(scores[feature] if sign > 0 else 1 - scores[feature]),
            value,
            f1(measured > best_threshold(chosen, truth), later),
            chance(measured, later, value, shuffles, seed, groups),
        )
    return found


def faithful_features(
    train: Floats, train_truths: Mapping[str, Bools], test: Floats, test_truths: Mapping[str, Bools], bar: float = 0.9
) -> list[int]:
    """Features with an AUROC of at least ``bar`` for some predicate, both where that was found and elsewhere."""
    labels = np.stack(list(train_truths.values()), axis=1)
    elsewhere = np.stack(list(test_truths.values()), axis=1)
    first, second = np.nan_to_num(auroc(train, labels), nan=0.5), np.nan_to_num(auroc(test, elsewhere), nan=0.5)
    high = ((first >= bar) & (second >= bar)) | ((first <= 1 - bar) & (second <= 1 - bar))
    return np.flatnonzero(high.any(axis=1)).tolist()


def chance(
    scores: Floats,
    truth: Bools,
    value: float,
    shuffles: int = 1000,
    seed: int = 0,
    groups: npt.NDArray[Any] | None = None,
) -> float:
    """How often a shuffled truth is told as well: permutation p-value of an AUROC, one-sided, never 0.

    Args:
        scores: ``[N]``.
        truth: ``[N]``.
        value: the AUROC.
        shuffles: number of them.
        seed: of the shuffles.
        groups: ``[N]`` the trajectory of each row, where rows follow each other in time. The whole truth is then turned
            round by a random number of rows, so that neighbours alike are no evidence.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        shuffled = np.stack([rng.permutation(truth) for _ in range(shuffles)], axis=1)
    else:
        shuffled = np.stack([np.roll(truth, turn) for turn in rng.integers(1, len(truth), size=shuffles)], axis=1)
    null = auroc(scores[:, None], shuffled)[0]
    return float((1 + (null >= value - 1e-12).sum()) / (1 + shuffles))


def f1(said: Bools, truth: Bools) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is rightly said."""
    right = int((said & truth).sum())
    return 2 * right / max(int(said.sum()) + int(truth.sum()), 1)


def best_threshold(scores: Floats, truth: Bools) -> float:
    """The threshold above which saying "true" has the highest F1, among the scores' percentiles and just below."""
    candidates = np.unique(np.concatenate([[np.nextafter(scores.min(), -np.inf)], np.percentile(scores, range(101))]))
    return float(max(candidates, key=lambda bar: f1(scores > bar, truth)))


def auroc_gain(
    scores: Floats,
    bar: Floats,
    truth: Bools,
    seed: int,
    resamples: int = 1000,
    groups: npt.NDArray[Any] | None = None,
) -> tuple[float, float, float]:
    """How much better ``scores`` tell a truth than ``bar`` does on the same states.

    Args:
        scores: ``[N]``.
        bar: ``[N]``.
        truth: ``[N]``.
        seed: of the bootstrap over states.
        resamples: of the bootstrap.
        groups: ``[N]`` what is resampled as a whole, such as the position that several states are orders of; by default
            each state.

    Returns:
        The difference of AUROCs, and its one-sided 95 % lower bound and p-value that there is none.
    """
    rng = np.random.default_rng(seed)
    both = np.stack([scores, bar], axis=1)
    names, which = np.unique(np.arange(len(truth)) if groups is None else groups, return_inverse=True)
    members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
    gains = []
    for _ in range(resamples):
        rows = np.concatenate([members[group] for group in rng.integers(len(names), size=len(names))])
        values = auroc(both[rows], truth[rows, None])[:, 0]
        gains.append(values[0] - values[1])
    known = np.array(gains)[np.isfinite(gains)]
    first, second = auroc(both, truth[:, None])[:, 0]
    return float(first - second), float(np.quantile(known, 0.05)), float((1 + (known <= 0).sum()) / (1 + len(known)))


def principal_components(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """``[N, M]`` and ``[N', M]`` in the principal axes of the first, in order of variance."""
    mean = train.mean(dim=0)
    axes = torch.linalg.svd((train - mean).double(), full_matrices=False).Vh.T.to(train)
    return (train - mean) @ axes, (test - mean) @ axes
