"""Observations of the small worlds as pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from agents.inside.worlds.king_rook_king import positions_of
from agents.inside.worlds.king_rook_rules import SIZE, to_squares
from agents.inside.worlds.minatar import GRID

Observation = npt.NDArray[Any]
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
