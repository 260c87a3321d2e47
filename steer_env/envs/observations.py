"""What an agent sees: the residual in some scale, alone or with the prompt's, its SAE features, or a game's board."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from steer_env.errors import SteeringError
from steer_env.lazy import torch
from steer_env.lm.sae import FeatureDictionary
from steer_env.tasks.base import Conversation, Task

if TYPE_CHECKING:
    from torch import Tensor


_LEAST_DEVIATION = 1e-6
_MOST_DEVIATIONS = 10.0


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


class Statistics(NamedTuple):
    """What a standardised observation is measured against.

    Attributes:
        mean: ``[M]`` float32 of normalised residuals.
        deviation: ``[M]`` float32 of the same.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Observation:
    """A kind of observation.

    Attributes:
        space: Its space for one lane.
        read: How a batch of it is read.
        statistics: What it is measured against, if anything.
    """

    space: spaces.Space
    read: Callable[[Seen], Any]
    statistics: Statistics | None = None


class Source(NamedTuple):
    """What observations are made from.

    Attributes:
        dictionary: The SAE at the steering site.
        task: The task, for its state.
        statistics: Measures residuals of the train split; None where only observations that need none are made.
    """

    dictionary: FeatureDictionary
    task: Task
    statistics: Callable[[], Statistics] | None = None


def make_observation(kind: str, source: Source) -> Observation:
    """Build an observation by name.

    Args:
        kind: A key of ``OBSERVATIONS``, whose functions say what each is.
        source: What it is made from.

    Raises:
        SteeringError: The kind is unknown, or the task has no state to show.
    """
    if kind not in OBSERVATIONS:
        raise SteeringError(f"observation must be one of {sorted(OBSERVATIONS)}, got {kind!r}")
    return OBSERVATIONS[kind](source)


def usual_observation(task: Task) -> str:
    """The kind of observation where none is asked for.

    Where the model's turn is one token agents learn faster from a standardised residual, and in sentences slower: both
    measured, in ``experiments/LOG.md``.
    """
    return "standardized" if task.max_new_tokens == 1 else "normalized"


def normalized(residual: Tensor) -> Tensor:
    """``[..., M]`` residuals, each divided by its own root mean square."""
    return residual / residual.pow(2).mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-8)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy().copy()


def _standardized(source: Source) -> Observation:
    """The normalised residual ``[M]`` of the last token, less the mean of train and divided by its deviation.

    What all residuals have in common says nothing and is most of them. At most ten deviations are shown.
    """
    assert source.statistics is not None
    statistics = source.statistics()
    mean = torch.from_numpy(statistics.mean)
    scale = 1 / torch.from_numpy(statistics.deviation).clamp(min=_LEAST_DEVIATION)

    def read(seen: Seen) -> np.ndarray:
        centred = normalized(seen.residual) - mean.to(seen.residual)
        return _array((centred * scale.to(centred)).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS))

    space = spaces.Box(-_MOST_DEVIATIONS, _MOST_DEVIATIONS, mean.shape, np.float32)
    return Observation(space, read, statistics)


def _normalized(source: Source) -> Observation:
    """The residual ``[M]`` of the last token, divided by its own root mean square."""
    return Observation(_unit_box(source), lambda seen: _array(normalized(seen.residual)))


def _prompted(source: Source) -> Observation:
    """Two normalised residuals ``[2 M]``: that of the last token, and that of the last one before the model's turn.

    At an early layer the last token alone says little of what was asked.
    """

    def read(seen: Seen) -> np.ndarray:
        both = [_array(normalized(residual)) for residual in (seen.residual, seen.prompted)]
        return np.concatenate(both, axis=1)

    return Observation(_unit_box(source, residuals=2), read)


def _unit_box(source: Source, residuals: int = 1) -> spaces.Box:
    """Where normalised residuals lie, side by side."""
    width = source.dictionary.directions.shape[1]
    bound = np.float32(np.sqrt(width)) * np.float32(1.001)
    return spaces.Box(-bound, bound, (residuals * width,), np.float32)


def _residual(source: Source) -> Observation:
    """The residual ``[M]`` of the last token as it is."""
    space = spaces.Box(-np.inf, np.inf, (source.dictionary.directions.shape[1],), np.float32)
    return Observation(space, lambda seen: _array(seen.residual))


def _features(source: Source) -> Observation:
    """The SAE's activations ``[F]`` at the last token."""
    space = spaces.Box(0, np.inf, (source.dictionary.width,), np.float32)
    return Observation(space, lambda seen: _array(source.dictionary.encode(seen.residual)))


def _board(source: Source) -> Observation:
    """The task's own state, such as a board; for tasks that have one."""
    task = source.task
    if task.state_shape == (0,):
        raise SteeringError(f"task {task.name!r} has no state: observe 'standardized', 'residual' or 'features'")
    space = spaces.MultiDiscrete(np.full(task.state_shape, task.state_levels))
    return Observation(space, lambda seen: np.array([lane.state() for lane in seen.conversations], dtype=np.int64))


def _both(source: Source) -> Observation:
    """The standardised residual and the task's state, as a dictionary."""
    residual, board = _standardized(source), _board(source)
    return Observation(
        spaces.Dict({"residual": residual.space, "board": board.space}),
        lambda seen: {"residual": residual.read(seen), "board": board.read(seen)},
        residual.statistics,
    )


OBSERVATIONS: dict[str, Callable[[Source], Observation]] = {
    "standardized": _standardized,
    "normalized": _normalized,
    "prompted": _prompted,
    "residual": _residual,
    "features": _features,
    "board": _board,
    "both": _both,
}
