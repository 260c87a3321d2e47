"""What is true of a state of MinAtar's Breakout: the ball, the bricks, and where the ball will come down.

What is ahead is found by playing on in a copy of the game, so it is exact: until the ball is down, the paddle has no
part in its course.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

SIZE = 10
_RISING, _RIGHTWARD = (0, 1), (1, 2)  # of the game's four directions: up left, up right, down right, down left
_STAY = 0  # of the game's six actions


def predicates(game: Any) -> dict[str, bool]:
    """Every predicate of one state of ``minatar.environments.breakout.Env``."""
    column, steps = landing(game)
    bricks = np.asarray(game.brick_map)
    return {
        "ball_rises": game.ball_dir in _RISING,
        "ball_goes_right": game.ball_dir in _RIGHTWARD,
        "ball_at_a_wall": game.ball_x in (0, SIZE - 1),
        "ball_among_bricks": 1 <= game.ball_y <= 3,
        "ball_left_of_paddle": game.ball_x < game.pos,
        "ball_right_of_paddle": game.ball_x > game.pos,
        "paddle_at_a_wall": game.pos in (0, SIZE - 1),
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
    while ahead.ball_dir in _RISING or ahead.ball_y < SIZE - 2:
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
    answers = [predicates(each.env) for each in envs.get_attr("game")]
    return {name: np.array([answer[name] for answer in answers]) for name in answers[0]}


def _copied(game: Any) -> Any:
    """The game with bricks of its own; it draws nothing after its start."""
    ahead = copy(game)
    ahead.brick_map = game.brick_map.copy()
    return ahead
