"""What a linear probe reads off the observation that an agent gets: the bar for what a policy can know of an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steer_env.evaluation.controls import idle
from steer_env.evaluation.play import Array, Lanes, play

TRAIN = 2_000
"""Items that a probe learns from, at most."""
_WANTED = "target"
TOPICS = ("subject", "category", "condition", "label", "target")
"""What an item may be about, as tasks call it in their records."""
ITEMS_A_TOPIC = 4
"""On average at least: names that say something else of every item are no topics."""
_RIDGE = 1e-2


@dataclass(frozen=True)
class ReadOff:
    """How often a linear probe of an episode's first observation names what the item is about.

    Attributes:
        topic: What it names: the right answer, ``target``, where the task's records have it among few.
        accuracy: Share of the items of test that it names rightly.
        chance: The same of the commonest topic of train.
    """

    topic: str
    accuracy: float
    chance: float


def read_off(train: Any, test: Any, items: tuple[Sequence[int], Sequence[int]], seed: int) -> ReadOff | None:
    """Fit one ridge regression for each topic on items of train; the highest is the answer on test.

    Args:
        train: Environments whose items the probe is fitted on.
        test: Environments whose items it is measured on.
        items: Items of train, and items of test.
        seed: Seed of sampled decoding.

    Returns:
        None where the records tell no topic.
    """
    (seen, topics), (later, truth) = (
        first_observations(envs, own, seed) for envs, own in zip((train, test), items, strict=True)
    )
    names = [name for name in topics if name in truth]
    if not names:
        return None
    name = _WANTED if _WANTED in names else names[0]
    known, counts = np.unique(topics[name], return_counts=True)
    right = np.array(truth[name])
    scores = [linear_probe(seen, np.array(topics[name]) == topic, later) for topic in known]
    return ReadOff(
        topic=name,
        accuracy=float((known[np.argmax(scores, axis=0)] == right).mean()),
        chance=float((known[counts.argmax()] == right).mean()),
    )


def first_observations(
    envs: Any, items: Sequence[int], seed: int
) -> tuple[npt.NDArray[np.float64], dict[str, list[str]]]:
    """``[n, D]`` what an agent sees before its first choice in each item, and the items' topics."""
    found: dict[int, npt.NDArray[np.float64]] = {}

    def watching(obs: Any, lanes: Lanes) -> Array:
        for lane in np.flatnonzero(lanes.begins).tolist():
            found.setdefault(int(lanes.place[lane]), np.array(obs[lane], dtype=np.float64).ravel())
        return idle(lanes.envs)

    played = play(envs, watching, items, seed, tokens=False)
    return np.stack([found[place] for place in range(len(items))]), topics_of(played.episodes)


def topics_of(finals: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of ``TOPICS`` that the records of all episodes have, with at least two topics and not too many."""
    found = {name: [str(final[name]) for final in finals] for name in TOPICS if all(name in f for f in finals)}
    return {name: own for name, own in found.items() if 2 <= len(set(own)) <= len(own) / ITEMS_A_TOPIC}


def linear_probe(
    train: npt.NDArray[np.float64], truth: npt.NDArray[Any], test: npt.NDArray[np.float64], ridge: float = _RIDGE
) -> npt.NDArray[np.float64]:
    """``[N']`` scores of a ridge regression of a predicate, inputs standardised: what can be read off linearly.

    Args:
        train: ``[N, D]`` with ``truth [N]``, booleans or numbers, of which the scores are less the mean.
        test: ``[N', D]``.
        ridge: weight of the squared coefficients against the mean squared error.
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    inputs, target = (train - mean) / spread, truth - truth.mean()
    system = inputs.T @ inputs + ridge * len(inputs) * np.eye(inputs.shape[1])
    scores: npt.NDArray[np.float64] = (test - mean) / spread @ np.linalg.solve(system, inputs.T @ target)
    return scores
