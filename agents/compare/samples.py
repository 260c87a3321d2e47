"""Scores against the number of items that everything learned from: the sizes, the arms at each, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.compare.arms import arm_results, play_arms
from agents.compare.evidence import bench_of, own_settings, train_seeds
from agents.compare.kept import Kept
from agents.compare.results import ArmResult, SampleEfficiency
from agents.finetune import LoRA
from agents.report.markdown import markdown_table
from agents.report.plots import Score, bands, save_png
from agents.runs.config import Study, Trainings
from agents.runs.loading import make_envs
from steer_env.envs.base import unwrap

LEARNERS = ("unsteered", "best_fixed", "corrsteer", "corrsteer, same strength", "linear_read_off", "lora", "trained")
COLORS = {
    "linear_read_off": "#8d6fb0",
    "trained": "#1a6fb5",
    "lora": "#b5541a",
    "best_fixed": "#6f7378",
    "corrsteer": "#5a9e4b",
}


def checked_sizes(cfg: Trainings, sizes: Sequence[int]) -> list[int]:
    """The sizes, and all items of train behind them.

    Raises:
        ValueError: A size is not between 1 and the items of train, or they do not increase.
    """
    count = len(unwrap(make_envs(cfg.training("0", 0, cfg.folder).settings() | {"mask": "off"}, "train", 1)).task)
    every = [*sizes, count]
    if every[0] < 1 or every != sorted(set(every)):
        raise ValueError(f"sizes must increase from at least 1 to below the {count} items of train, got {sizes}")
    return every


def learned_from(cfg: Study, size: int, items: int | None, lora: LoRA | None) -> dict[str, ArmResult]:
    """Every arm that learned from ``size`` items, and the unsteered model; all play ``items`` of test (None: all)."""
    own = replace(cfg, name=str(size), runs_dir=cfg.folder)
    kept = Kept(own.folder / "kept")
    runs = train_seeds(own_settings(own, size, kept), {})
    bench = bench_of(own, runs, items=items, train_items=0, lora=lora, kept=kept, **cfg.search)
    return arm_results(bench, play_arms(bench, LEARNERS))


def markdown(result: SampleEfficiency) -> str:
    """A row an arm, a column a size."""
    return "\n".join(
        [
            f"# {result.env}: score on test against the items learned from",
            "",
            markdown_table(
                ("arm", *map(str, result.sizes)),
                [(name, *map(_cell, points)) for name, points in result.arms.items()],
            ),
            "",
            f"{result.settings['seeds']} seeds, each with items of its own; in brackets 95 % over seeds.",
            "",
        ]
    )


def _cell(point: ArmResult | None) -> str:
    return "" if point is None else f"{point.score:.3f} ({point.ci95[0]:.3f} to {point.ci95[1]:.3f})"


def draw(result: SampleEfficiency, path: Path) -> None:
    """Scores against the number of items, with their intervals."""

    def plot(axes: Any, theme: Any) -> None:
        lines = {"unsteered": (theme.ink, ":", _scores(result.arms["unsteered"]))}
        for name, color in COLORS.items():
            points = result.arms.get(name, [])
            if points and None not in points:
                lines[name] = (color, "o-", _scores(points))
        bands(axes, theme, result.sizes, lines)
        axes.set_xscale("log")
        axes.set_xticks(result.sizes, map(str, result.sizes))
        axes.minorticks_off()
        axes.set(xlabel="items learned from", ylabel="score on test")

    save_png(path, result.env, [plot], (7, 4))


def _scores(points: Sequence[ArmResult | None]) -> list[Score]:
    return [Score(point.score, point.ci95) for point in points if point is not None]
