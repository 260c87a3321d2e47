"""``KingRookKing-v0``: mate with king and rook on a 5x5 board, alone or as natively batched lanes.

The game of DuPlessie's study of SAEs on deep Q networks, with the rules of chess kept: the rook does not jump, the
white king blocks it, and a king gives way along the rook's line only sideways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from agents.inside.worlds.king_rook_rules import (
    ACTIONS,
    AFTER,
    BLACK_KING,
    LEGAL,
    OUTCOME,
    POSITIONS,
    REPLY_SQUARES,
    REWARD,
    ROOK,
    SQUARES,
    WHITE_KING,
    Outcome,
    draw_board,
    reply,
    to_position,
)

MAX_MOVES = 50
STARTS = np.flatnonzero(LEGAL)


def observations(positions: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """One-hot squares of rook, white king and black king.

    Args:
        positions: ``[...]`` integers.

    Returns:
        ``[..., 75]``; a rook that was taken (black on its square) has no one.
    """
    return _ONE_HOT[np.asarray(positions)]


def positions_of(obs: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Undo :func:`observations`: ``[..., 75]`` to ``[...]``; where the rook was taken, black stands on its square."""
    planes = np.asarray(obs).reshape(*np.shape(obs)[:-1], 3, SQUARES)
    rook, white_king, black_king = (planes[..., piece, :].argmax(-1) for piece in range(3))
    rook = np.where(planes[..., 0, :].any(-1), rook, black_king)
    return (rook * SQUARES + white_king) * SQUARES + black_king


def start_position(options: Mapping[str, Any] | None, rng: np.random.Generator) -> int:
    """The position asked for, or one drawn uniformly from all legal ones with white to move.

    Args:
        options: ``{"position": (rook, white king, black king)}`` as squares, or the position's number; or None.
        rng: draws where nothing is asked for.

    Raises:
        ValueError: an option is unknown, or the position is not legal with white to move.
    """
    asked = dict(options or {})
    position = asked.pop("position", None)
    if asked:
        raise ValueError(f"unknown reset options {sorted(asked)}; known: ['position']")
    if position is None:
        return int(STARTS[rng.integers(len(STARTS))])
    number = to_position(*position) if isinstance(position, Sequence) else int(position)
    if not 0 <= number < POSITIONS or not LEGAL[number]:
        raise ValueError(f"position {position} is not legal with white to move")
    return number


class KingRookKing(gym.Env[npt.NDArray[np.float32], np.int64]):
    """White, with king and rook, is the agent; black's king runs toward the rook.

    Observation: 75 one-hot numbers, the squares (reading order from the top left) of rook, white king and black king.
    Actions: 8 king moves clockwise from north, then the rook's, by direction (north, east, south, west) and length
    1 to 4. Rewards: -1 a move, +100 mate; -100 and the end for an illegal move, a lost rook or stalemate. Episodes
    start uniformly from all legal positions (or ``reset(options={"position": ...})``) and are truncated after 50
    moves by Gymnasium's ``TimeLimit``. Black goes to the legal square nearest the rook (Euclidean), equals by
    nearness to the centre, then at random; so it takes the rook when it can.

    Attributes:
        position: the number of the position (see ``king_rook_rules``).
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, render_mode: str | None = None) -> None:
        """Args: ``render_mode`` is ``"ansi"`` or None."""
        self.render_mode = _known_render_mode(render_mode)
        self.observation_space = spaces.Box(0.0, 1.0, (3 * SQUARES,), np.float32)
        self.action_space = spaces.Discrete(ACTIONS)
        self.position = int(STARTS[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """See the class; ``info["position"]`` is the position's number."""
        super().reset(seed=seed)
        self.position = start_position(options, self.np_random)
        return observations(self.position), {"position": self.position}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move, and let black answer; at the end ``info["outcome"]`` names it.

        Raises:
            ValueError: the action is not in [0, 24).
        """
        move = int(_checked_actions(action))
        outcome = Outcome(int(OUTCOME[self.position, move]))
        after = int(AFTER[self.position, move])
        answers = outcome in (Outcome.ONGOING, Outcome.ROOK_LOST)
        self.position = reply(after, self.np_random) if answers else after
        info: dict[str, Any] = {"position": self.position}
        ended = outcome is not Outcome.ONGOING
        if ended:
            info["outcome"] = outcome.name.lower()
        return observations(self.position), float(REWARD[outcome]), ended, False, info

    def render(self) -> str | None:
        """The board as text (``render_mode="ansi"``)."""
        return draw_board(self.position) if self.render_mode == "ansi" else None


class KingRookKingVectorEnv(VectorEnv[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float64]]):
    """Lanes of :class:`KingRookKing` in array operations, with same-step autoreset.

    Lane ``i`` of ``reset(seed=s)`` is the single environment of ``reset(seed=s + i)``, episode after episode.
    ``infos["position"]`` is ``[B]``; ``final_info`` holds ``position`` and ``outcome`` (None where truncated).

    Attributes:
        positions: ``[B]``, of the observations last returned.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4, "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, max_episode_steps: int = MAX_MOVES, render_mode: str | None = None) -> None:
        """Args: B, the moves after which an episode is truncated, and ``"ansi"`` or None."""
        if num_envs < 1 or max_episode_steps < 1:
            raise ValueError(f"num_envs and max_episode_steps must be at least 1, got {num_envs}, {max_episode_steps}")
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.render_mode = _known_render_mode(render_mode)
        single = KingRookKing()
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.positions = np.full(num_envs, STARTS[0])
        self._moves = np.zeros(num_envs, dtype=np.int64)
        self._rngs = [np.random.default_rng(lane) for lane in range(num_envs)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin an episode in every lane, all from ``options["position"]`` if there is one."""
        super().reset(seed=seed)
        if seed is not None:
            self._rngs = [np.random.default_rng(seed + lane) for lane in range(self.num_envs)]
        self.positions = np.array([start_position(options, rng) for rng in self._rngs])
        self._moves[:] = 0
        return observations(self.positions), {"position": self.positions.copy()}

    def step(self, actions: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], Any, Any, dict[str, Any]]:
        """One move in every lane; lanes that end start again in the same step.

        Raises:
            ValueError: an action is not in [0, 24).
        """
        chosen = _checked_actions(actions)
        outcome, after = OUTCOME[self.positions, chosen], AFTER[self.positions, chosen]
        answered = np.isin(outcome, (Outcome.ONGOING, Outcome.ROOK_LOST))
        self.positions = after - BLACK_KING[after] * answered + _FIRST_REPLY[after] * answered
        for lane in np.flatnonzero(answered & _DRAWN[after]):
            self.positions[lane] = reply(int(after[lane]), self._rngs[lane])
        self._moves += 1
        terminated = outcome != Outcome.ONGOING
        truncated = self._moves >= self.max_episode_steps  # also where it ends, as TimeLimit says it
        ended = terminated | truncated
        infos: dict[str, Any] = self._finish(ended, outcome) if ended.any() else {}
        return (
            observations(self.positions),
            REWARD[outcome],
            terminated,
            truncated,
            infos | {"position": self.positions.copy()},
        )

    def _finish(self, ended: npt.NDArray[np.bool_], outcome: npt.NDArray[np.int8]) -> dict[str, Any]:
        """Restart the ended lanes; what Gymnasium's same-step autoreset tells of them."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        names = np.full(self.num_envs, None, dtype=object)
        final_positions = self.positions.copy()
        for lane in np.flatnonzero(ended):
            final_obs[lane] = observations(final_positions[lane])
            names[lane] = Outcome(outcome[lane]).name.lower() if outcome[lane] != Outcome.ONGOING else None
            self.positions[lane] = start_position(None, self._rngs[lane])
        self._moves[ended] = 0
        final = {"position": final_positions, "outcome": names, "_outcome": ended & (outcome != Outcome.ONGOING)}
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final, "_final_info": ended}

    def render(self) -> tuple[str, ...] | None:
        """Each lane's board as text (``render_mode="ansi"``)."""
        return tuple(draw_board(position) for position in self.positions) if self.render_mode == "ansi" else None


def _known_render_mode(render_mode: str | None) -> str | None:
    if render_mode not in (None, "ansi"):
        raise ValueError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
    return render_mode


def _checked_actions(actions: Any) -> npt.NDArray[np.int64]:
    chosen = np.asarray(actions)
    if chosen.dtype.kind not in "iu" or (chosen < 0).any() or (chosen >= ACTIONS).any():
        raise ValueError(f"actions must be integers in [0, {ACTIONS}), got {actions}")
    return chosen


def _one_hot() -> npt.NDArray[np.float32]:
    planes = np.zeros((POSITIONS, 3, SQUARES), dtype=np.float32)
    everywhere = np.arange(POSITIONS)
    for piece, square in enumerate((ROOK, WHITE_KING, BLACK_KING)):
        planes[everywhere, piece, square] = 1.0
    planes[ROOK == BLACK_KING, 0] = 0.0
    return planes.reshape(POSITIONS, -1)


_ONE_HOT = _one_hot()
_FIRST_REPLY = np.array([squares[0] if squares else 0 for squares in REPLY_SQUARES])
_DRAWN = np.array([len(squares) > 1 for squares in REPLY_SQUARES])
