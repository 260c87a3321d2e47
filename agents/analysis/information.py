"""How much one discrete thing tells of another, in bits, less what chance alone would make it seem to tell.

The plug-in estimate of mutual information is too large in small samples. Here the mean of the same estimate over
shuffles that break the relation is taken off it (a permutation correction), so that independent things come out at zero
on average, at times a little below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shuffle = Callable[[np.random.Generator], Array]
SHUFFLES = 100


@dataclass(frozen=True)
class Information:
    """What a variable tells of each of ``F`` others.

    Attributes:
        bits: ``[F]`` mutual information, plug-in less its mean over shuffles.
        entropy: ``[F]`` bits, plug-in: what there was to tell.
        p: ``[F]`` share of shuffles (and the data themselves) whose plug-in estimate is as large, one-sided.
    """

    bits: Array
    entropy: Array
    p: Array


def information(levels: Array, labels: Array, shuffled: Shuffle, seed: int, shuffles: int = SHUFFLES) -> Information:
    """Mutual information of labels with each column of levels.

    Args:
        levels: ``[n, F]`` integers from 0, few of them.
        labels: ``[n]`` integers from 0.
        shuffled: Draws labels ``[n]`` as they could be if they told nothing.
        seed: Of the shuffles.
        shuffles: How many.

    Raises:
        ValueError: There are no samples, their numbers differ, or there are fewer than one shuffle.
    """
    if len(levels) == 0 or len(levels) != len(labels):
        raise ValueError(f"levels and labels must be of the same samples, got {len(levels)} and {len(labels)}")
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}")
    places = [(levels == level).astype(np.float32) for level in range(int(levels.max()) + 1)]
    found, rng = _plug_in(places, labels), np.random.default_rng(seed)
    by_chance = np.stack([_plug_in(places, shuffled(rng)) for _ in range(shuffles)])
    shares = np.stack([place.mean(axis=0) for place in places])
    # Sums in another order may differ in the last digits.
    as_large = (by_chance >= found - 1e-9).sum(axis=0)
    return Information(found - by_chance.mean(axis=0), _entropy(shares), (1 + as_large) / (1 + shuffles))


def among_all(labels: Array) -> Shuffle:
    """Shuffles of labels over all samples, for samples that do not hang together."""
    return lambda rng: rng.permutation(labels)


def along_each(labels: Array, lengths: Array) -> Shuffle:
    """Shuffles of labels of sequences laid end to end: each turned round by a random number of places of its own.

    What follows what in a sequence stays as it is, so that runs of neighbours alike are no evidence.

    Args:
        labels: ``[n]``.
        lengths: Of the sequences; their sum is ``n``.
    """
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    own = np.repeat(lengths, lengths)
    places = np.arange(len(labels)) - starts

    def shuffled(rng: np.random.Generator) -> Array:
        turns = np.repeat(rng.integers(0, np.maximum(lengths, 1)), lengths)
        turned: Array = labels[starts + (places + turns) % own]
        return turned

    return shuffled


def _plug_in(places: list[Array], labels: Array) -> Array:
    """``[F]`` bits from the shares of the table of levels and labels."""
    rows = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels].T
    joint = np.stack([rows @ place for place in places]).astype(np.float64) / len(labels)
    level, label = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    ratio = np.divide(joint, level * label, out=np.ones_like(joint), where=joint > 0)
    bits: Array = (joint * np.log2(ratio)).sum(axis=(0, 1))
    return bits


def _entropy(shares: Array) -> Array:
    """``[F]`` bits of distributions ``[levels, F]``."""
    logs = np.log2(shares, out=np.zeros(shares.shape), where=shares > 0)
    bits: Array = np.abs((shares * logs).sum(axis=0))
    return bits
