"""What an agent may do to the residual: choose one feature, or set the strengths of a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from gymnasium import spaces

from steer_env.errors import SteeringError
from steer_env.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

NO_OP = -1


class Actuator(Protocol):
    """Turns actions into steering vectors."""

    features: np.ndarray
    coefficient: float

    @property
    def space(self) -> spaces.Space:
        """Action space of one lane."""

    def read(self, actions: np.ndarray, lanes: int) -> np.ndarray:
        """The actions of ``lanes`` lanes as the other methods want them.

        Raises:
            SteeringError: Their shape, type or values are not those of the action space.
        """

    def delta(self, actions: np.ndarray) -> Tensor:
        """Steering vectors ``[B, M]`` in residual units of a batch of actions."""

    def record(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """What was applied, one entry a lane, for ``info``."""

    def steers(self, actions: np.ndarray) -> np.ndarray:
        """``[B]`` bool: which lanes are steered at all."""


class FeatureChoice:
    """One feature a token: action ``i`` adds ``c * W_dec[features[i]]``, the last action adds nothing.

    Args:
        directions: ``[F, M]`` decoder rows of the whole dictionary.
        features: The SAE indices behind the actions.
        coefficient: ``c`` in residual units.
    """

    def __init__(self, directions: Tensor, features: np.ndarray, coefficient: float):
        self.features = features
        self.coefficient = coefficient
        self.space = spaces.Discrete(len(features) + 1)
        self._directions = directions
        self._rows = torch.as_tensor(features, device=directions.device)

    def read(self, actions: np.ndarray, lanes: int) -> np.ndarray:
        """``[B]`` integers in ``[0, A)``, as int64."""
        if actions.shape != (lanes,) or actions.dtype.kind not in "iu":
            raise SteeringError(
                f"actions must be {lanes} integers, got shape {actions.shape} of {actions.dtype}: {actions.tolist()}"
            )
        outside = actions[(actions < 0) | (actions > len(self.features))]
        if len(outside):
            raise SteeringError(f"action must be in [0, {len(self.features) + 1}), got {outside[0]}")
        return actions.astype(np.int64)

    def delta(self, actions: np.ndarray) -> Tensor:
        """``[B]`` action numbers to ``[B, M]``: one gather, whatever the number of features."""
        chosen = torch.as_tensor(actions, device=self._directions.device)
        steered = chosen < len(self.features)
        rows = self._directions[self._rows[chosen.clamp(max=len(self.features) - 1)]]
        return rows * (self.coefficient * steered)[:, None]

    def record(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """``feature``: ``[B]`` SAE index, ``-1`` for the no-op."""
        return {"feature": np.append(self.features, NO_OP)[actions]}

    def steers(self, actions: np.ndarray) -> np.ndarray:
        """``[B]`` bool: the action is not the no-op."""
        return actions < len(self.features)


class FeatureStrengths:
    """AutoSteer's action: strengths in ``[-bound, bound]`` of ``k`` features, all added at once.

    The steering vector is ``c * sum_i strength_i * W_dec[features[i]]``.
    """

    def __init__(self, directions: Tensor, features: np.ndarray, coefficient: float, bound: float):
        if not 0 < bound < np.inf:
            raise SteeringError(f"bound must be more than 0 and finite, got {bound}")
        self.features = features
        self.coefficient = coefficient
        self.space = spaces.Box(-bound, bound, (len(features),), np.float32)
        self._directions = coefficient * directions[torch.as_tensor(features, device=directions.device)]

    def read(self, actions: np.ndarray, lanes: int) -> np.ndarray:
        """``[B, k]`` strengths within the bound, as float32."""
        wanted = (lanes, len(self.features))
        if actions.shape != wanted or actions.dtype.kind not in "iuf":
            raise SteeringError(f"strengths must be of shape {wanted}, got {actions.shape} of {actions.dtype}")
        if not np.isfinite(actions).all():
            raise SteeringError(f"strengths must be finite, got {actions.tolist()}")
        low, high = self.space.low, self.space.high
        if (actions < low - 1e-6).any() or (actions > high + 1e-6).any():
            raise SteeringError(f"strengths must be in [{low[0]}, {high[0]}], got {actions.tolist()}")
        return actions.astype(np.float32)

    def delta(self, actions: np.ndarray) -> Tensor:
        """``[B, k]`` strengths to ``[B, M]``."""
        return torch.as_tensor(actions, dtype=torch.float32, device=self._directions.device) @ self._directions

    def record(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """``strengths``: ``[B, k]`` as applied."""
        return {"strengths": np.array(actions, dtype=np.float32)}

    def steers(self, actions: np.ndarray) -> np.ndarray:
        """``[B]`` bool: some strength is not zero."""
        return (actions != 0).any(axis=1)


def chosen_features(features: Sequence[int] | None, width: int) -> np.ndarray:
    """The SAE indices behind the actions: all ``F``, or the given few.

    Raises:
        SteeringError: The list is empty, repeats an index or leaves ``[0, F)``.
    """
    if features is None:
        return np.arange(width)
    chosen = np.array(features)
    if chosen.ndim != 1 or chosen.dtype.kind not in ("f" if chosen.size == 0 else "iu"):
        raise SteeringError(f"features must be a list of integers, got {features!r}")
    chosen = chosen.astype(np.int64)
    if len(chosen) == 0 or len(set(chosen.tolist())) < len(chosen):
        raise SteeringError(f"features must be a non-empty list without repeats, got {list(features)}")
    outside = chosen[(chosen < 0) | (chosen >= width)]
    if len(outside):
        raise SteeringError(f"feature index must be in [0, {width}), got {outside[0]}")
    return chosen
