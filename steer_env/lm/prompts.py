"""What a model has read of prompts, kept in memory and on disk so that no process reads it twice.

A prompt is kept in pieces, each found by all tokens up to its end, so that prompts share what they begin with (the
prefix caching of Kwon et al. 2023, section 4.4). Keys and values of a prefix depend on nothing behind it, nor on the
layer that is steered: every environment, split and arm of a model shares one store.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from steer_env.lazy import torch
from steer_env.lm.loading import user_cache, weights_sha256
from steer_env.lm.prompt_files import PromptFolder

if TYPE_CHECKING:
    from torch import Tensor

Tokens: TypeAlias = tuple[int, ...]

PIECE = 16
"""Tokens of a piece: what is shared is a multiple of it."""
TINY = 20_000_000
"""A model of so few parameters reads a prompt about as fast as a file, and many prompts at once still faster."""
WHERE = "STEER_PROMPT_STORE"
"""The environment variable that says where prompts are kept when the setting does not."""
_TINY_BYTES = 64 << 20
_LOG = logging.getLogger(__name__)
_SHARED: WeakKeyDictionary[Any, dict[Path | None, PromptStore]] = WeakKeyDictionary()
_ONE_AT_A_TIME = threading.Lock()


class PromptStore:
    """Rows ``[tokens, D]`` that a model computed of prompts, by kind and tokens; least recently used go first.

    Args:
        max_bytes: Bound of what is kept in memory.
        piece: Tokens of a piece; None keeps prompts whole, which are then found by all of their tokens only.
        folder: Where pieces are kept on disk too.
        alone: Whether a prompt should be read by itself: what is kept then does not depend on the prompts beside it,
            and one may begin with what another left.
    """

    def __init__(
        self, max_bytes: int, piece: int | None = None, folder: PromptFolder | None = None, alone: bool = False
    ):
        self.max_bytes = max_bytes
        self.alone = alone
        self.folder = folder
        self.bytes = 0
        self._piece = piece
        self._kept: OrderedDict[tuple[str, Tokens], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, kinds: Sequence[str], prompt: Tokens) -> list[Tensor] | None:
        """The rows of the longest beginning of ``prompt`` of which every kind is known.

        Returns:
            ``[tokens, D]`` on the CPU for each of ``kinds``, all of one length; None where nothing is known.
        """
        found: list[list[Tensor]] = []
        for _, end in self._spans(len(prompt)):
            pieces = [self._get(kind, prompt[:end]) for kind in kinds]
            if any(piece is None for piece in pieces):
                break
            found.append([piece for piece in pieces if piece is not None])
        if not found:
            return None
        self._used(kinds, prompt, len(found))
        return [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*found, strict=True)]

    @property
    def shared(self) -> bool:
        """Whether environments share it, and prompts what they begin with."""
        return self._piece is not None

    def last(self, kind: str, prompt: Tokens) -> Tensor | None:
        """The row ``[1, D]`` of a prompt's last token that :meth:`keep_last` kept."""
        return self._get(kind, prompt)

    def keep_last(self, kind: str, prompt: Tokens, row: Tensor) -> None:
        """Keep the row ``[1, D]`` of a prompt's last token, found by the whole prompt alone."""
        self._put(kind, prompt, row.cpu())
        if self.folder is not None:
            self.folder.write(kind, prompt, row.cpu())

    def keep(self, kind: str, prompt: Tokens, rows: Tensor, on_disk: bool = True) -> None:
        """Keep ``rows [tokens, D]`` of the last tokens of ``prompt``: all those that :meth:`find` did not find."""
        if not math.isfinite(rows.sum(dtype=torch.float32)):  # one that is not finite makes the sum so
            return
        first = len(prompt) - len(rows)
        rows = rows.cpu()
        spans = [span for span in self._spans(len(prompt)) if span[0] >= first]
        for start, end in reversed(spans):  # the beginning is worth the most, and should go last
            piece = rows if len(spans) == 1 else rows[start - first : end - first].clone()
            self._put(kind, prompt[:end], piece)
            if self.folder is not None and on_disk:
                self.folder.write(kind, prompt[:end], piece)

    def _spans(self, length: int) -> list[tuple[int, int]]:
        step = self._piece or length
        return [(start, min(start + step, length)) for start in range(0, length, step)]

    def _get(self, kind: str, head: Tokens) -> Tensor | None:
        with self._lock:
            kept = self._kept.get((kind, head))
        if kept is None and self.folder is not None:
            kept = self.folder.read(kind, head)
            if kept is not None:
                self._put(kind, head, kept)
        return kept

    def _put(self, kind: str, head: Tokens, rows: Tensor) -> None:
        with self._lock:
            replaced = self._kept.pop((kind, head), None)
            self.bytes += rows.nbytes - (0 if replaced is None else replaced.nbytes)
            self._kept[kind, head] = rows
            while self.bytes > self.max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self.bytes -= oldest.nbytes

    def _used(self, kinds: Sequence[str], prompt: Tokens, pieces: int) -> None:
        """Note that the first pieces of a prompt were used, the beginning last."""
        for _, end in reversed(self._spans(len(prompt))[:pieces]):
            for kind in kinds:
                with self._lock:
                    if (kind, prompt[:end]) in self._kept:
                        self._kept.move_to_end((kind, prompt[:end]))
                if self.folder is not None:
                    self.folder.touch(kind, prompt[:end])


def prompt_store(lm: Any, where: str | None = None) -> PromptStore:
    """The store of a loaded model's prompts, one a process and place; it is freed with the model.

    A tiny model's store is the environment's own, unless a folder is asked for: it reads many prompts at once, which
    differs from reading one by rounding, and what an environment computes should not hang on those made before it.

    Args:
        lm: The model. Its weights must not change from here on.
        where: A folder, or ``"off"`` for memory alone. None asks the environment variable ``STEER_PROMPT_STORE``, and
            where it is not set takes ``steer/prompts`` in the user's cache folder (memory alone for a tiny model).
    """
    where = where or os.environ.get(WHERE)
    tiny = sum(parameter.numel() for parameter in lm.parameters()) <= TINY
    if tiny and where in (None, "off"):
        return PromptStore(_TINY_BYTES)
    place = None if where == "off" else Path(where).expanduser() if where else user_cache() / "steer" / "prompts"
    with _ONE_AT_A_TIME:
        stores = _SHARED.setdefault(lm, {})
        if place not in stores:
            folder = None
            if place is not None:
                folder = PromptFolder(place, weights_sha256(lm), str(lm.dtype).removeprefix("torch."))
            stores[place] = PromptStore(_memory_bound(), PIECE, folder, alone=lm.device.type == "cpu")
        return stores[place]


def _memory_bound() -> int:
    """A quarter of the memory that is free now."""
    bound = _free_memory() // 4
    _LOG.info("up to %.1f GB of read prompts are kept in memory", bound / 1e9)
    return bound


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return 4 << 30
