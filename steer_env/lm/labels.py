"""Names for features: from a Neuronpedia export or a file of one's own, else the words that they make likelier."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_env.errors import SteeringError
from steer_env.lazy import torch
from steer_env.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_PORTION = 256


def feature_labels(
    source: str | None, lm: Any, tokenizer: Tokenizer, directions: Tensor, features: Sequence[int]
) -> list[str]:
    """Label features from a source, and those that it leaves out by the tokens they promote.

    Args:
        source: As in :func:`read_labels`; None labels all by :func:`promoted_tokens`.
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        directions: ``[F, M]`` of the whole dictionary.
        features: Indices of the features to label.

    Raises:
        SteeringError: The source cannot be read.
    """
    known = read_labels(source, len(directions)) if source is not None else {}
    missing = [feature for feature in features if feature not in known]
    promoted = dict(zip(missing, promoted_tokens(lm, tokenizer, directions[missing]), strict=True))
    return [known[feature] if feature in known else promoted[feature] for feature in features]


def label_source(source: str | None) -> str:
    """Where labels come from, for records."""
    return source or "promoted tokens"


@lru_cache(maxsize=8)
def read_labels(source: str, width: int) -> Mapping[int, str]:
    """Labels by feature index.

    Args:
        source: A JSON file ``{"index": "label"}``; or of Neuronpedia's export of explanations one file
            (``.jsonl`` or ``.jsonl.gz``) or the folder of its ``batch-*.jsonl.gz``: rows with ``index`` and
            ``description``. Several descriptions of a feature are joined by ``"; "``.
        width: Number of features ``F``.

    Raises:
        SteeringError: There is no such file, a row is malformed, or an index is not in ``[0, F)`` (file and line
            are named).
    """
    found: dict[int, list[str]] = {}
    for where, index, label in _rows(Path(source)):
        if not (isinstance(index, int) or (isinstance(index, str) and index.isdecimal())) or isinstance(index, bool):
            raise SteeringError(f"{where}: index must be a whole number, got {index!r}")
        if not isinstance(label, str):
            raise SteeringError(f"{where}: the label must be text, got {label!r}")
        if not 0 <= int(index) < width:
            raise SteeringError(f"{where}: index must be in [0, {width}), got {index}: labels of another SAE?")
        texts = found.setdefault(int(index), [])
        if label.strip() not in texts:
            texts.append(label.strip())
    return {index: "; ".join(texts) for index, texts in found.items()}


def promoted_tokens(lm: Any, tokenizer: Tokenizer, directions: Tensor, k: int = 5) -> list[str]:
    """Label each direction with the ``k`` tokens it promotes most, strongest first, joined by spaces.

    Args:
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        directions: ``[n, M]``.

    Returns:
        ``n`` labels.
    """
    return [
        " ".join(tokenizer.decode(token).strip() for token in best) for best in promoted(lm, tokenizer, directions, k)
    ]


def promoted(lm: Any, tokenizer: Tokenizer, directions: Tensor, k: int) -> list[list[int]]:
    """The ``k`` tokens that each direction promotes most, strongest first.

    The promotion of a token is its row of the output embedding times the direction (the logit lens, nostalgebraist
    2020, without the final norm). Tokens without text, such as the end token, are left out.

    Args:
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        directions: ``[n, M]``.
        k: How many, at most.

    Returns:
        ``n`` lists of token ids.
    """
    if len(directions) == 0:
        return []
    embedding = lm.get_output_embeddings().weight.detach().float()
    texts = [token for token in range(len(embedding)) if tokenizer.decode(token).strip()]
    written = torch.tensor(texts, device=embedding.device)
    found: list[list[int]] = []
    # In portions: all features against a large vocabulary at once would take gigabytes.
    for rows in directions.to(embedding).split(_PORTION):
        best = (rows @ embedding[written].T).topk(min(k, len(written)), dim=1).indices
        found += written[best].tolist()
    return found


def _rows(source: Path) -> Iterator[tuple[str, Any, Any]]:
    """Place, index and label of every row."""
    if source.is_dir():
        batches = sorted(source.glob("batch-*.jsonl.gz"))
        if not batches:
            raise SteeringError(f"labels {str(source)!r}: no batch-*.jsonl.gz in this folder")
        for batch in batches:
            yield from _exported(batch)
    elif not source.is_file():
        raise SteeringError(f"labels {str(source)!r}: no such file or folder")
    elif source.suffix == ".json":
        yield from _mapped(source)
    else:
        yield from _exported(source)


def _mapped(path: Path) -> Iterator[tuple[str, Any, Any]]:
    try:
        mapping = json.loads(_text(path))
    except ValueError as error:
        raise SteeringError(f"{path}: no JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise SteeringError(f"{path}: a JSON object of index and label is wanted, got {type(mapping).__name__}")
    for index, label in mapping.items():
        yield str(path), index, label


def _exported(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for number, line in enumerate(_text(path).strip("\n").split("\n"), start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SteeringError(f"{where}: no JSON ({error})") from error
        missing = {"index", "description"} - set(row if isinstance(row, dict) else ())
        if missing:
            raise SteeringError(f"{where}: no {min(missing)!r}; an export of explanations has index and description")
        yield where, row["index"], row["description"]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SteeringError(f"{path}: cannot be read ({error})") from error
