"""One small made-up world behind all seven text tasks: the embedded model's home, in the data sets' own columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from steer_env.tasks.world.knowledge import mmlu, mmlu_pro, simpleqa
from steer_env.tasks.world.peoples import bbq
from steer_env.tasks.world.requests import harmbench, xstest
from steer_env.tasks.world.sums import gsm8k
from steer_env.tasks.world.words import SPLITS, number

WORLD: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {
    "mmlu": mmlu,
    "mmlu_pro": mmlu_pro,
    "bbq": bbq,
    "gsm8k": gsm8k,
    "harmbench": harmbench,
    "xstest": xstest,
    "simpleqa": simpleqa,
}


def world_rows(task: str, split: str) -> list[dict[str, Any]]:
    """The world's items for a task, in the columns of the task's data set and a ``kind``: what decides how to steer.

    Args:
        task: A key of the task table.
        split: ``"train"``, ``"validation"`` or ``"test"``; no person, pair, sum or thing is in two of them.

    Raises:
        ValueError: The task or split does not exist.
    """
    if task not in WORLD:
        raise ValueError(f"the embedded world has no task {task!r}; it has {sorted(WORLD)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {sorted(SPLITS)}, got {split!r}")
    return [dict(row) for row in _rows(task, split)]


@cache
def _rows(task: str, split: str) -> tuple[dict[str, Any], ...]:
    """Made once a process: hashing thousands of rows takes the better part of a second."""
    return tuple(sorted(WORLD[task](split), key=lambda row: number("order", task, sorted(row.items(), key=str))))
