"""All analyses of one evaluation: which feature did what, at which token, and was it the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agents.analysis.counterfactuals import Causal, Effort, branch_point_record, play_counterfactuals
from agents.analysis.critic import critic_record
from agents.analysis.evaluated_run import EvaluatedRun
from agents.analysis.feature_kinds import TEXTS, feature_kinds, read_texts
from agents.analysis.feature_meanings import logged_meanings, model_meanings
from agents.analysis.features import Effects, feature_record, planted_conditions
from agents.analysis.results import Analysis, BranchPoints, Critic, Features
from agents.runs.tracking import Tracker
from steer_env.envs.base import unwrap

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Analyses:
    """What an analysis found.

    Attributes:
        critic: ``critic.json``.
        features: ``features.json``.
        branch_points: ``branch_points.json``; None without counterfactuals.
    """

    critic: Critic
    features: Features
    branch_points: BranchPoints | None = None

    @property
    def files(self) -> dict[str, Analysis]:
        """The results by the name of their file."""
        return {name: record for name, record in vars(self).items() if record is not None}


def analyze(
    folder: Path, evaluation: str = "evaluation.json", items: int | None = None, effort: Effort | None = None
) -> Analyses:
    """Analyse an evaluation, write the result files beside it, and return their contents.

    Args:
        folder: The run folder, evaluated.
        evaluation: Which of its evaluations; another's results carry its name, as ``critic-1-test.json``.
        items: Number of episodes, the first ones; None takes all.
        effort: How much is played again with other choices; None reads the logs alone and loads no model.

    Raises:
        FileExistsError: Without counterfactuals, the results of an analysis with them would be lost.
        FileNotFoundError: There is no such run, no such evaluation, or no trained policy.
        RuntimeError: The run is no longer what was evaluated.
        ValueError: A number is out of its range, or the evaluation is of another version.
    """
    evaluated = EvaluatedRun.open(folder, evaluation, items)
    if effort is None and evaluated.beside("branch_points").exists():
        raise FileExistsError(
            f"{evaluated.beside('branch_points')} is of an analysis with counterfactuals: move it away"
        )
    found = from_logs(evaluated) if effort is None else with_counterfactuals(evaluated, effort)
    for name, record in found.files.items():
        record.write(evaluated.beside(name))
    _mirror(evaluated, found)
    _print(evaluated, found)
    return found


def from_logs(evaluated: EvaluatedRun) -> Analyses:
    """What the logs alone say."""
    meanings = logged_meanings(evaluated.steered, evaluated.result.labels)
    conditions = planted_conditions(evaluated.run.config)
    features = feature_record(evaluated, _choices(evaluated), meanings, conditions)
    return Analyses(critic_record(evaluated), features)


def with_counterfactuals(evaluated: EvaluatedRun, effort: Effort) -> Analyses:
    """What the logs say, and what other choices would have done."""
    causal = play_counterfactuals(evaluated, effort)
    choices = unwrap(causal.envs).features.tolist()
    meanings = replace(model_meanings(causal.envs, causal.trajectories.items), kinds=_kinds(evaluated, causal))
    conditions = planted_conditions(evaluated.run.config)
    effects = Effects(choices, causal.removals, causal.alone)
    return Analyses(
        critic_record(evaluated, causal.searches),
        feature_record(evaluated, len(choices), meanings, conditions, effects),
        branch_point_record(evaluated, causal, effort, meanings.labels.get),
    )


def _kinds(evaluated: EvaluatedRun, causal: Causal) -> dict[int, dict[str, Any]]:
    """What kind of feature each is that steered or was removed."""
    used = {int(feature) for feature in evaluated.steered["feature"].unique() if feature >= 0}
    used |= {feature for table in causal.removals.values() for feature in table}
    # The evaluation drew its items at random, so that the first ones are a sample.
    texts = read_texts(causal.envs, causal.trajectories.items[:TEXTS], evaluated.result.seed)
    return feature_kinds(causal.envs, texts, sorted(used))


def _choices(evaluated: EvaluatedRun) -> int:
    """Number of features that the run's actions choose from; of runs without a record the number they used."""
    record = evaluated.run.config.get("steering", {}).get("features")
    if record is None:
        return int(evaluated.steered.loc[evaluated.steered["feature"] >= 0, "feature"].nunique())
    return int(record["all"]) if isinstance(record, dict) else len(record)


def _mirror(evaluated: EvaluatedRun, found: Analyses) -> None:
    config = evaluated.run.config
    tracker = Tracker(config["wandb"], evaluated.run.path, {}, config["wandb_id"])
    for name, rows in analysis_tables(found).items():
        tracker.table(evaluated.beside(name).stem, rows)
    tracker.finish()


def _print(evaluated: EvaluatedRun, found: Analyses) -> None:
    points, features = found.branch_points, found.features
    spread = features.diversity
    print(f"{len(evaluated.episodes)} episodes, {spread.tokens} tokens, {spread.distinct} features")
    if points is not None:
        for arm, row in points.arms.items():
            print(
                f"{arm}: {row.branch_points} of {row.tried} tokens decide ({row.corrected} alternatives correct, "
                f"{row.broken} break)"
            )
        cost = points.cost["all"]
        print(f"{cost['episodes_played']} episodes in {cost['forward_passes']} passes, {cost['seconds']:.0f} s")
    for used in features.features[:5]:
        effect = "" if used.effect is None else f", effect {used.effect:.3f}"
        print(f"feature {used.feature} ({used.label}): {used.tokens} tokens{effect}")
    for name in found.files:
        print(evaluated.beside(name))


def analysis_tables(found: Analyses) -> dict[str, Rows]:
    """The analyses as flat tables, for wandb.

    Returns:
        ``features``, one row each; ``branch_points``, one row for each arm of alternatives; of the critic's values
        ``critic_groups``, ``critic_values`` (along the episode) and ``critic_calibration``; ``critic_failures``, why
        episodes ended wrong. Those without rows are left out.
    """
    critic, points = found.critic, found.branch_points
    searches = {} if critic.failures is None else critic.failures.searches
    tables = {
        "features": list(map(asdict, found.features.features)),
        "branch_points": [] if points is None else _named("arm", points.arms),
        "critic_groups": [
            {"group": name, "n": row.n, "mean_return": row.mean_return} for name, row in critic.groups.items()
        ],
        "critic_values": [{"group": name, **vars(at)} for name, row in critic.groups.items() for at in row.by_position],
        "critic_calibration": [
            {"tokens": name, **vars(each)} for name, row in critic.calibration.items() for each in row.table
        ],
        "critic_failures": _named("search", searches),
    }
    return {name: rows for name, rows in tables.items() if rows}


def _named(column: str, rows: Mapping[str, Any]) -> Rows:
    return [{column: name, **vars(row)} for name, row in rows.items()]
