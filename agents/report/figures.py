"""The plots of a run's report, each drawn once for a light page, a dark page and a paper."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.analysis.results import Critic
from agents.compare.results import Evaluation, Sweep
from agents.report.plots import LIGHT, Draw, Score, Theme, intervals, settings

GROUPS = {"correct": "grey", "corrected": "green", "misguided": "red", "incorrect": "ink"}
LINES = {"correct": ":", "corrected": "-", "misguided": "--", "incorrect": "-."}


def draw_svg(draw: Draw, theme: Theme) -> str:
    """A plot as SVG without a background, the same bytes each time."""
    buffer = io.StringIO()
    # Text stays text: the file is small, and sharp at every size.
    with mpl.rc_context({**settings(theme), "svg.fonttype": "none", "svg.hashsalt": "report"}):
        _figure(draw, theme).savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def draw_png(draw: Draw, path: Path) -> None:
    """A plot for a paper."""
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context(settings(LIGHT)):
        _figure(draw, LIGHT).savefig(path, dpi=200)


def learning_curve(axes: Axes, theme: Theme, rows: Sequence[Mapping[str, Any]], result: Evaluation | None) -> None:
    """Rolling training score over time steps, with the reported scores of three arms as lines."""
    scored = [row for row in rows if row["score"] is not None]
    steps, values = [row["num_timesteps"] for row in scored], [row["score"] for row in scored]
    axes.plot(steps, values, color=theme.blue, label="training, sampled")
    axes.set(xlabel="tokens of training", ylabel="score", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter(lambda tokens, place: f"{tokens / 1000:g}k" if tokens else "0")
    arms = {} if result is None else result.arms
    for arm, style in (("trained", "-"), ("best_fixed", "--"), ("unsteered", ":")):
        if arm in arms:
            label = f"{_words(arm)}, evaluated"
            axes.axhline(arms[arm].score, color=theme.ink, linestyle=style, linewidth=1, label=label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)


def scores(axes: Axes, theme: Theme, result: Evaluation) -> None:
    """Score of each arm with its 95 % interval."""
    rows = {name: Score(arm.score, arm.ci95) for name, arm in result.arms.items()}
    intervals(axes, theme, rows, blue=["trained"])
    axes.set_xlabel(f"score on {result.split}, 95 % interval")


def critic_values(axes: Axes, theme: Theme, critic: Critic) -> None:
    """Mean value along episodes by outcome, with the band from the 10th to the 90th percentile."""
    for name, group in critic.groups.items():
        values, color = group.by_position, getattr(theme, GROUPS[name])
        if not values:
            continue
        at = [row.at for row in values]
        axes.fill_between(at, [r.p10 for r in values], [r.p90 for r in values], color=color, alpha=0.13, lw=0)
        marker = "o" if len(values) == 1 else ""  # a line through one point is not seen
        label = f"{name} ({group.n})"
        axes.plot(at, [row.mean for row in values], LINES[name], marker=marker, color=color, label=label)
    axes.set(xlabel="part of the episode", ylabel="value", xlim=(-0.02, 1.02))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)


def calibration(axes: Axes, theme: Theme, critic: Critic) -> None:
    """Mean target against mean value, in ten bins of as many tokens each; the diagonal is a perfect critic."""
    bins = critic.calibration["all_tokens"].table
    values, targets = [row.value for row in bins], [row.target for row in bins]
    low, high = min([*values, *targets], default=0), max([*values, *targets], default=1)
    axes.plot([low, high], [low, high], ":", color=theme.grey, linewidth=1)
    axes.plot(values, targets, "o-", color=theme.blue, markersize=5)
    axes.set(xlabel="mean value of the bin", ylabel=f"mean {critic.target}")


def variants(axes: Axes, theme: Theme, sweep: Sweep) -> None:
    """Score of each variant with its interval, and of each of its seeds."""
    rows = {name: Score(row.score, row.ci95, row.scores) for name, row in sweep.variants.items()}
    intervals(axes, theme, rows, blue=rows)
    axes.set_xlabel(f"score on {sweep.settings['split']}; ticks are seeds")


def _figure(draw: Draw, theme: Theme) -> Figure:
    figure = Figure(figsize=(5.4, 3), layout="constrained")
    draw(figure.add_subplot(), theme)
    return figure


def _words(name: str) -> str:
    return name.replace("_", " ")
