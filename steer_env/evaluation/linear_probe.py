"""What a linear probe reads off the observation that an agent gets: the bar for what a policy can know of an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import idle
from steer_env.evaluation.play import Lanes, play

TRAIN = 2_000
"""Items that a probe learns from, at most."""
ANSWER = "target"
"""What a task's record calls the right answer."""
TOPICS = ("subject", "category", "condition", "label", "target")
"""What an item may be about, as tasks call it in their records."""
GROUP = "question_group"
"""What a task's record calls the items that are versions of one question."""
ITEMS_A_TOPIC = 4
"""On average at least: names that say something else of every item are no topics."""
RIDGES = tuple(float(ridge) for ridge in np.logspace(-3, 2, 11))
"""Weights of the squared coefficients that a probe chooses from."""
FOLDS = 5
_RIDGE = 1e-2

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReadOff:
    """How often a linear probe of an episode's first observation names what the item is about.

    Attributes:
        topic: What it names: the right answer, ``target``, where the task's records have it among few.
        accuracy: Share of the items of test that it names rightly.
        chance: The same of the commonest topic of train.
        ridge: Weight of the squared coefficients, chosen on train.
    """

    topic: str
    accuracy: float
    chance: float
    ridge: float | None = None


@dataclass(frozen=True)
class Reading:
    """What a probe names in every item of test.

    Attributes:
        topic: What it names.
        named: For each item, the name.
        truth: For each item, the right name.
        known: The names that train has.
        commonest: The commonest of them.
        ridge: Weight of the squared coefficients, chosen on train.
        records: What episodes of the items of test record, whatever is answered.
    """

    topic: str
    named: list[str]
    truth: list[str]
    known: list[str]
    commonest: str
    ridge: float
    records: list[dict[str, Any]]

    def scores(self) -> ReadOff:
        """How often it is right, beside the commonest name."""
        right = np.array(self.truth)
        return ReadOff(
            topic=self.topic,
            accuracy=float((np.array(self.named) == right).mean()),
            chance=float(np.mean(right == self.commonest)),
            ridge=self.ridge,
        )


def read_off(train: Any, test: Any, items: tuple[Sequence[int], Sequence[int]], seed: int) -> ReadOff | None:
    """How often a probe that is fitted on items of train is right on test: :func:`read_items`, counted."""
    found = read_items(train, test, items, seed)
    return None if found is None else found.scores()


def read_items(train: Any, test: Any, items: tuple[Sequence[int], Sequence[int]], seed: int) -> Reading | None:
    """Fit one ridge regression for each topic on items of train; the highest is the answer on test.

    The ridge is the best of ``RIDGES`` in cross-validation on train (:func:`best_ridge`).

    Args:
        train: Environments whose items the probe is fitted on.
        test: Environments whose items it is measured on.
        items: Items of train, and items of test.
        seed: Seed of sampled decoding, and of the folds.

    Returns:
        None where the records tell no topic.
    """
    (seen, learned), (later, records) = (
        first_observations(envs, own, seed) for envs, own in zip((train, test), items, strict=True)
    )
    truth = topics_of(records)
    topics = {name: [str(record[name]) for record in learned] for name in truth if all(name in r for r in learned)}
    names = [name for name, own in topics.items() if len(set(own)) > 1]
    if not names:
        return None
    name = ANSWER if ANSWER in names else names[0]
    known, place, counts = np.unique(topics[name], return_inverse=True, return_counts=True)
    ridge = best_ridge(seen, place, question_groups(learned), seed)
    scores = [linear_probe(seen, np.array(topics[name]) == topic, later, ridge) for topic in known]
    return Reading(
        topic=name,
        named=known[np.argmax(scores, axis=0)].tolist(),
        truth=truth[name],
        known=known.tolist(),
        commonest=str(known[counts.argmax()]),
        ridge=ridge,
        records=records,
    )


def first_observations(envs: Any, items: Sequence[int], seed: int) -> tuple[Floats, list[dict[str, Any]]]:
    """``[n, D]`` what an agent sees before its first choice in each item, and the items' records."""
    found: dict[int, Floats] = {}
    lanes = unwrap(envs).lanes
    for start in range(0, len(items), lanes):
        some = list(items[start : start + lanes])
        obs, _ = envs.reset(seed=seed, options={"items": some})
        for lane, place, _ in Lanes.at_reset(envs, len(some)).under_way():
            found[start + place] = np.array(obs[lane], dtype=np.float64).ravel()
    return np.stack([found[place] for place in range(len(items))]), records_of(envs, items, seed)


def records_of(envs: Any, items: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """What episodes of the items record; where the model is asked once, silence tells it without a model."""
    task = unwrap(envs).task
    if task.turns == 1:
        return [{"item": item, **task.start(item).respond("").info} for item in items]
    return play(envs, lambda obs, lanes: idle(lanes.envs), items, seed, tokens=False).episodes


def topics_of(finals: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of ``TOPICS`` that the records of all episodes have, with at least two topics and not too many."""
    found = {name: [str(final[name]) for final in finals] for name in TOPICS if all(name in f for f in finals)}
    return {name: own for name, own in found.items() if 2 <= len(set(own)) <= len(own) / ITEMS_A_TOPIC}


def linear_probe(train: Floats, truth: npt.NDArray[Any], test: Floats, ridge: float = _RIDGE) -> Floats:
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
    scores: Floats = (test - mean) / spread @ np.linalg.solve(system, inputs.T @ target)
    return scores


def question_groups(finals: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """``[n]`` the number of each item's question; every item is one by itself where the records tell no ``GROUP``."""
    if not all(GROUP in final for final in finals):
        return np.arange(len(finals))
    return np.unique([str(final[GROUP]) for final in finals], return_inverse=True)[1].astype(np.int64)


def best_ridge(
    seen: Floats, place: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], seed: int, folds: int = FOLDS
) -> float:
    """The ridge of ``RIDGES`` whose highest score is right most often in folds left out; of equals the larger one.

    Versions of one question are never on both sides: what is remembered of a question would pass for what is known.

    Args:
        seen: ``[n, D]`` observations.
        place: ``[n]`` the number of each item's name.
        groups: ``[n]`` the number of each item's question.
        seed: Seed of the folds.
        folds: Number of folds at most; with a single question there are none, and the ridge is the default one.
    """
    count = int(groups.max()) + 1
    folds = min(folds, count)
    if folds < 2:
        return _RIDGE
    fold = (np.random.default_rng(seed).permutation(count) % folds)[groups]
    truth = np.eye(int(place.max()) + 1)[place]
    right = np.zeros(len(RIDGES))
    for out in (fold == number for number in range(folds)):
        scores = _ridge_path(seen[~out], truth[~out], seen[out])
        right += (scores.argmax(axis=2) == place[out]).sum(axis=1)
    return RIDGES[int(np.flatnonzero(right == right.max())[-1])]


def _ridge_path(train: Floats, truth: Floats, test: Floats) -> Floats:
    """``[R, N', K]`` scores of :func:`linear_probe` for each of ``RIDGES`` and column of ``truth``, all at once."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    inputs, later, target = (train - mean) / spread, (test - mean) / spread, truth - truth.mean(axis=0)
    if len(inputs) < inputs.shape[1]:  # the same by the items' products: the smaller matrix of the two
        values, vectors = np.linalg.eigh(inputs @ inputs.T)
        left, right = later @ inputs.T @ vectors, vectors.T @ target
    else:
        values, vectors = np.linalg.eigh(inputs.T @ inputs)
        left, right = later @ vectors, vectors.T @ inputs.T @ target
    shrunk = [right / (values + ridge * len(inputs))[:, None] for ridge in RIDGES]
    return np.stack([left @ each for each in shrunk])
