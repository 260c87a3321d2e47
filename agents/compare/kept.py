"""What long steps of a study came to, on disk as it comes: a process that is killed loses the step that it was in."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """The results of steps, by name, one file each; pickled, so a folder is as trustworthy as a program.

    Args:
        folder: Where the files are; None keeps nothing.
    """

    folder: Path | None = None

    def get(self, name: str, make: Callable[[], T]) -> T:
        """What an earlier process left under this name, or what ``make`` returns, which is kept."""
        return self.timed(name, make)[0]

    def timed(self, name: str, make: Callable[[], T]) -> tuple[T, float]:
        """The same, and the seconds that making it took."""
        path = None if self.folder is None else self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.pickle"
        if path is not None and path.is_file():
            found: tuple[T, float] = pickle.loads(path.read_bytes())
            return found
        start = time.perf_counter()
        made = make(), time.perf_counter() - start
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(pickle.dumps(made))
            part.replace(path)  # whole or not at all
        return made
