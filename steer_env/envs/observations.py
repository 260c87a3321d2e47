"""What an agent sees: the residual, raw or normalised or with the prompt's, its SAE features, or a game's board."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from steer_env.errors import SteeringError
from steer_env.lm.sae import FeatureDictionary
from steer_env.tasks.base import Conversation, Task

if TYPE_CHECKING:
    from torch import Tensor


class Seen(NamedTuple):
    """What there is to be seen of ``B`` lanes.

    Attributes:
        residual: ``[B, M]`` at the last token.
        prompted: ``[B, M]`` at the last token before the model's turn.
        conversations: the lanes' own.
    """

    residual: Tensor
    prompted: Tensor
    conversations: Sequence[Conversation]


@dataclass(frozen=True)
class Observation:
    """A kind of observation: its space for one lane, and how a batch of it is read."""

    space: spaces.Space
    read: Callable[[Seen], Any]


def make_observation(kind: str, dictionary: FeatureDictionary, task: Task) -> Observation:
    """Build an observation by name.

    Args:
        kind: A key of ``OBSERVATIONS``, whose functions say what each is.
        dictionary: The SAE at the steering site.
        task: The task, for its state.

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
    """The residual ``[M]`` of the last token, divided by its own root mean square."""
    return Observation(_unit_box(dictionary), lambda seen: _array(normalized(seen.residual)))


def _prompted(dictionary: FeatureDictionary, task: Task) -> Observation:
    """Two normalised residuals ``[2 M]``: that of the last token, and that of the last one before the model's turn.

    At an early layer the last token alone says little of what was asked.
    """

    def read(seen: Seen) -> np.ndarray:
        both = [_array(normalized(residual)) for residual in (seen.residual, seen.prompted)]
        return np.concatenate(both, axis=1)

    return Observation(_unit_box(dictionary, residuals=2), read)


def _unit_box(dictionary: FeatureDictionary, residuals: int = 1) -> spaces.Box:
    """Where normalised residuals lie, side by side."""
    width = dictionary.directions.shape[1]
    bound = np.float32(np.sqrt(width)) * np.float32(1.001)
    return spaces.Box(-bound, bound, (residuals * width,), np.float32)


def _residual(dictionary: FeatureDictionary, task: Task) -> Observation:
    """The residual ``[M]`` of the last token as it is."""
    space = spaces.Box(-np.inf, np.inf, (dictionary.directions.shape[1],), np.float32)
    return Observation(space, lambda seen: _array(seen.residual))


def _features(dictionary: FeatureDictionary, task: Task) -> Observation:
    """The SAE's activations ``[F]`` at the last token."""
    space = spaces.Box(0, np.inf, (dictionary.width,), np.float32)
    return Observation(space, lambda seen: _array(dictionary.encode(seen.residual)))


def _board(dictionary: FeatureDictionary, task: Task) -> Observation:
    """The task's own state, such as a board; for tasks that have one."""
    if task.state_shape == (0,):
        raise SteeringError(f"task {task.name!r} has no state: observe 'normalized', 'residual' or 'features'")
    space = spaces.MultiDiscrete(np.full(task.state_shape, task.state_levels))
    return Observation(space, lambda seen: np.array([lane.state() for lane in seen.conversations], dtype=np.int64))


def _both(dictionary: FeatureDictionary, task: Task) -> Observation:
    """The normalised residual and the task's state, as a dictionary."""
    residual, board = _normalized(dictionary, task), _board(dictionary, task)
    return Observation(
        spaces.Dict({"residual": residual.space, "board": board.space}),
        lambda seen: {"residual": residual.read(seen), "board": board.read(seen)},
    )


OBSERVATIONS: dict[str, Callable[[FeatureDictionary, Task], Observation]] = {
    "normalized": _normalized,
    "prompted": _prompted,
    "residual": _residual,
    "features": _features,
    "board": _board,
    "both": _both,
}
