"""Tic-tac-toe as text against a teacher who may be perfect: one digit a move, a verifiable result.

The game is the sequence of moves and nothing else, ``"5 1 9 ..."``; see `TicTacToe` for rewards and scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steer_env.tasks.base import Board, Task, Turn, check_choice, check_count, check_item, is_number
from steer_env.tasks.single_turn import shares
from steer_env.tasks.tictactoe.rules import EMPTY, O, X, legal_moves, optimal_moves, play, to_move, winner

SPLITS = {"train": 100_000, "validation": 1_000, "test": 10_000}
REWARD = {"win": 1.0, "draw": 0.5, "loss": -1.0, "illegal": -1.0}
SCORE = {"win": 1.0, "draw": 1.0, "loss": 0.0, "illegal": 0.0}

_DIGIT = re.compile(r"[1-9]")


class TicTacToe(Task):
    """Games against a teacher; item ``i`` of a split fixes all of the teacher's randomness.

    **Text.** One digit 1 to 9 a move, separated by spaces. The opening is the teacher's first move
    (``"5"``) when the student is O, and empty when the student is X; a reply is ``" 9"``. The student's
    move is the first digit 1-9 in what the model says; no digit, or an occupied cell, is illegal.

    **Score** (reported): 1.0 for a draw or a win of the student, else 0.0.

    **Reward** (optimised): win 1.0, draw 0.5, loss -1.0, illegal -1.0, all in the turn that ends the
    game; plus ``shaping`` for every student move that is minimax-optimal on the board *before* it.

    **Illegal moves.** ``illegal="loss"`` ends the game. With ``illegal="random_move"`` (AutoSteer's
    fallback) a uniformly random legal move is played instead, once and without another try, so every
    arm has the same budget. `Turn.replace` then carries the move played: it stands in the context in
    place of the model's own words, so that the context is always a legal game. It earns no shaping.

    Args:
        split: ``"train"`` (100,000 games), ``"validation"`` (1,000) or ``"test"`` (10,000).
        opponent: ``"optimal"`` (uniform among minimax-value-equal moves) or ``"random"``.
        epsilon: probability in [0, 1] that the optimal teacher plays a random legal move instead.
        side: the student's mark: ``"O"`` (the teacher opens), ``"X"``, or ``"both"`` (even items O).
        illegal: ``"loss"`` or ``"random_move"``.
        shaping: reward added for each minimax-optimal student move.
        max_new_tokens: tokens the model may write per move.

    Raises:
        ValueError: an argument is not one of the above; the message names it.
    """

    name = "tictactoe"
    state_shape = (9,)
    state_levels = 3
    turns = 5
    variants = {"opponent": ("optimal", "random"), "side": ("O", "X", "both"), "illegal": ("loss", "random_move")}

    def __init__(
        self,
        split: str = "train",
        opponent: str = "optimal",
        epsilon: float = 0.0,
        side: str = "O",
        illegal: str = "loss",
        shaping: float = 0.0,
        max_new_tokens: int = 1,
    ) -> None:
        check_choice("split", split, tuple(SPLITS))
        self.check_variants(opponent=opponent, side=side, illegal=illegal)
        _check_numbers(epsilon, shaping, max_new_tokens)
        if opponent == "random" and epsilon:
            raise ValueError(f"epsilon needs opponent='optimal', got {epsilon} with 'random'")
        self.max_new_tokens = max_new_tokens
        self.illegal, self.shaping = illegal, float(shaping)
        self.epsilon = 1.0 if opponent == "random" else float(epsilon)
        self.split, self._side = split, side

    def __len__(self) -> int:
        """Number of games of the split."""
        return SPLITS[self.split]

    def start(self, item: int) -> TicTacToeGame:
        """Begin game ``item``; the teacher has opened where the student is O.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """
        check_item(item, len(self), self.split)
        rng = np.random.default_rng([tuple(SPLITS).index(self.split), item])
        return TicTacToeGame(self, self._student(item), rng)

    def pay(self, final: Mapping[str, Any]) -> float:
        """The outcome's reward, and ``shaping`` for each optimal move."""
        return REWARD[final["outcome"]] + self.shaping * final["optimal_moves"]

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Shares of the outcomes: ``win``, ``draw``, ``loss``, ``illegal``."""
        return shares([final["outcome"] for final in finals], tuple(SCORE))

    def board(self, final: Mapping[str, Any]) -> Board:
        """The board after ``moves``; X opens, so that marks take turns."""
        moves, own = [int(digit) - 1 for digit in final["moves"]], self._student(final["item"]) - 1
        cells = [""] * 9
        for ply, cell in enumerate(moves):
            cells[cell] = "XO"[ply % 2]
        turns = [ply for ply in range(len(moves)) if ply % 2 == own]
        begun = len(moves) if final["outcome"] == "illegal" or not turns else turns[-1]
        return Board(
            columns=3,
            cells=tuple(cells),
            own=tuple(moves[own::2]),
            recent=tuple(moves[begun:]),
            text=", ".join(f"{'XO'[ply % 2]} {cell + 1}" for ply, cell in enumerate(moves)),
            caption=final["outcome"],
        )

    def _student(self, item: int) -> int:
        side = "OX"[item % 2] if self._side == "both" else self._side
        return X if side == "X" else O


class TicTacToeGame:
    """One game in progress: the `steer_env.tasks.base.Conversation` of tic-tac-toe.

    Args:
        task: the rules of this split.
        student: 1 (X) or 2 (O).
        rng: this game's own randomness. All of it is drawn here, three numbers a ply (epsilon coin,
            teacher's pick, fallback pick), so no arm can shift the randomness of a later move.
    """

    choices: tuple[str, ...] = ()

    def __init__(self, task: TicTacToe, student: int, rng: np.random.Generator) -> None:
        self._task, self.student = task, student
        self._uniform = rng.random((9, 3))
        self.board, self.moves = EMPTY, ""
        self.optimal_moves = self.illegal_moves = 0
        self.outcome = ""
        self.opening = "" if student == X else self._teacher_move().strip()

    def respond(self, utterance: str) -> Turn:
        """Play the student's move in ``utterance`` and the teacher's reply.

        Returns:
            The turn. ``info`` has ``outcome`` (``"win"``, ``"draw"``, ``"loss"``, ``"illegal"``, or
            ``""`` while the game goes on), ``moves`` (digits in order, both players), and the counts
            ``optimal_moves`` and ``illegal_moves`` of the student.

        Raises:
            RuntimeError: the game is over.
        """
        if self.outcome:
            raise RuntimeError(f"the game is over ({self.outcome}): start another item")
        cell = _parse(utterance)
        replace = None
        if cell not in legal_moves(self.board):
            self.illegal_moves += 1
            if self._task.illegal == "loss":
                self.outcome = "illegal"
                return self._turn("", 0.0, None)
            cell = self._pick(legal_moves(self.board), 2)
            replace = f" {cell + 1}"
        optimal = replace is None and cell in optimal_moves(self.board)
        self.optimal_moves += optimal
        self._play(cell)
        reply = "" if self.outcome else self._teacher_move()
        return self._turn(reply, self._task.shaping * optimal, replace)

    def render(self) -> str:
        """The board, and the moves in order with the student's in brackets."""
        marks = [" XO"[mark] if mark else str(cell + 1) for cell, mark in enumerate(self.board)]
        rows = ["".join(f" {mark} " for mark in marks[i : i + 3]) for i in (0, 3, 6)]
        own = self.student - 1
        moves = " ".join(f"[{m}]" if i % 2 == own else m for i, m in enumerate(self.moves))
        status = self.outcome or f"{' XO'[to_move(self.board)]} to move"
        return "\n".join([*rows, f"moves: {moves}  ({status}; student {' XO'[self.student]})"])

    def state(self) -> np.ndarray:
        """``[9]`` cells: 0 empty, 1 X, 2 O."""
        return np.array(self.board, dtype=np.int64)

    def _teacher_move(self) -> str:
        coin = self._uniform[len(self.moves), 0]
        moves = legal_moves if coin < self._task.epsilon else optimal_moves
        cell = self._pick(moves(self.board), 1)
        self._play(cell)
        return f" {cell + 1}"

    def _pick(self, cells: tuple[int, ...], column: int) -> int:
        return cells[int(self._uniform[len(self.moves), column] * len(cells))]

    def _play(self, cell: int) -> None:
        self.board = play(self.board, cell)
        self.moves += str(cell + 1)
        if winner(self.board):
            self.outcome = "win" if winner(self.board) == self.student else "loss"
        elif not legal_moves(self.board):
            self.outcome = "draw"

    def _turn(self, reply: str, bonus: float, replace: str | None) -> Turn:
        info = {
            "outcome": self.outcome,
            "moves": self.moves,
            "optimal_moves": self.optimal_moves,
            "illegal_moves": self.illegal_moves,
        }
        if not self.outcome:
            return Turn(text=reply, reward=bonus, info=info, replace=replace)
        reward = REWARD[self.outcome] + bonus
        return Turn(reward=reward, score=SCORE[self.outcome], info=info, replace=replace)


def _parse(utterance: str) -> int:
    """The cell (0 to 8) of the first digit 1-9, or -1."""
    digit = _DIGIT.search(utterance)
    return int(digit.group()) - 1 if digit else -1


def _check_numbers(epsilon: float, shaping: float, max_new_tokens: int) -> None:
    if not is_number(epsilon) or not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon must be in [0, 1], got {epsilon!r}")
    if not is_number(shaping) or not math.isfinite(shaping):
        raise ValueError(f"shaping must be finite, got {shaping!r}")
    check_count("max_new_tokens", max_new_tokens, 1)
