"""An environment stepped by hand, as somebody who debugs a task would: what is seen, what may be done, what it pays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from agents.play.choosing import Asked, ByHand, Said, Weighed, nothing, recorded
from agents.play.one_lane import OneLane
from steer_env.envs.actions import NO_OP
from steer_env.envs.env import SteerEnv
from steer_env.errors import SteeringError
from steer_env.evaluation.play import Policy

if TYPE_CHECKING:
    from steer_env.envs.base import SteerBase


@dataclass(frozen=True)
class Seen:
    """An observation in few numbers.

    Attributes:
        name: Of its part, where it has several.
        shape: Its shape.
        numbers: Least, mean, largest, and Euclidean norm.
        values: All of them, where they are as few as a board's.
    """

    name: str
    shape: tuple[int, ...]
    numbers: tuple[float, float, float, float]
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stepped:
    """One step.

    Attributes:
        text: What the model said.
        said: What was done.
        reward: What was paid.
        unsteered: What the unsteered model would have said.
        changed: Whether that is something else.
        kl: Divergence of what may follow from the unsteered model's, in nats.
    """

    text: str
    said: Said
    reward: float
    unsteered: str | None = None
    changed: bool = False
    kl: float | None = None


class Stepping:
    """An episode under way.

    Args:
        envs: The environment that is stepped, of one lane that nobody else uses.
        policy: What would choose by itself, if anything.

    Attributes:
        steps: Those so far.
        total: The return so far.
        final: The last ``info`` of an episode that has ended, None while it goes on.
    """

    def __init__(self, envs: SteerBase, policy: Policy | None = None) -> None:
        own = envs.episode.scene
        self._hand = ByHand(own.actuator, own.dictionary.directions)
        self.env = SteerEnv(replace(own, compare=True), render_mode="ansi")
        self._lane = OneLane(self.env.episode)
        self._has_policy = policy is not None
        self._asked = Asked(policy or nothing)
        self.steps: list[Stepped] = []
        self.total = 0.0
        self.final: dict[str, Any] | None = None
        self.item = -1
        self._observation: Any = None
        self._choice: Any = None

    def reset(self, item: int | None = None, seed: int = 0) -> None:
        """Begin an episode.

        Args:
            item: Of the split; None deals one by ``seed``.
            seed: Of the order of items and of drawing.

        Raises:
            ValueError: The split has no such item.
        """
        self._observation, info = self.env.reset(seed=seed, options=None if item is None else {"item": item})
        self.item, self.steps, self.total, self.final = info["item"], [], 0.0, None
        self._choose()

    def step(self, feature: int | None = None, strength: float = 1.0) -> Stepped:
        """Take one step.

        Args:
            feature: SAE index, -1 for none; None leaves it to the policy.
            strength: Where actions are strengths: of that feature, all others being 0.

        Raises:
            SteeringError: No episode is under way, the feature is not behind any action, the strength leaves its
                bounds, or there is no policy.
        """
        if self._choice is None or self.final is not None:
            raise SteeringError("the episode is over: reset the environment")
        action = self._choice if feature is None else self._action(feature, strength)
        if feature is None and not self._has_policy:
            raise SteeringError("there is no policy to choose: name a feature")
        activations = self._lane.encode()[0]
        self._observation, reward, ended, _, info = self.env.step(action)
        stepped = Stepped(
            text=str(info["token_text"]),
            said=self._asked.said(self._hand, recorded(info, lanes=False), activations, feature is not None),
            reward=float(reward),
            unsteered=str(info["unsteered_token_text"]),
            changed=bool(info["changed"]),
            kl=float(info["kl"]),
        )
        self.steps.append(stepped)
        self.total += stepped.reward
        if ended:
            self.final = {name: value for name, value in info.items() if name not in ("active_features", "transcript")}
        else:
            self._choose()
        return stepped

    @property
    def transcript(self) -> list[tuple[str, bool]]:
        """Pieces of the text and whether each was steered."""
        return self.env.episode.transcript()

    @property
    def picture(self) -> str:
        """The episode as the task shows it to a person."""
        return self.env.episode.conversations[0].render()

    @property
    def seen(self) -> list[Seen]:
        """The observation, part by part."""
        parts = self._observation if isinstance(self._observation, dict) else {"": self._observation}
        return [_summary(name, np.asarray(part)) for name, part in parts.items()]

    @property
    def features(self) -> int:
        """Number of features behind the actions."""
        return len(self._hand.features)

    @property
    def strengths(self) -> float | None:
        """The bound where actions are strengths of features; None where they are choices of one."""
        space = self._hand.space
        return float(space.high[0]) if isinstance(space, spaces.Box) else None

    @property
    def legal(self) -> list[Weighed]:
        """The features that may be chosen here, with their activations, most active first."""
        activations = self._lane.encode()[0].cpu().numpy()[self._legal()]
        order = np.argsort(-activations, kind="stable")
        return [Weighed(int(self._legal()[place]), float(activations[place])) for place in order]

    @property
    def choice(self) -> Said | None:
        """What the policy would do here; None where there is none, or the episode is over."""
        if not self._has_policy or self.final is not None:
            return None
        record = self._hand.record(np.asarray(self._choice)[None])
        return self._asked.said(self._hand, record, self._lane.encode()[0], by_hand=False)

    def _choose(self) -> None:
        """Ask the policy at every state, whoever acts: it may remember the episode."""
        observed = self._observation
        batch = {k: v[None] for k, v in observed.items()} if isinstance(observed, dict) else observed[None]
        self._choice = np.asarray(self._asked(batch, self._lane.now())[0])[0]

    def _legal(self) -> np.ndarray:
        """``[n]`` SAE indices; a trained agent's mask may be narrower than the environment's."""
        if self.strengths is not None:
            return self._hand.features
        masks = self._lane.action_masks()
        mask = getattr(self._asked.policy, "mask", None)
        return self._hand.features[(masks if mask is None else mask.legal(masks))[0, :-1]]

    def _action(self, feature: int, strength: float) -> Any:
        places = np.flatnonzero(self._hand.features == feature)
        if feature != NO_OP and not len(places):
            raise SteeringError(f"feature {feature} is behind none of the {self.features} actions")
        if self.strengths is None:
            return np.int64(len(self._hand.features) if feature == NO_OP else places[0])
        strengths = np.zeros(len(self._hand.features), dtype=np.float32)
        strengths[places] = strength
        return strengths


def _summary(name: str, part: np.ndarray) -> Seen:
    low, mean, high = float(part.min()), float(part.mean()), float(part.max())
    values = tuple(part.ravel().tolist()) if part.dtype.kind in "iu" else ()
    return Seen(name, part.shape, (low, mean, high, float(np.linalg.norm(part))), values)
