"""What long steps of a study came to, on disk as it comes: a process that is killed loses the step that it was in."""

from __future__ import annotations

import json
import pickle
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agents.compare.plain_files import read_plain, write_plain
from agents.runs.folder import SETTINGS, read_json, refuse_existing, to_json, write_json
from agents.runs.pickles import UntrustedPickleError, trusted

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """The results of steps, by name, one file each (:mod:`agents.compare.plain_files`).

    Args:
        folder: Where the files are; None keeps nothing.
    """

    folder: Path | None = None

    def get(self, name: str, make: Callable[[], T]) -> T:
        """What an earlier process left under this name, or what ``make`` returns, which is kept."""
        return self.timed(name, make)[0]

    def inside(self, name: str) -> Kept:
        """The same in a folder of its own."""
        return Kept(self.folder and self.folder / name)

    def timed(self, name: str, make: Callable[[], T]) -> tuple[T, float]:
        """The same, and the seconds that making it took.

        Raises:
            ValueError: The file is not one of these.
            UntrustedPickleError: An older version kept it.
        """
        path = None if self.folder is None else self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.npz"
        if path is not None and path.is_file():
            found: tuple[T, float] = read_plain(path)
            return found
        old = None if path is None else path.with_suffix(".pickle")
        if old is not None and old.is_file():
            if not trusted():
                raise UntrustedPickleError(old, "is of an older version (without it the step is done again)")
            made: tuple[T, float] = pickle.loads(old.read_bytes())
            return made
        start = time.perf_counter()
        made = make(), time.perf_counter() - start
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_plain(path, made)
        return made


NOTHING = Kept()
"""Where nothing is kept."""


def begin(folder: Path, settings: Mapping[str, Any], resume: bool) -> Kept:
    """Begin a study in a new folder, or go on with one; returns what is kept of it.

    Args:
        folder: Of the study; its settings are written there.
        settings: What all of its numbers depend on.
        resume: Whether an earlier process may have begun it.

    Raises:
        FileExistsError: The folder is there already, and ``resume`` is off.
        ValueError: A setting is not the one it was begun with (it is named): what is kept belongs to others.
    """
    if not resume:
        refuse_existing(folder)
    path, asked = folder / SETTINGS, json.loads(to_json(settings))
    if path.is_file():
        saved = read_json(path)
        for name, value in asked.items():
            if saved.get(name) != value:
                raise ValueError(f"{name} was {saved.get(name)!r} when {folder} was begun, got {value!r}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)
    return Kept(folder / "kept")
