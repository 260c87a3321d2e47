"""What is done to the residual at one state, by the policy or by the person who plays, and what the policy says of it.

Texts, games and environments are steered alike, whatever shows them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from steer_env.envs.actions import NO_OP, Actuator
from steer_env.errors import SteeringError
from steer_env.evaluation.play import Array, Details, Lanes, Policy

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 6
"""So many alternatives and active features are shown."""


class Push(NamedTuple):
    """One feature's direction, so many times.

    Attributes:
        feature: SAE index; -1 does nothing.
        strength: In residual units.
    """

    feature: int
    strength: float

    def check(self, width: int) -> Push:
        """The push itself.

        Raises:
            SteeringError: The SAE has no such feature, or the strength is not finite.
        """
        if not NO_OP <= self.feature < width:
            raise SteeringError(f"feature must be in [0, {width}), got {self.feature}")
        if not np.isfinite(self.strength):
            raise SteeringError(f"strength must be finite, got {self.strength}")
        return self


NOTHING = Push(NO_OP, 0.0)


class ByHand:
    """An actuator that does what the policy chose, or a push in its place.

    Args:
        own: The actuator behind the policy's actions.
        directions: ``[F, M]`` of the whole dictionary.

    Attributes:
        push: What the person wants at the state to come; None leaves it to the policy.
    """

    def __init__(self, own: Actuator, directions: Tensor) -> None:
        self.own, self.directions = own, directions
        self.features, self.coefficient, self.space = own.features, own.coefficient, own.space
        self.push: Push | None = None

    def read(self, actions: Array, lanes: int) -> Array:
        """As the policy's actuator does."""
        return self.own.read(actions, lanes)

    def delta(self, actions: Array) -> Tensor:
        """``[B, M]`` steering vectors."""
        if self.push is None:
            return self.own.delta(actions)
        row = self.directions[[max(self.push.feature, 0)]] * self._strength
        return row.repeat(len(actions), 1)

    def record(self, actions: Array) -> dict[str, Array]:
        """``feature`` or ``strengths`` of each lane."""
        if self.push is None:
            return self.own.record(actions)
        return {"feature": np.full(len(actions), self.push.feature)}

    def steers(self, actions: Array) -> Array:
        """``[B]`` bool: something is added."""
        if self.push is None:
            return self.own.steers(actions)
        return np.full(len(actions), self._strength != 0)

    @property
    def _strength(self) -> float:
        assert self.push is not None
        return self.push.strength if self.push.feature >= 0 else 0.0


class Weighed(NamedTuple):
    """A feature and a number: its probability, preference or activation; feature -1 is to do nothing."""

    feature: int
    number: float


@dataclass(frozen=True)
class Said:
    """What is known of one choice.

    Attributes:
        push: What was added; of several strengths the largest.
        by_hand: Whether the person chose it.
        probability: Of the policy's own choice, if it has one.
        value: Of the state, if the policy has a critic.
        entropy: Of its choice in nats, if it has one.
        alternatives: What it might have chosen, likeliest first; empty where it ranks nothing.
        weighed_by: What the numbers of the alternatives are: ``"probability"`` or ``"Q values"``.
        active: The most active features before steering.
    """

    push: Push
    by_hand: bool = False
    probability: float | None = None
    value: float | None = None
    entropy: float | None = None
    alternatives: tuple[Weighed, ...] = ()
    weighed_by: str = ""
    active: tuple[Weighed, ...] = ()


@dataclass
class Asked:
    """A policy that keeps what it said last. It remembers texts by itself: two of them share nothing.

    Attributes:
        policy: The policy.
        details: ``log_prob``, ``value`` and ``entropy`` of the last state, those that it knows.
        preferences: ``[A]`` of the last state, or None.
    """

    policy: Policy
    details: Details = field(default_factory=dict)
    preferences: Array | None = None

    def __post_init__(self) -> None:
        self.policy = copy.copy(self.policy)

    def __call__(self, observations: Any, lanes: Lanes) -> tuple[Array, Details]:
        """See :class:`Policy`."""
        rank = getattr(copy.copy(self.policy), "rank", None)  # of a copy: a memory would take this state in twice
        ranked = None if rank is None else rank(observations, lanes)[1]
        self.preferences = None if ranked is None else ranked[0]
        answer = self.policy(observations, lanes)
        actions, self.details = answer if isinstance(answer, tuple) else (answer, {})
        return actions, self.details

    def said(self, hand: ByHand, record: Mapping[str, Array], activations: Tensor, by_hand: bool) -> Said:
        """What was said and done at the last state.

        Args:
            hand: What steered.
            record: What it recorded, one lane.
            activations: ``[F]`` of the SAE, before steering.
            by_hand: Whether the person chose.
        """
        alternatives, weighed_by = self._alternatives(hand)
        log_prob = self._number("log_prob")
        return Said(
            push=_pushed(hand, record),
            by_hand=by_hand,
            probability=None if log_prob is None else float(np.exp(log_prob)),
            value=self._number("value"),
            entropy=self._number("entropy"),
            alternatives=alternatives,
            weighed_by=weighed_by,
            active=most_active(activations),
        )

    def _number(self, name: str) -> float | None:
        value = self.details.get(name)
        number = None if value is None else float(value[0])
        return number if number is not None and np.isfinite(number) else None

    def _alternatives(self, hand: ByHand) -> tuple[tuple[Weighed, ...], str]:
        if self.preferences is None:
            return (), ""
        numbers, kind = self.preferences, self.policy.family.preferences  # type: ignore[attr-defined]  # it ranks
        legal = np.isfinite(numbers)
        if kind == "logits":
            likely = np.exp(numbers - numbers.max())
            numbers, kind = likely / likely.sum(), "probability"
        best = [place for place in np.argsort(-numbers, kind="stable")[:SHOWN] if legal[place]]
        features = np.append(hand.features, NO_OP)
        return tuple(Weighed(int(features[place]), float(numbers[place])) for place in best), kind


def nothing(observations: Any, lanes: Lanes) -> tuple[Array, Details]:
    """The policy that does nothing, whatever the actions are."""
    space, count = lanes.envs.single_action_space, lanes.envs.num_envs
    if isinstance(space, spaces.Box):
        return np.zeros((count, *space.shape), dtype=np.float32), {}
    assert isinstance(space, spaces.Discrete)
    return np.full(count, space.n - 1), {}


def recorded(info: Mapping[str, Any], lanes: bool = True) -> dict[str, Array]:
    """What was done in a step, by its ``info``.

    Args:
        info: Of one lane.
        lanes: Whether its entries are arrays over lanes; of ``gym.make`` they are not.
    """
    names: tuple[str, ...] = ("feature", "strengths")
    return {name: np.asarray(info[name]) if lanes else np.asarray(info[name])[None] for name in names if name in info}


def most_active(activations: Tensor, count: int = SHOWN) -> tuple[Weighed, ...]:
    """The features with the largest activations ``[F]`` above zero, largest first."""
    best = activations.topk(min(count, len(activations)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(Weighed(feature, value) for feature, value in pairs if value > 0)


def _pushed(hand: ByHand, record: Mapping[str, Array]) -> Push:
    if hand.push is not None:
        return hand.push
    if "feature" in record:
        feature = int(record["feature"][0])
        return Push(feature, float(hand.coefficient) if feature >= 0 else 0.0)
    strengths = record["strengths"][0]
    largest = int(np.abs(strengths).argmax())
    if strengths[largest] == 0:
        return NOTHING
    return Push(int(hand.features[largest]), float(hand.coefficient * strengths[largest]))
