"""Every arm with several training seeds and settings chosen on validation: what is trained, and the table of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agents.compare.bench import Bench
from agents.compare.kept import NOTHING, Kept
from agents.compare.results import ArmResult, Evidence, TuningPoint
from agents.report.markdown import markdown_table
from agents.report.plots import Score, intervals, save_png
from agents.runs.config import Trainings
from agents.runs.loading import load_run
from agents.runs.trainings import screened, train_all
from steer_env.evaluation.play import evaluate

COLUMNS = (
    *("arm", "score", "95 %", "corrected", "broken", "p against unsteered", "coherence", "features", "tokens"),
    "seconds",
)


def read_grid(path: Path) -> list[dict[str, Any]]:
    """The settings to choose from.

    Raises:
        ValueError: The file is no list of settings.
    """
    points = json.loads(path.read_text())
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"{path} must hold a JSON list of settings, at least one")
    return points


def own_settings(cfg: Trainings, train_items: int | None, kept: Kept = NOTHING) -> list[Trainings]:
    """The settings of each training seed.

    Args:
        cfg: What they have in common.
        train_items: Number of items of train that anything may learn from. Each seed then has its own items, and
            features screened on no others. None is all of them, for every seed.
        kept: What was screened before, and where it is put.
    """
    if train_items is None:
        return [cfg.choosing_among(kept.get("screened", partial(screened, cfg)))] * cfg.seeds
    few = ({"limit": train_items, "limit_seed": seed} for seed in range(cfg.seeds))
    limited = [replace(cfg, env_kwargs=cfg.env_kwargs | limit) for limit in few]
    found = [kept.get(f"screened-{seed}", partial(screened, each)) for seed, each in enumerate(limited)]
    return [each.choosing_among(features) for each, features in zip(limited, found, strict=True)]


def tune(cfg: Trainings, points: Sequence[dict[str, Any]], timesteps: int, kept: Kept = NOTHING) -> list[TuningPoint]:
    """One training for each point of the grid, scored on validation; a grid of one point needs none.

    Args:
        cfg: The trainings.
        points: Arguments of the environment to choose from.
        timesteps: Tokens of each of these trainings.
        kept: What was scored before, and where it is put.
    """
    if len(points) == 1:
        return [TuningPoint(points[0], None)]
    short = replace(cfg, total_timesteps=timesteps)
    folder = cfg.folder / "tuning"
    trainings = [short.training(str(number), cfg.seed, folder, point) for number, point in enumerate(points)]
    runs = train_all(trainings, cfg.jobs, cfg.on)
    scores = [kept.get(f"tuning-{number}", partial(_validation_score, run, cfg)) for number, run in enumerate(runs)]
    return [TuningPoint(point, score) for point, score in zip(points, scores, strict=True)]


def train_seeds(learners: Sequence[Trainings], settings: Mapping[str, Any]) -> list[Path]:
    """Train an agent with each seed, given its settings; returns the run folders."""
    return train_all(
        [own.training(f"seed-{seed}", seed, own.folder, settings) for seed, own in enumerate(learners)],
        learners[0].jobs,
        learners[0].on,
    )


def bench_of(cfg: Trainings, runs: Sequence[Path], **more: Any) -> Bench:
    """Where the agents of ``runs`` play beside the other arms; ``more`` are fields of :class:`Bench`."""
    every = {} if cfg.screen is None else {"features": None}
    return Bench(**{"runs": runs, "num_envs": cfg.num_envs, "seed": cfg.seed, "every": every, **more})


def _validation_score(path: Path, cfg: Trainings) -> float:
    run = load_run(path)
    return evaluate(run.envs("validation", cfg.num_envs), run.policy, seed=cfg.seed).score


def markdown(result: Evidence) -> str:
    """The table of arms, and what stands beside it."""
    trained, screen = result.arms["trained"], result.settings["screen"]
    chosen = "chosen on validation" if len(result.tuning) > 1 else "given"
    screened = screen and f"The agent chooses among {screen} features, screened on train."
    return "\n".join(
        [
            f"# {result.env}",
            "",
            f"{trained.n} test items; {len(trained.scores)} training seeds on {result.train_items} items; "
            f"{chosen}: `{result.chosen or 'the defaults'}`. {screened or ''}".rstrip(),
            "",
            markdown_table(COLUMNS, [_cells(name, row) for name, row in result.arms.items()]),
            "",
            *_beside(result),
            "",
            markdown_table(
                ("trained against", "difference", "p"),
                [
                    (name.removeprefix("trained_vs_"), f"{test.difference:+.3f}", f"{test.p_holm:.1e}")
                    for name, test in result.tests.items()
                ],
            ),
            "",
            "p: exact McNemar, the largest over seeds, Holm's correction over arms. 95 %: Wilson over items, and",
            "where there are seeds Student's t over these if that is wider.",
            "",
        ]
    )


def _beside(result: Evidence) -> list[str]:
    """What is said of the trained arm, the oracle and the probe, a line each."""
    trained, oracle, read = result.arms["trained"], result.item_oracle, result.read_off
    lines = [
        f"Trained on its own items of train: {trained.train_score:.3f} (n = {trained.train_n:.0f}); "
        f"{trained.seen_in_train:.0%} of the test episodes went as one of those."
    ]
    if trained.puppeteered is not None:
        lines.append(f"Corrected by features that write the answer themselves: {trained.puppeteered:.0%}.")
    if oracle:
        lines.append(f"Item oracle (one feature an item, {oracle.items} items): {oracle.score:.3f}.")
    if read:
        lines.append(
            f"A linear probe of the agent's first observation names the {read.topic}: {read.accuracy:.3f} "
            f"(the commonest: {read.chance:.3f})."
        )
    return lines


def _cells(name: str, row: ArmResult) -> list[str]:
    low, high = row.ci95
    return [
        name,
        f"{row.score:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{row.corrected:.0f}",
        f"{row.broken:.0f}",
        "" if row.p_holm is None else f"{row.p_holm:.1e}",
        "" if row.coherence is None else f"{row.coherence:.3f}",
        f"{row.distinct_features:.0f}",
        f"{row.tokens:,}",
        f"{row.wall_s:.0f}",
    ]


def draw(result: Evidence, path: Path) -> None:
    """Scores with their intervals, an arm a line; ticks are seeds."""
    rows = {name: Score(row.score, row.ci95, row.scores) for name, row in result.arms.items()}
    blue = {name for name in rows if name.startswith("trained")}
    oracle = result.item_oracle.score if result.item_oracle else None

    def plot(axes: Any, theme: Any) -> None:
        intervals(axes, theme, rows, blue, oracle)
        axes.set_xlabel(f"score on {result.arms['trained'].n} test items")

    save_png(path, result.env, [plot], (7.5, 0.42 * len(rows) + 1.3))
