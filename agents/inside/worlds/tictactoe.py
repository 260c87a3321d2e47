"""Tic-tac-toe for looking inside its players: ``TicTacToeDuel-v0``, and what is true of every position.

In the duel the agent plays either mark and, while it waits, sees the board from the side that waits, so that both views
of a position are ones it knows: for probes that compare how a position looks to the two players. Values are exact
minimax values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from steer_env.tasks.tictactoe.rules import EMPTY, Board, O, X, legal_moves, optimal_moves, play, to_move, value, winner

CELLS = 9
SIDES = {"X": X, "O": O}
CENTRE = 4
CORNERS = (0, 2, 6, 8)
EARLY, LATE = 4, 5
"""Below so many marks a game is early, above so many late."""


class TicTacToeDuel(gym.Env[npt.NDArray[np.float32], np.int64]):
    """The agent against a player who plays a minimax move, drawn among equals, or blunders.

    Observation: 19 numbers: own marks (9 cells in reading order), the other's, and whether it is the agent's turn.
    Actions: the 9 cells; on an occupied one a free cell is drawn instead. An action while waiting does nothing.
    Rewards, at the end: 1 won, 0 drawn, -1 lost. Each episode draws the agent's mark, or takes
    ``reset(options={"side": "X"})``.

    Attributes:
        board: the position.
        mark: the agent's.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, blunder: float = 0.5, waiting: bool = True, render_mode: str | None = None) -> None:
        """A player to play against.

        Args:
            blunder: probability that the other player moves at random.
            waiting: whether the agent sees the positions in which it waits, one move of either side a step; otherwise
                a step goes on to its next turn.
            render_mode: ``"ansi"`` or None.

        Raises:
            ValueError: ``blunder`` is not in [0, 1], or the render mode is unknown.
        """
        if not 0.0 <= blunder <= 1.0:
            raise ValueError(f"blunder must be in [0, 1], got {blunder}")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
        self.blunder, self.waiting, self.render_mode = blunder, waiting, render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (2 * CELLS + 1,), np.float32)
        self.action_space = spaces.Discrete(CELLS)
        self.board, self.mark = EMPTY, X

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: an option is unknown, or the side is not ``"X"`` or ``"O"``.
        """
        super().reset(seed=seed)
        asked = dict(options or {})
        side = asked.pop("side", None)
        if asked or side not in (None, *SIDES):
            raise ValueError(f"reset takes the option side, 'X' or 'O', got {options}")
        self.board = EMPTY
        self.mark = SIDES[str(side)] if side is not None else int(self.np_random.integers(X, O + 1))
        if not self.waiting and self.mark == O:
            self._other_moves()
        return view(self.board, self.mark), {}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One move; without ``waiting`` the other player's as well.

        Raises:
            ValueError: the action is not in [0, 9).
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action must be in [0, {CELLS}), got {action}")
        own = to_move(self.board) == self.mark
        if own:
            free = legal_moves(self.board)
            cell = int(action) if int(action) in free else self._draw(free)
            self.board = play(self.board, cell)
        if not own or (not self.waiting and legal_moves(self.board)):
            self._other_moves()
        over = not legal_moves(self.board)
        reward = {self.mark: 1.0, 0: 0.0}.get(winner(self.board), -1.0) if over else 0.0
        return view(self.board, self.mark), reward, over, False, {}

    def render(self) -> str | None:
        """Three lines of ``X``, ``O`` and dots (``render_mode="ansi"``)."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(" ".join(".XO"[mark] for mark in self.board[row : row + 3]) for row in (0, 3, 6))

    def _other_moves(self) -> None:
        blunders = self.np_random.random() < self.blunder
        self.board = play(self.board, self._draw(legal_moves(self.board) if blunders else optimal_moves(self.board)))

    def _draw(self, cells: tuple[int, ...]) -> int:
        return cells[int(self.np_random.integers(len(cells)))]


def view(board: Board, mark: int) -> npt.NDArray[np.float32]:
    """``[19]`` what the player of ``mark`` sees."""
    cells = np.array(board)
    turn = [to_move(board) == mark]
    return np.concatenate([cells == mark, cells == X + O - mark, turn]).astype(np.float32)


def other_view(observations: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The same positions as the other player sees them: ``[..., 19]``."""
    seen = np.asarray(observations, dtype=np.float32)
    own, other, turn = np.split(seen, [CELLS, 2 * CELLS], axis=-1)
    return np.concatenate([other, own, 1 - turn], axis=-1)


@cache
def solved() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """All positions that are not over, for the player to move: views ``[S, 19]`` and minimax values ``[S]``."""
    found, new = {EMPTY}, {EMPTY}
    while new:
        new = {play(board, cell) for board in new for cell in legal_moves(board)} - found
        found |= new
    going = sorted(board for board in found if legal_moves(board))
    views = np.stack([view(board, to_move(board)) for board in going])
    return views, np.array([value_to_mover(board) for board in going], dtype=np.float64)


def states_of(observations: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """``[N]`` places in :func:`solved` of views ``[N, 19]`` of the player to move.

    Raises:
        ValueError: one is not such a view.
    """
    places = {row.tobytes(): place for place, row in enumerate(solved()[0])}
    rows = np.ascontiguousarray(observations, dtype=np.float32)
    found = [places.get(row.tobytes(), -1) for row in rows]
    if -1 in found:
        raise ValueError(f"observation {found.index(-1)} is no view of a player to move")
    return np.array(found, dtype=np.int64)


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
