"""Games of tic-tac-toe by novices and experts, as text: what the tic-tac-toe language model reads.

A player is an expert or a novice for a whole game. An expert plays a random minimax-optimal move; a
novice follows a habit (the next free cell after the last move, in reading order) or plays anywhere.
The habit is what makes a model of these games honestly weak: it is the most likely move, and a bad one.
"""

from __future__ import annotations

import numpy as np

from experiments.make.tictactoe.config import Players
from steer_env.tasks.tictactoe.rules import EMPTY, legal_moves, optimal_moves, play

PLIES = 9


def sample_games(n: int, players: Players, rng: np.random.Generator) -> list[str]:
    """``n`` games as text, ``"5 1 9 ..."``, each played to its end."""
    experts = rng.random((n, 2)) < players.expert_share
    coins = rng.random((n, PLIES, 2))
    return [_game(experts[i], coins[i], players.habit) for i in range(n)]


def _game(expert: np.ndarray, coins: np.ndarray, habit: float) -> str:
    board, last = EMPTY, -1
    text: list[str] = []
    while free := legal_moves(board):
        ply = len(text)
        if expert[ply % 2]:
            free = optimal_moves(board)
        elif coins[ply, 0] < habit:
            free = (habitual_move(free, last),)
        last = free[int(coins[ply, 1] * len(free))]
        board = play(board, last)
        text.append(str(last + 1))
    return " ".join(text)


def habitual_move(free: tuple[int, ...], last: int) -> int:
    """The first free cell after ``last`` in reading order, starting again at the top."""
    return next((cell for cell in free if cell > last), free[0])
