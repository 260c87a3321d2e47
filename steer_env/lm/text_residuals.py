"""From text files to windows of tokens, to a language model's residuals there, and what an SAE keeps of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from sae_lens import SAE
from torch import Tensor
from tqdm import tqdm

from steer_env.lm.sae_training import LOSSES, loss_recovered, recovered_share, residuals, sae_quality

Row = TypeVar("Row")


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


class Window(NamedTuple):
    """Token ids of a text, read from the position ``first`` on."""

    tokens: list[int]
    first: int


class Prefixes:
    """Beginnings of texts that were met before: there the residuals are the same again, and need not be read."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def window(self, tokens: list[int], skip_first: bool) -> Window:
        """The tokens, to be read from where they differ from all that came before."""
        met = list(accumulate(tokens, lambda prefix, token: hash((prefix, token)), initial=0))[1:]
        first = sum(1 for _ in takewhile(self._met.__contains__, met))
        self._met.update(met)
        return Window(tokens, max(first, int(skip_first)))


def mixed(
    sources: Mapping[str, Iterable[list[int]]], tokens: int, prefixes: Prefixes, skip_first: bool
) -> tuple[list[Window], dict[str, int]]:
    """Windows from several sources, as many positions from each as there are, until ``tokens`` are read.

    Args:
        sources: Token ids by the source's name; a source that ends leaves its share to the others.
        tokens: Positions to read.
        prefixes: What was met before; it is added to.
        skip_first: Whether the first position of each window is left out.

    Returns:
        The windows, and the number of positions that each source gives.
    """
    given = dict.fromkeys(sources, 0)
    rows = {name: iter(source) for name, source in sources.items()}
    chosen: list[Window] = []
    while rows and sum(given.values()) < tokens:
        name = min(rows, key=given.__getitem__)
        row = next(rows[name], None)
        if row is None:
            del rows[name]
            continue
        window = prefixes.window(row, skip_first)
        if window.first < len(row):
            chosen.append(window)
            given[name] += len(row) - window.first
    return chosen, given


def padded(rows: Sequence[list[int]], skip_first: bool) -> tuple[Tensor, Tensor]:
    """Windows as ``[b, T]`` token ids, padded on the right, and ``[b, T]`` whether a position is read.

    With ``skip_first`` the first position of each is not: it is an attention sink, often of a norm many times that
    of the others, and would claim the SAE's loss for itself.
    """
    return padded_windows([Window(row, int(skip_first)) for row in rows])


def padded_windows(windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """As :func:`padded`, each window read from its own first position on."""
    width = max(len(window.tokens) for window in windows)
    tokens = torch.tensor([window.tokens + [0] * (width - len(window.tokens)) for window in windows])
    lengths = torch.tensor([len(window.tokens) for window in windows])
    first = torch.tensor([window.first for window in windows])
    position = torch.arange(width)
    return tokens, (position < lengths[:, None]) & (position >= first[:, None])


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


def measure_saved(folder: Path, place: Place, windows: Sequence[Window], limit: float) -> dict[str, Any]:
    """What a saved SAE keeps of the model on windows that it was not trained on, read as it will be used.

    Args:
        folder: Folder of the SAE.
        place: The model and the site.
        windows: Windows to measure.
        limit: Norm above which a residual is an attention sink and is not measured.

    Returns:
        ``tokens`` and ``sinks`` (measured and left out), ``median_residual_norm``, ``dead_share``, and what
        :func:`steer_env.lm.sae_training.sae_quality` and :func:`steer_env.lm.sae_training.loss_recovered` measure.
    """
    device = place.lm.device
    sae = SAE.load_from_disk(folder, device=str(device), dtype="float32").eval().requires_grad_(False)
    acts: list[Tensor] = []
    losses: list[tuple[int, dict[str, float]]] = []
    sinks = 0
    groups = list(in_groups(sorted(windows, key=lambda window: len(window.tokens)), place.rows))
    for group in tqdm(groups, desc="measuring", mininterval=1):
        tokens, read = (part.to(device) for part in padded_windows(group))
        hidden = residuals(place.lm, tokens, place.layer, place.site).float()
        kept = read & (hidden.norm(dim=-1) <= limit)
        sinks += int(read.sum() - kept.sum())
        acts.append(hidden[kept])
        pairs = int((kept[:, :-1] & kept[:, 1:]).sum())
        if pairs:
            losses.append((pairs, loss_recovered(place.lm, sae, tokens, place.layer, place.site, kept, place.rows)))
    quality = sae_quality(sae, acts)
    total = sum(pairs for pairs, _ in losses)
    loss = {name: sum(n * found[name] for n, found in losses) / total for name in LOSSES}
    return {
        "tokens": sum(map(len, acts)),
        "sinks": sinks,
        **quality,
        "dead_share": quality["dead_features"] / sae.cfg.d_sae,
        "median_residual_norm": float(torch.cat(acts).norm(dim=-1).median()),
        **loss,
        "recovered": recovered_share(loss),
    }


def in_groups(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
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
