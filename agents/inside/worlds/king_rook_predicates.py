"""What is true of a position of king and rook against king, white to move: words for what a network may know.

Each predicate is decided by the rules or by the solved game, never by eye.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from agents.inside.worlds.king_rook_rules import (
    AFTER,
    BLACK_KING,
    CHECK,
    DISTANCE,
    ESCAPES,
    LEGAL,
    NEAR,
    OUTCOME,
    POSITIONS,
    ROOK,
    SIZE,
    SQUARES,
    WHITE_KING,
    Outcome,
)
from agents.inside.worlds.mate_table import mate_table

Bools = npt.NDArray[np.bool_]


@cache
def predicate_table() -> dict[str, Bools]:
    """Every predicate for every position: ``[P]`` each, False where the position is not legal with white to move."""
    return {name: values & LEGAL for name, values in {**_placement(), **_prospects()}.items()}


def predicates(position: int) -> dict[str, bool]:
    """Every predicate of one position.

    Raises:
        ValueError: the position is not legal with white to move.
    """
    if not 0 <= position < POSITIONS or not LEGAL[position]:
        raise ValueError(f"position {position} is not legal with white to move")
    return {name: bool(values[position]) for name, values in predicate_table().items()}


def _placement() -> dict[str, Bools]:
    """What can be seen on the board without thinking ahead."""
    row, column = np.divmod(np.arange(SQUARES), SIZE)
    on_rim = np.isin(row, (0, SIZE - 1)).astype(int) + np.isin(column, (0, SIZE - 1))
    attacked, defended = NEAR[BLACK_KING, ROOK], NEAR[WHITE_KING, ROOK]
    beside = (np.abs(row[ROOK] - row[BLACK_KING]) == 1) | (np.abs(column[ROOK] - column[BLACK_KING]) == 1)
    return {
        "black_on_edge": on_rim[BLACK_KING] >= 1,
        "black_cornered": on_rim[BLACK_KING] == 2,
        "white_king_on_edge": on_rim[WHITE_KING] >= 1,
        "rook_on_edge": on_rim[ROOK] >= 1,
        "rook_attacked": attacked,
        "rook_defended": defended,
        "rook_hanging": attacked & ~defended,
        "rook_cuts_off": beside,  # black may not cross the line next to it
        "opposition": DISTANCE[WHITE_KING, BLACK_KING] == 4,  # face to face, one square between
        "kings_knight_apart": DISTANCE[WHITE_KING, BLACK_KING] == 5,
    }


def _prospects() -> dict[str, Bools]:
    """What one has to think ahead for."""
    distance = mate_table().distance
    safe = np.isin(OUTCOME, (Outcome.ONGOING, Outcome.MATE))
    escapes = ESCAPES.sum(axis=1)
    return {
        "mate_in_one": distance == 1,
        "mate_in_two": distance == 2,
        "mate_is_far": np.isfinite(distance) & (distance >= 5),
        "safe_check": (safe & CHECK[AFTER]).any(axis=1),
        "stalemate_danger": (OUTCOME == Outcome.STALEMATE).any(axis=1),
        "blunder_danger": (OUTCOME == Outcome.ROOK_LOST).any(axis=1),
        "black_short_of_squares": escapes <= 2,
        "black_would_be_stuck": escapes == 0,  # if it were black's move
    }


def lane_predicates(envs: VecEnv) -> dict[str, Bools]:
    """Every predicate for the lanes of ``KingRookKing-v0``, as recordings ask for them: ``[B]`` each."""
    positions = envs.get_attr("positions")[0]
    return {name: values[positions] for name, values in predicate_table().items()}
