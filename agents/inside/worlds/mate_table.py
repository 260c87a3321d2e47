"""The exact solution of king and rook against king, and what is true of a position: by retrograde analysis.

Two opponents: the best defence, and the runner that ``KingRookKing-v0`` plays (see ``king_rook_rules``), whose draws
of lots are taken at their worst and on average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import sparse
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
    REPLIES,
    REWARD,
    ROOK,
    SIZE,
    SQUARES,
    WHITE_KING,
    Outcome,
)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class MateTable:
    """White moves to mate, by position with white to move; infinite where there is no mate to be had.

    Attributes:
        distance: ``[P]`` against the best defence.
        worst: ``[P]`` against the runner at its luckiest.
        expected: ``[P]`` against the runner on average, by the white policy with the lowest average.
        best: ``[P, A]`` moves that reach ``distance``.
        best_against_runner: ``[P, A]`` moves that reach ``expected``.
    """

    distance: Floats
    worst: Floats
    expected: Floats
    best: Bools
    best_against_runner: Bools

    @property
    def won(self) -> npt.NDArray[np.int64]:
        """The legal positions from which mate can be forced."""
        return np.flatnonzero(np.isfinite(self.distance))


@dataclass(frozen=True)
class Prospects:
    """What becomes of each position under one white policy against the runner, exactly.

    Attributes:
        mates: ``[P]`` probability of mate within the limit.
        moves: ``[P]`` mean number of moves of those mates; NaN where there are none.
        returns: ``[P]`` mean sum of the rewards of an episode of ``KingRookKing-v0``.
    """

    mates: Floats
    moves: Floats
    returns: Floats


@cache
def mate_table() -> MateTable:
    """Solve the game; once a process, in well under a second."""
    distance, best = _solve(_longest(ESCAPES))
    worst, _ = _solve(_longest(REPLIES))
    expected, best_against_runner = _solve(_mean_reply)
    return MateTable(distance, worst, expected, best, best_against_runner)


def prospects(actions: npt.ArrayLike, limit: int = 50) -> Prospects:
    """Follow a deterministic policy from every position at once.

    Args:
        actions: ``[P]`` the move chosen in each position; read only where the position is legal.
        limit: moves after which an episode is cut.

    Raises:
        ValueError: not one action a position, or the limit is below 1.
    """
    chosen = np.asarray(actions)
    if chosen.shape != (POSITIONS,) or limit < 1:
        raise ValueError(
            f"prospects needs actions [{POSITIONS}] and a limit of at least 1, got {chosen.shape}, {limit}"
        )
    here = np.arange(POSITIONS)
    after, outcome = AFTER[here, chosen], OUTCOME[here, chosen]
    goes_on = LEGAL & (outcome == Outcome.ONGOING)
    mates_now = (LEGAL & (outcome == Outcome.MATE)).astype(float)
    reward = LEGAL * REWARD[outcome]
    mates, moves, returns = np.zeros((3, POSITIONS))  # within no moves at all
    for _ in range(limit):
        later, spent, due = (goes_on * _mean_reply(values)[after] for values in (mates, moves, returns))
        mates, moves, returns = mates_now + later, mates_now + spent + later, reward + due
    moves = np.divide(moves, mates, out=np.full(POSITIONS, np.nan), where=mates > 0)
    return Prospects(mates, moves, returns)


def mating(actions: npt.ArrayLike, limit: int = 50) -> dict[str, float]:
    """How a deterministic policy mates from all legal positions, every one of which is won; exact.

    Args:
        actions: as in :func:`prospects`.
        limit: moves after which an episode is cut.

    Returns:
        ``mated``, the mean probability of mate; ``surely``, the share of positions mated however the runner's lots
        fall; ``moves``, the mean over mates, and ``optimal_moves``, the solver's over the same games; ``optimal``, the
        share of positions where the move is an optimal one; ``return``, the mean sum of rewards.
    """
    fate, table = prospects(actions, limit), mate_table()
    mates, moves = fate.mates[LEGAL], np.nan_to_num(fate.moves[LEGAL])
    weights = mates / max(mates.sum(), _TOLERANCE)
    return {
        "positions": int(LEGAL.sum()),
        "mated": float(mates.mean()),
        "surely": float((mates > 1 - _TOLERANCE).mean()),
        "moves": float(weights @ moves),
        "optimal_moves": float(weights @ table.expected[LEGAL]),
        "optimal": float(table.best_against_runner[np.arange(POSITIONS), np.asarray(actions)][LEGAL].mean()),
        "return": float(fate.returns[LEGAL].mean()),
    }


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


def _longest(options: Bools) -> Callable[[Floats], Floats]:
    """Black picks, of ``options [P, square]``, the reply with the highest value for white to move."""

    def after_reply(values: Floats) -> Floats:
        answers = values.reshape(-1, SQUARES)[np.arange(POSITIONS) // SQUARES]
        return np.where(options, answers, -np.inf).max(axis=1)

    return after_reply


def _mean_reply(values: Floats) -> Floats:
    mean: Floats = _CHANCES @ values
    return mean


def _reply_chances() -> sparse.csr_array:
    """``[P, P]``: how probable it is that the runner, to move in the first, makes the second of it."""
    position, square = np.nonzero(REPLIES)
    chance = 1.0 / REPLIES.sum(axis=1)[position]
    return sparse.csr_array((chance, (position, position - position % SQUARES + square)), (POSITIONS, POSITIONS))


def _solve(after_reply: Callable[[Floats], Floats]) -> tuple[Floats, Bools]:
    """Fewest moves to mate and the moves that reach it: ``[P]``, ``[P, A]``.

    Values come down from infinity, so that those finite after n rounds are the mates in at most n (worst) moves.
    """
    values = np.full(POSITIONS, np.inf)
    while True:
        moves = np.where(OUTCOME == Outcome.ONGOING, 1.0 + after_reply(values)[AFTER], np.inf)
        moves[OUTCOME == Outcome.MATE] = 1.0
        better = moves.min(axis=1)
        if np.allclose(better, values, rtol=0.0, atol=_TOLERANCE / 100):
            return better, np.isfinite(moves) & (moves <= better[:, None] + _TOLERANCE)
        values = better


_CHANCES = _reply_chances()
