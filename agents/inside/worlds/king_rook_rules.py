"""King and rook against king on a 5x5 board as tables over all positions: pure rules, no environment.

A position is one integer, ``(rook * 25 + white king) * 25 + black king``, squares counted in reading order from
the top left, so that a move, a reply or a whole retrograde analysis is a look-up for any number of games at once.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

SIZE = 5
SQUARES = SIZE * SIZE
POSITIONS = SQUARES**3
KING_STEPS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # N, NE, E, ... in (row, column)
ROOK_STEPS = KING_STEPS[::2]
KING_MOVES = len(KING_STEPS)
ACTIONS = KING_MOVES + len(ROOK_STEPS) * (SIZE - 1)

Array = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Outcome(IntEnum):
    """What a white move leads to, black's reply included."""

    ONGOING = 0
    MATE = 1
    STALEMATE = 2
    ROOK_LOST = 3
    ILLEGAL = 4


REWARD = np.array([-1.0, 100.0, -100.0, -100.0, -100.0])
"""By outcome: a move, mate, and the three ways to spoil it."""


def to_position(rook: int, white_king: int, black_king: int) -> int:
    """The position with the pieces on these squares.

    Raises:
        ValueError: a square is not in [0, 25).
    """
    for square in (rook, white_king, black_king):
        if not 0 <= square < SQUARES:
            raise ValueError(f"a square must be in [0, {SQUARES}), got {square}")
    return (rook * SQUARES + white_king) * SQUARES + black_king


def to_squares(position: int) -> tuple[int, int, int]:
    """Squares of rook, white king and black king; black stands on the rook's square where it took it."""
    pair, black_king = divmod(position, SQUARES)
    return (*divmod(pair, SQUARES), black_king)


def describe_action(action: int) -> str:
    """``"K"`` or ``"R"`` with the direction and, for the rook, the length: ``"Kne"``, ``"Rs3"``."""
    names = ("n", "ne", "e", "se", "s", "sw", "w", "nw")
    if action < KING_MOVES:
        return f"K{names[action]}"
    direction, length = divmod(action - KING_MOVES, SIZE - 1)
    return f"R{names[2 * direction]}{length + 1}"


def _walk(square: int, step: tuple[int, int], length: int) -> list[int]:
    """The squares passed, the last one included; shorter than ``length`` where the board ends."""
    row, column = divmod(square, SIZE)
    passed = []
    for _ in range(length):
        row, column = row + step[0], column + step[1]
        if not (0 <= row < SIZE and 0 <= column < SIZE):
            break
        passed.append(row * SIZE + column)
    return passed


def _king_reach() -> Bools:
    """``[from, to]``: a king's step away."""
    reach = np.zeros((SQUARES, SQUARES), dtype=bool)
    for square in range(SQUARES):
        for step in KING_STEPS:
            reach[square, _walk(square, step, 1)] = True
    return reach


def _rook_reach() -> Bools:
    """``[rook, white king, square]``: attacked by the rook; the black king, who is to move away, blocks nothing."""
    reach = np.zeros((SQUARES, SQUARES, SQUARES), dtype=bool)
    for rook in range(SQUARES):
        for king in range(SQUARES):
            for step in ROOK_STEPS:
                line = _walk(rook, step, SIZE)
                reach[rook, king, line[: line.index(king)] if king in line else line] = True
    return reach


def _moves() -> tuple[Array, Bools]:
    """``[action, from]`` landing square, -1 off the board; ``[action, from, square]`` squares passed or landed on."""
    landing = np.full((ACTIONS, SQUARES), -1)
    passed = np.zeros((ACTIONS, SQUARES, SQUARES), dtype=bool)
    steps = [(step, 1) for step in KING_STEPS]
    steps += [(step, length) for step in ROOK_STEPS for length in range(1, SIZE)]
    for action, (step, length) in enumerate(steps):
        for square in range(SQUARES):
            way = _walk(square, step, length)
            if len(way) == length:
                landing[action, square] = way[-1]
                passed[action, square, way] = True
    return landing, passed


def _squared_distance() -> Array:
    row, column = np.divmod(np.arange(SQUARES), SIZE)
    return (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2


NEAR = _king_reach()
RAYS = _rook_reach()
DISTANCE = _squared_distance()
ROOK, WHITE_KING, BLACK_KING = (axis.ravel() for axis in np.indices((SQUARES, SQUARES, SQUARES)))

# [position] and [position, square] from here on. Black to move is attacked; white to move must not face that.
CHECK: Bools = RAYS.ravel()
DISTINCT: Bools = (ROOK != WHITE_KING) & (ROOK != BLACK_KING) & (WHITE_KING != BLACK_KING)
KINGS_APART: Bools = DISTINCT & ~NEAR[WHITE_KING, BLACK_KING]
LEGAL: Bools = KINGS_APART & ~CHECK
ESCAPES: Bools = NEAR[BLACK_KING] & ~NEAR[WHITE_KING] & ~RAYS[ROOK, WHITE_KING] & KINGS_APART[:, None]


def _replies() -> Bools:
    """``[position, square]``: where black may go, black to move: of its escapes those nearest the rook.

    Distance is Euclidean, equals go by nearness to the centre, and what is still equal is drawn, so that the rule
    is the same under every symmetry of the board. The rook itself, at distance 0, is taken where it can be.
    """
    worse = int(DISTANCE.max()) + 1
    cost = DISTANCE[ROOK] * worse + DISTANCE[SQUARES // 2]
    cost = np.where(ESCAPES, cost, worse * worse)
    return ESCAPES & (cost == cost.min(axis=1, keepdims=True))


def _white_moves() -> tuple[Array, npt.NDArray[np.int8]]:
    """``[position, action]``: position with black to move (unchanged after an illegal move), and the outcome."""
    landing, passed = _moves()
    moves_king = np.arange(ACTIONS) < KING_MOVES
    rook, king, black = ROOK[:, None], WHITE_KING[:, None], BLACK_KING[:, None]
    action = np.arange(ACTIONS)
    goal = landing[action, np.where(moves_king, king, rook)]
    on_board = LEGAL[:, None] & (goal >= 0)
    free = np.where(moves_king, goal != rook, ~(passed[action, rook, king] | passed[action, rook, black]))
    after = np.where(moves_king, rook, goal) * SQUARES + np.where(moves_king, goal, king)
    after = np.where(on_board, after * SQUARES + black, 0)
    legal = on_board & free & KINGS_APART[after]
    outcome = np.full(after.shape, Outcome.ONGOING, dtype=np.int8)
    outcome[REPLIES[after, np.where(moves_king, rook, goal)]] = Outcome.ROOK_LOST
    stuck = ESCAPES.sum(axis=1)[after] == 0
    outcome[stuck] = np.where(CHECK[after], Outcome.MATE, Outcome.STALEMATE)[stuck]
    outcome[~legal] = Outcome.ILLEGAL
    return np.where(legal, after, np.arange(POSITIONS)[:, None]), outcome


REPLIES = _replies()
AFTER, OUTCOME = _white_moves()
REPLY_SQUARES: list[list[int]] = [np.flatnonzero(row).tolist() for row in REPLIES]


def reply(after: int, rng: np.random.Generator) -> int:
    """Position after black's answer to ``after``; a random number is drawn only where two squares are equal."""
    squares = REPLY_SQUARES[after]
    chosen = squares[0] if len(squares) == 1 else squares[int(rng.integers(len(squares)))]
    return after - after % SQUARES + chosen


def draw_board(position: int) -> str:
    """Five lines of text: ``K`` and ``R`` white, ``k`` black."""
    rook, white_king, black_king = to_squares(position)
    cells = ["."] * SQUARES
    for square, letter in ((rook, "R"), (white_king, "K"), (black_king, "k")):
        cells[square] = letter
    return "\n".join(" ".join(cells[start : start + SIZE]) for start in range(0, SQUARES, SIZE))
