"""An episode of one lane as a policy wants to see environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from steer_env.envs.base import SteerBase
from steer_env.envs.episode import Episode
from steer_env.evaluation.play import Lanes


class OneLane(SteerBase):
    """What policies ask of a vector environment, of an episode that somebody steps by hand.

    Args:
        episode: Of one lane.
    """

    num_envs = 1

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.single_action_space: spaces.Space[Any] = episode.scene.actuator.space

    def action_masks(self) -> np.ndarray:
        """``[1, A]`` bool: legal actions of the state last observed."""
        return self.episode.legal()

    def now(self) -> Lanes:
        """Where the episode stands."""
        place = np.zeros(1, dtype=np.int64)
        return Lanes(self, place, self.episode.steps(), 1)  # type: ignore[arg-type]  # what policies ask
