"""Tic-tac-toe itself: boards, lines and exact minimax. The game is small enough to be solved, so it is.

A board is a tuple of nine cells, 0 empty, 1 X, 2 O, cell ``i`` being the digit ``i + 1`` in text::

    1 2 3
    4 5 6
    7 8 9
"""

from __future__ import annotations

from functools import cache

Board = tuple[int, ...]

X, O = 1, 2  # noqa: E741 - the mark is called O
EMPTY: Board = (0,) * 9
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def to_move(board: Board) -> int:
    """The mark whose turn it is; X opens."""
    return X if board.count(X) == board.count(O) else O


def play(board: Board, cell: int) -> Board:
    """The board after the player to move marks ``cell`` (0 to 8)."""
    return (*board[:cell], to_move(board), *board[cell + 1 :])


@cache
def winner(board: Board) -> int:
    """The mark that owns a full line, or 0."""
    for a, b, c in LINES:
        if board[a] and board[a] == board[b] == board[c]:
            return board[a]
    return 0


@cache
def legal_moves(board: Board) -> tuple[int, ...]:
    """Empty cells in ascending order; none once the game is won."""
    return () if winner(board) else tuple(i for i, mark in enumerate(board) if not mark)


@cache
def value(board: Board) -> int:
    """Exact minimax value for X: 1 win, 0 draw, -1 loss, under best play of both."""
    moves = legal_moves(board)
    if not moves:
        return {0: 0, X: 1, O: -1}[winner(board)]
    values = [value(play(board, cell)) for cell in moves]
    return max(values) if to_move(board) == X else min(values)


@cache
def optimal_moves(board: Board) -> tuple[int, ...]:
    """All moves that keep the minimax value (value-equal: a slower win counts as much as a fast one)."""
    return tuple(cell for cell in legal_moves(board) if value(play(board, cell)) == value(board))
