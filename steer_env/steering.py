"""What a policy sees and does inside a pass of a language model, and what it may ask of the texts there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steer_env.envs.actions import Actuator
from steer_env.envs.observations import Observation, Seen
from steer_env.envs.scene import OPENING
from steer_env.evaluation.play import Lanes, Policy
from steer_env.lm.sae import FeatureDictionary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Steering:
    """What is done to the residual at one site.

    Attributes:
        dictionary: The SAE.
        observation: What the policy sees.
        actuator: What its actions do.
        policy: What chooses.
        scope: Which features count as active: ``mask=`` of the environment.
    """

    dictionary: FeatureDictionary
    observation: Observation
    actuator: Actuator
    policy: Policy
    scope: str = "off"


class LanesInPass:
    """What a policy may ask of an environment, of the texts in a pass."""

    def __init__(self, steering: Steering) -> None:
        self.steering = steering
        self.single_action_space, self.features = steering.actuator.space, steering.actuator.features
        self.num_envs = 0
        self._record: list[dict[str, Any]] | None = None
        self._step = np.zeros(0, dtype=np.int64)
        self._hidden: Tensor | None = None
        self._prompted: Tensor | None = None
        self._active: Tensor | None = None

    @contextmanager
    def recording(self, steps: list[dict[str, Any]]) -> Iterator[None]:
        """Append what is done in each pass to ``steps``."""
        self._record = steps
        try:
            yield
        finally:
            self._record = None

    def delta(self, hidden: Tensor, fresh: bool) -> Tensor:
        """``[B, M]`` steering vectors for residuals ``[B, M]``, of new texts where ``fresh``."""
        steering = self.steering
        if fresh or self._prompted is None or len(hidden) != self.num_envs:
            self.num_envs, self._prompted, self._active = len(hidden), hidden, None
            self._step = np.zeros(self.num_envs, dtype=np.int64)
        self._hidden = hidden
        if steering.scope in ("current", "generation"):
            active = self.encode() > 0
            before = self._active if steering.scope == "generation" else None
            self._active = active if before is None else active | before
        seen = steering.observation.read(Seen(hidden, self._prompted, ()))
        places = np.arange(self.num_envs)
        lanes: Any = Lanes(self, places, self._step.copy(), self.num_envs)  # type: ignore[arg-type]  # what policies ask
        answer = steering.policy(seen, lanes)
        actions, details = answer if isinstance(answer, tuple) else (answer, {})
        actions = steering.actuator.read(np.asarray(actions), self.num_envs)
        self._step += 1
        if self._record is not None:
            self._record.append(steering.actuator.record(actions) | _told(details))
        return steering.actuator.delta(actions)

    def encode(self) -> Tensor:
        """``[B, F]`` SAE activations."""
        assert self._hidden is not None
        return self.steering.dictionary.encode(self._hidden)

    def action_masks(self) -> np.ndarray:
        """``[B, A]`` bool: legal actions."""
        legal = np.ones((self.num_envs, len(self.features) + 1), dtype=bool)
        if self.steering.scope == "opening":
            legal[self._step >= OPENING, :-1] = False
        elif self._active is not None:
            legal[:, :-1] = self._active.cpu().numpy()[:, self.features]
        return legal


def _told(details: Mapping[str, Any]) -> dict[str, Any]:
    """What a policy says of its choices, with the probability in place of its logarithm."""
    told = dict(details)
    if "log_prob" in told:
        told["probability"] = np.exp(told.pop("log_prob"))
    return told
