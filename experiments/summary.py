"""One table over several evaluated runs, usually seeds: ``steer summary --runs runs/a runs/b``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from agents.runs.folder import read_json
from agents.runs.steering import same_coefficient
from steer_env.evaluation.statistics import over_runs

_MUST_AGREE = ("env", "env_kwargs", "algo", "mask", "split", "temperature", "episodes", "seed")


@dataclass(frozen=True)
class SummaryConfig:
    """Summarise evaluations of several runs."""

    runs: tuple[Path, ...]
    """Run folders."""
    file: str = "evaluation.json"
    """Which evaluation of each run."""


def main(cfg: SummaryConfig) -> dict[str, dict[str, Any]]:
    """Print and return, for every arm: mean, lowest and highest score over runs, 95 % interval, worst p-value.

    The interval is that of :func:`steer_env.evaluation.statistics.over_runs`: how much the mean would move with other
    training seeds, or other items. With fewer than three runs it says little.

    Raises:
        FileNotFoundError: A run is not evaluated.
        ValueError: The evaluations are not of the same environment, agent, items, decoding and coefficient.
    """
    results = [_read(run / cfg.file) for run in cfg.runs]
    _require_alike(results)
    arms = {name: _row(results, name) for name in results[0]["arms"]}
    _print(arms, len(results))
    return arms


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: steer evaluate --run {path.parent}")
    result = read_json(path)
    missing = [name for name in (*_MUST_AGREE, "coefficient") if name not in result]
    if missing:
        raise ValueError(f"{path} does not say its {missing[0]}: steer evaluate --run {path.parent}")
    return result


def _require_alike(results: Sequence[dict[str, Any]]) -> None:
    first = results[0]
    for other in results[1:]:
        differing = [name for name in (*_MUST_AGREE, "data") if other.get(name) != first.get(name)]
        if not same_coefficient(first["coefficient"], other["coefficient"]):
            differing.append("coefficient")
        if differing:
            name = differing[0]
            was, now = first.get(name), other.get(name)
            raise ValueError(f"the runs cannot be summarised together: {name} is {was} and {now}")


def _row(results: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    scores = [result["arms"][arm]["score"] for result in results]
    p_values = [result["tests"][f"trained_vs_{arm}"]["p_holm"] for result in results if arm != "trained"]
    return {
        "mean": sum(scores) / len(scores),
        "min": min(scores),
        "max": max(scores),
        "ci95": over_runs(scores, results[0]["arms"][arm]["n"]),
        "worst_p_holm": max(p_values, default=None),
        "scores": scores,
    }


def _print(arms: dict[str, dict[str, Any]], runs: int) -> None:
    table = Table(title=f"{runs} runs", box=box.SIMPLE)
    for column in ("arm", "mean", "lowest", "highest", "95 % over runs", "worst p (Holm)"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for name, row in arms.items():
        numbers = [f"{row[key]:.3f}" for key in ("mean", "min", "max")]
        worst = row["worst_p_holm"]
        table.add_row(name, *numbers, "{:.3f}-{:.3f}".format(*row["ci95"]), "" if worst is None else f"{worst:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(SummaryConfig))
