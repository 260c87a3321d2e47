"""A sweep as people read it: a Markdown table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, GREY, BLUE = "#222222", "#9aa0a6", "#1a6fb5"


def markdown(result: dict[str, Any]) -> str:
    """The table of variants from the content of ``sweep.json``."""
    settings, rows = result["settings"], result["variants"]
    first = next(iter(rows.values()))["score"]
    lines = [
        f"# {result['env']}: {settings['name']}",
        "",
        f"{settings['seeds']} seeds, {settings['total_timesteps']:,} tokens each unless said otherwise; scored on "
        f"{settings['split']}.",
        "",
        "| variant | score | 95 % over seeds | against the first | on train | features | left alone | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        low, high = row["ci95"]
        lines.append(
            f"| {name} | {row['score']:.3f} | {low:.3f} to {high:.3f} | {row['score'] - first:+.3f} "
            f"| {row['train_score']:.3f} | {row['distinct_features']:.0f} | {row['idle']:.0%} "
            f"| {row['steps_per_second']:,.0f} |"
        )
    return "\n".join([*lines, ""])


def draw(result: dict[str, Any], path: Path) -> None:
    """Scores with their intervals, a variant a line; ticks are seeds, rings the score on train."""
    rows, settings = result["variants"], result["settings"]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.5, 0.36 * len(rows) + 1.3), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, row) in enumerate(reversed(rows.items())):
            color = BLUE if name == next(iter(rows)) else GREY
            axes.plot(row["ci95"], [place, place], color=color, linewidth=2, solid_capstyle="round", clip_on=False)
            axes.plot(row["scores"], [place] * len(row["scores"]), "|", color=INK, markersize=7, clip_on=False)
            axes.plot(row["score"], place, "o", color=color, markersize=7, clip_on=False)
            axes.plot(row["train_score"], place, "o", color=color, fillstyle="none", markersize=7, clip_on=False)
        axes.set_yticks(range(len(rows)), list(reversed(rows)))
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"score on {settings['split']} (rings: on train)")
        axes.set_title(f"{result['env']}: {settings['name']}", loc="left")
        figure.savefig(path, dpi=150)
