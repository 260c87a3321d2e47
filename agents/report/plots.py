"""The two plots of scores with their intervals, one below another or along an axis, and how any plot looks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours of a plot.

    Attributes:
        ink: Text and lines of reference.
        grey: What is beside the point.
        blue: The trained agent.
        green: What it corrected.
        red: What it broke.
    """

    ink: str
    grey: str
    blue: str
    green: str
    red: str


LIGHT = Theme("#23282e", "#8a929b", "#1a6fb5", "#1b7f4b", "#b3382c")
DARK = Theme("#dfe3e8", "#87909b", "#6cb3f0", "#5cc48d", "#f0857a")
Draw = Callable[[Axes, Theme], None]


class Score(NamedTuple):
    """One point of a plot.

    Attributes:
        score: Mean score.
        ci95: Its 95 % interval.
        seeds: Score of each training seed, where there are several.
        on_train: Score of the same agents on train.
    """

    score: float
    ci95: tuple[float, float]
    seeds: Sequence[float] = ()
    on_train: float | None = None


def intervals(
    axes: Axes, theme: Theme, rows: Mapping[str, Score], blue: Collection[str] = (), oracle: float | None = None
) -> None:
    """Scores with their intervals, a row a line, the first on top; ticks are seeds, rings the score on train.

    Args:
        axes: Where to draw; the caller names the x axis.
        theme: Colours.
        rows: What is drawn, by name.
        blue: Names of the rows that matter; the others are grey.
        oracle: Score of the item oracle, a dotted line.
    """
    for place, (name, row) in enumerate(reversed(list(rows.items()))):
        color = theme.blue if name in blue else theme.grey
        axes.plot(row.ci95, [place, place], color=color, linewidth=2.5, solid_capstyle="round", clip_on=False)
        axes.plot(row.score, place, "o", color=color, markersize=7, clip_on=False)
        if len(row.seeds) > 1:
            axes.plot(row.seeds, [place] * len(row.seeds), "|", color=theme.ink, markersize=8, clip_on=False)
        if row.on_train is not None:
            axes.plot(row.on_train, place, "o", color=color, fillstyle="none", markersize=7, clip_on=False)
        axes.annotate(f"{row.score:.2f}", (1.04, place), va="center", color=theme.ink, annotation_clip=False)
    if oracle is not None:
        axes.axvline(oracle, color=theme.ink, linewidth=1, linestyle=":", label="item oracle")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in reversed(list(rows))])
    axes.set_xlim(0, 1)


def bands(axes: Axes, theme: Theme, at: Sequence[float], lines: Mapping[str, tuple[str, str, Sequence[Score]]]) -> None:
    """Scores along an axis with their intervals as bands; dots are seeds.

    Args:
        axes: Where to draw; the caller names the x axis.
        theme: Colours.
        at: Places on the x axis.
        lines: By name a colour, a line style and a score for each place.
    """
    for name, (color, style, points) in lines.items():
        low, high = zip(*(point.ci95 for point in points), strict=True)
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(at, [point.score for point in points], style, color=color, label=name.replace("_", " "))
        seeds = [(place, score) for place, point in zip(at, points, strict=True) for score in point.seeds]
        if seeds:  # an empty line that is not clipped leaves the layout no room
            axes.plot(*zip(*seeds, strict=True), "o", color=color, markersize=4, clip_on=False)
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, labelcolor=theme.ink)


def save_png(path: Path, title: str, draws: Sequence[Draw], size: tuple[float, float]) -> None:
    """Plots side by side on a light page, under one title, as PNG.

    Args:
        path: File to write.
        title: What stands above.
        draws: What draws each plot.
        size: Width and height of the whole in inches.
    """
    with mpl.rc_context(settings(LIGHT)):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")
        for axes, draw in zip(figure.subplots(1, len(draws), squeeze=False)[0], draws, strict=True):
            draw(axes, LIGHT)
        figure.savefig(path, dpi=150)


def settings(theme: Theme) -> Any:  # Matplotlib types its settings as a dict of literal names
    """Matplotlib's settings for a plot of this theme."""
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    return {
        **dict.fromkeys(inked, theme.ink),
        **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "legend.fontsize": 9},
        # Names of runs and variants are anyone's: a dollar sign is no formula.
        **{"text.parse_math": False, "lines.linewidth": 1.8},
    }
