"""The Stable-Baselines3 side of Steer: agents trained, loaded and played.

>>> import agents
>>> run = agents.train("Steer-TicTacToe-v0", "first", total_timesteps=30_000)  # doctest: +SKIP
>>> agents.load_run("runs/first").play(items=200).score  # doctest: +SKIP
0.725

Importing this package loads nothing: each name brings its module, most of them Stable-Baselines3 and PyTorch, when it
is first used. What is not listed in ``__all__`` is free to move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.algos import ALGOS, make_algo
    from agents.masked_policy import MaskedPolicy
    from agents.policies import policy_of
    from agents.runs.config import TrainConfig
    from agents.runs.loading import Run, load_run
    from agents.runs.training import train
    from agents.vec_env import SB3VecEnv

__all__ = [
    "ALGOS",
    "MaskedPolicy",
    "Run",
    "SB3VecEnv",
    "TrainConfig",
    "load_run",
    "make_algo",
    "policy_of",
    "train",
]

_MODULES = {
    "ALGOS": "agents.algos",
    "MaskedPolicy": "agents.masked_policy",
    "Run": "agents.runs.loading",
    "SB3VecEnv": "agents.vec_env",
    "TrainConfig": "agents.runs.config",
    "load_run": "agents.runs.loading",
    "make_algo": "agents.algos",
    "policy_of": "agents.policies",
    "train": "agents.runs.training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # found without this detour from now on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
