"""What a linear probe reads off the observation that an agent gets: the bar for what a policy can know of an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.controls import Setting, unsteered
from agents.evaluation import play
from agents.rl_sae import linear_probe
from experiments.feature_kinds import topics_of

TRAIN = 2_000
"""Items that a probe learns from, at most."""
_WANTED = "target"


def readable(train: Any, test: Any, items: tuple[Sequence[int], Sequence[int]], seed: int) -> dict[str, Any] | None:
    """How often a linear probe of an episode's first observation names what the item is about.

    One ridge regression for each topic, learnt on items of train; the highest is the answer.

    Args:
        train: Environments to learn from.
        test: Environments to measure on.
        items: Of both.
        seed: Of sampled decoding.

    Returns:
        ``topic`` (the right answer, ``target``, where the task's records have it among few), ``accuracy`` on test and
        ``chance``, that of the commonest topic of train; None where the records tell no topic.
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
    return {
        "topic": name,
        "accuracy": float((known[np.argmax(scores, axis=0)] == right).mean()),
        "chance": float((known[counts.argmax()] == right).mean()),
    }


def first_observations(
    envs: Any, items: Sequence[int], seed: int
) -> tuple[npt.NDArray[np.float64], dict[str, list[str]]]:
    """``[n, D]`` what an agent sees before its first choice in each item, and the items' topics."""
    found: dict[int, npt.NDArray[np.float64]] = {}
    alone = unsteered(Setting())

    def watching(obs: Any, envs: Any) -> Any:
        episode = envs.unwrapped.episode
        for lane in np.flatnonzero(episode.steps() == 0).tolist():
            found.setdefault(int(episode.items()["index"][lane]), np.array(obs[lane], dtype=np.float64).ravel())
        return alone(obs, envs)

    played = play(envs, watching, items, seed, tokens=False)
    return np.stack([found[place] for place in range(len(items))]), topics_of(played.episodes)
