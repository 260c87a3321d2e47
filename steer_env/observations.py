"""What an agent sees: the residual, raw or normalised, its SAE features, or the task's own state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from steer_env.errors import SteeringError
from steer_env.sae import FeatureDictionary
from steer_env.tasks.base import Conversation, Task


@dataclass(frozen=True)
class Observation:
    """A kind of observation: its space for one lane, and how a batch of it is read.

    ``read`` takes the residual ``[B, M]`` and the lanes' conversations.
    """

    space: spaces.Space
    read: Callable[[Tensor, Sequence[Conversation]], Any]


def make_observation(kind: str, dictionary: FeatureDictionary, task: Task) -> Observation:
    """Build an observation by name.

    ``normalized`` ``[M]``: the residual divided by its own root mean square, so stateless. ``residual`` ``[M]``.
    ``features`` ``[F]``: SAE activations. ``board``: the task's state. ``both``: residual (normalised) and state.

    Raises:
        SteeringError: The kind is unknown, or the task has no state to show.
    """
    if kind not in OBSERVATIONS:
        raise SteeringError(f"observation must be one of {sorted(OBSERVATIONS)}, got {kind!r}")
    return OBSERVATIONS[kind](dictionary, task)


def normalized(residual: Tensor) -> Tensor:
    """``[..., M]`` residuals, each divided by its own root mean square."""
    return residual / residual.pow(2).mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-8)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy().copy()


def _normalized(dictionary: FeatureDictionary, task: Task) -> Observation:
    width = dictionary.directions.shape[1]
    bound = np.float32(np.sqrt(width)) * np.float32(1.001)
    space = spaces.Box(-bound, bound, (width,), np.float32)
    return Observation(space, lambda residual, _: _array(normalized(residual)))


def _residual(dictionary: FeatureDictionary, task: Task) -> Observation:
    space = spaces.Box(-np.inf, np.inf, (dictionary.directions.shape[1],), np.float32)
    return Observation(space, lambda residual, _: _array(residual))


def _features(dictionary: FeatureDictionary, task: Task) -> Observation:
    space = spaces.Box(0, np.inf, (dictionary.width,), np.float32)
    return Observation(space, lambda residual, _: _array(dictionary.encode(residual)))


def _board(dictionary: FeatureDictionary, task: Task) -> Observation:
    if task.state_shape == (0,):
        raise SteeringError(f"task {task.name!r} has no state: observe 'normalized', 'residual' or 'features'")
    space = spaces.MultiDiscrete(np.full(task.state_shape, task.state_levels))
    return Observation(
        space, lambda _, conversations: np.array([lane.state() for lane in conversations], dtype=np.int64)
    )


def _both(dictionary: FeatureDictionary, task: Task) -> Observation:
    residual, board = _normalized(dictionary, task), _board(dictionary, task)
    return Observation(
        spaces.Dict({"residual": residual.space, "board": board.space}),
        lambda hidden, conversations: {
            "residual": residual.read(hidden, conversations),
            "board": board.read(hidden, conversations),
        },
    )


OBSERVATIONS: dict[str, Callable[[FeatureDictionary, Task], Observation]] = {
    "normalized": _normalized,
    "residual": _residual,
    "features": _features,
    "board": _board,
    "both": _both,
}
