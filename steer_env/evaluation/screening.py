"""Fewer actions where rewards are rare: features that, each held for a whole episode, solve most items together.

Of a few hundred or thousands of features most do nothing for a task, and an agent that tries them at random is rewarded
too seldom to learn. What is kept here is no policy: which of them to push, and when, is left to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import score_pushes


def screen_features(envs: VectorEnv[Any, Any, Any], count: int, items: Sequence[int], seed: int) -> list[int]:
    """SAE indices of ``count`` features for ``features=``, the most useful first.

    Args:
        envs: On the train split, with actions that choose features.
        count: How many to keep.
        items: What each feature is tried on.
        seed: Of sampled decoding.

    Raises:
        ValueError: Actions are strengths, there are no items, or ``count`` is not between 1 and the features there are.
    """
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(
            f"screening keeps features to choose from, so actions must be choices, got {envs.action_space}"
        )
    features = unwrap(envs).features
    if not 1 <= count <= len(features):
        raise ValueError(f"the number of features to keep must be in [1, {len(features)}], got {count}")
    scores = score_pushes(envs, np.arange(len(features)), items, seed)
    return [int(features[row]) for row in greedy_cover(scores, count)]


def greedy_cover(scores: npt.NDArray[Any], count: int) -> list[int]:
    """Rows of ``[n, items]`` whose best score an item is large on average, each the best addition to those before.

    At least 1 - 1/e of what the best ``count`` rows reach (Nemhauser, Wolsey and Fisher 1978). Of equally good
    additions the one that is better alone comes first, then the earlier one.
    """
    covered = np.zeros(scores.shape[1])
    chosen: list[int] = []
    alone = scores.mean(axis=1)
    for _ in range(count):
        gains = np.maximum(scores, covered).mean(axis=1)
        gains[chosen] = -np.inf
        best = int(np.lexsort((-np.arange(len(scores)), alone, gains))[-1])
        chosen.append(best)
        covered = np.maximum(covered, scores[best])
    return chosen
