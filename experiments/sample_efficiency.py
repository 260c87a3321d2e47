"""Score against the number of items to learn from: ``python -m experiments.sample_efficiency --env Steer-XSTest-v0``.

The learned policy, the best fixed feature, CorrSteer and LoRA learn from the same items, other ones with each seed; all
play the whole test split.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from agents.compare.arms import Arm, Bench, best_fixed, corrsteer, fine_tuned, trained
from agents.compare.evidence import EvidenceConfig, own_settings, train_seeds
from agents.finetune import LoRA
from agents.runs.config import Trainings
from agents.runs.folder import refuse_existing, write_json
from agents.runs.loading import make_envs, provenance
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import CONTROLS, Setting
from steer_env.evaluation.statistics import runs_interval

INK = "#222222"
COLORS = {"trained": "#1a6fb5", "lora": "#b5541a", "best_fixed": "#6f7378", "corrsteer": "#5a9e4b"}


@dataclass(frozen=True, kw_only=True)
class SampleEfficiencyConfig(Trainings):
    """Train on few and many items and compare."""

    sizes: tuple[int, ...] = (10, 25, 50, 100, 400)
    """Numbers of items of train; all of them come last."""
    total_timesteps: int = 60_000
    """Tokens of each training."""
    test_items: int | None = None
    """Items of test; by default all."""


def main(cfg: SampleEfficiencyConfig) -> dict[str, Any]:
    """Train, play, and write ``samples.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A size is not between 1 and the items of train, or they do not increase.
    """
    torch.set_num_threads(1)
    start, folder, sizes = time.perf_counter(), cfg.folder, _sizes(cfg)
    refuse_existing(folder)
    folder.mkdir(parents=True)
    points = [_point(cfg, size) for size in sizes]
    arms = {name: [point.get(name) for point in points] for name in points[-1]}
    result = {"env": cfg.env, "settings": cfg.record(), "sizes": sizes, "arms": arms, **provenance()}
    result["wall_s"] = time.perf_counter() - start
    write_json(folder / "samples.json", result)
    (folder / "samples.md").write_text(markdown(result))
    draw(result, folder / "samples.png")
    print(markdown(result))
    return result


def _point(cfg: SampleEfficiencyConfig, size: int) -> dict[str, dict[str, Any]]:
    """Every arm that learned from ``size`` items."""
    same = cfg.common() | {"name": str(size), "runs_dir": cfg.folder}
    one = EvidenceConfig(**same, train_samples=size, test_items=cfg.test_items)
    bench = Bench(
        runs=train_seeds(own_settings(one), {}, one.folder),
        folder=one.folder,
        test_items=cfg.test_items,
        oracle_items=0,
        num_envs=cfg.num_envs,
        seed=cfg.seed,
        lora=LoRA(),
        every={} if cfg.screen is None else {"features": None},
    )
    idle = Arm([bench.play(CONTROLS["unsteered"](Setting()))], 0.0)
    arms = {"unsteered": idle, "trained": trained(bench), "best_fixed": best_fixed(bench)}
    return {name: _row(arm, cfg.seed) for name, arm in (arms | corrsteer(bench) | fine_tuned(bench, LoRA())).items()}


def _row(arm: Arm, seed: int) -> dict[str, Any]:
    scores = [float(played.scores.mean()) for played in arm.played]
    runs = [played.scores.tolist() for played in arm.played]
    return {"score": float(np.mean(scores)), "scores": scores, "ci95": runs_interval(runs, seed)}


def _sizes(cfg: SampleEfficiencyConfig) -> list[int]:
    config = {"env": cfg.env, "env_kwargs": cfg.env_kwargs, "mask": "off"}
    count = len(unwrap(make_envs(config, "train", 1)).task)
    sizes = [*cfg.sizes, count]
    if sizes[0] < 1 or sizes != sorted(set(sizes)):
        raise ValueError(f"sizes must increase from at least 1 to below the {count} items of train, got {cfg.sizes}")
    return sizes


def markdown(result: Mapping[str, Any]) -> str:
    """A row an arm, a column a size, from the content of ``samples.json``."""
    sizes = result["sizes"]
    lines = [
        f"# {result['env']}: score on test against the items learned from",
        "",
        f"| arm | {' | '.join(map(str, sizes))} |",
        f"|---|{'---|' * len(sizes)}",
        *(f"| {name} | {' | '.join(map(_cell, points))} |" for name, points in result["arms"].items()),
        "",
        f"{result['settings']['seeds']} seeds, each with items of its own; in brackets 95 % over seeds.",
        "",
    ]
    return "\n".join(lines)


def _cell(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return ""
    low, high = point["ci95"]
    return f"{point['score']:.3f} ({low:.3f} to {high:.3f})"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Scores against the number of items, with their intervals."""
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        arms, sizes = result["arms"], result["sizes"]
        ends = [(arms["unsteered"][-1]["score"], "unsteered")]
        axes.axhline(ends[0][0], color=INK, linewidth=1, linestyle=":")
        for name, color in COLORS.items():
            points = arms.get(name, [])
            if None in points or not points:
                continue
            low, high = zip(*(point["ci95"] for point in points), strict=True)
            axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(sizes, [point["score"] for point in points], "o-", color=color, markersize=4)
            ends.append((points[-1]["score"], name))
        for height, name in _apart(ends):
            axes.annotate(name, (1.02, height), xycoords=("axes fraction", "data"), color=COLORS.get(name, INK))
        axes.set_xscale("log")
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("items learned from")
        axes.set_ylabel("score on test")
        axes.set_title(result["env"], loc="left")
        figure.savefig(path, dpi=150)


def _apart(labels: list[tuple[float, str]], gap: float = 0.06) -> list[tuple[float, str]]:
    """The labels from below, each at least ``gap`` above the one before."""
    placed: list[tuple[float, str]] = []
    last = -math.inf
    for height, name in sorted(labels):
        last = max(height, last + gap)
        placed.append((last, name))
    return placed


if __name__ == "__main__":
    main(tyro.cli(SampleEfficiencyConfig))
