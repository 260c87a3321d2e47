"""A comparison of layers as people read it: a Markdown table, and plots of scores and of the kinds of features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.report.figures import LIGHT, Theme, settings

COLUMNS = (
    *(
        "layer",
        "strength",
        "unsteered",
        "best fixed",
        "trained",
        "gain",
        "on train",
        "read off",
        "item oracle",
        "features",
    ),
    *("effective", "content", "position", "topic"),
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


def markdown(result: Mapping[str, Any]) -> str:
    """The table of layers, from the content of ``layers.json``."""
    given, texts = result["settings"], result["texts"]
    topic = topic_of(result["layers"][0])
    base = ", ".join(f"{kind} {share:.0%}" for kind, share in texts["token_shares"].items())
    lines = [
        f"# {result['env']} by layer",
        "",
        f"{given['seeds']} seeds a layer, {given['total_timesteps']:,} tokens each; strength chosen on validation by "
        f"the best fixed feature; {result['layers'][0]['arms']['unsteered']['n']} test items.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *(f"| {' | '.join(cells(row))} |" for row in result["layers"]),
        "",
        f"Intervals: over seeds (t), or over items where that is wider. {_read_off(result['layers'][0])}Features: "
        "distinct ones that a seed uses; effective: the exponential of their entropy. Content: share of the used "
        "features whose strongest tokens are mostly content words, in brackets of the dictionary's. Position, topic: "
        "mean bits that their activity tells of these, likewise. "
        f"{f'The topic is the {topic}.' if topic else 'The items have no topic.'}",
        "",
        f"Kinds and bits are computed on the prompts and unsteered completions of {texts['items']} train items; their "
        f"tokens: {base}.",
        "",
    ]
    return "\n".join(lines)


def cells(row: Mapping[str, Any]) -> list[str]:
    """What stands under ``COLUMNS``."""
    arms, features, oracle = row["arms"], row["features"], row["item_oracle"]
    topic, read = topic_of(row), row["readable"]
    return [
        str(row["layer"]),
        f"{row['chosen']['coefficient']:g}",
        f"{arms['unsteered']['score']:.3f}",
        f"{arms['best_fixed']['score']:.3f}",
        f"{arms['trained']['score']:.3f}",
        f"{row['gain']['mean']:+.3f} ({row['gain']['ci95'][0]:+.3f} to {row['gain']['ci95'][1]:+.3f})",
        f"{arms['trained']['train_score']:.3f}",
        "" if read is None else f"{read['accuracy']:.3f}",
        "" if oracle is None else f"{oracle['score']:.3f}",
        f"{features['diversity']['distinct']:.1f}",
        f"{features['diversity']['effective']:.1f}",
        _beside(features["kinds"], "content", "{:.0%}"),
        _beside(features["information"], "position", "{:.3f}"),
        "" if topic is None else _beside(features["information"], topic, "{:.3f}"),
    ]


def topic_of(row: Mapping[str, Any]) -> str | None:
    """What a layer's features are held against beside position; None where the task tells no topic."""
    return next((name for name in row["features"]["information"]["dictionary"] or {} if name != "position"), None)


def _read_off(row: Mapping[str, Any]) -> str:
    read = row["readable"]
    if read is None:
        return ""
    return (
        f"Read off: how often a linear probe of an episode's first observation names the {read['topic']} of a test "
        f"item (the commonest one: {read['chance']:.3f}). "
    )


def layer_scores(axes: Axes, theme: Theme, result: Mapping[str, Any]) -> None:
    """Scores by layer with their bands: unsteered, best fixed, trained; dots are seeds."""
    rows = sorted(result["layers"], key=lambda row: row["layer"])
    at = [row["layer"] for row in rows]
    for arm, color, style in (
        ("unsteered", theme.ink, ":"),
        ("best_fixed", theme.grey, "--"),
        ("trained", theme.blue, "-"),
    ):
        own = [row["arms"][arm] for row in rows]
        low, high = zip(*(each["ci95"] for each in own), strict=True)
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(at, [each["score"] for each in own], style, color=color, label=arm.replace("_", " "))
    for row in rows:
        scores = row["arms"]["trained"]["scores"]
        axes.plot([row["layer"]] * len(scores), scores, "o", color=theme.blue, markersize=4, clip_on=False)
    if all(row["readable"] for row in rows):
        told = [row["readable"]["accuracy"] for row in rows]
        axes.plot(at, told, "x", color=theme.ink, markersize=7, label="read off by a probe", clip_on=False)
    if all(row["item_oracle"] for row in rows):
        best = [row["item_oracle"]["score"] for row in rows]
        axes.plot(at, best, "_", color=theme.ink, markersize=14, label="item oracle", clip_on=False)
    axes.set_xticks(at)
    axes.set(xlabel="layer", ylabel="score on test", ylim=(0, 1.02))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)


def layer_kinds(axes: Axes, theme: Theme, result: Mapping[str, Any]) -> None:
    """The kinds of the features that agents use, and beside them thin and pale those of the dictionary."""
    rows = sorted(result["layers"], key=lambda row: row["layer"])
    for among, offset, width, alpha in (("used", -0.12, 0.5, 1.0), ("dictionary", 0.29, 0.2, 0.45)):
        known = [row["features"]["kinds"][among] or {} for row in rows]
        below = np.zeros(len(rows))
        for kind, color in KIND_COLORS.items():
            shares = np.array([each.get(kind, 0.0) for each in known])
            label = kind if among == "used" else None
            place = np.arange(len(rows)) + offset
            axes.bar(place, shares, width, below, color=color, alpha=alpha, label=label, linewidth=0)
            below += shares
    axes.set_xticks(range(len(rows)), [str(row["layer"]) for row in rows])
    axes.set(xlabel="layer (thin: the whole dictionary)", ylabel="share of used features", ylim=(0, 1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, handlelength=1, columnspacing=1)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Both plots side by side."""
    with mpl.rc_context(settings(LIGHT)):
        figure = Figure(figsize=(10.5, 4), layout="constrained")
        figure.suptitle(result["env"], x=0.01, ha="left")
        scores, kinds = figure.subplots(1, 2)
        layer_scores(scores, LIGHT, result)
        layer_kinds(kinds, LIGHT, result)
        figure.savefig(path, dpi=150)


def _beside(found: Mapping[str, Any], name: str, form: str) -> str:
    used, every = found["used"], found["dictionary"]
    return f"{'' if used is None else form.format(used[name])} ({'' if every is None else form.format(every[name])})"
