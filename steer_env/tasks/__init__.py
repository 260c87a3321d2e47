"""The table of tasks. Adding a task is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable

from steer_env.tasks.base import Conversation, Task, Turn
from steer_env.tasks.bbq import BBQ
from steer_env.tasks.gsm8k import GSM8K
from steer_env.tasks.harmbench import HarmBench
from steer_env.tasks.mmlu import MMLU
from steer_env.tasks.mmlu_pro import MMLUPro
from steer_env.tasks.simpleqa import SimpleQA
from steer_env.tasks.tictactoe import TicTacToe
from steer_env.tasks.xstest import XSTest

TASKS: dict[str, Callable[..., Task]] = {
    "bbq": BBQ,
    "gsm8k": GSM8K,
    "harmbench": HarmBench,
    "mmlu": MMLU,
    "mmlu_pro": MMLUPro,
    "simpleqa": SimpleQA,
    "tictactoe": TicTacToe,
    "xstest": XSTest,
}

__all__ = ["TASKS", "Conversation", "Task", "Turn"]
