"""``MinAtarBreakout-v0`` and its sisters: Atari games on a 10x10 grid (Young and Tian 2019), as flat observations.

Needs the ``minatar`` package (``pip install 'steer-env[interpret]'``), which is imported when a game is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

GRID = 10
"""Cells a side."""
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


class MinAtar(gym.Env[npt.NDArray[np.float32], np.int64]):
    """One game; its actions are those that do something in it.

    Observation: ``[10 * 10 * channels]`` zeros and ones, row by row, channels last. Rewards and ends are the game's.

    Attributes:
        game: the ``minatar.Environment``.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 10}

    def __init__(
        self, game: str = "breakout", sticky: float = 0.1, ramping: bool = True, render_mode: str | None = None
    ) -> None:
        """A game by name.

        Args:
            game: one of ``GAMES``.
            sticky: probability that the action before is repeated.
            ramping: whether it becomes harder with time.
            render_mode: ``"ansi"`` or None.

        Raises:
            ValueError: the game is unknown or sticky not in [0, 1].
            ImportError: the ``minatar`` package is not installed.
        """
        if game not in GAMES:
            raise ValueError(f"unknown game {game!r}; known: {', '.join(GAMES)}")
        if not 0.0 <= sticky <= 1.0:
            raise ValueError(f"sticky must be in [0, 1], got {sticky}")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
        try:
            import minatar  # optional, and it imports a plotting library
        except ImportError as missing:
            raise ImportError("MinAtar games need the minatar package: pip install 'steer-env[interpret]'") from missing
        self.render_mode = render_mode
        self.game = minatar.Environment(game, sticky_action_prob=sticky, difficulty_ramping=ramping)
        self._moves = self.game.minimal_action_set()
        self.observation_space = spaces.Box(0.0, 1.0, (int(np.prod(self.game.state_shape())),), np.float32)
        self.action_space = spaces.Discrete(len(self._moves))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin a game; all its draws follow from the seed."""
        super().reset(seed=seed)
        self.game.seed(int(self.np_random.integers(2**32)))
        self.game.reset()
        self.game.last_action = 0  # what a sticky action would repeat; the package keeps the last game's
        return self._observe(), {}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One frame.

        Raises:
            ValueError: the action is not one of the game's.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action must be in [0, {len(self._moves)}), got {action}")
        reward, terminated = self.game.act(self._moves[int(action)])
        return self._observe(), float(reward), bool(terminated), False, {}

    def render(self) -> str | None:
        """The grid as digits, the number of a cell's last channel, ``.`` where there is none (``"ansi"``)."""
        if self.render_mode != "ansi":
            return None
        state = self.game.state()
        shown = (state * np.arange(1, state.shape[2] + 1)).max(axis=2)
        return "\n".join("".join("." if cell == 0 else f"{cell - 1:x}" for cell in row) for row in shown)

    def _observe(self) -> npt.NDArray[np.float32]:
        observation: npt.NDArray[np.float32] = self.game.state().astype(np.float32).ravel()
        return observation
