"""Tic-tac-toe against a person in the teacher's place, who moves when they like."""

from __future__ import annotations

from typing import Any

import numpy as np

from steer_env.tasks.tictactoe.rules import legal_moves
from steer_env.tasks.tictactoe.task import TicTacToe, TicTacToeGame


class PersonalTicTacToe(TicTacToe):
    """Games like those of a task, but the model's word is not answered: the person's move is :attr:`game`'s.

    Args:
        like: The task whose rules hold.
        cell: The person's first move, in ``[0, 9)``, who is X then; None lets the model be X and begin.

    Attributes:
        game: The game that was started last.

    Raises:
        ValueError: There is no such cell.
    """

    def __init__(self, like: TicTacToe, cell: int | None) -> None:
        side = "X" if cell is None else "O"
        super().__init__(like.split, side=side, illegal=like.illegal, max_new_tokens=like.max_new_tokens)
        if cell is not None and cell not in range(9):
            raise ValueError(f"cell must be in [0, 9), got {cell}")
        self._first = cell
        self.game: PersonalGame

    def start(self, item: int) -> PersonalGame:
        """Begin a game; ``item`` decides what is played in place of illegal moves, where the task does that."""
        self.game = PersonalGame(self, self._student(item), np.random.default_rng(item), self._first)
        return self.game


class PersonalGame(TicTacToeGame):
    """A game whose teacher is a person.

    Args:
        task: The rules.
        student: The model's mark: 1 (X) or 2 (O).
        rng: Of what is played in place of illegal moves.
        cell: The person's first move where the model is O.
    """

    def __init__(self, task: PersonalTicTacToe, student: int, rng: np.random.Generator, cell: int | None) -> None:
        self._next = cell
        super().__init__(task, student, rng)

    def answer(self, cell: int) -> str:
        """Play the person's move.

        Returns:
            What the model reads of it, such as ``" 5"``.

        Raises:
            ValueError: The game is over, or the cell is taken.
        """
        if self.outcome:
            raise ValueError(f"the game is over ({self.outcome}): begin another")
        if cell not in legal_moves(self.board):
            raise ValueError(f"cell {cell + 1} is no legal move")
        self._next = cell
        return self._teacher_move()

    @property
    def final(self) -> dict[str, Any]:
        """What :meth:`TicTacToe.board` draws."""
        return {"item": 0, "moves": self.moves, "outcome": self.outcome}

    def _teacher_move(self) -> str:
        cell, self._next = self._next, None
        if cell is None:
            return ""
        self._play(cell)
        return f" {cell + 1}"
