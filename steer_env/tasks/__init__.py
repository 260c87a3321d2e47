"""The table of tasks. Adding a task is one file and one row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from steer_env.tasks.base import Conversation, Task, Turn
from steer_env.tasks.bbq import BBQ
from steer_env.tasks.gsm8k import GSM8K
from steer_env.tasks.harmbench import HarmBench
from steer_env.tasks.mmlu import MMLU
from steer_env.tasks.mmlu_pro import MMLUPro
from steer_env.tasks.multiple_choice import DECODE
from steer_env.tasks.simpleqa import SimpleQA
from steer_env.tasks.stories.task import Stories
from steer_env.tasks.tictactoe.task import TicTacToe
from steer_env.tasks.xstest import XSTest

TASKS: dict[str, Callable[..., Task]] = {
    "bbq": BBQ,
    "gsm8k": GSM8K,
    "harmbench": HarmBench,
    "mmlu": MMLU,
    "mmlu_pro": MMLUPro,
    "simpleqa": SimpleQA,
    "stories": Stories,
    "tictactoe": TicTacToe,
    "xstest": XSTest,
}


def decode_variants(task: str) -> tuple[str, ...]:
    """What the argument ``decode`` of a task may be; ``()`` for a task that offers no options to decode among."""
    return tuple(DECODE) if "decode" in inspect.signature(TASKS[task]).parameters else ()


__all__ = ["TASKS", "Conversation", "Task", "Turn", "decode_variants"]
