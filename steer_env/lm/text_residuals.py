"""From text files to a language model's residuals in shuffled batches, a bounded number in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from steer_env.lm.sae_training import loss_recovered, residuals, sae_quality


def read_documents(path: Path) -> Iterator[str]:
    """Documents of a file, or of every file of a folder in order of name.

    In a ``.txt`` file documents are set apart by blank lines; in a ``.jsonl`` file each line has one as ``"text"``.

    Raises:
        ValueError: there is no such file, its kind is unknown, or a line is malformed (file and line are named).
    """
    files = sorted(file for kind in _KINDS for file in path.glob(f"*{kind}")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"folder {path} holds no {' or '.join(_KINDS)} file")
    for file in files:
        if not file.is_file():
            raise ValueError(f"no text file or folder {file}")
        if file.suffix not in _KINDS:
            raise ValueError(f"text must be one of {', '.join(_KINDS)} or a folder of them, got {file.name!r}")
        yield from _KINDS[file.suffix](file)


@dataclass(frozen=True)
class Corpus:
    """Text to train on, a part of it held out.

    Attributes:
        path: What :func:`read_documents` takes.
        held_out: Share of the documents that is measured on and never trained on.
    """

    path: Path
    held_out: float

    def documents(self, held_out: bool) -> Iterator[str]:
        """The documents that are held out, or the others."""
        return (text for text in read_documents(self.path) if is_held_out(text, self.held_out) == held_out)

    def count(self) -> dict[str, int]:
        """How many documents are ``trained`` on and ``held_out``; every line is read, so that malformed ones are found.

        Raises:
            ValueError: There is no text, a line is malformed, or either part is empty.
        """
        held_out = [is_held_out(text, self.held_out) for text in read_documents(self.path)]
        if not held_out:
            raise ValueError(f"{self.path} holds no text")
        if len(set(held_out)) == 1:
            part = "all" if held_out[0] else "none"
            raise ValueError(
                f"held_out {self.held_out} of the {len(held_out)} documents of {self.path} is {part} of them"
            )
        return {"trained": held_out.count(False), "held_out": held_out.count(True)}


def is_held_out(document: str, share: float) -> bool:
    """Whether a document is among the ``share`` that is measured on: by its hash, so twins go together."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") < share * 2**64


def windows(documents: Iterable[str], tokenizer: Any, context: int) -> Iterator[list[int]]:
    """Token ids of documents in windows of at most ``context``.

    A window never spans two documents, and where the tokenizer begins a text with a special token each begins with
    it, so that every residual is read where generation from a prompt would meet it.
    """
    for document in documents:
        tokens = tokenizer(document, verbose=False)["input_ids"]
        begin = tokens[:1] if tokens[:1] == [tokenizer.bos_token_id] else []
        step = context - len(begin)
        for start in range(len(begin), len(tokens), step):
            yield begin + tokens[start : start + step]


def padded(rows: Sequence[list[int]], skip_first: bool) -> tuple[Tensor, Tensor]:
    """Windows as ``[b, T]`` token ids, padded on the right, and ``[b, T]`` whether a position is read.

    With ``skip_first`` the first position of each is not: it is an attention sink, often of a norm many times that
    of the others, and would claim the SAE's loss for itself.
    """
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    position = torch.arange(width)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, (position < lengths[:, None]) & (position >= int(skip_first))


@dataclass(frozen=True)
class Place:
    """Where residuals are read.

    Attributes:
        lm: a frozen causal LM.
        layer: the block.
        site: ``"post"`` (its output) or ``"pre"`` (its input).
        rows: windows in one forward pass.
    """

    lm: Any
    layer: int
    site: str
    rows: int

    def read(self, tokens: Tensor, read: Tensor) -> Iterator[Tensor]:
        """Residuals ``[n, M]`` float32 of ``[N, T]`` token ids where ``read`` says so, one forward pass at a time."""
        for part, mask in zip(tokens.split(self.rows), read.split(self.rows), strict=True):
            hidden = residuals(self.lm, part.to(self.lm.device), self.layer, self.site)
            yield hidden[mask.to(hidden.device)].float()


def check_context(lm: Any, context: int) -> None:
    """Refuse windows that are longer than what the model can read.

    Raises:
        ValueError: ``context`` tokens are too many.
    """
    longest = getattr(lm.config.get_text_config(), "max_position_embeddings", context)
    if context > longest:
        raise ValueError(f"context must be at most {longest}, the model's longest, got {context}")


def measure_saved(folder: Path, place: Place, tokens: Tensor, read: Tensor) -> dict[str, Any]:
    """What a saved SAE keeps of the model on windows ``[N, T]``, read as it will be used.

    Args:
        folder: Folder of the SAE.
        place: The model and the site.
        tokens: ``[N, T]`` token ids, padding on the right.
        read: ``[N, T]`` positions that are measured.

    Returns:
        ``tokens``, ``median_residual_norm``, ``dead_share``, and what :func:`steer_env.lm.sae_training.sae_quality` and
        :func:`steer_env.lm.sae_training.loss_recovered` measure.
    """
    sae = SAE.load_from_disk(folder, device=str(place.lm.device)).eval().requires_grad_(False)
    quality = sae_quality(sae, place.read(tokens, read))
    norms = torch.cat([part.norm(dim=-1) for part in place.read(tokens, read)])
    on_device = tokens.to(place.lm.device), read.to(place.lm.device)
    losses = loss_recovered(place.lm, sae, on_device[0], place.layer, place.site, on_device[1], place.rows)
    return {
        "tokens": int(read.sum()),
        **quality,
        "dead_share": quality["dead_features"] / sae.cfg.d_sae,
        "median_residual_norm": float(norms.median()),
        **losses,
    }


def repeated(one_pass: Callable[[], Iterator[Tensor]], least: int) -> Iterator[Tensor]:
    """The parts of one pass over the text, then of the next.

    Raises:
        ValueError: a pass gives fewer than ``least`` residuals.
    """
    while True:
        found = 0
        for part in one_pass():
            found += len(part)
            yield part
        if found < least:
            raise ValueError(f"the text gives {found} tokens to train on, fewer than one batch of {least}")


def shuffled(parts: Iterable[Tensor], room: int, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches ``[batch, M]`` drawn without order from a buffer that is refilled when half of it is used.

    Args:
        parts: ``[n, M]`` residuals, neighbours from the same text.
        room: residuals in the buffer, at least two batches; a part more may be in memory.
        batch: rows per batch.
        rng: of the order.
    """
    held: list[Tensor] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count < room:
            continue
        pool = torch.cat(held)[torch.randperm(count, generator=rng).to(part.device)]
        used = (count - room // 2) // batch * batch
        held, count = [pool[used:].clone()], count - used
        yield from pool[:used].split(batch)


def first_windows(rows: Iterable[list[int]], tokens: int) -> list[list[int]]:
    """Windows from the beginning, until they hold ``tokens`` token ids or there are no more."""
    chosen: list[list[int]] = []
    total = 0
    for row in rows:
        if total >= tokens:
            break
        chosen.append(row)
        total += len(row)
    return chosen


def in_groups(rows: Iterable[list[int]], size: int) -> Iterator[list[list[int]]]:
    """Windows in groups of ``size``, the last may be smaller."""
    rows = iter(rows)
    while group := list(islice(rows, size)):
        yield group


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            yield number, _decoded(line, f"{file}:{number}")


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error.reason})") from error


def _paragraphs(file: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(file):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines).strip()
            lines = []
    if lines:
        yield "".join(lines).strip()


def _texts(file: Path) -> Iterator[str]:
    for number, line in _lines(file):
        if line.strip():
            yield _text(line, f"{file}:{number}")


def _text(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = f"columns {sorted(row)}" if isinstance(row, dict) else type(row).__name__
        raise ValueError(f'{where}: no string under "text", found {found}')
    return text


_KINDS: dict[str, Callable[[Path], Iterator[str]]] = {".txt": _paragraphs, ".jsonl": _texts}
