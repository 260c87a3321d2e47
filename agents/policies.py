"""An SB3 agent as a policy that the evaluator plays, with what it says of its choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.reading import Context, Reading, family_of
from steer_env.evaluation.masks import ActionMask, carries_mask
from steer_env.evaluation.play import Array, Details, Lanes


def policy_of(model: BaseAlgorithm, mask: ActionMask | None = None, deterministic: bool = True) -> AgentPolicy:
    """The policy of an SB3 agent, with the observation it was trained on.

    Args:
        model: Any algorithm of ALGOS, or another of Stable-Baselines3's shape.
        mask: The mask it was trained with, which is frozen here: an evaluation teaches it nothing.
        deterministic: Whether to take the most likely action; otherwise actions are drawn from torch's global
            generator, as in training.

    Raises:
        ValueError: The model needs a mask and there is none, or the other way round.
    """
    if carries_mask(model.observation_space) != (mask is not None):
        raise ValueError("a model trained with a mask needs that mask, and a model trained without takes none")
    if mask is not None:
        mask.frozen = True
    return AgentPolicy(model, mask, deterministic)


class AgentPolicy:
    """See :func:`policy_of`. A recurrent agent remembers each lane's episode until the lane begins the next.

    Args:
        model: The agent.
        mask: Its mask, or None.
        deterministic: Whether to take the most likely action.
    """

    def __init__(self, model: BaseAlgorithm, mask: ActionMask | None, deterministic: bool) -> None:
        self.model, self.mask, self.deterministic = model, mask, deterministic
        self.family = family_of(model.policy)
        self._memory: Any = None

    def __call__(self, observations: Any, lanes: Lanes) -> tuple[Array, Details]:
        """Actions ``[B]`` or ``[B, k]``, and of ``log_prob``, ``value`` and ``entropy`` ``[B]`` those that it knows."""
        actions, reading, details = self._ask(observations, lanes)
        details["value"] = reading.value
        return actions, {name: value.cpu().numpy() for name, value in details.items() if value is not None}

    def rank(self, observations: Any, lanes: Lanes) -> tuple[Array, Array | None]:
        """Actions, and how much the agent likes every one.

        Returns:
            The actions of a call, and ``[B, A]`` preferences: logits or Q values, of which the largest is the greedy
            action's, minus infinity where illegal. None in their place where actions are strengths.
        """
        actions, reading, _ = self._ask(observations, lanes)
        if reading.preferences is None:
            return actions, None
        preferences = reading.preferences.cpu().numpy().astype(np.float64)
        legal = self._legal(lanes)
        if legal is not None:
            preferences[~legal] = -np.inf
        return actions, preferences

    @torch.no_grad()
    def _ask(self, observations: Any, lanes: Lanes) -> tuple[Array, Reading, dict[str, Tensor | None]]:
        policy, legal = self.model.policy, self._legal(lanes)
        seen = observations
        if self.mask is not None and legal is not None:
            seen = {"obs": observations, "mask": np.packbits(legal, axis=1)}  # as SB3VecEnv makes it
        policy.set_training_mode(False)
        inputs, _ = policy.obs_to_tensor(seen)
        reading = self.family.read(policy, inputs, self._context(lanes, legal))
        self._memory = reading.memory
        if reading.distribution is None:
            return self.model.predict(seen, deterministic=self.deterministic)[0], reading, {}
        chosen = reading.distribution.get_actions(deterministic=self.deterministic)
        # A distribution without a closed form has no entropy.
        details = {"log_prob": reading.distribution.log_prob(chosen), "entropy": reading.distribution.entropy()}
        actions = chosen.cpu().numpy()
        if isinstance(policy.action_space, spaces.Box):
            actions = np.clip(actions, policy.action_space.low, policy.action_space.high)
        return actions, reading, details

    def _context(self, lanes: Lanes, legal: Array | None) -> Context:
        if not self.family.memory:
            return Context(legal)
        # Where every lane begins, nothing is left of earlier games, which may have had other lanes.
        return Context(legal, lanes.begins, None if lanes.begins.all() else self._memory)

    def _legal(self, lanes: Lanes) -> Array | None:
        """``[B, A]`` the legal actions, or None where the agent takes any."""
        if self.mask is not None:
            return self.mask.legal(lanes.envs.action_masks())
        return lanes.envs.action_masks() if self.family.own_mask else None
