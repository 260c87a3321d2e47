"""An evaluation read from its files: the token logs of the trained and the unsteered arm, and their episodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from agents.algos import ALGOS
from agents.compare.results import Evaluation
from agents.runs.folder import RunFolder
from steer_env.evaluation.token_log import COLUMNS, interventions_of

STEERED, UNSTEERED = "trained", "unsteered"
RIGHT = 0.5
HEAD = ("env", "algo", "split", "seed", "temperature", "benchmark")


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluation of a run, cut to its first episodes.

    Attributes:
        run: The run folder.
        path: The evaluation's file.
        result: Its content.
        tokens: Rows of the intervention log of the trained and the unsteered arm, by arm, episode and step.
    """

    run: RunFolder
    path: Path
    result: Evaluation
    tokens: pd.DataFrame

    @classmethod
    def open(cls, folder: Path, name: str = "evaluation.json", episodes: int | None = None) -> EvaluatedRun:
        """Read an evaluation and the logs of its first ``episodes``.

        Raises:
            FileNotFoundError: There is no such run, it is not evaluated, or the evaluation's log is gone.
            ValueError: There are not so many episodes, or an arm is missing in the log.
        """
        run, path = RunFolder.open(folder), folder / name
        if not path.is_file():
            there = ", ".join(sorted(other.name for other in folder.glob("evaluation*.json"))) or "none"
            raise FileNotFoundError(
                f"{path} is missing (evaluations of this run: {there}): steer evaluate --run {folder}"
            )
        log = interventions_of(path)
        if not log.is_file():
            raise FileNotFoundError(f"{log}, the token log of {path.name}, is missing: evaluate the run again")
        tokens = pd.read_parquet(log, filters=[("arm", "in", [STEERED, UNSTEERED])])
        missing = {STEERED, UNSTEERED} - set(tokens["arm"])
        if missing:
            raise ValueError(f"{log} has no rows of the {min(missing)} arm")
        count = int(tokens["episode"].max()) + 1
        if episodes is not None and not 1 <= episodes <= count:
            raise ValueError(f"--items must be in [1, {count}], those of {path.name}; got {episodes}")
        # Logs of earlier versions lack the newest columns.
        tokens = tokens[tokens["episode"] < (episodes or count)].reindex(columns=list(COLUMNS))
        return cls(run, path, Evaluation.read(path), tokens.sort_values(["arm", "episode", "step"], ignore_index=True))

    @cached_property
    def steered(self) -> pd.DataFrame:
        """Tokens of the trained arm."""
        return self.tokens[self.tokens["arm"] == STEERED].reset_index(drop=True)

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """``item``, ``score`` and ``unsteered_score`` of each episode of the trained arm."""
        table = self.steered.groupby("episode")[["item", "score"]].first()
        alone = self.tokens[self.tokens["arm"] == UNSTEERED].groupby("episode")["score"].first()
        return table.assign(unsteered_score=alone)

    @property
    def head(self) -> dict[str, Any]:
        """The fields of :class:`agents.analysis.results.Analysis`."""
        shared = {name: getattr(self.result, name) for name in HEAD}
        names = {"run": self.run.path.name, "evaluation": self.path.name}
        return {**names, **shared, "episodes_analysed": len(self.episodes)}

    @property
    def gamma(self) -> float:
        """Discount of the agent's training."""
        config = self.run.config
        return float(config["algo_kwargs"].get("gamma", ALGOS[config["algo"]].defaults["gamma"]))

    def beside(self, name: str) -> Path:
        """The file of an analysis: for ``evaluation-1-test.json`` and ``"critic"`` it is ``critic-1-test.json``."""
        return self.path.with_name(self.path.name.replace("evaluation", name))
