"""Arcade games as small worlds: MinAtar's on a 10x10 grid (Young and Tian 2019), and Atari's Breakout as memory bytes.

``MinAtarBreakout-v0`` and its sisters need the ``minatar`` package, ``AtariBreakout-v0`` needs ``ale-py``; both are
imported when a game is made (``pip install 'steer-env[interpret]'``).
"""

from __future__ import annotations

from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.vec_env import VecEnv

GRID = 10
"""Cells a side of MinAtar's grid."""
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
BYTES = 128
"""Of the Atari console's memory."""
# Of MinAtar's Breakout: the ball's four directions (up left, up right, down right, down left) and its six actions.
_RISING, _RIGHTWARD, _STAY = (0, 1), (1, 2), 0


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


def atari_breakout(**kwargs: Any) -> gym.Env[Any, Any]:
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


def breakout_predicates(game: Any) -> dict[str, bool]:
    """Every predicate of one state of MinAtar's Breakout: the ball, the bricks, and where the ball will come down.

    What is ahead is found by playing on in a copy of the game, so it is exact: until the ball is down, the paddle does
    not change its path.

    Args:
        game: A ``minatar.environments.breakout.Env``.
    """
    column, steps = landing(game)
    bricks = np.asarray(game.brick_map)
    return {
        "ball_rises": game.ball_dir in _RISING,
        "ball_goes_right": game.ball_dir in _RIGHTWARD,
        "ball_at_a_wall": game.ball_x in (0, GRID - 1),
        "ball_among_bricks": 1 <= game.ball_y <= 3,
        "ball_left_of_paddle": game.ball_x < game.pos,
        "ball_right_of_paddle": game.ball_x > game.pos,
        "paddle_at_a_wall": game.pos in (0, GRID - 1),
        "half_the_bricks_gone": int(bricks.sum()) <= bricks[1:4].size // 2,
        "there_is_a_hole": bool((bricks[1:4].sum(axis=0) == 0).any()),
        "about_to_score": scores_next(game),
        "comes_down_left": column < game.pos,
        "comes_down_right": column > game.pos,
        "comes_down_soon": steps <= 3,
        "lost_without_moving": lost_without_moving(game),
    }


def landing(game: Any) -> tuple[int, int]:
    """The column in which the ball will be just above the paddle's row on its way down, and the steps until then."""
    ahead = _copied(game)
    steps = 0
    while ahead.ball_dir in _RISING or ahead.ball_y < GRID - 2:
        ahead.act(_STAY)
        steps += 1
    return int(ahead.ball_x), steps


def scores_next(game: Any) -> bool:
    """Whether the next step breaks a brick."""
    return bool(_copied(game).act(_STAY)[0] > 0)


def lost_without_moving(game: Any) -> bool:
    """Whether the ball will be missed where the paddle is."""
    ahead = _copied(game)
    for _ in range(landing(game)[1] + 1):
        ahead.act(_STAY)
    return bool(ahead.terminal)


def lane_predicates(envs: VecEnv) -> dict[str, npt.NDArray[np.bool_]]:
    """Every predicate for the lanes of ``MinAtarBreakout-v0``, as recordings ask for them: ``[B]`` each."""
    answers = [breakout_predicates(each.env) for each in envs.get_attr("game")]
    return {name: np.array([answer[name] for answer in answers]) for name in answers[0]}


def _copied(game: Any) -> Any:
    """The game with bricks of its own; it draws nothing after its start."""
    ahead = copy(game)
    ahead.brick_map = game.brick_map.copy()
    return ahead
