"""Which features the agents of one layer use, how widely, and what kind these are beside the rest of the dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.analysis.feature_kinds import TaskTexts, feature_kinds
from agents.analysis.feature_table import diversity
from agents.analysis.token_kinds import KINDS
from agents.compare.evaluate import label_features
from steer_env.envs.base import unwrap
from steer_env.evaluation.play import Played

ALL_KINDS = (*KINDS, "mixed", "silent")
COMPARED = 256  # features of the dictionary, drawn at random where there are more
Kinds = Mapping[int, Mapping[str, Any]]


def features_record(envs: Any, played: Sequence[Played], texts: TaskTexts, seed: int) -> dict[str, Any]:
    """What agents steered with.

    Args:
        envs: At the layer.
        played: The agents' episodes, one entry a training seed.
        texts: Where the features' kinds are read.
        seed: Of what is drawn.

    Returns:
        ``diversity``, means over seeds of what :func:`agents.analysis.feature_table.diversity` says; ``used``, a row
        for each feature that any seed used, most used first: ``feature``, ``label``, ``tokens`` (of all seeds),
        ``seeds`` (that used it) and what :func:`agents.analysis.feature_kinds.describe` says; ``kinds``, shares of
        every kind among the ``used`` features, among the ``tokens`` steered, and among those of the ``dictionary``;
        ``information``, mean bits of the used ones and of the dictionary's, silent features left out.
    """
    chosen = [each.tokens["feature"] for each in played]
    counts = Counter(np.concatenate(chosen)[np.concatenate(chosen) >= 0].tolist())
    sample = _sample(unwrap(envs).sae.width, seed)
    known = feature_kinds(envs, texts, sorted({*counts, *sample}), seed)
    spread = [diversity(features, len(unwrap(envs).features)) for features in chosen]
    order = [feature for feature, _ in counts.most_common()]
    labels = label_features(envs, order)
    return {
        "diversity": {name: float(np.mean([each[name] for each in spread])) for name in spread[0]},
        "used": [
            {
                "feature": feature,
                "label": labels[feature],
                "tokens": counts[feature],
                "seeds": sum(bool((features == feature).any()) for features in chosen),
                **known[feature],
            }
            for feature in order
        ],
        "kinds": {
            "used": kind_shares(known, dict.fromkeys(order, 1)),
            "tokens": kind_shares(known, counts),
            "dictionary": kind_shares(known, dict.fromkeys(sample, 1)),
        },
        "information": {"used": mean_bits(known, order), "dictionary": mean_bits(known, sample)},
    }


def kind_shares(known: Kinds, weights: Mapping[int, float]) -> dict[str, float] | None:
    """The share of each kind among features by their weights; None where there are none."""
    total = sum(weights.values())
    if not total:
        return None
    return {
        kind: sum(weight for feature, weight in weights.items() if known[feature]["kind"] == kind) / total
        for kind in ALL_KINDS
    }


def mean_bits(known: Kinds, features: Sequence[int]) -> dict[str, float] | None:
    """Mean information of features that are ever active, by what it is about; None where there are none."""
    live = [known[feature]["information"] for feature in features if known[feature]["kind"] != "silent"]
    if not live:
        return None
    return {name: float(np.mean([each[name]["bits"] for each in live])) for name in live[0]}


def _sample(width: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(width)[:COMPARED].tolist())
