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

from agents.runs.folder import SETTINGS, read_json, refuse_existing, to_json, write_json

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

    def inside(self, name: str) -> Kept:
        """The same in a folder of its own."""
        return Kept(self.folder and self.folder / name)

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
