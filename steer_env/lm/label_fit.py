"""Do labels fit their own features better than those of others do? Answered with the model's own word vectors.

A label and the tokens that a feature is about are each the mean of the unit vectors of their tokens in the model's
input embedding, less the mean over all labels, or over all features: what any label has in common with any feature
tells nothing. The cosine of the two is how well they fit. Labels that mean something fit their own features better
than labels dealt out anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steer_env.lm.labels import promoted
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.text_residuals import Place, in_groups, padded, read_documents, windows
from steer_env.lm.tokenizer import Tokenizer

SHUFFLES = 10_000
LEAST = 3
"""Labels below which there is nothing to deal out."""
TOP = 20
"""Tokens that say what a feature is about."""
_CONTEXT, _ROWS = 128, 16  # tokens of a window of text, windows in one forward pass


@dataclass(frozen=True)
class Fit:
    """How labels fit their features.

    Attributes:
        features: How many were compared.
        own: Mean fit of a label and its feature, in [-1, 1].
        others: Mean fit of a label and the features of others.
        auc: The chance that a label fits its own feature better than another's, 0.5 where labels mean nothing.
        p: Share of ``SHUFFLES`` dealings (and the labels as they are) whose mean fit is as good, one-sided.
    """

    features: int
    own: float
    others: float
    auc: float
    p: float


def label_fits(
    lm: Any,
    tokenizer: Tokenizer,
    dictionary: FeatureDictionary,
    labels: Mapping[int, str],
    text: Path | None,
    tokens: int,
    seed: int,
) -> dict[str, Fit | None]:
    """How labels fit the tokens that their features promote, and those that they are active on.

    Args:
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        dictionary: The SAE.
        labels: By feature; one without text is left out.
        text: A .txt or .jsonl file, or a folder of them, on which features are watched; None is none.
        tokens: Tokens of it that are read, at most.
        seed: Of the dealings.

    Returns:
        ``promote`` and, where there is a text, ``are active on``; None where fewer than ``LEAST`` can be compared.

    Raises:
        ValueError: There is no such text.
    """
    told = [feature for feature, label in labels.items() if label.strip()]
    about = {"promote": promoted(lm, tokenizer, dictionary.directions[told], TOP)}
    if text is not None:
        read = _first(windows(read_documents(text), tokenizer.hf, _CONTEXT), tokens)
        place = Place(lm, dictionary.layer or 0, dictionary.site or "post", _ROWS)
        about["are active on"] = strongest_tokens(place, dictionary, told, read)
    found: dict[str, Fit | None] = {}
    for name, listed in about.items():
        rows = [(labels[feature], own) for feature, own in zip(told, listed, strict=True) if own]
        few = len(rows) < LEAST
        found[name] = (
            None if few else label_fit(lm, tokenizer, [row[0] for row in rows], [row[1] for row in rows], seed)
        )
    return found


def label_fit(lm: Any, tokenizer: Tokenizer, labels: Sequence[str], about: Sequence[Sequence[int]], seed: int) -> Fit:
    """Compare labels with the tokens that their features are about.

    Args:
        lm: A Hugging Face causal LM, whose input embedding is used.
        tokenizer: Its tokenizer.
        labels: A text a feature.
        about: Token ids a feature, at least one each.
        seed: Of the dealings.

    Raises:
        ValueError: There are fewer than ``LEAST`` labels, or one is without text.
    """
    spoken = [tokenizer.encode(f" {label.strip()}") if label.strip() else () for label in labels]
    if len(labels) < LEAST or not all(spoken):
        raise ValueError(f"labels must be at least {LEAST} texts, got {list(labels)}")
    embedding = torch.nn.functional.normalize(lm.get_input_embeddings().weight.detach().float().cpu(), dim=1)
    fits = (_vectors(embedding, spoken) @ _vectors(embedding, about).T).double().numpy()
    own, elsewhere = np.diag(fits), ~np.eye(len(fits), dtype=bool)
    wins = (own[:, None] > fits) + 0.5 * (own[:, None] == fits)
    dealt = np.random.default_rng(seed).permuted(np.tile(np.arange(len(fits)), (SHUFFLES, 1)), axis=1)
    as_good = int((fits[np.arange(len(fits)), dealt].mean(axis=1) >= own.mean() - 1e-12).sum())
    return Fit(
        features=len(fits),
        own=float(own.mean()),
        others=float(fits[elsewhere].mean()),
        auc=float(wins[elsewhere].mean()),
        p=(1 + as_good) / (1 + SHUFFLES),
    )


def _vectors(embedding: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Unit vectors ``[n, M]`` of lists of tokens, less what all of them have in common."""
    means = torch.stack([embedding[torch.tensor(list(tokens))].mean(dim=0) for tokens in texts])
    return torch.nn.functional.normalize(means - means.mean(dim=0), dim=1)


def strongest_tokens(
    place: Place, dictionary: FeatureDictionary, features: Sequence[int], texts: Iterable[list[int]], top: int = TOP
) -> list[list[int]]:
    """The tokens at which features are strongest.

    Args:
        place: The model, and where the SAE reads.
        dictionary: The SAE.
        features: SAE indices.
        texts: Token ids of each; the first position, an attention sink, is left out.
        top: Tokens a feature at most.

    Returns:
        Token ids for each feature, strongest first; none where it is never active.
    """
    values, tokens = torch.zeros(0, len(features)), torch.zeros(0, dtype=torch.long)
    for group in in_groups(texts, place.rows):
        ids, read = padded(group, skip_first=True)
        acts = [dictionary.encode(part)[:, list(features)].cpu() for part in place.read(ids, read)]
        values, tokens = torch.cat([values, *acts]), torch.cat([tokens, ids[read]])
    best = values.topk(min(top, len(values)), dim=0)
    return [tokens[at[strengths > 0]].tolist() for strengths, at in zip(best.values.T, best.indices.T, strict=True)]


def _first(rows: Iterable[list[int]], tokens: int) -> Iterator[list[int]]:
    """Windows until they hold so many tokens."""
    for row in rows:
        if tokens <= 0:
            return
        yield row[:tokens]
        tokens -= len(row)
