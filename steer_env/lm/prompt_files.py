"""Pieces of read prompts as files that processes share: one a piece, complete or absent, and checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import threading
import warnings
import zlib
from array import array
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_env.errors import first_line
from steer_env.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 16 << 30
"""Bound of all files below a folder; no more than half of what the disk could hold besides other things."""
_MAGIC = b"SteerPr1"
_PREFIX = struct.Struct("<8sII")  # magic, checksum, length of the header
_SUFFIX = ".prompt"


class PromptFolder:
    """The files of one model in a folder that may hold several models'.

    A file is a magic word, the checksum of what follows it, the header's length, the header in JSON, and the rows.
    Nothing that is not whole and of the same model, type, kind and tokens is ever used. What fails costs one warning,
    and is done without.

    Args:
        folder: The folder, made when something is written.
        model: Hash of the model's weights.
        dtype: Name of its type in PyTorch.
        max_bytes: Bound of all files below ``folder``, those least recently used go first; by default ``MAX_BYTES``,
            and never more than half of the free disk.
    """

    def __init__(self, folder: Path, model: str, dtype: str, max_bytes: int | None = None):
        self.folder = folder
        self.model = model
        self._own = folder / f"{model[:16]}-{dtype}"
        self._identity = {"model": model, "dtype": dtype}
        self._dtype: Any = getattr(torch, dtype)
        self._max_bytes = max_bytes
        self._unchecked = 0
        self._checked = False
        self._writable = True
        self._warned: set[str] = set()

    def path(self, kind: str, tokens: tuple[int, ...]) -> Path:
        """Where the rows of a piece are kept: it is named by their kind and by all tokens up to their end."""
        digest = hashlib.sha256(kind.encode() + b"\0" + array("q", tokens).tobytes())
        return self._own / f"{digest.hexdigest()[:40]}{_SUFFIX}"

    def read(self, kind: str, tokens: tuple[int, ...]) -> Tensor | None:
        """The rows ``[tokens of the piece, D]``, or None where there is no such file or it cannot be used."""
        path = self.path(kind, tokens)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn(f"cannot read {path} ({first_line(error)}): its prompt is read anew")
            return None
        if not content.startswith(_MAGIC):
            self._warn(f"{path} is no file of read prompts: it is left as it is and not used")
            return None
        rows = self._rows(content, kind, tokens)
        if rows is None:
            self._warn(f"{path} is damaged or another prompt's: it is removed, and its prompt read anew")
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return rows

    def write(self, kind: str, tokens: tuple[int, ...], rows: Tensor) -> None:
        """Keep the rows, unless there is a file of them already."""
        path = self.path(kind, tokens)
        if not self._writable or path.exists():
            return
        header = json.dumps(self._record(kind, tokens) | {"shape": list(rows.shape)}).encode()
        body = header + rows.contiguous().view(torch.uint8).numpy().tobytes()
        beside = path.with_name(f"{path.stem}-{os.getpid()}-{threading.get_ident()}{_SUFFIX}")
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(_PREFIX.pack(_MAGIC, zlib.crc32(body), len(header)) + body)
            beside.replace(path)
        except OSError as error:
            self._writable = False
            self._warn(f"cannot write to {self.folder} ({first_line(error)}): new prompts are kept in memory alone")
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        else:
            self._make_room(len(body))

    def touch(self, kind: str, tokens: tuple[int, ...]) -> None:
        """Note that a piece was used now."""
        with suppress(OSError):
            os.utime(self.path(kind, tokens))

    def _record(self, kind: str, tokens: tuple[int, ...]) -> dict[str, Any]:
        return {**self._identity, "kind": kind, "tokens": list(tokens)}

    def _rows(self, content: bytes, kind: str, tokens: tuple[int, ...]) -> Tensor | None:
        if len(content) < _PREFIX.size:
            return None
        _, checksum, length = _PREFIX.unpack_from(content)
        body = memoryview(content)[_PREFIX.size :]
        if zlib.crc32(body) != checksum:
            return None
        header = json.loads(bytes(body[:length]))
        shape = header.pop("shape")
        if header != self._record(kind, tokens):
            return None
        return torch.frombuffer(bytearray(body[length:]), dtype=self._dtype).reshape(shape)

    def _make_room(self, written: int) -> None:
        """Remove the files used least recently when the folder has outgrown its bound; asked now and then only."""
        self._unchecked += written
        bound = self._max_bytes or MAX_BYTES
        if self._checked and self._unchecked < bound // 32:
            return
        self._unchecked, self._checked = 0, True
        files = []
        with suppress(OSError):
            for path in self.folder.glob(f"*/*{_SUFFIX}"):
                with suppress(OSError):  # another process has removed it
                    status = path.stat()
                    files.append((status.st_mtime_ns, status.st_size, path))
            held = sum(size for _, size, _ in files)
            if self._max_bytes is None:
                bound = min(bound, (shutil.disk_usage(self.folder).free + held) // 2)
            for _, size, path in sorted(files):
                if held <= bound:
                    break
                path.unlink(missing_ok=True)
                held -= size

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=2)
