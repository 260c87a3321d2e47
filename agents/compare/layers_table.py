"""A comparison of layers as people read it: a Markdown table, and plots of scores and of the kinds of features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from agents.compare.results import Layer, Layers
from agents.report.markdown import markdown_table
from agents.report.plots import Score, Theme, bands, save_png

COLUMNS = (
    *("layer", "strength", "unsteered", "best fixed", "trained", "gain", "on train", "read off", "item oracle"),
    *("features", "effective", "content", "position", "topic"),
)
KIND_COLORS = {
    "content": "#3b82c4",
    "function": "#5a9e4b",
    "digits": "#d9a441",
    "format": "#b5541a",
    "punctuation": "#a7aeb6",
    "mixed": "#8d6fb0",
    "silent": "#5d636b",
}


def markdown(result: Layers) -> str:
    """The table of layers."""
    given, texts, first = result.settings, result.texts, result.layers[0]
    topic = topic_of(first)
    base = ", ".join(f"{kind} {share:.0%}" for kind, share in texts["token_shares"].items())
    return "\n".join(
        [
            f"# {result.env} by layer",
            "",
            f"{given['seeds']} seeds a layer, {given['total_timesteps']:,} tokens each; strength chosen on validation "
            f"by the best fixed feature; {first.arms['unsteered'].n} test items.",
            "",
            markdown_table(COLUMNS, map(cells, result.layers)),
            "",
            f"Intervals: over seeds (t), or over items where that is wider. {_read_off(first)}Features: "
            "distinct ones that a seed uses; effective: the exponential of their entropy. Content: share of the used "
            "features whose strongest tokens are mostly content words, in brackets of the dictionary's. Position, "
            "topic: mean bits that their activity tells of these, likewise. "
            f"{f'The topic is the {topic}.' if topic else 'The items have no topic.'}",
            "",
            f"Kinds and bits are computed on the prompts and unsteered completions of {texts['items']} train items; "
            f"their tokens: {base}.",
            "",
        ]
    )


def cells(row: Layer) -> list[str]:
    """What stands under ``COLUMNS``."""
    arms, features, low, high = row.arms, row.features, *row.gain.ci95
    topic = topic_of(row)
    return [
        str(row.layer),
        f"{row.chosen.coefficient:g}",
        *(f"{arms[name].score:.3f}" for name in ("unsteered", "best_fixed", "trained")),
        f"{row.gain.mean:+.3f} ({low:+.3f} to {high:+.3f})",
        f"{arms['trained'].train_score:.3f}",
        "" if row.read_off is None else f"{row.read_off.accuracy:.3f}",
        "" if row.item_oracle is None else f"{row.item_oracle.score:.3f}",
        f"{features.diversity['distinct']:.1f}",
        f"{features.diversity['effective']:.1f}",
        _beside(features.kinds, "content", "{:.0%}"),
        _beside(features.information, "position", "{:.3f}"),
        "" if topic is None else _beside(features.information, topic, "{:.3f}"),
    ]


def topic_of(row: Layer) -> str | None:
    """What a layer's features are held against beside position; None where the task tells no topic."""
    return next((name for name in row.features.information["dictionary"] or {} if name != "position"), None)


def _read_off(row: Layer) -> str:
    if row.read_off is None:
        return ""
    return (
        f"Read off: how often a linear probe of an episode's first observation names the {row.read_off.topic} of a "
        f"test item (the commonest one: {row.read_off.chance:.3f}). "
    )


def _beside(found: Mapping[str, Mapping[str, float] | None], name: str, form: str) -> str:
    used, every = found["used"], found["dictionary"]
    return f"{'' if used is None else form.format(used[name])} ({'' if every is None else form.format(every[name])})"


def layer_scores(axes: Axes, theme: Theme, result: Layers) -> None:
    """Scores by layer with their bands: unsteered, best fixed, trained; dots are seeds."""
    rows = sorted(result.layers, key=lambda row: row.layer)
    at = [row.layer for row in rows]
    looks = {"unsteered": (theme.ink, ":"), "best_fixed": (theme.grey, "--"), "trained": (theme.blue, "-")}
    lines = {
        name: (*look, [_score(row, name, with_seeds=name == "trained") for row in rows]) for name, look in looks.items()
    }
    told = [row.read_off.accuracy for row in rows if row.read_off]
    best = [row.item_oracle.score for row in rows if row.item_oracle]
    for label, marker, size, known in (("read off by a probe", "x", 7, told), ("item oracle", "_", 14, best)):
        if len(known) == len(rows):
            axes.plot(at, known, marker, color=theme.ink, markersize=size, label=label, clip_on=False)
    bands(axes, theme, at, lines)
    axes.set_xticks(at)
    axes.set(xlabel="layer", ylabel="score on test")


def _score(row: Layer, arm: str, with_seeds: bool) -> Score:
    own = row.arms[arm]
    return Score(own.score, own.ci95, own.scores if with_seeds else ())


def layer_kinds(axes: Axes, theme: Theme, result: Layers) -> None:
    """The kinds of the features that agents use, and beside them thin and pale those of the dictionary."""
    rows = sorted(result.layers, key=lambda row: row.layer)
    for among, offset, width, alpha in (("used", -0.12, 0.5, 1.0), ("dictionary", 0.29, 0.2, 0.45)):
        known = [row.features.kinds[among] or {} for row in rows]
        below = np.zeros(len(rows))
        for kind, color in KIND_COLORS.items():
            shares = np.array([each.get(kind, 0.0) for each in known])
            label = kind if among == "used" else None
            place = np.arange(len(rows)) + offset
            axes.bar(place, shares, width, below, color=color, alpha=alpha, label=label, linewidth=0)
            below += shares
    axes.set_xticks(range(len(rows)), [str(row.layer) for row in rows])
    axes.set(xlabel="layer (thin: the whole dictionary)", ylabel="share of used features", ylim=(0, 1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, handlelength=1, columnspacing=1)


def draw(result: Layers, path: Path) -> None:
    """Both plots side by side."""

    def scores(axes: Any, theme: Theme) -> None:
        layer_scores(axes, theme, result)

    def kinds(axes: Any, theme: Theme) -> None:
        layer_kinds(axes, theme, result)

    save_png(path, result.env, [scores, kinds], (10.5, 4))
