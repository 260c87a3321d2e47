"""Tic-tac-toe as text against a teacher who may be perfect."""

from steer_env.tasks.tictactoe.task import TicTacToe

__all__ = ["TicTacToe"]
