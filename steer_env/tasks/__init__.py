"""What is asked and how it is graded: one file a task, text only, no PyTorch and no Gymnasium."""

from __future__ import annotations

from steer_env.tasks.base import Board, Conversation, Task, Turn

TASKS: dict[str, type[Task]] = {}
"""The tasks by name; `steer_env.register_task` fills it, for our own tasks and for yours."""


def find_task(name: str) -> type[Task]:
    """The task of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; there are {sorted(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "Board", "Conversation", "Task", "Turn", "find_task"]
