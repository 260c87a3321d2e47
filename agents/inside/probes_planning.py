"""Exact answers about an agent in a small world: the value of its policy, and what planning with a value earns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from agents.inside.worlds.tabular import Floats, TabularMDP
from agents.reading import Context, family_of


@dataclass(frozen=True)
class ExactWorld:
    """A world with numbered states, seen as one-hot vectors, and a transition table.

    Attributes:
        mdp: its S states and A actions.
        starts: ``[S]`` chances of where an episode begins.
        gamma: discount.
    """

    mdp: TabularMDP
    starts: Floats
    gamma: float

    def earned(self, policy: Any) -> float:
        """Expected discounted return of ``[S]`` actions or ``[S, A]`` probabilities from the start."""
        return float(self.starts @ self.mdp.policy_values(policy, self.gamma))

    def planned(self, values: Floats) -> float:
        """What one earns by looking one step ahead in the exact model, with ``values [S]`` beyond."""
        return self.earned(self.mdp.action_values(values, self.gamma).argmax(axis=1))


def exact_world(env_id: str, gamma: float, **kwargs: Any) -> ExactWorld | None:
    """The world if it has a transition table ``P`` and numbered states, None otherwise."""
    env: Any = gym.make(env_id, **kwargs).unwrapped
    if not hasattr(env, "P"):
        return None
    mdp = TabularMDP.from_table(env.P)
    starts = np.zeros(len(mdp.rewards))
    if hasattr(env, "initial_state_distrib"):  # Gymnasium's toy environments
        starts[:] = env.initial_state_distrib
    else:
        starts[env.starts] = 1.0 / len(env.starts)
    return ExactWorld(mdp, starts, gamma)


@torch.no_grad()
def action_chances(policy: BasePolicy, states: int) -> Floats:
    """``[S, A]`` what a policy does in each state: an actor's probabilities, or a DQN's best action.

    Raises:
        TypeError: the policy is of another kind.
    """
    observations = torch.eye(states, device=policy.device)
    policy.set_training_mode(False)
    reading = family_of(policy).read(policy, observations, Context())
    if reading.preferences is None:
        raise TypeError(f"exact values need a DQN or an actor-critic policy, got {type(policy).__name__}")
    if reading.distribution is None:
        greedy = reading.preferences.argmax(dim=1).cpu().numpy()
        return np.eye(reading.preferences.shape[1])[greedy]
    chances: Floats = reading.distribution.distribution.probs.double().cpu().numpy()  # type: ignore[union-attr]  # a categorical, as actions are discrete
    return chances / chances.sum(axis=1, keepdims=True)


def policy_values(world: ExactWorld, model: BaseAlgorithm) -> Floats:
    """``[S]`` exact value of what the model's policy does."""
    return world.mdp.policy_values(action_chances(model.policy, len(world.starts)), world.gamma)
