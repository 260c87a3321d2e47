"""The files of a run that its report shows, and the commands that make those that are missing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from agents.analysis.results import BranchPoints, Critic, Features
from agents.compare.results import Evaluation, Layers, Sweep
from agents.inside.controller_report import ControllerResult
from agents.runs.folder import RunFolder
from agents.runs.results import ResultFile
from steer_env.evaluation.token_log import COLUMNS, interventions_of
from steer_env.registration import task_of
from steer_env.tasks import Task

AnyResult = TypeVar("AnyResult", bound=ResultFile)
ANALYSES = ("branch_points", "critic", "features")


@dataclass(frozen=True)
class RunFiles:
    """What is in a run folder; None for a file that is missing.

    Attributes:
        run: The folder.
        path: The evaluation's file, whether it is there or not.
        metrics: Rows of ``metrics.jsonl``.
        result: ``evaluation.json``.
        tokens: ``interventions.parquet``, by arm, episode and step.
        points: ``branch_points.json``.
        critic: ``critic.json``.
        features: ``features.json``.
        sweep: The file of a sweep.
        layers: The file of a comparison of layers.
        controller: ``controller.json``.
    """

    run: RunFolder
    path: Path
    metrics: Sequence[Mapping[str, Any]]
    result: Evaluation | None
    tokens: pd.DataFrame | None
    points: BranchPoints | None
    critic: Critic | None
    features: Features | None
    sweep: Sweep | None
    layers: Layers | None
    controller: ControllerResult | None

    @classmethod
    def read(cls, folder: Path, evaluation: str, sweep: Path | None = None, layers: Path | None = None) -> RunFiles:
        """Read all there is; a comparison of layers also where the run is part of it.

        Raises:
            FileNotFoundError: There is no such run, no such sweep or no such comparison.
            ValueError: A file is of another version (the message says which command makes it anew).
        """
        run, path = RunFolder.open(folder), folder / evaluation
        log = interventions_of(path)
        beside = (path for path in (folder / "layers.json", folder.parent / "layers.json") if path.is_file())
        compared = layers or next(beside, None)
        return cls(
            run,
            path,
            metrics=list(run.rows("metrics")),
            result=_read(Evaluation, path),
            tokens=_tokens(log) if log.is_file() else None,
            points=_read(BranchPoints, _beside(path, "branch_points")),
            critic=_read(Critic, _beside(path, "critic")),
            features=_read(Features, _beside(path, "features")),
            sweep=None if sweep is None else Sweep.read(sweep),
            layers=None if compared is None else Layers.read(compared),
            controller=_read(ControllerResult, folder / "controller.json"),
        )

    @cached_property
    def task(self) -> Task | None:
        """The evaluated task if it draws boards; None if it draws none or nothing registers the run's environment."""
        try:
            cls = task_of(self.run.config["env"])
        except (ImportError, ValueError):  # somebody's own task, whose module is not here: a report needs no boards
            return None
        if cls.board is Task.board or self.result is None:
            return None
        settings = self.run.config.get("env_kwargs", {})
        given = {name: settings[name] for name in inspect.signature(cls).parameters if name in settings}
        return cls(**{**given, "split": self.result.split})

    def board(self, item: int, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """The board that the task draws after a turn of an item, given the turn's ``info``."""
        drawn = None if self.task is None else self.task.board({"item": item, **info})
        return None if drawn is None else asdict(drawn)

    @property
    def missing(self) -> dict[str, str]:
        """The command that makes each missing file, by the file's kind."""
        there = {
            "metrics": self.metrics or None,
            "evaluation": self.result,
            "interventions": self.tokens,
            "branch_points": self.points,
            "critic": self.critic,
            "features": self.features,
        }
        return {kind: self._maker(kind) for kind, content in there.items() if content is None}

    def _maker(self, kind: str) -> str:
        if kind == "metrics":
            return f"steer train --name {self.run.path.name} --resume"
        if kind not in ANALYSES:
            return f"steer evaluate --run {self.run.path}"
        which = "" if self.path.name == "evaluation.json" else f" --evaluation {self.path.name}"
        return f"steer analyze --run {self.run.path}{which}"

    def beside(self, name: str, suffix: str = ".json") -> Path:
        """Where a file about this evaluation belongs: for ``evaluation-1.json`` and ``"report"`` it is ``report-1``."""
        return _beside(self.path, name).with_suffix(suffix)


def _read(kind: type[AnyResult], path: Path) -> AnyResult | None:
    return kind.read(path) if path.is_file() else None


def _beside(path: Path, name: str) -> Path:
    return path.with_name(path.name.replace("evaluation", name))


def _tokens(log: Path) -> pd.DataFrame:
    # Logs of earlier versions lack the newest columns.
    tokens = pd.read_parquet(log).reindex(columns=list(COLUMNS))
    return tokens.sort_values(["arm", "episode", "step"], ignore_index=True)
