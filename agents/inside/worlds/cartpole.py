"""What is true of a state of CartPole: where it is, where it goes, and what pushing one way all the time would do.

What is ahead is found by playing on in Gymnasium's own environment, so it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.vec_env import VecEnv

Bools = npt.NDArray[np.bool_]
HORIZON = 12
"""Steps that are looked ahead, a quarter of a second."""


def predicates(states: npt.ArrayLike) -> dict[str, Bools]:
    """Every predicate of states ``[B, 4]``: position, speed, angle and angular speed, in SI units."""
    x, speed, angle, turning = np.asarray(states, dtype=np.float64).T
    left, right = (lasts(states, action) for action in (0, 1))
    return {
        "leans_right": angle > 0,
        "tips_right": turning > 0,
        "is_tipping_over": angle * turning > 0,
        "leans_far": np.abs(angle) > 0.05,
        "right_of_centre": x > 0,
        "moves_right": speed > 0,
        "moves_outwards": x * speed > 0,
        "far_out": np.abs(x) > 0.5,
        "lost_soon_pushing_left": left < HORIZON,
        "lost_soon_pushing_right": right < HORIZON,
        "left_is_lost_first": left < right,
    }


def lasts(states: npt.ArrayLike, action: int) -> npt.NDArray[np.int64]:
    """``[B]`` steps until the game is lost if ``action`` is always taken, at most ``HORIZON``."""
    env = CartPoleEnv()
    return np.array([_lasts(env, state, action) for state in np.asarray(states, dtype=np.float64)])


def lane_predicates(envs: VecEnv) -> dict[str, Bools]:
    """Every predicate for the lanes of ``CartPole-v1``, as ``agents.inside.recordings`` asks for them: ``[B]`` each."""
    return predicates(envs.get_attr("state"))


def _lasts(env: Any, state: Sequence[float], action: int) -> int:
    env.state, env.steps_beyond_terminated = np.array(state), None
    for step in range(1, HORIZON + 1):
        if env.step(action)[2]:
            return step
    return HORIZON
