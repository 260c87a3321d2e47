"""Score against live features, for people: a page and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from math import factorial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from agents.inside.live_fits import centred
from agents.report.markdown import markdown_table

_LEVEL = 0.05


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result of ``experiments.inside.live_features`` as Markdown."""
    cfg, agents = result["config"], result["agents"]
    lengths = sorted({row["steps"] for row in agents})
    trainings = len({row["training"] for row in agents})
    parts = [
        f"# Live features of agents of {result['env']}",
        f"{len(agents)} agents of {trainings} trainings, {len(lengths)} lengths of training ({lengths[0]:,} to "
        f"{lengths[-1]:,} steps). On each a TopK SAE of {cfg['width']} features, k {cfg['k']}, {cfg['samples']:,} "
        f"samples; features that fire at least once on {result['states']} held-out states. Score: {cfg['score']}. "
        f"p: share of {cfg['shuffles']:,} shuffles of the scores that are explained as well. *Within*: each length has "
        "a mean of its own, and scores are shuffled inside lengths: "
        + (
            f"whole trainings, so that p cannot be below {1 / factorial(trainings):.2g}."
            if len(agents) == trainings * len(lengths)
            else "agent by agent, since not every training has every length."
        )
        + " Holm's correction is over both fits and both ways of counting.",
    ]
    for name, relation in result["relations"].items():
        parts += [f"## Counted on {result['counts'][name]}", _fits(relation), _verdict(relation), _lengths(relation)]
    head = ["agent", "steps", "score", "live", "on the same states", "explained", "L0"]
    parts += ["## Agents", markdown_table(head, [_agent(row) for row in agents])]
    return "\n\n".join(parts) + "\n"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Score against live features, all there is and within lengths; the colour is the length of training."""
    agents, relation = result["agents"], result["relations"]["live"]
    steps, live, score = (np.array([row[name] for row in agents], dtype=float) for name in ("steps", "live", "score"))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 3.8), layout="constrained")
        whole, within = figure.subplots(1, 2)
        shades = np.maximum(steps, 1)  # an untrained agent has no logarithm
        norm = LogNorm(shades.min(), max(shades.max(), shades.min() * 1.01))
        scale: dict[str, Any] = {"c": shades, "cmap": "viridis", "norm": norm}
        grid = np.linspace(live.min(), live.max(), 200)
        for name, style in (("linear", "--"), ("quadratic", "-")):
            found = relation["fits"][name]
            label = f"{name}: R² {found['r2']:.2f}"
            whole.plot(grid, np.polyval(found["coefficients"], grid), style, color="0.4", lw=1.2, label=label)
        points = whole.scatter(live, score, zorder=3, **scale)
        whole.set(xlabel="live features", ylabel=result["config"]["score"])
        within.scatter(centred(live, steps.tolist()), centred(score, steps.tolist()), **scale)
        linear = relation["fits"]["linear"]
        within.set_title(f"r {relation['r_within']:.2f}, p {linear['p_within']:.2g}", fontsize=9)
        within.set(xlabel="live features, less the mean at that length", ylabel="score, less the mean at that length")
        whole.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=8)
        for axes in (whole, within):
            axes.grid(alpha=0.25)
        figure.colorbar(points, ax=[whole, within], label="steps of training")
        figure.savefig(path, dpi=160)


def _fits(relation: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{found[column]:.3f}" for column in ("r2", "r2_within", "p_within", "p_holm"))]
        for name, found in relation["fits"].items()
    ]
    return markdown_table(["fit", "R2", "R2 within", "p within", "after Holm"], rows)


def _verdict(relation: Mapping[str, Any]) -> str:
    best, fits = relation["best_count"], relation["fits"]
    top = "has no highest point among these counts" if best is None else f"is highest at {best:.0f} live features"
    said = (
        "Score and count go together among agents of one length"
        if any(found["p_holm"] < _LEVEL for found in fits.values())
        else "That score and count go together among agents of one length is not shown"
    )
    return f"{said} (r {relation['r']:.2f}, within lengths {relation['r_within']:.2f}). The quadratic fit {top}."


def _lengths(relation: Mapping[str, Any]) -> str:
    rows = [[f"{int(length):,}", str(row["n"]), _number(row["r"])] for length, row in relation["by_length"].items()]
    return "Agents of one length:\n\n" + markdown_table(["steps", "agents", "r"], rows)


def _agent(row: Mapping[str, Any]) -> list[str]:
    numbers = [f"{row['steps']:,}", f"{row['score']:.3g}", str(row["live"]), str(row["live_on_same"])]
    return [row["agent"], *numbers, f"{row['explained_variance']:.3f}", f"{row['l0']:.1f}"]


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.2f}"
