"""wandb as a mirror of the run folder. The only file that imports it, and nothing starts at import."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb

Mode = Literal["online", "offline", "disabled"]
PROJECT = "steer"


class Tracker:
    """A wandb run inside a run folder; with mode ``"disabled"`` every method does nothing.

    Args:
        mode: ``"online"`` falls back to ``"offline"``, with a warning, where no key is configured.
        folder: The run folder; wandb's files go to ``folder/wandb``.
        config: Shown as the run's settings.
        run_id: The same id goes on with the same run (after ``--resume``, and when evaluating).
    """

    def __init__(self, mode: Mode, folder: Path, config: Mapping[str, Any], run_id: str):
        self.mode = usable_mode(mode)
        self._run: Any = None
        if self.mode != "disabled":
            # wandb takes our package `agents` for another product's and advertises its tracing.
            os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
            self._run = wandb.init(
                project=PROJECT,
                name=folder.name,
                id=run_id,
                resume="allow",
                dir=str(folder),
                mode=self.mode,
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )

    def write(self, row: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row of numbers; rows of a step before the last one are dropped by wandb."""
        if self._run:
            self._run.log({name: value for name, value in row.items() if value is not None}, step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows as a table; columns are the names in order of first appearance."""
        if self._run:
            columns: list[str | int] = list({column: None for row in rows for column in row})
            data = [[_cell(row.get(str(column))) for column in columns] for row in rows]
            self._run.log({name: wandb.Table(columns=columns, data=data)})

    def image(self, name: str, path: Path) -> None:
        """Log a picture file."""
        if self._run:
            self._run.log({name: wandb.Image(str(path))})

    def artifact(self, name: str, kind: str, paths: Sequence[Path]) -> None:
        """Log files together, as one version of what has this name; wandb keeps copies until they are synced."""
        if self._run:
            whole = wandb.Artifact(f"{name}-{self._run.id}", type=kind)
            for path in paths:
                whole.add_file(str(path))
            self._run.log_artifact(whole)

    def finish(self) -> None:
        """Write everything out and end the run."""
        if self._run:
            self._run.finish()
            self._run = None


def usable_mode(mode: Mode) -> Mode:
    """``mode``, or ``"offline"`` where ``"online"`` was asked for and no key is configured.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode not in ("online", "offline", "disabled"):
        raise ValueError(f"wandb must be 'online', 'offline' or 'disabled', got {mode!r}")
    if mode == "online" and not wandb.login(prompt=False):
        warnings.warn("no wandb key is configured: logging offline ('wandb login' sets one)", stacklevel=2)
        return "offline"
    return mode


def _cell(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
