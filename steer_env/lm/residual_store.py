"""Residuals of a text at several blocks, kept on disk: read once, trained on often, resumed where a job was stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from steer_env.errors import SteeringError
from steer_env.lm.loading import weights_sha256
from steer_env.lm.sae_training import residuals_of_blocks
from steer_env.lm.text_residuals import Window, in_groups, padded_windows

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class BlockFile:
    """Residuals of one block on disk: rows, and the norm of each in a file beside them. Both only ever grow.

    Attributes:
        path: File of the rows.
        width: Residual width M.
        dtype: One of ``DTYPES``.
    """

    path: Path
    width: int
    dtype: str

    @property
    def norms_path(self) -> Path:
        """File of the norms, float32."""
        return self.path.with_suffix(".norms")

    @property
    def _row_bytes(self) -> int:
        return self.width * DTYPES[self.dtype].itemsize

    def count(self) -> int:
        """Rows that are there as a whole, with their norms."""
        sizes = [path.stat().st_size if path.exists() else 0 for path in (self.path, self.norms_path)]
        return min(sizes[0] // self._row_bytes, sizes[1] // 4)

    def cut(self, rows: int) -> None:
        """Leave the first ``rows`` rows."""
        for path, size in ((self.path, rows * self._row_bytes), (self.norms_path, rows * 4)):
            with path.open("ab") as file:
                file.truncate(size)

    def append(self, hidden: Tensor) -> None:
        """Add ``[n, M]`` residuals."""
        rows = hidden.float().cpu()
        for path, part in ((self.path, rows.to(DTYPES[self.dtype])), (self.norms_path, rows.norm(dim=-1))):
            with path.open("ab") as file:
                file.write(part.contiguous().view(torch.uint8).numpy().tobytes())

    def open(self) -> Residuals:
        """What is there, in memory only as far as it is looked at."""
        count = self.count()
        rows = torch.from_file(str(self.path), size=count * self.width, dtype=DTYPES[self.dtype])
        norms = torch.from_file(str(self.norms_path), size=count, dtype=torch.float32)
        return Residuals(rows.view(count, self.width), norms.clone())


@dataclass(frozen=True)
class Residuals:
    """Residuals of one block.

    Attributes:
        rows: ``[N, M]``, mapped from disk.
        norms: ``[N]`` float32.
    """

    rows: Tensor
    norms: Tensor

    def limit(self, sink: float) -> float:
        """The norm above which a residual counts as an attention sink: ``sink`` times the median.

        Raises:
            SteeringError: Residuals below it do not fit into the numbers they are kept in.
        """
        limit = sink * float(self.norms.median())
        longest = float(self.norms[self.norms <= limit].max())
        if longest > torch.finfo(self.rows.dtype).max:
            kept = str(self.rows.dtype).removeprefix("torch.")
            raise SteeringError(f"residuals of norm {longest:.4g} do not fit into {kept}: give --keep float32")
        return limit

    def batches(self, limit: float, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Endless batches ``[batch, M]`` float32 of what is no sink, every pass in a new order over all of it.

        Raises:
            ValueError: There is less than one batch.
        """
        kept = (self.norms <= limit).nonzero()[:, 0]
        if len(kept) < batch:
            raise ValueError(f"the text gives {len(kept)} tokens to train on, fewer than one batch of {batch}")
        left = kept[:0]
        while True:
            order = torch.cat([left, kept[torch.randperm(len(kept), generator=rng)]])
            used = len(order) // batch * batch
            for part in order[:used].split(batch):
                yield self.rows[part].float()
            left = order[used:]


def read_residuals(
    root: Path, lm: Any, layers: Sequence[int], site: str, windows: Sequence[Window], rows: int, dtype: str
) -> dict[int, Residuals]:
    """Residuals of windows at several blocks, read in one pass to the highest of them and kept on disk.

    What is there of the same model, windows and site is not read again: a job that was stopped goes on at the group of
    windows where it was, and another block is read by itself.

    Args:
        root: Folder with one folder for each model, text and site.
        lm: A frozen causal LM.
        layers: Blocks.
        site: ``"post"`` or ``"pre"``.
        windows: What is read.
        rows: Windows per forward pass.
        dtype: What is written, one of ``DTYPES``.

    Raises:
        SteeringError: ``dtype`` is unknown, or the folder is another text's.
    """
    if dtype not in DTYPES:
        raise SteeringError(f"residuals are kept in one of {', '.join(DTYPES)}, got {dtype!r}")
    width = lm.config.get_text_config().hidden_size
    folder = _folder(root, {"model_sha256": weights_sha256(lm), "site": site, "dtype": dtype, **_record(windows)})
    files = {layer: BlockFile(folder / f"block-{layer:02d}.rows", width, dtype) for layer in layers}
    with _alone(folder):
        _read_missing(lm, site, files, windows, rows)
    return {layer: file.open() for layer, file in files.items()}


def _read_missing(lm: Any, site: str, files: Mapping[int, BlockFile], windows: Sequence[Window], rows: int) -> None:
    groups = list(in_groups(sorted(windows, key=lambda window: len(window.tokens)), rows))
    ends = [0, *accumulate(sum(len(window.tokens) - window.first for window in group) for group in groups)]
    done = {layer: bisect_right(ends, file.count()) - 1 for layer, file in files.items()}
    for layer, file in files.items():
        file.cut(ends[done[layer]])  # a job that was stopped may have been writing
    start = min(done.values())
    with tqdm(total=ends[-1], initial=ends[start], unit="token", desc="reading", mininterval=1) as bar:
        for i in range(start, len(groups)):
            tokens, read = (part.to(lm.device) for part in padded_windows(groups[i]))
            missing = [layer for layer in files if done[layer] <= i]
            for layer, hidden in residuals_of_blocks(lm, tokens, missing, site).items():
                files[layer].append(hidden[read])
            bar.update(ends[i + 1] - ends[i])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder: two that append to the same files would spoil them."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SteeringError(f"another process is reading residuals into {folder}") from error
        yield


def _record(windows: Sequence[Window]) -> dict[str, Any]:
    """What is read, for the record: its hash stands for the text, the tokenizer, the context and what is skipped."""
    digest = hashlib.sha256(json.dumps(windows).encode()).hexdigest()
    return {"windows": len(windows), "tokens": sum(len(w.tokens) - w.first for w in windows), "windows_sha256": digest}


def _folder(root: Path, record: dict[str, Any]) -> Path:
    """The folder of a record, which it holds as ``reading.json``."""
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reading.json"
    if not path.exists():
        path.write_text(text)
    if path.read_text() != text:
        raise SteeringError(f"{path} is another text's: move {folder} away")
    return folder
