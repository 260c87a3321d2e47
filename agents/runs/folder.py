"""A run folder: settings written once, logs that only grow, checkpoints that are whole or absent.

A resumed run cuts its logs back to the newest checkpoint, so that no row is lost or doubled. Episodes that
were half played at the checkpoint are not in it: every lane starts a new one.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOGS = ("metrics", "episodes")
KEPT_CHECKPOINTS = 2
SETTINGS = "settings.json"
"""Where a study of several runs has its settings."""
PACKAGES = ("gymnasium", "numpy", "sae-lens", "stable-baselines3", "torch", "transformers", "wandb")


class JsonLines:
    """An append-only file of JSON rows; each row reaches the operating system before ``write`` returns.

    Args:
        path: The file; made when the first row is written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers that JSON lacks (NaN, infinite) become null."""
        self._file.write(to_json(row).encode() + b"\n")
        self._file.flush()

    @property
    def length(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        path: Its folder.
        counters: What was given to :meth:`RunFolder.save_checkpoint`.
        log_bytes: Length of each log at that moment.
    """

    path: Path
    counters: dict[str, Any]
    log_bytes: dict[str, int]


class RunFolder:
    """``runs/<name>/``; use :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> "RunFolder":
        """Make the folder and write ``config.json``.

        Raises:
            FileExistsError: It is there already.
        """
        refuse_existing(path)
        path.mkdir(parents=True)
        write_json(path / "config.json", config)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """A folder made before.

        Raises:
            FileNotFoundError: It is not there, or has no ``config.json``.
        """
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} is no run folder: it has no config.json")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """What ``config.json`` holds.

        Raises:
            ValueError: It asks for code that comes with the folder.
        """
        found = read_json(self.path / "config.json")
        module = str(found.get("env", "")).rpartition(":")[0]
        if module and _comes_with(self.path, module):
            raise ValueError(
                f"{self.path / 'config.json'} asks for the module {module!r}, which comes with the folder: code of "
                "whoever made it is not run; install it elsewhere if you trust it"
            )
        return found

    def log(self, name: str) -> JsonLines:
        """The writer of one of ``LOGS``."""
        return JsonLines(self.log_path(name))

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Rows of one of ``LOGS``, in order."""
        if self.log_path(name).is_file():
            with self.log_path(name).open() as lines:
                yield from map(json.loads, lines)

    def log_path(self, name: str) -> Path:
        """File of one of ``LOGS``."""
        return self.path / f"{name}.jsonl"

    def save_checkpoint(
        self,
        counters: Mapping[str, Any],
        logs: Mapping[str, JsonLines],
        write: Callable[[Path], None],
    ) -> Path:
        """Write a checkpoint under another name, rename it when whole, and drop all but the newest two.

        Args:
            counters: JSON values; ``counters["num_timesteps"]`` orders the checkpoints.
            logs: The open logs, whose lengths belong to this moment.
            write: Puts the rest into the folder it is given.
        """
        folder = self.path / "checkpoints"
        final = folder / f"{counters['num_timesteps']:012d}"
        if final.exists():
            return final
        part = folder / f".{final.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        state = {"counters": dict(counters), "log_bytes": {name: log.length for name, log in logs.items()}}
        write_json(part / "state.json", state)
        part.rename(final)
        for old in self.checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)
        return final

    def checkpoints(self) -> list[Path]:
        """Folders of whole checkpoints, oldest first."""
        return sorted(folder for folder in (self.path / "checkpoints").glob("[0-9]*") if folder.is_dir())

    def rewind(self) -> Checkpoint | None:
        """The newest checkpoint, the logs cut back to it; None (and empty logs) where there is none.

        Raises:
            ValueError: A log is shorter than the checkpoint says.
        """
        found = None
        if self.checkpoints():
            path = self.checkpoints()[-1]
            found = Checkpoint(path=path, **read_json(path / "state.json"))
        for name in LOGS:
            self._cut(name, found.log_bytes[name] if found else 0)
        return found

    def _cut(self, name: str, length: int) -> None:
        path = self.log_path(name)
        size = path.stat().st_size if path.is_file() else 0
        if size < length:
            raise ValueError(f"{path} has {size} bytes, but the newest checkpoint was made at {length}")
        if size > length:
            os.truncate(path, length)


def _comes_with(folder: Path, module: str) -> bool:
    """Whether a module, which Gymnasium would import, or a package that it is in, lies in ``folder``."""
    names = module.split(".")
    for count in range(1, len(names) + 1):
        try:
            spec = importlib.util.find_spec(".".join(names[:count]))  # which imports the packages before the last
        except (ImportError, ValueError):
            return False
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        if any(place and Path(place).resolve().is_relative_to(folder.resolve()) for place in places):
            return True
    return False


def refuse_existing(path: Path) -> None:
    """Raise a FileExistsError that says what to do if ``path`` is there."""
    if path.exists():
        raise FileExistsError(
            f"run folder {path} exists and is never overwritten: give another --name, or --resume to go on with it"
        )


def provenance() -> dict[str, Any]:
    """``git_commit`` of this code (None outside a repository) and package ``versions``, for records."""
    return {"git_commit": _git_commit(), "versions": {name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    if shutil.which("git") is None:
        return None
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file of :func:`write_json`."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a whole JSON file or leave the old one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(to_json(content, indent=1) + "\n")
    part.replace(path)


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON with NumPy numbers and arrays, sequences and paths made plain, and NaN and infinities null."""
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # NumPy arrays and numbers
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
