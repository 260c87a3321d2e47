"""``AtariBreakout-v0``: Breakout of the Arcade Learning Environment, seen as the console's memory.

Needs the ``ale-py`` package (``pip install 'steer-env[interpret]'``), which is imported when a game is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

BYTES = 128


def breakout(**kwargs: Any) -> gym.Env[Any, Any]:
    """The game ``ALE/Breakout-v5`` (sticky actions, four frames a step).

    Observation: ``[128]`` bytes of memory, divided by 255. Rewards and ends are the game's.

    Args:
        **kwargs: of ``ALE/Breakout-v5``, but for ``obs_type``.

    Raises:
        ImportError: the ``ale-py`` package is not installed.
    """
    try:
        import ale_py  # optional
    except ImportError as missing:
        raise ImportError("Atari games need the ale-py package: pip install 'steer-env[interpret]'") from missing
    gym.register_envs(ale_py)
    game = gym.make("ALE/Breakout-v5", obs_type="ram", **kwargs)
    return TransformObservation(
        game, lambda memory: np.float32(memory) / np.float32(255), spaces.Box(0.0, 1.0, (BYTES,), np.float32)
    )
