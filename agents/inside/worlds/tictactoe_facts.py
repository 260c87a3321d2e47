"""What is true of a tic-tac-toe position for the player to move, by the rules and exact minimax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steer_env.tasks.tictactoe.rules import EMPTY, Board, O, X, legal_moves, optimal_moves, play, to_move, value, winner

CENTRE = 4
CORNERS = (0, 2, 6, 8)
EARLY, LATE = 4, 5


def board_after(moves: str) -> Board:
    """The board after moves such as ``"519"``, the digits 1 to 9 in order, X first.

    Raises:
        ValueError: a move is none, or its cell is taken or the game over.
    """
    board = EMPTY
    for digit in moves:
        if digit not in "123456789" or int(digit) - 1 not in legal_moves(board):
            raise ValueError(f"{digit!r} is no legal move in {moves!r}")
        board = play(board, int(digit) - 1)
    return board


def value_to_mover(board: Board) -> int:
    """Minimax value for the player to move: 1 win, 0 draw, -1 loss."""
    return value(board) if to_move(board) == X else -value(board)


def wins_at_once(board: Board, mark: int) -> list[int]:
    """Empty cells where ``mark`` would complete a line if it were its turn."""
    free = [cell for cell, owner in enumerate(board) if not owner]
    return [cell for cell in free if winner((*board[:cell], mark, *board[cell + 1 :])) == mark]


def facts(board: Board) -> dict[str, bool]:
    """Everything about a position that is not over, as the player to move sees it.

    Raises:
        ValueError: the game is over.
    """
    if not legal_moves(board):
        raise ValueError(f"the game is over on {board}")
    own = to_move(board)
    other = X + O - own
    marks, worth = 9 - board.count(0), value_to_mover(board)
    return {
        "won": worth > 0,
        "lost": worth < 0,
        "can_win_now": bool(wins_at_once(board, own)),
        "threatened": bool(wins_at_once(board, other)),
        "two_threats": len(wins_at_once(board, other)) > 1,
        "one_move_holds": len(optimal_moves(board)) == 1,
        "centre_own": board[CENTRE] == own,
        "centre_theirs": board[CENTRE] == other,
        "corners_theirs": sum(board[cell] == other for cell in CORNERS) >= 2,
        "early": marks < EARLY,
        "late": marks > LATE,
    }


def fact_table(boards: Sequence[Board]) -> dict[str, npt.NDArray[np.bool_]]:
    """:func:`facts` of many positions: ``[n]`` each."""
    rows = [facts(board) for board in boards]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
