"""The Stable-Baselines3 side of Steer: agents trained, loaded and played.

Importing this package takes a fraction of a second: Stable-Baselines3 and PyTorch load when a name of ``__all__`` that
needs them is first used. What is not listed there is free to move.

>>> from agents import load_run, train
>>> run = train("Steer-TicTacToe-v0", "first", total_timesteps=10_000)  # doctest: +SKIP
>>> load_run("runs/first").play(items=range(100)).scores.mean()  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.algos import ALGOS, make_algo
from agents.runs.config import TrainConfig

if TYPE_CHECKING:
    from agents.masked_policy import MaskedPolicy
    from agents.policies import policy_of
    from agents.runs.loading import Run, load_run
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

_HEAVY = {
    "MaskedPolicy": "agents.masked_policy",
    "Run": "agents.runs.loading",
    "SB3VecEnv": "agents.vec_env",
    "load_run": "agents.runs.loading",
    "policy_of": "agents.policies",
}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HEAVY[name]), name)


def train(env: str, name: str, total_timesteps: int = 100_000, **settings: Any) -> Run:
    """Train an agent as ``steer train`` does, into a run folder.

    Args:
        env: Environment id.
        name: Name of the run folder, which must not be there yet.
        total_timesteps: Tokens (actions) over all lanes.
        settings: Other fields of :class:`agents.runs.config.TrainConfig`; ``env_kwargs``, ``algo_kwargs`` and
            ``mask_kwargs`` are dictionaries.

    Returns:
        The finished run.
    """
    from agents.runs.loading import load_run
    from agents.runs.training import main

    return load_run(main(TrainConfig(name=name, env=env, total_timesteps=total_timesteps, **settings)))
