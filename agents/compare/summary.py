"""One table over several runs: evaluations of the same setup with other seeds, or studies of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.compare.results import Evaluation, Evidence
from agents.report.markdown import markdown_table
from agents.runs.steering import same_coefficient
from steer_env.evaluation.statistics import over_runs

MUST_AGREE = ("env", "env_kwargs", "algo", "mask", "split", "temperature", "episodes", "seed", "data")
CORRSTEER = ("corrsteer", "corrsteer, same strength")
OVER_RUNS = ("arm", "mean", "lowest", "highest", "95 % over runs", "worst p (Holm)")
OVER_TASKS = (
    *("environment", "learned from", "unsteered", "prompt only", "best fixed", "CorrSteer", "**trained**", "on train"),
    *("item oracle", "LoRA", "p", "written", "minutes"),
)


@dataclass(frozen=True)
class ArmOverRuns:
    """An arm over several runs.

    Attributes:
        scores: Score of each run.
        mean: Their mean.
        ci95: Its 95 % interval (:func:`steer_env.evaluation.statistics.over_runs`): how far the mean would move with
            other training seeds, or other items. With fewer than three runs it says little.
        worst_p_holm: The largest corrected p of the trained arm against this one; None for the trained arm.
    """

    scores: list[float]
    mean: float
    ci95: tuple[float, float]
    worst_p_holm: float | None


def over_seeds(results: Sequence[Evaluation]) -> dict[str, ArmOverRuns]:
    """Every arm over evaluations that differ in the training seed alone.

    Raises:
        ValueError: They are not of the same environment, agent, items, decoding and coefficient.
    """
    first = results[0]
    for other in results[1:]:
        differing = [name for name in MUST_AGREE if getattr(other, name) != getattr(first, name)]
        if not same_coefficient(first.coefficient, other.coefficient):
            differing.append("coefficient")
        if differing:
            was, now = (getattr(each, differing[0]) for each in (first, other))
            raise ValueError(f"the runs cannot be summarised together: {differing[0]} is {was} and {now}")
    return {name: _over_runs(results, name) for name in first.arms}


def _over_runs(results: Sequence[Evaluation], arm: str) -> ArmOverRuns:
    scores = [result.arms[arm].score for result in results]
    p_values = [result.tests[f"trained_vs_{arm}"].p_holm for result in results if arm != "trained"]
    return ArmOverRuns(
        scores=scores,
        mean=sum(scores) / len(scores),
        ci95=over_runs(scores, results[0].arms[arm].n),
        worst_p_holm=max(p_values, default=None),
    )


def seeds_table(arms: Mapping[str, ArmOverRuns]) -> str:
    """The arms over runs, in Markdown."""
    rows = []
    for name, row in arms.items():
        numbers = [f"{number:.3f}" for number in (row.mean, min(row.scores), max(row.scores))]
        worst = "" if row.worst_p_holm is None else f"{row.worst_p_holm:.1e}"
        rows.append([name, *numbers, "{:.3f}-{:.3f}".format(*row.ci95), worst])
    return markdown_table(OVER_RUNS, rows)


def tasks_table(results: Sequence[Evidence]) -> str:
    """A row a study, in Markdown."""
    return markdown_table(OVER_TASKS, map(_task_cells, results))


def _task_cells(result: Evidence) -> list[str]:
    """Scores of the arms; the largest p of the trained arm against any arm that leaves the weights alone."""
    arms, trained = result.arms, result.arms["trained"]
    low, high = trained.ci95
    p = max(test.p_holm for name, test in result.tests.items() if name != "trained_vs_lora")
    score = {name: f"{arm.score:.3f}" for name, arm in arms.items()}
    return [
        f"`{result.env}`",
        f"{result.train_items:,}",
        score["unsteered"],
        score.get("prompt_only", ""),
        score["best_fixed"],
        max((score[name] for name in CORRSTEER if name in score), default=""),
        f"**{score['trained']}** ({low:.3f} to {high:.3f})",
        f"{trained.train_score:.3f}",
        "" if result.item_oracle is None else f"{result.item_oracle.score:.3f}",
        score.get("lora", ""),
        f"{p:.0e}",
        "" if trained.puppeteered is None else f"{trained.puppeteered:.0%}",
        f"{result.wall_s / 60:.0f}",
    ]
