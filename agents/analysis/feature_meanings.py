"""What features are: labels, the tokens they promote and suppress, and where they were most active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from agents.analysis.results import Example
from steer_env.envs.base import unwrap
from steer_env.lm.labels import feature_labels, label_source, promoted, read_labels

EXAMPLES = 3
SHOWN_TOKENS = 20
PROMOTED = 8
PROMPT_END = 160


@dataclass(frozen=True)
class Meanings:
    """What is known of features without looking at how they were used.

    Attributes:
        labels: By feature.
        sources: Where each label is from.
        promoted: Tokens that each makes likelier, strongest first; empty without the model.
        suppressed: Tokens that each makes less likely; empty without the model.
        prompts: The end of each item's prompt; empty without the model.
        kinds: What :func:`agents.analysis.feature_kinds.describe` says of each; empty without the model.
    """

    labels: dict[int, str]
    sources: dict[int, str]
    promoted: dict[int, list[str]] = field(default_factory=dict)
    suppressed: dict[int, list[str]] = field(default_factory=dict)
    prompts: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, dict[str, Any]] = field(default_factory=dict)


def model_meanings(envs: Any, items: Sequence[int]) -> Meanings:
    """What the model says of the features that actions choose from, and of the items' prompts."""
    parts, features = unwrap(envs), unwrap(envs).features.tolist()
    lm, tokenizer, rows = parts.lm, parts.tokenizer, unwrap(envs).directions
    width = parts.sae.width
    listed = read_labels(parts.labels, width) if parts.labels is not None else {}
    labels = feature_labels(parts.labels, lm, tokenizer, parts.sae.directions, features)

    def tokens(directions: Any) -> dict[int, list[str]]:
        best = promoted(lm, tokenizer, directions, PROMOTED)
        return {number: [tokenizer.decode(token) for token in own] for number, own in zip(features, best, strict=True)}

    return Meanings(
        labels=dict(zip(features, labels, strict=True)),
        sources={number: label_source(parts.labels if number in listed else None) for number in features},
        promoted=tokens(rows),
        suppressed=tokens(-rows),
        prompts={item: parts.task.start(item).opening[-PROMPT_END:] for item in items},
    )


def logged_meanings(tokens: pd.DataFrame, source: str) -> Meanings:
    """What the rows of a token log say of the features that steered.

    Args:
        tokens: Rows with ``feature`` and ``label``.
        source: Where the labels come from.
    """
    labels = tokens[tokens["feature"] >= 0].groupby("feature")["label"].first()
    known = {int(number): str(label) for number, label in labels.items()}
    return Meanings(known, dict.fromkeys(known, source))


def examples(
    tokens: pd.DataFrame, features: Sequence[int], prompts: Mapping[int, str], count: int = EXAMPLES
) -> dict[int, list[Example]]:
    """Tokens at which each of ``features`` was most active, one an episode.

    Args:
        tokens: Rows of one arm by episode and step, with ``top_features`` and ``top_activations``.
        features: SAE indices.
        prompts: The end of each item's prompt, where it is known.
        count: Number of tokens of a feature, at most.

    Returns:
        Examples of each feature that is among the strongest of some token, strongest first.
    """
    indices, strengths = np.stack(tokens["top_features"].to_list()), np.stack(tokens["top_activations"].to_list())
    rows = np.repeat(np.arange(len(tokens)), indices.shape[1])
    flat = pd.DataFrame({"row": rows, "feature": indices.ravel(), "activation": strengths.ravel()})
    flat["episode"] = tokens["episode"].to_numpy()[rows]
    flat = flat[flat["feature"].isin(features) & (flat["activation"] > 0)]
    flat = flat.sort_values(["activation", "row"], ascending=[False, True], kind="stable")
    best = flat.drop_duplicates(["feature", "episode"]).groupby("feature").head(count)
    texts, steps = tokens["token_text"].astype(str).to_numpy(), tokens["step"].to_numpy()
    found: dict[int, list[Example]] = {}
    for row, feature, activation in zip(best["row"], best["feature"], best["activation"], strict=True):
        episode, item, step = (int(tokens[name].iloc[row]) for name in ("episode", "item", "step"))
        before = "".join(texts[row - min(steps[row], SHOWN_TOKENS) : row])
        example = Example(float(activation), episode, item, step, before, texts[row], prompts.get(item))
        found.setdefault(int(feature), []).append(example)
    return found
