"""An environment that costs nothing, for measuring what stands around one."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

VARIANTS = 4


class BlankVectorEnv(VectorEnv[Any, Any, Any]):
    """Random observations and legal actions, drawn once; an episode is one step.

    Args:
        num_envs: Lanes.
        actions: Of ``Discrete(actions)``.
        legal: Legal ones beside the last, in every lane.
        width: Of the observation.
        length: Steps of an episode.
        seconds: What a step takes.
    """

    def __init__(
        self, num_envs: int, actions: int, legal: int, width: int = 576, length: int = 1, seconds: float = 0.0
    ) -> None:
        self.num_envs, self.length, self.seconds = num_envs, length, seconds
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = spaces.Discrete(actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        rng = np.random.default_rng(0)
        self._seen = [rng.standard_normal((num_envs, width), dtype=np.float32) for _ in range(VARIANTS)]
        self._legal = []
        for _ in range(VARIANTS):
            rows = np.zeros((num_envs, actions), dtype=bool)
            for row in rows:
                row[rng.choice(actions - 1, min(legal, actions - 1), replace=False)] = True
            rows[:, -1] = True
            self._legal.append(rows)
        self._steps = 0

    def action_masks(self) -> Any:
        """``[B, A]`` legal actions."""
        return self._legal[self._steps % VARIANTS]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        self._steps = 0
        return self._seen[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step; an action is worth 1 where seven divides it."""
        time.sleep(self.seconds)
        self._steps += 1
        seen = self._seen[self._steps % VARIANTS]
        ended = np.full(self.num_envs, self._steps % self.length == 0)
        infos = {"final_obs": np.array([*seen, None], dtype=object)[:-1], "_final_obs": ended} if ended.any() else {}
        return seen, (actions % 7 == 0).astype(np.float64), ended, np.zeros(self.num_envs, dtype=bool), infos
