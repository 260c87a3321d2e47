"""Exact values of small Markov decision processes, by linear algebra: what a probed value is measured against.

Also what a policy, and planning with a value, earns there. Reads the transition table ``P[state][action] =
[(probability, next state, reward, terminated), ...]`` of Gymnasium's toy environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from agents.reading import Context, family_of

Floats = npt.NDArray[np.float64]
Transition = tuple[float, int, float, bool]
TransitionTable = Mapping[int, Mapping[int, Sequence[Transition]]]


@dataclass(frozen=True)
class TabularMDP:
    """A finite decision process with S states and A actions.

    Attributes:
        onward: ``[S, A, S]`` probability of going on in that state; the rest of each row is the end.
        rewards: ``[S, A]`` expected reward.
    """

    onward: Floats
    rewards: Floats

    @classmethod
    def from_table(cls, table: TransitionTable) -> TabularMDP:
        """Read ``P`` of a Gymnasium toy environment (``env.unwrapped.P``).

        Raises:
            ValueError: the probabilities of a state and action do not add up to 1.
        """
        states, actions = len(table), len(table[0])
        onward, rewards = np.zeros((states, actions, states)), np.zeros((states, actions))
        for state in range(states):
            for action in range(actions):
                outcomes = table[state][action]
                total = sum(outcome[0] for outcome in outcomes)
                if abs(total - 1.0) > 1e-9:
                    raise ValueError(f"probabilities of state {state}, action {action} add up to {total}")
                for probability, following, reward, terminated in outcomes:
                    rewards[state, action] += probability * reward
                    onward[state, action, following] += probability * (not terminated)
        return cls(onward, rewards)

    def action_values(self, values: Floats, gamma: float) -> Floats:
        """``[S, A]`` value of each action when ``values [S]`` follow."""
        return self.rewards + gamma * self.onward @ values

    def policy_values(self, policy: npt.ArrayLike, gamma: float) -> Floats:
        """``[S]`` discounted value of a policy, from its linear system.

        Args:
            policy: ``[S]`` actions, or ``[S, A]`` probabilities.
            gamma: discount in [0, 1]; 1 only for a policy that comes to an end from everywhere.

        Raises:
            ValueError: the policy's shape or the discount is out of range, probabilities do not add up to 1, or
                with gamma 1 some state never ends.
        """
        weights = self._weights(policy)
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}")
        onward = np.einsum("sa,sat->st", weights, self.onward)
        system = np.eye(len(onward)) - gamma * onward
        if gamma == 1.0 and np.linalg.matrix_rank(system) < len(system):
            raise ValueError("with gamma 1 every state must reach an end under the policy")
        return np.linalg.solve(system, (weights * self.rewards).sum(axis=1))

    def optimal_values(self, gamma: float) -> Floats:
        """``[S]`` values of the best policy, by policy iteration (Howard 1960): exact, in finitely many rounds.

        Raises:
            ValueError: gamma is not in [0, 1).
        """
        if not 0.0 <= gamma < 1.0:
            raise ValueError(f"gamma must be in [0, 1) for optimal values, got {gamma}")
        policy = np.zeros(len(self.rewards), dtype=np.int64)
        here = np.arange(len(policy))
        while True:
            values = self.policy_values(policy, gamma)
            chances = self.action_values(values, gamma)
            better = chances.max(axis=1) > chances[here, policy] + 1e-12
            if not better.any():
                return values
            policy[better] = chances.argmax(axis=1)[better]

    def _weights(self, policy: npt.ArrayLike) -> Floats:
        given = np.asarray(policy)
        if given.shape == self.rewards.shape[:1]:
            return np.eye(self.rewards.shape[1])[given.astype(np.int64)]
        if given.shape != self.rewards.shape or not np.allclose(given.sum(axis=1), 1.0):
            raise ValueError(f"a policy is [S] actions or [S, A] probabilities {self.rewards.shape}, got {given.shape}")
        return given.astype(np.float64)


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


class OneHot(gym.ObservationWrapper[npt.NDArray[np.float32], Any, Any]):
    """Numbered states as rows of the identity matrix, for networks that read vectors (and recordings of them)."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap an environment whose observations are ``Discrete``.

        Raises:
            ValueError: they are not.
        """
        super().__init__(env)
        if not isinstance(env.observation_space, spaces.Discrete):
            raise ValueError(f"OneHot needs Discrete observations, got {env.observation_space}")
        self._first, self._count = int(env.observation_space.start), int(env.observation_space.n)
        self.observation_space = spaces.Box(0.0, 1.0, (self._count,), np.float32)

    def observation(self, observation: Any) -> npt.NDArray[np.float32]:
        """``[S]``, a one at the state's number."""
        row = np.zeros(self._count, dtype=np.float32)
        row[int(observation) - self._first] = 1.0
        return row
