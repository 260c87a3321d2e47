"""Agents of the small worlds, trained by the world's recipe or read from the folders of ``experiments.make.agents``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.inside.recording import RolloutConfig, record
from agents.inside.worlds.mate_table import mating
from agents.inside.worlds.training import greedy_actions, make_world, recipe_of, train_agent
from agents.runs.folder import read_json
from agents.vec_env import SB3VecEnv

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"DQN": DQN, "PPO": PPO}
PLACES = {"DQN": ("q_net.q_net.2", "q_net.q_net"), "PPO": ("mlp_extractor.policy_net.2", "action_net")}
"""By algorithm: the last hidden layer before its non-linearity, and the outputs (Q values or logits)."""
FEW_STATES = ("KingRookKing-v0", "GridWorld-v0", "FrozenLake-v1", "TicTacToeDuel-v0")
"""Worlds whose states come again and again."""
_UNTRAINED = 1_000  # added to seeds, so that an untrained twin shares no draw with its agent


@dataclass(frozen=True)
class WorldAgent:
    """An agent and where it belongs.

    Attributes:
        model: of Stable-Baselines3.
        env: id of its world.
        env_kwargs: of ``gym.make``.
        hidden: widths of its layers.
        seed: of its training.
    """

    model: BaseAlgorithm
    env: str
    env_kwargs: dict[str, Any]
    hidden: tuple[int, ...]
    seed: int

    @classmethod
    def load(cls, folder: Path) -> WorldAgent:
        """The agent in a folder of ``experiments.make.agents``.

        Raises:
            FileNotFoundError: there is none.
        """
        card = read_json(folder / "agent.json")
        model = ALGORITHMS[card["algorithm"]].load(folder / "agent.zip", device="cpu")
        return cls(model, card["env"], card["env_kwargs"], tuple(card["hidden"]), card["seed"])

    @classmethod
    def train(cls, env: str, env_kwargs: Mapping[str, str], seed: int, steps: int | None = None) -> WorldAgent:
        """A new agent.

        Args:
            env: a key of ``agents.inside.worlds.training.RECIPES``.
            env_kwargs: of ``gym.make``, each as JSON.
            seed: of the training.
            steps: instead of the recipe's.

        Raises:
            ValueError: the world has no recipe.
        """
        kwargs = parse_kwargs(env_kwargs)
        model = train_agent(env, seed, steps, env_kwargs=kwargs)
        return cls(model, env, kwargs, recipe_of(env).hidden, seed)

    @property
    def algorithm(self) -> str:
        """Its name, a key of ``ALGORITHMS``."""
        return type(self.model).__name__

    def untrained(self) -> BaseAlgorithm:
        """A network of the same shape that has learnt nothing."""
        return train_agent(self.env, self.seed + _UNTRAINED, 0, self.hidden, self.env_kwargs)

    def lanes(self, **kwargs: Any) -> SB3VecEnv:
        """Its world as in training, ``kwargs`` added."""
        recipe = recipe_of(self.env)
        return make_world(self.env, recipe.lanes, recipe.reward_scale, **{**self.env_kwargs, **kwargs})

    def earned(self, episodes: int) -> dict[str, float]:
        """What the greedy policy earns as it stands, any substitution included (see :func:`earnings`)."""
        return earnings(self.model, self.env, self.env_kwargs, episodes, self.seed)


def unit_of(env: str) -> str:
    """What is kept together where recorded states of a world are split: see :func:`agents.inside.saes.split_rows`."""
    return "observation" if env in FEW_STATES else "trajectory"


def parse_kwargs(env_kwargs: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of a world from JSON.

    Raises:
        ValueError: one is not JSON (it is named).
    """
    return {name: _parse(name, value) for name, value in env_kwargs.items()}


def earnings(
    model: BaseAlgorithm, env: str, env_kwargs: Mapping[str, Any], episodes: int, seed: int
) -> dict[str, float]:
    """What the greedy policy earns: exactly from all positions of the chess world, by episodes elsewhere."""
    if env == "KingRookKing-v0":
        return mating(greedy_actions(model))
    lengths, returns = [], []
    rollout = RolloutConfig(episodes, seed=1_000 + seed, gamma=1.0)
    for chunk in record(model, make_world(env, 8, **env_kwargs), [], rollout):
        first = chunk.steps["step"] == 0
        returns.append(chunk.steps["return"][first])
        lengths.append(np.bincount(chunk.steps["trajectory"])[chunk.steps["trajectory"][first]])
    earned = np.concatenate(returns)
    return {
        "episodes": len(earned),
        "return": float(earned.mean()),
        "return_std": float(earned.std()),
        "length": float(np.concatenate(lengths).mean()),
    }


def _parse(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"env_kwargs: {name} must be JSON (strings in double quotes), got {value}") from error
