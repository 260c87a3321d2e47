"""Which feature did what, at which token, and was it the reason: all analyses of one evaluation.

From an evaluation's token log, and from counterfactual replays of its episodes, :func:`analyze` writes
``branch_points.json`` (:mod:`agents.analysis.branch_points`), ``critic.json`` (:mod:`agents.analysis.critic`) and
``features.json`` (:mod:`agents.analysis.feature_table`). All three begin with ``run``, ``evaluation``, ``env``,
``algo``, ``split``, ``seed`` and ``temperature`` of the evaluation, the number of ``episodes_analysed`` and whether
they are of a ``benchmark``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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

SHARED = ("env", "algo", "split", "seed", "temperature", "benchmark")
Rows = Sequence[Mapping[str, Any]]


def analyze(
    folder: Path, evaluation: str = "evaluation.json", items: int | None = None, effort: Effort | None = None
) -> dict[str, dict[str, Any]]:
    """Analyse an evaluation, write the files beside it, and return their contents by name.

    Args:
        folder: The run folder, evaluated.
        evaluation: Which of its evaluations; another's results carry its name, as ``critic-1-test.json``.
        items: Only the first so many episodes; None takes all.
        effort: How much is played again with other choices; None reads the logs alone and loads no model.

    Raises:
        FileExistsError: Without counterfactuals, the results of an analysis with them would be lost.
        FileNotFoundError: There is no such run, no such evaluation, or no trained policy.
        RuntimeError: The run is no longer what was evaluated.
        ValueError: A number is out of its range.
    """
    evaluated = EvaluatedRun.open(folder, evaluation, items)
    if effort is None and evaluated.beside("branch_points").exists():
        raise FileExistsError(
            f"{evaluated.beside('branch_points')} is of an analysis with counterfactuals: move it away"
        )
    records = from_logs(evaluated) if effort is None else with_counterfactuals(evaluated, effort)
    shared = {name: evaluated.result[name] for name in SHARED}
    head = {"run": folder.name, "evaluation": evaluation, **shared, "episodes_analysed": len(evaluated.episodes)}
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
    meanings = replace(model_meanings(causal.envs, causal.trajectories.items), kinds=_kinds(evaluated, causal))
    points = branch_point_record(causal.trajectories, causal.found, effort.alternatives, behind, meanings.labels.get)
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
    texts = read_texts(causal.envs, causal.trajectories.items[:TEXTS], evaluated.result["seed"])  # drawn already
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


def analysis_tables(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Rows]:
    """Tables by name.

    Args:
        records: Contents of ``features.json``, ``critic.json`` and, where there is one, ``branch_points.json``.

    Returns:
        ``features``, one row each; ``branch_points``, one row for each kind of alternative; of the critic's values
        ``critic_groups``, ``critic_values`` (their course over the episode) and ``critic_calibration``;
        ``critic_failures``, whose fault the wrong episodes are. Those without rows are left out.
    """
    points = records.get("branch_points", {"arms": {}})
    found = {
        "features": records["features"]["features"],
        "branch_points": _named("arm", points["arms"]),
        **_critic_tables(records["critic"]),
    }
    return {name: rows for name, rows in found.items() if rows}


def _critic_tables(critic: Mapping[str, Any]) -> dict[str, Rows]:
    groups, failures = critic.get("groups", {}), critic["failures"]
    return {
        "critic_groups": [{"group": name, "n": row["n"], "return": row["return"]} for name, row in groups.items()],
        "critic_values": [{"group": name, **at} for name, row in groups.items() for at in row["by_position"]],
        "critic_calibration": [
            {"tokens": name, **each} for name, row in critic.get("calibration", {}).items() for each in row["table"]
        ],
        "critic_failures": [] if failures is None else _named("search", failures["searches"]),
    }


def _named(column: str, rows: Mapping[str, Mapping[str, Any]]) -> Rows:
    return [{column: name, **row} for name, row in rows.items()]
