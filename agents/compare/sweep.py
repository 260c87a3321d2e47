"""Variants of one training: read from a file, trained alike, scored on the same items."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from agents.compare.arms import arm_results, trained
from agents.compare.bench import Bench
from agents.compare.results import Sweep, Variant
from agents.report.markdown import markdown_table
from agents.report.plots import Score, intervals, save_png
from agents.runs.config import TrainConfig, Trainings
from agents.runs.folder import RunFolder, read_json

_OWN = {"name", "seed", "resume", "runs_dir", "wandb", "threads", "checkpoint_every"}
FLAGS = {field.name for field in dataclasses.fields(TrainConfig)} - _OWN
COLUMNS = ("variant", "score", "95 % over seeds", "against the first", "on train", "features", "left alone", "tokens/s")
COLORS = ("#1a6fb5", "#b5541a", "#5a9e4b", "#8d6fb0", "#d9a441", "#c44569", "#3b9ea3", "#6f7378")


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Flags of a training by variant.

    Raises:
        ValueError: The file is no such list, a name is missing or comes twice, or a flag does not exist.
    """
    listed: Any = read_json(path)
    if not isinstance(listed, list) or not listed or not all(isinstance(row, dict) for row in listed):
        raise ValueError(f"{path} must hold a JSON list of variants, at least one")
    variants: dict[str, dict[str, Any]] = {}
    for row in listed:
        flags = dict(row)
        name = flags.pop("name", None)
        if not isinstance(name, str) or name in variants:
            raise ValueError(f"{path}: every variant needs a name of its own, got {name!r}")
        unknown = sorted(set(flags) - FLAGS)
        if unknown:
            raise ValueError(f"{path}: variant {name!r} sets {unknown[0]!r}; it can set {', '.join(sorted(FLAGS))}")
        variants[name] = flags
    return variants


def trainings_of(cfg: Trainings, name: str, flags: Mapping[str, Any]) -> list[TrainConfig]:
    """A variant's trainings, one a seed, checked.

    Args:
        cfg: What all variants have in common.
        name: Name of the variant.
        flags: How it differs; of settings that are pairs of key and value, those that it names.
    """
    plain_name = "".join(letter if letter.isalnum() else "-" for letter in name)
    trainings = []
    for seed in range(cfg.seeds):
        plain = cfg.training(f"{plain_name}-{seed}", seed, cfg.folder)
        pairs = {key: getattr(plain, key) | value for key, value in flags.items() if isinstance(value, dict)}
        changed = replace(plain, **{**flags, **pairs})
        trainings.append(replace(changed, checkpoint_every=changed.total_timesteps))
        trainings[-1].check()
    return trainings


def score_variants(
    benches: Mapping[str, Bench], variants: Mapping[str, dict[str, Any]], reach: float | None = None
) -> dict[str, Variant]:
    """What the agents of every variant score, each compared with the first variant on the same items.

    Args:
        benches: Where those of each variant play.
        variants: The flags of each.
        reach: A score in training; None asks for none.
    """
    arms = {name: trained(bench) for name, bench in benches.items()}
    first = next(iter(benches))
    results = arm_results(benches[first], arms, first)
    return {
        name: Variant(**vars(results[name]), flags=variants[name], **learning([*bench.runs], reach))
        for name, bench in benches.items()
    }


def learning(runs: Sequence[Path], reach: float | None) -> dict[str, Any]:
    """How a variant learned, from the rows that its trainings wrote: the last three fields of :class:`Variant`."""
    rows = [list(RunFolder.open(path).rows("metrics")) for path in runs]
    curves = [[(row["num_timesteps"], row["score"]) for row in own if row["score"] is not None] for own in rows]
    reached = [
        next((tokens for tokens, score in curve if score >= reach), None) for curve in curves if reach is not None
    ]
    speeds = [np.median([row["steps_per_second"] for row in own]) for own in rows]
    return {"steps_per_second": float(np.mean(speeds)), "curves": curves, "tokens_to_reach": reached}


def markdown(result: Sweep) -> str:
    """The table of variants."""
    given = result.settings
    reach = [] if given.get("reach") is None else [f"tokens to {given['reach']:g}"]
    return "\n".join(
        [
            f"# {result.env}: {given['name']}",
            "",
            f"{given['seeds']} seeds, {given['total_timesteps']:,} tokens each unless said otherwise; scored on "
            f"{given['split']}.",
            *(
                ["Tokens to a score: until the last 200 episodes of training had it, screening counted."]
                if reach
                else []
            ),
            "",
            markdown_table((*COLUMNS, *reach), [_cells(name, result) for name in result.variants]),
            "",
        ]
    )


def _cells(name: str, result: Sweep) -> list[str]:
    row, first = result.variants[name], next(iter(result.variants.values())).score
    low, high = row.ci95
    return [
        name,
        f"{row.score:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{row.score - first:+.3f}",
        f"{row.train_score:.3f}",
        f"{row.distinct_features:.0f}",
        f"{row.idle:.0%}",
        f"{row.steps_per_second:,.0f}",
        *(
            [", ".join("never" if tokens is None else f"{tokens:,}" for tokens in row.tokens_to_reach)]
            * bool(row.tokens_to_reach)
        ),
    ]


def draw(result: Sweep, path: Path) -> None:
    """Scores with their intervals, a variant a line (ticks: seeds; rings: on train), and how each learned."""
    rows = result.variants.items()
    scores = {name: Score(row.score, row.ci95, row.scores, row.train_score) for name, row in rows}

    def plot(axes: Any, theme: Any) -> None:
        intervals(axes, theme, scores, {next(iter(scores))})
        axes.set_xlabel(f"score on {result.settings['split']} (rings: on train)")

    def learn(axes: Any, theme: Any) -> None:
        for (name, row), color in zip(rows, cycle(COLORS), strict=False):
            for number, curve in enumerate(row.curves):
                tokens, score = np.array(curve or [(0, np.nan)]).T
                axes.plot(tokens, score, color=color, alpha=0.9, linewidth=1.4, label="" if number else name)
        axes.set(xlabel="tokens of training, screening counted", ylabel="score of the last 200 episodes")
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=8)

    save_png(path, f"{result.env}: {result.settings['name']}", [plot, learn], (12, max(3.6, 0.36 * len(rows) + 1.3)))
