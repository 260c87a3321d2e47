"""The agents that are looked into: for each world one recipe that learns it in minutes on one core.

They are trained and saved here, or read from the folders of ``steer make-agents``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import TransformReward
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.inside.recordings import RolloutConfig, record
from agents.inside.worlds.king_rook_king import observations
from agents.inside.worlds.king_rook_rules import POSITIONS
from agents.inside.worlds.mate_table import mating
from agents.inside.worlds.tabular import OneHot
from agents.runs.agent_files import TENSORS, fill, read_agent, save_agent
from agents.runs.pickles import read_zip, trusted
from agents.runs.results import ResultFile
from agents.vec_env import SB3VecEnv

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"DQN": DQN, "PPO": PPO}
PLACES = {"DQN": ("q_net.q_net.2", "q_net.q_net"), "PPO": ("mlp_extractor.policy_net.2", "action_net")}
"""By algorithm: the last hidden layer before its non-linearity, and the outputs (Q values or logits)."""
FEW_STATES = ("KingRookKing-v0", "GridWorld-v0", "FrozenLake-v1", "TicTacToeDuel-v0")
"""Worlds whose states come again and again."""
_UNTRAINED = 1_000  # added to seeds, so that an untrained twin shares no draw with its agent


@dataclass(frozen=True)
class Recipe:
    """How a world is learnt.

    Attributes:
        algorithm: of Stable-Baselines3.
        settings: its arguments; ``learning_rate`` falls linearly to 2 % of itself.
        steps: of training, over all lanes.
        lanes: episodes side by side.
        hidden: widths of the layers.
        reward_scale: what rewards are multiplied by, so that a network's outputs are near 1.
    """

    algorithm: type[BaseAlgorithm]
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 100_000
    lanes: int = 8
    hidden: tuple[int, ...] = (64, 64)
    reward_scale: float = 1.0


# A discount of 0.98 let the greedy policy shuffle for ever: two plies more cost less than the errors of Q.
_KING_ROOK_KING = {
    "learning_rate": 1e-3,
    "gamma": 0.9,
    "buffer_size": 300_000,
    "learning_starts": 5_000,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 4,
    "target_update_interval": 2_000,
    "exploration_fraction": 0.15,
    "exploration_final_eps": 0.05,
}
_PPO = {"learning_rate": 1e-3, "n_steps": 128, "batch_size": 256, "gamma": 0.95, "ent_coef": 0.01}
RECIPES: dict[str, Recipe] = {
    "KingRookKing-v0": Recipe(DQN, _KING_ROOK_KING, 400_000, 16, (128, 128), 0.01),
    "CartPole-v1": Recipe(PPO, {**_PPO, "gamma": 0.99}, 150_000),
    "FrozenLake-v1": Recipe(PPO, {**_PPO, "gamma": 0.99}, 150_000),
    "GridWorld-v0": Recipe(PPO, _PPO, 150_000),
    "MinAtarBreakout-v0": Recipe(PPO, {**_PPO, "gamma": 0.99}, 500_000),
    "AtariBreakout-v0": Recipe(PPO, {**_PPO, "gamma": 0.99}, 500_000),
    "TicTacToeDuel-v0": Recipe(PPO, {**_PPO, "gamma": 0.99}, 400_000, 16),
}


def recipe_of(env_id: str) -> Recipe:
    """The recipe of a world.

    Raises:
        ValueError: there is none.
    """
    if env_id not in RECIPES:
        raise ValueError(f"no recipe for {env_id!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[env_id]


def make_world(env_id: str, lanes: int, reward_scale: float = 1.0, **kwargs: Any) -> SB3VecEnv:
    """Lanes of any Gymnasium environment for SB3; numbered states as one-hot vectors."""
    envs: VectorEnv[Any, Any, Any]
    if str(gym.spec(env_id).vector_entry_point).startswith("agents."):  # Gymnasium's own reset a step later
        envs = gym.make_vec(env_id, num_envs=lanes, **kwargs)
    else:
        single = partial(_make_single, env_id, **kwargs)
        envs = SyncVectorEnv([single] * lanes, autoreset_mode=AutoresetMode.SAME_STEP)
    return SB3VecEnv(envs if reward_scale == 1.0 else TransformReward(envs, lambda rewards: rewards * reward_scale))


def train_agent(
    env_id: str,
    seed: int,
    steps: int | None = None,
    hidden: tuple[int, ...] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any], dict[str, Any]], bool] | None = None,
) -> BaseAlgorithm:
    """An agent trained by the world's recipe; with 0 steps a fresh one.

    Args:
        env_id: a key of ``RECIPES``.
        seed: of weights, exploration and environment.
        steps: instead of the recipe's.
        hidden: widths of the layers, instead of the recipe's.
        env_kwargs: of ``gym.make``.
        callback: a function as SB3 takes it; False ends the training.
    """
    recipe = recipe_of(env_id)
    settings = dict(recipe.settings)
    rate = settings.pop("learning_rate")
    model = recipe.algorithm(
        "MlpPolicy",
        make_world(env_id, recipe.lanes, recipe.reward_scale, **(env_kwargs or {})),
        learning_rate=partial(_falling, rate),
        policy_kwargs={"net_arch": list(hidden or recipe.hidden)},
        seed=seed,
        device="cpu",
        **settings,
    )
    steps = recipe.steps if steps is None else steps
    return model.learn(steps, callback=callback) if steps else model


@torch.no_grad()
def greedy_actions(model: BaseAlgorithm) -> npt.NDArray[np.int64]:
    """``[P]`` what a DQN plays in every position of king and rook against king (see ``mate_table.mating``)."""
    assert isinstance(model, DQN)
    return model.q_net(torch.from_numpy(observations(np.arange(POSITIONS)))).argmax(dim=1).numpy()


@dataclass(frozen=True)
class AgentCard(ResultFile):
    """``agent.json``, beside the agent's own files (:mod:`agents.runs.agent_files`).

    Attributes:
        env: Id of the agent's world.
        env_kwargs: Arguments of ``gym.make``.
        seed: Seed of its training.
        algorithm: A key of ``ALGORITHMS``.
        steps: Steps of training so far.
        hidden: Widths of its layers.
        evaluation: What the greedy policy earns (:func:`earnings`).
        config: Settings of the command that made it.
        wall_s: Seconds of training so far.
        cpu_s: Seconds of CPU so far.
    """

    MADE_BY: ClassVar[str] = "steer make-agents"

    env: str
    env_kwargs: dict[str, Any]
    seed: int
    algorithm: str
    steps: int
    hidden: tuple[int, ...]
    evaluation: dict[str, float]
    config: dict[str, Any]
    wall_s: float
    cpu_s: float


def new_card(
    env: str, env_kwargs: Mapping[str, Any], seed: int, hidden: tuple[int, ...], config: Mapping[str, Any]
) -> AgentCard:
    """The card of an agent before its training; arguments as in its attributes."""
    algorithm = recipe_of(env).algorithm.__name__
    return AgentCard(env, dict(env_kwargs), seed, algorithm, 0, hidden, {}, dict(config), 0.0, 0.0)


class AgentSaver:
    """Evaluates and saves an agent with its card; as a callback of SB3, at the steps asked for.

    Args:
        folder: Folder of the agent; those on the way go into folders below it.
        card: Its card before the training.
        episodes: Episodes of an evaluation, where the world is not evaluated exactly.
        saves: Steps of training at which the agent is saved, the end apart.
    """

    def __init__(self, folder: Path, card: AgentCard, episodes: int, saves: Sequence[int]) -> None:
        self.folder, self.card, self.episodes, self.due = folder, card, episodes, sorted(set(saves))
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        self.cards: list[AgentCard] = []

    def __call__(self, local_names: dict[str, Any], _: dict[str, Any]) -> bool:
        """Save the model if a save is due; the training always goes on."""
        model = local_names["self"]
        if self.due and model.num_timesteps >= self.due[0]:
            self.save(model, self.folder / f"steps-{self.due.pop(0)}")
        return True

    def save(self, model: BaseAlgorithm, folder: Path) -> None:
        """Write the agent and ``agent.json``."""
        card = replace(
            self.card,
            steps=model.num_timesteps,
            wall_s=time.perf_counter() - self.wall,
            cpu_s=time.process_time() - self.cpu,
            evaluation=earnings(model, self.card.env, self.card.env_kwargs, self.episodes, self.card.seed),
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_agent(model, folder)
        card.write(folder / "agent.json")
        self.cards.append(card)
        print(f"{folder}: {card.evaluation}, {card.cpu_s:.0f} s of CPU")


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
        """The agent in a folder of ``steer make-agents``.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not the one that the card describes.
            UntrustedPickleError: It is in an old or foreign file that would have to be unpickled.
        """
        card, old = AgentCard.read(folder / "agent.json"), folder / "agent.zip"
        pickled = not (folder / TENSORS).is_file() and old.is_file()
        if pickled and trusted():
            model = ALGORITHMS[card.algorithm].load(old, device="cpu")
        else:
            model = train_agent(card.env, card.seed, 0, card.hidden, card.env_kwargs)
            fill(model, read_zip(old) if pickled else read_agent(folder))
        return cls(model, card.env, card.env_kwargs, card.hidden, card.seed)

    @classmethod
    def train(cls, env: str, env_kwargs: Mapping[str, str], seed: int, steps: int | None = None) -> WorldAgent:
        """A new agent.

        Args:
            env: A key of ``RECIPES``.
            env_kwargs: Arguments of ``gym.make``, each as JSON.
            seed: Seed of the training.
            steps: Steps of training instead of the recipe's.

        Raises:
            ValueError: The world has no recipe.
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
        ValueError: One is not JSON (it is named).
    """
    found = {}
    for name, value in env_kwargs.items():
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"env_kwargs: {name} must be JSON (strings in double quotes), got {value}") from error
    return found


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


def _make_single(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    env = gym.make(env_id, **kwargs)
    return OneHot(env) if isinstance(env.observation_space, spaces.Discrete) else env


def _falling(rate: float, left: float) -> float:
    return rate * max(left, 0.02)
