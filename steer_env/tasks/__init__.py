"""The table of tasks. Adding a task is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable

from steer_env.tasks.base import Conversation, Task, Turn
from steer_env.tasks.tictactoe import TicTacToe

TASKS: dict[str, Callable[..., Task]] = {
    "tictactoe": TicTacToe,
}

__all__ = ["TASKS", "Conversation", "Task", "Turn"]
