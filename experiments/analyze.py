"""Which feature did what, at which token, and was it the reason: ``python -m experiments.analyze --run runs/first``.

From an evaluation's token log, and from counterfactual replays of its episodes, it writes ``branch_points.json``
(:mod:`agents.analysis.branch_points`), ``critic.json`` (:mod:`agents.analysis.critic`) and ``features.json``
(:mod:`agents.analysis.feature_table`). All three begin with ``run``, ``evaluation``, ``env``, ``algo``, ``split``,
``seed`` and ``temperature`` of the evaluation, the number of ``episodes`` and whether they are of a ``benchmark``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from agents.analysis.analysis_tables import analysis_tables
from agents.analysis.branch_points import branch_point_record
from agents.analysis.causal import Causal, Effort, play_counterfactuals, total_cost
from agents.analysis.critic import critic_record
from agents.analysis.evaluated_run import EvaluatedRun
from agents.analysis.feature_kinds import TEXTS, feature_kinds, read_texts
from agents.analysis.feature_meanings import logged_meanings, model_meanings
from agents.analysis.feature_table import Effects, feature_record
from agents.analysis.planted import planted_conditions
from agents.runs.folder import write_json
from agents.runs.tracking import Tracker
from steer_env.envs.base import unwrap
from steer_env.evaluation.alternatives import Alternatives

SHARED = ("env", "algo", "split", "seed", "temperature", "benchmark")


@dataclass(frozen=True)
class AnalyzeConfig:
    """Explain an evaluated run."""

    run: Path
    """Run folder, evaluated."""
    evaluation: str = "evaluation.json"
    """Which of its evaluations; another's results carry its name, as critic-1-test.json."""
    episodes: int | None = None
    """Only the first so many; by default all."""
    counterfactuals: bool = True
    """Replay episodes with other choices; without, only the logs are read, and no model is loaded."""
    next_best: int = 3
    """Features tried at each token, those the policy likes best after its choice."""
    random_draws: int = 4
    """Random actions tried at each token: features active there, or strengths."""
    tokens: int = 32
    """Tokens of an episode at which others are tried, at most; evenly spread."""
    search_plays: int = 20_000
    """Episodes played with each feature alone: what it does, and whether it would have made wrong episodes right."""
    num_envs: int = 256
    """Lanes in one forward pass."""
    seed: int = 0
    """Of the random alternatives and of bootstraps."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def main(cfg: AnalyzeConfig) -> dict[str, dict[str, Any]]:
    """Analyse an evaluation, write the files, and return their contents by name.

    Raises:
        FileExistsError: Without counterfactuals, the results of an analysis with them would be lost.
        FileNotFoundError: There is no such run, no such evaluation, or no trained policy.
        RuntimeError: The run is no longer what was evaluated.
        ValueError: A number is out of its range.
    """
    torch.set_num_threads(cfg.threads)
    effort = Effort(Alternatives(cfg.next_best, cfg.random_draws, cfg.seed), cfg.tokens, cfg.search_plays, cfg.num_envs)
    evaluated = EvaluatedRun.open(cfg.run, cfg.evaluation, cfg.episodes)
    if not cfg.counterfactuals and evaluated.beside("branch_points").exists():
        raise FileExistsError(
            f"{evaluated.beside('branch_points')} is of an analysis with counterfactuals: move it away"
        )
    records = with_counterfactuals(evaluated, effort) if cfg.counterfactuals else from_logs(evaluated)
    shared = {name: evaluated.result[name] for name in SHARED}
    head = {"run": cfg.run.name, "evaluation": cfg.evaluation, **shared, "episodes_analysed": len(evaluated.episodes)}
    records = {name: {**head, **record} for name, record in records.items()}
    for name, record in records.items():
        write_json(evaluated.beside(name), record)
    _mirror(evaluated, records)
    _print(evaluated, records)
    return records


def from_logs(evaluated: EvaluatedRun) -> dict[str, dict[str, Any]]:
    """What the logs alone tell: the records of ``critic`` and ``features``."""
    meanings = logged_meanings(evaluated.steered, evaluated.result.get("labels", "the evaluation's log"))
    conditions = planted_conditions(evaluated.run.config)
    return {
        "critic": critic_record(evaluated),
        "features": feature_record(evaluated, _choices(evaluated), meanings, conditions),
    }


def with_counterfactuals(evaluated: EvaluatedRun, effort: Effort) -> dict[str, dict[str, Any]]:
    """All three records."""
    causal = play_counterfactuals(evaluated, effort)
    behind = unwrap(causal.envs).features.tolist()
    meanings = replace(model_meanings(causal.envs, causal.courses.items), kinds=_kinds(evaluated, causal))
    points = branch_point_record(causal.courses, causal.found, effort.alternatives, behind, meanings.labels.get)
    points["settings"]["tokens"] = effort.tokens
    cost = {**causal.cost, "all": total_cost(list(causal.cost.values()))}
    conditions = planted_conditions(evaluated.run.config)
    effects = Effects(behind, causal.removals, causal.alone)
    return {
        "branch_points": {**points, "cost": cost, "not_reproduced": causal.not_reproduced},
        "critic": critic_record(evaluated, causal.searches),
        "features": feature_record(evaluated, len(behind), meanings, conditions, effects),
    }


def _kinds(evaluated: EvaluatedRun, causal: Causal) -> dict[int, dict[str, Any]]:
    """What kind of feature each is that steered or was removed."""
    used = {int(feature) for feature in evaluated.steered["feature"].unique() if feature >= 0}
    used |= {feature for table in causal.removals.values() for feature in table}
    texts = read_texts(causal.envs, causal.courses.items[:TEXTS], evaluated.result["seed"])  # drawn already
    return feature_kinds(causal.envs, texts, sorted(used))


def _choices(evaluated: EvaluatedRun) -> int:
    """How many features the run's actions choose from, by its record; of old runs without one those it used."""
    record = evaluated.run.config.get("steering", {}).get("features")
    if record is None:
        return int(evaluated.steered.loc[evaluated.steered["feature"] >= 0, "feature"].nunique())
    return int(record["all"]) if isinstance(record, dict) else len(record)


def _mirror(evaluated: EvaluatedRun, records: Mapping[str, Mapping[str, Any]]) -> None:
    config, tables = evaluated.run.config, analysis_tables(records)
    tracker = Tracker(config["wandb"], evaluated.run.path, {}, config["wandb_id"])
    for name, rows in tables.items():
        tracker.table(evaluated.beside(name).stem, rows)
    tracker.finish()


def _print(evaluated: EvaluatedRun, records: Mapping[str, Mapping[str, Any]]) -> None:
    points, features = records.get("branch_points"), records["features"]
    spread = features["diversity"]
    print(f"{len(evaluated.episodes)} episodes, {spread['tokens']} tokens, {spread['distinct']} features")
    if points is not None:
        for arm, row in points["arms"].items():
            print(
                f"{arm}: {row['branch_points']} of {row['tried']} tokens decide ({row['corrected']} alternatives "
                f"correct, {row['broken']} break)"
            )
        cost = points["cost"]["all"]
        print(f"{cost['episodes_played']} episodes in {cost['forward_passes']} passes, {cost['seconds']:.0f} s")
    for row in features["features"][:5]:
        effect = "" if row["effect"] is None else f", effect {row['effect']:.3f}"
        print(f"feature {row['feature']} ({row['label']}): {row['tokens']} tokens{effect}")
    for name in records:
        print(evaluated.beside(name))


if __name__ == "__main__":
    main(tyro.cli(AnalyzeConfig))
