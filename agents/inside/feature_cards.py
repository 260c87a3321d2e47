"""Cards of an agent's features: the states in which each fires most, drawn as pictures, and what happens without it.

Tops alone flatter a feature, so each card also has states from the middle and the low end of where it fires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.inside.sae_report import earned
from agents.inside.sae_scores import States
from agents.inside.state_drawings import DRAWINGS, draw_numbers

TOP = 5
LOWER = (0.75, 0.5, 0.1)
_TRUE, _FALSE = "#1b7f4b", "#b3382c"


@dataclass(frozen=True)
class Card:
    """One feature and n states.

    Attributes:
        predicate: what it tells best.
        lines: what is known of it, in words.
        ranks: ``[n]`` how each state was chosen, in words.
        observations: ``[n, ...]``.
        activations: ``[n]``.
        holds: ``[n]`` whether the predicate is true there.
    """

    predicate: str
    lines: tuple[str, ...]
    ranks: tuple[str, ...]
    observations: npt.NDArray[Any]
    activations: npt.NDArray[np.float64]
    holds: npt.NDArray[np.bool_]


@torch.no_grad()
def feature_cards(result: Mapping[str, Any], sae: Any, states: States, count: int) -> list[Card]:
    """Cards of the best features of the predicates that are told best, on held-out states.

    Args:
        result: of ``experiments.inside.rl_sae``, the chosen SAE looked at closely.
        sae: that SAE.
        states: as recorded.
        count: of cards, at most; each feature gets one.
    """
    scored = result["saes"][result["chosen"]]["predicates"]
    active = sae.encode(states.acts(states.test)).double().numpy()
    truths = states.truths(states.test)
    observations = next(iter(states.recording.observations.values()))[states.test]
    found: dict[int, Card] = {}
    for name in sorted(scored, key=lambda name: -scored[name]["auroc"]):
        match = scored[name]
        rows, ranks = chosen_states(active[:, match["feature"]])
        if match["feature"] in found or len(rows) == 0 or len(found) == count:
            continue
        lines = _lines(name, match, result)
        seen = observations[rows], active[rows, match["feature"]], truths[name][rows]
        found[match["feature"]] = Card(name, lines, ranks, *seen)
    return list(found.values())


def chosen_states(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Rows of the highest activations, and of some from lower quantiles of the positive ones, with how they came in.

    Args:
        values: ``[N]`` activations.
    """
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    places = {place: f"top {place + 1}" for place in range(min(TOP, len(order)))}
    for share in LOWER:
        places.setdefault(round((1 - share) * max(len(order) - 1, 0)), f"percentile {100 * share:.0f}")
    places = places if len(order) else {}
    return order[list(places)], tuple(places.values())


def draw_cards(cards: list[Card], env: str, path: Path) -> None:
    """One row a card: what is known of the feature, and its states.

    Raises:
        ValueError: there are no cards.
    """
    if not cards:
        raise ValueError("no feature fires in the held-out states: there is nothing to draw")
    draw = DRAWINGS.get(env, draw_numbers)
    across = max(len(card.ranks) for card in cards)
    with mpl.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(2.9 + 1.15 * across, 1.5 * len(cards) + 0.4), layout="constrained")
        grid = figure.subplots(len(cards), 1 + across, squeeze=False, width_ratios=[2.6, *[1.0] * across])
        for row, card in zip(grid, cards, strict=True):
            _draw_words(row[0], card)
            for place, axes in enumerate(row[1:]):
                if place < len(card.ranks):
                    _draw_state(axes, card, place, draw)
                else:
                    axes.set_axis_off()
        figure.suptitle("Held-out states by activation. Green: the predicate holds. Red: it does not.", fontsize=9)
        figure.savefig(path, dpi=150)


def _lines(name: str, match: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    row, whole = result["close"][name], result["saes"][result["chosen"]]["play"]
    return (
        f"feature {match['feature']}" + ("" if match["sign"] > 0 else ": fires where it is NOT so"),
        f"AUROC {match['auroc']:.3f}, F1 {match['f1']:.2f}, fires in {row['fires']:.1%}",
        f"linear probes: outputs {row['outputs']:.3f}, observation {row['observation']:.3f}",
        f"the SAE in place: {earned(whole)}",
        f"without this feature: {earned(row['played'])}",
        f"where it fires, {row['choices_changed']:.0%} of choices change",
    )


def _draw_words(axes: Axes, card: Card) -> None:
    axes.set_axis_off()
    axes.text(0, 0.98, card.predicate.replace("_", " "), fontsize=10, weight="bold", va="top")
    axes.text(0, 0.80, "\n".join(card.lines), fontsize=6.6, va="top", linespacing=1.45)


def _draw_state(axes: Axes, card: Card, place: int, draw: Callable[[Axes, npt.NDArray[Any]], None]) -> None:
    draw(axes, card.observations[place])
    axes.set(xticks=[], yticks=[])
    color = _TRUE if card.holds[place] else _FALSE
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2.2)
    axes.set_title(card.ranks[place], fontsize=7, pad=3)
    axes.set_xlabel(f"{card.activations[place]:.2f}", fontsize=7, labelpad=2)
