"""The study of an agent's SAEs for people: its file, tables, and pictures of the states in which features fire most.

Tops alone flatter a feature, so each card also has states from the middle and the low end of where it fires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from agents.inside.sae_study import States
from agents.inside.worlds.arcade import GRID
from agents.inside.worlds.king_rook_king import positions_of
from agents.inside.worlds.king_rook_rules import SIZE, to_squares
from agents.report.markdown import markdown_table
from agents.runs.results import ResultFile

TOP = 5
LOWER = (0.75, 0.5, 0.1)
"""Quantiles of the positive activations from which a card has a state each, below its ``TOP``."""
SUMMARY_COLUMNS = (
    *("agent", "return", "SAE", "explained", "L0", "kept", "features", "neurons", "components", "untrained SAE"),
    *("detected", "beyond the outputs", "and beyond an untrained network"),
)
Observation = npt.NDArray[Any]
Row = dict[str, Any]
_SCORES = ["live", "features", "after shuffling", "detected", "mean AUROC", "mean F1"]
_TESTED = ["predicate", "feature", "F1", "outputs", "layer", "observation", "untrained", "gain", "bound", "p"]
_FORMATS = {"l0": ".1f", "dead_share": ".0%", "return": ".1f", "mated": ".1%", "live": ".0f"}
_FORMATS |= dict.fromkeys(("features", "shuffled_features", "detected"), "g")
_TRUE, _FALSE = "#1b7f4b", "#b3382c"
# Okabe and Ito's palette, which colour-blind readers can tell apart; white where a cell is empty.
_CHANNELS = ListedColormap(
    [
        "white",
        "#0072b2",
        "#d55e00",
        "#f0c9a0",
        "#8c8c8c",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
        "#f0e442",
        "black",
    ]
)


@dataclass(frozen=True)
class RLSAEResult(ResultFile):
    """``rl_sae.json``.

    Attributes:
        agent: Where the agent is from, its ``env``, ``hidden`` layers and ``seed``.
        module: The module that is decomposed.
        rows: How many states there are (:meth:`agents.inside.sae_study.Study.sizes`).
        plain: What the agent earns as it is.
        saes: By name the measures of each SAE (:func:`agents.inside.sae_study.over_seeds`).
        substitutions: What cruder stand-ins for the activations earn.
        chosen: Name of the SAE that is looked at closely.
        columns: What other columns of numbers stand for (:func:`agents.inside.sae_study.score_columns`).
        close: By predicate what :func:`agents.inside.sae_study.look_closely` found.
        config: Settings of the study.
        wall_s: Seconds that it took.
    """

    MADE_BY: ClassVar[str] = "steer rl-sae"

    agent: Row
    module: str
    rows: Row
    plain: dict[str, float]
    saes: dict[str, Row]
    substitutions: dict[str, dict[str, float]]
    chosen: str
    columns: dict[str, Row]
    close: dict[str, Row]
    config: Row
    wall_s: float


def as_markdown(result: RLSAEResult) -> str:
    """The result of ``steer rl-sae`` as Markdown."""
    agent, rows = result.agent, result.rows
    parts = [
        f"# SAEs on `{result.module}` of {agent['from']}",
        f"{agent['env']}, hidden layers {agent['hidden']}, seed {agent['seed']}. The agent as it is: "
        f"{earned(result.plain)}. {rows['visited']} states to learn from, {rows['test']} distinct ones to test on; "
        f"all rows of one {rows['kept_together']} are on the same side.",
        "## SAEs\nMeasured on held-out states. *Kept*: share of the return with the reconstruction in the "
        "activation's place. *Features*: columns with an AUROC of 0.9 or more for some predicate on both halves. "
        "*Detected*: predicates whose best column, chosen on one half, reaches 0.9 on the other." + _over_seeds(result),
        markdown_table(
            ["SAE", "explained", "L0", "dead", *_earnings(result.plain), "kept", *_SCORES],
            [_sae(name, row, result) for name, row in result.saes.items()],
        ),
        "What cruder stand-ins earn:",
        markdown_table(
            ["in place of the activation", "earns"], [[n, earned(r)] for n, r in result.substitutions.items()]
        ),
        "## Other columns, by the same rule",
        markdown_table(["columns", *_SCORES], [[name, *_scores(row)] for name, row in result.columns.items()]),
        f"## {result.chosen}, SAE seed {result.config['sae_seeds'][0]}, predicate by predicate",
        "AUROC on held-out states: the best feature; linear probes on the outputs (values, sorted values, choice), on "
        "the whole layer and on the observation; the best column, neuron or feature, of an untrained network. *Gain*: "
        "feature less outputs, one-sided 95 % bound, p after Holm. "
        "*Without it*: what is earned with that feature held at zero, and, where it is active (*fires*: in how many "
        "states), the mean change of an output in standard deviations and how often another choice becomes the best.",
        markdown_table(
            [*_TESTED, "without it", "fires", "outputs move", "choice changes"],
            [_close(name, row, result) for name, row in result.close.items()],
        ),
        _verdict(result),
    ]
    return "\n\n".join(parts) + "\n"


def earned(row: Mapping[str, float]) -> str:
    """What an agent earns, in words."""
    if "mated" in row:
        return f"mates {row['mated']:.1%} in {row['moves']:.2f} moves, return {row['return']:.1f}"
    return f"return {row['return']:.2f}"


def hidden_predicates(result: RLSAEResult) -> list[str]:
    """The predicates that a feature detects better than a linear probe on the outputs does."""
    return [name for name, row in result.close.items() if row["gain_low"] > 0 and row["p_holm"] < 0.05]


def untrained(result: RLSAEResult, predicate: str) -> float:
    """The AUROC of the best column of an untrained network: its neurons, and features of the same kind of SAE."""
    kinds = ("untrained neurons", f"untrained {result.chosen}")
    return max(float(result.columns[kind]["predicates"][predicate]["auroc"]) for kind in kinds)


def learnt_predicates(result: RLSAEResult) -> list[str]:
    """Those of :func:`hidden_predicates` that it also detects better than any column of an untrained network."""
    return [name for name in hidden_predicates(result) if result.close[name]["feature"] > untrained(result, name)]


def summary_cells(result: RLSAEResult) -> list[str]:
    """A row of ``SUMMARY_COLUMNS``: the SAE that was chosen, beside columns of other kinds."""
    chosen, columns = result.saes[result.chosen], result.columns
    mean = {name: cell["mean"] for name, cell in chosen["over_seeds"].items()}
    kept, hidden, learnt = chosen["return_kept"], hidden_predicates(result), learnt_predicates(result)
    others = [max(columns[name]["features"] for name in columns if name.startswith("neurons"))]
    others += [columns[name]["features"] for name in ("principal components", f"untrained {result.chosen}")]
    return [
        f"{result.agent['env']}, {result.agent['seed']}",
        f"{result.plain['return']:.1f}",
        result.chosen,
        f"{mean['explained_variance']:.3f}",
        f"{mean['l0']:.1f}",
        "" if kept is None else f"{kept:.1%}",
        f"{mean['features']:.0f}",
        *(f"{count}" for count in others),
        f"{mean['detected']:.0f} of {len(chosen['predicates'])}",
        str(len(hidden)),
        f"{len(learnt)}{': ' if learnt else ''}{', '.join(name.replace('_', ' ') for name in learnt)}",
    ]


@dataclass(frozen=True)
class Card:
    """One feature and n states.

    Attributes:
        predicate: What it detects best.
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
def feature_cards(result: RLSAEResult, sae: Any, states: States, count: int) -> list[Card]:
    """Cards of the best features of the predicates that are detected best, on held-out states.

    Args:
        result: of ``steer rl-sae``, the chosen SAE looked at closely.
        sae: that SAE.
        states: as recorded.
        count: of cards, at most; each feature gets one.
    """
    scored = result.saes[result.chosen]["predicates"]
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


def draw_board(axes: Axes, observation: Observation) -> None:
    """King and rook against king."""
    shades = np.indices((SIZE, SIZE)).sum(axis=0) % 2
    axes.imshow(shades, cmap="Greys", vmin=-0.3, vmax=4)
    pieces = zip(to_squares(int(positions_of(observation))), "\u2656\u2654\u265a", strict=True)
    for square, glyph in pieces:  # white rook, white king, black king
        row, column = divmod(square, SIZE)
        axes.text(column, row, glyph, ha="center", va="center", fontsize=15, family="DejaVu Sans")


def draw_cart_pole(axes: Axes, observation: Observation) -> None:
    """The cart, and the pole with its angle drawn five times as large; arrows for both speeds."""
    x, speed, angle, turning = (float(value) for value in observation)
    lean = 5 * angle
    top = (x + np.sin(lean), np.cos(lean))
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.plot([x, top[0]], [0, top[1]], color="#d55e00", linewidth=2.5, solid_capstyle="round")
    axes.plot([x - 0.3, x + 0.3], [0, 0], color="0.2", linewidth=5, solid_capstyle="butt")
    for start, length in (((x, -0.35), speed / 2), (top, turning / 3)):
        axes.annotate("", (start[0] + length, start[1]), start, arrowprops={"arrowstyle": "->", "color": "#0072b2"})
    axes.set(xlim=(-2.4, 2.4), ylim=(-0.8, 1.6), aspect="equal")


def draw_minatar(axes: Axes, observation: Observation) -> None:
    """The grid; a cell has the colour of its first channel that is on."""
    cells = observation.reshape(GRID, GRID, -1) > 0
    first = np.where(cells.any(axis=2), cells.argmax(axis=2) + 1, 0)
    axes.imshow(first, cmap=_CHANNELS, vmin=0, vmax=_CHANNELS.N - 1)


def draw_numbers(axes: Axes, observation: Observation) -> None:
    """Any observation, as bars."""
    axes.bar(range(observation.size), observation.ravel(), color="0.3")


DRAWINGS: dict[str, Callable[[Axes, Observation], None]] = {
    "KingRookKing-v0": draw_board,
    "CartPole-v1": draw_cart_pole,
    "MinAtarBreakout-v0": draw_minatar,
}
"""By environment id; others are drawn as numbers."""


def _over_seeds(result: RLSAEResult) -> str:
    seeds = result.config["sae_seeds"]
    return f" Mean ± standard deviation over {len(seeds)} seeds of the SAE." if len(seeds) > 1 else ""


def _earnings(plain: Mapping[str, float]) -> list[str]:
    return [name for name in ("mated", "return") if name in plain]


def _scores(row: Mapping[str, Any]) -> list[str]:
    counts = [str(row[name]) for name in ("live", "features", "shuffled_features")]
    told = f"{row['detected']} of {len(row['predicates'])}"
    return [*counts, told, f"{row['mean_auroc']:.3f}", f"{row['mean_f1']:.3f}"]


def _sae(name: str, row: Mapping[str, Any], result: RLSAEResult) -> list[str]:
    def cell(column: str) -> str:
        found, form = row["over_seeds"][column], _FORMATS.get(column, ".3f")
        if found["n"] == 1:
            return format(found["mean"], form)
        form = ".1f" if form in ("g", ".0f") else form
        return f"{found['mean']:{form}} ± {found['std']:{form}}"

    first = [cell(column) for column in ("explained_variance", "l0", "dead_share", *_earnings(result.plain))]
    scores = [cell(column) for column in ("live", "features", "shuffled_features", "detected", "mean_auroc", "mean_f1")]
    scores[3] += f" of {len(row['predicates'])}"
    kept = row["return_kept"]
    return [name, *first, "" if kept is None else f"{kept:.1%}", *scores]


def _close(name: str, row: Mapping[str, Any], result: RLSAEResult) -> list[str]:
    scored = result.saes[result.chosen]["predicates"][name]
    numbers = [row["feature"], scored["f1"], row["outputs"], row["layer"], row["observation"], untrained(result, name)]
    tested = [f"{row['gain']:+.3f}", f"{row['gain_low']:+.3f}", f"{row['p_holm']:.3f}"]
    does = [f"{row['fires']:.1%}", f"{row['outputs_moved']:.2f}", f"{row['choices_changed']:.0%}"]
    return [name, *(f"{number:.3f}" for number in numbers), *tested, earned(row["played"]), *does]


def _verdict(result: RLSAEResult) -> str:
    hidden = hidden_predicates(result)
    count = len(result.close)
    if not hidden:
        return f"No feature detects any of {count} predicates better than a linear probe on the outputs."
    learnt = learnt_predicates(result)
    return (
        f"{len(hidden)} of {count} predicates are detected better by one feature than by the outputs: "
        f"{', '.join(hidden)}. Of these {len(learnt)} also better than by any column of an untrained network"
        f"{': ' if learnt else ''}{', '.join(learnt)}."
    )


def _lines(name: str, match: Mapping[str, Any], result: RLSAEResult) -> tuple[str, ...]:
    row, whole = result.close[name], result.saes[result.chosen]["play"]
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
