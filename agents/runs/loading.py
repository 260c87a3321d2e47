"""A run read from its folder, and how its settings become environments, an agent and a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import steer_env  # noqa: F401  # registers the environments
from agents.algos import ALGOS, make_algo
from agents.compare.results import Evaluation
from agents.policies import AgentPolicy, policy_of
from agents.runs.agent_files import TENSORS, MisfitError, SavedAgent, fill, read_agent, read_arrays
from agents.runs.folder import RunFolder
from agents.runs.pickles import UntrustedPickleError, read_zip, trusted
from agents.runs.sharing import located, push, write_shared
from agents.runs.steering import require_same_steering
from agents.vec_env import SB3VecEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.masks import MASKS, ActionMask, make_mask
from steer_env.evaluation.play import Played, evaluate
from steer_env.lm.loading import weights_sha256
from steer_env.steered import SteeredLM

PICKLED = "policy.zip"
"""The agent of a run folder that was finished before agents were written without pickles."""


def load_run(path: str | Path, trust_pickle: bool = False) -> Run:
    """Read a training run; that runs no code of whoever made it.

    Args:
        path: Its folder, such as ``runs/first``, or the hub id of a shared one, ``owner/name``.
        trust_pickle: Unpickle what older versions and Stable-Baselines3 itself wrote, where it cannot be read
            otherwise. It can run any code.

    Raises:
        FileNotFoundError: There is no run.
    """
    return Run(RunFolder.open(located(path)), trust_pickle)


class Run:
    """A training run, read when asked: :func:`load_run` and :func:`agents.train` make it.

    Args:
        folder: Its folder.
        trust_pickle: As :func:`load_run` takes it.

    Attributes:
        folder: Its folder, with the logs: ``run.folder.rows("episodes")``.
        path: Where the folder is.
        config: What ``config.json`` holds: all settings, and hashes of the language model and of the steering.
    """

    def __init__(self, folder: RunFolder, trust_pickle: bool = False) -> None:
        self.folder, self.path, self.config = folder, folder.path, folder.config
        self._trust = trusted(trust_pickle)

    def __repr__(self) -> str:
        made = ", ".join(f"{name}={self.config[name]!r}" for name in ("env", "algo", "total_timesteps", "seed"))
        return f"<Run {self.path}: {made}>"

    def envs(self, split: str = "test", num_envs: int = 64, **overrides: Any) -> VectorEnv[Any, Any, Any]:
        """Environments as those of the training.

        Args:
            split: Split of the items: ``"train"``, ``"validation"`` or ``"test"``.
            num_envs: Lanes in one forward pass.
            overrides: Arguments of ``gym.make_vec`` in place of the training's, such as ``temperature=1.0``.
        """
        return make_envs(self.config, split, num_envs, **overrides)

    @cached_property
    def model(self) -> BaseAlgorithm:
        """The trained agent, of Stable-Baselines3.

        Raises:
            FileNotFoundError: Training has not finished.
            ValueError: The agent in the folder is not the one that its ``config.json`` describes.
            UntrustedPickleError: It is in an old or foreign file that would have to be unpickled.
            RuntimeError: The agent does not hold the parameters of the file.
        """
        if self._pickled and self._trust:
            return ALGOS[self.config["algo"]].cls.load(self.path / PICKLED, device="cpu")
        try:
            model = _agent_of(self.config, self.saved)
        except MisfitError as error:
            if not self._pickled:
                raise
            raise UntrustedPickleError(self.saved.path, str(error).removeprefix(f"{self.saved.path} ")) from error
        _require_saved_parameters(model, self.saved)
        return model

    @cached_property
    def saved(self) -> SavedAgent:
        """What training changed in the agent; raises as :attr:`model`."""
        if not is_finished(self.path):
            raise FileNotFoundError(
                f"{self.path / TENSORS} is missing: training has not finished (steer train --resume)"
            )
        if not self._pickled:
            return read_agent(self.path)
        if self._trust:
            return SavedAgent.of(self.model, self.path / PICKLED)
        return replace(read_zip(self.path / PICKLED), spaces=self._spaces())

    @property
    def _pickled(self) -> bool:
        return not (self.path / TENSORS).is_file() and (self.path / PICKLED).is_file()

    def _spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """What the agent sees and does, of the environment itself."""
        envs = self.envs("train", num_envs=1)
        vec_env = SB3VecEnv(envs, make_run_mask(self.config, envs.single_action_space))
        return vec_env.observation_space, vec_env.action_space

    @cached_property
    def mask(self) -> ActionMask | None:
        """The mask as training left it; None where all features were legal."""
        if self.config["mask"] == "off":
            return None
        mask = make_run_mask(self.config, self.model.action_space)
        if mask is not None:
            load_mask(mask, self.path)
        return mask

    @cached_property
    def policy(self) -> AgentPolicy:
        """The trained agent as :func:`steer_env.evaluate` plays it: greedy, its mask frozen."""
        return policy_of(self.model, self.mask)

    def play(self, items: Sequence[int] | int | None = None, split: str = "test", seed: int = 0) -> Played:
        """Play the trained agent on exact items, each once.

        Args:
            items: Items of the split; a number draws so many, None takes all.
            split: Split of the items.
            seed: Seed of sampled decoding, and of the choice of items where only their number is given.

        Raises:
            RuntimeError: The language model or what actions mean is not as in training.
            ValueError: There are no items, or fewer than are asked for.
        """
        envs = self.envs(split)
        require_same_steering(self.config, envs, self.path)
        return evaluate(envs, self.policy, items, seed)

    def steered(self, **overrides: Any) -> SteeredLM:
        """The language model with the trained agent in its ``generate``.

        Replies may be as long as the task's, and stop where these do. Where the task compares options, the model is
        free to write.

        Args:
            overrides: Arguments of ``gym.make_vec`` in place of the training's, such as ``model=`` where the same
                language model is in another place here.

        Raises:
            RuntimeError: The language model or what actions mean is not as in training.
            SteeringError: The agent sees what a text alone does not have, such as a board.
        """
        envs = self.envs("train", num_envs=1, **overrides)
        require_same_steering(self.config, envs, self.path)
        return SteeredLM.of(envs, self.policy)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload settings, agent, evaluation and a model card; :func:`load_run` takes ``repo_id`` from then on.

        Args:
            repo_id: ``owner/name``; the repository is made where there is none.
            private: Whether it is made a private one.

        Returns:
            The address of the commit.

        Raises:
            FileNotFoundError: Training has not finished.
            ValueError: ``repo_id`` is not ``owner/name``.
        """
        with TemporaryDirectory() as folder:
            return push(write_shared(self, Path(folder) / "run", repo_id), repo_id, private)

    def evaluation(self) -> Evaluation:
        """What ``steer evaluate`` found: every arm with its intervals and tests.

        Raises:
            FileNotFoundError: The run is not evaluated yet.
            ValueError: The file was written by another version.
        """
        return Evaluation.read(self.path / "evaluation.json")


def make_envs(config: Mapping[str, Any], split: str, num_envs: int, **overrides: Any) -> VectorEnv[Any, Any, Any]:
    """The run's environments on a split; ``overrides`` win over the run's ``env_kwargs``.

    A ``limit`` is one on what may be learned from: on other splits than train all items are dealt.

    Raises:
        ValueError: The mask is unknown, or ``env_kwargs`` sets what has a flag of its own.
    """
    taken = {"mask", "split", "num_envs"} & set(config["env_kwargs"])
    if taken:
        raise ValueError(f"{min(taken)!r} is not for env_kwargs: use --mask and --num-envs; training is on split train")
    if config["mask"] not in MASKS:
        raise ValueError(f"unknown mask {config['mask']!r}; known masks: {', '.join(MASKS)}")
    free = {} if split == "train" else {"limit": None}
    kwargs = {**_seen(config), **config["env_kwargs"], **free, "mask": MASKS[config["mask"]].scope, **overrides}
    return gym.make_vec(config["env"], num_envs=num_envs, split=split, **kwargs)


def _seen(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a trained agent's observations are measured against, if anything, whatever else is changed now."""
    recorded = config.get("steering", {}).get("observation")
    if recorded is None:
        return {}
    return {"observation": "standardized", "statistics": [recorded["mean"], recorded["deviation"]]}


def make_run_mask(config: Mapping[str, Any], space: gym.Space[Any]) -> ActionMask | None:
    """The run's mask before training, or None.

    Args:
        config: The run's ``config.json``.
        space: The action space of one lane.

    Raises:
        ValueError: Actions are strengths, which have no mask.
    """
    if config["mask"] == "off":
        return None
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"an action mask needs Discrete actions, got {space}; use --mask off")
    return make_mask(config["mask"], int(space.n), config["seed"], **config["mask_kwargs"])


def model_sha256(envs: Any) -> str:
    """Hash of the language model's weights."""
    return weights_sha256(unwrap(envs).lm)


def fresh_agent(config: Mapping[str, Any], envs: Any, vec_env: VecEnv, **settings: Any) -> BaseAlgorithm:
    """The agent as training starts with it: the same settings make the same one.

    Args:
        config: The run's settings.
        envs: Its environments, which hold the directions of a tied head.
        vec_env: The same for Stable-Baselines3.
        settings: Of the algorithm, in place of the run's.
    """
    directions = unwrap(envs).directions.cpu().numpy() if config["head"] == "tied" else None
    return _agent(config, vec_env, directions, **settings)


def _agent(config: Mapping[str, Any], vec_env: VecEnv, directions: Any, **settings: Any) -> BaseAlgorithm:
    overrides = {"device": "cpu", **config["algo_kwargs"], **settings}
    return make_algo(config["algo"], vec_env, config["seed"], config["head"], directions, **overrides)


def _agent_of(config: Mapping[str, Any], saved: SavedAgent) -> BaseAlgorithm:
    """The saved agent on the CPU, in no environment."""
    keys = saved.states.get("policy", {}).get("action_net.keys")
    if config["head"] == "tied" and keys is None:
        raise ValueError(f"{saved.path} has no keys of a tied head, which config.json asks for")
    model = _agent(config, saved.lanes(config["num_envs"]), None if keys is None else keys.numpy(), device="cpu")
    fill(model, saved)
    model.env = None
    return model


def is_finished(path: Path) -> bool:
    """Whether the training of a run folder has come to its end."""
    return (path / TENSORS).is_file() or (path / PICKLED).is_file()


def load_trained(run: RunFolder, envs: VectorEnv[Any, Any, Any]) -> tuple[BaseAlgorithm, ActionMask | None]:
    """:attr:`Run.model` and :attr:`Run.mask` of a run that plays in ``envs``."""
    trained = Run(run)
    return trained.model, trained.mask


def save_mask(mask: ActionMask, folder: Path) -> None:
    """Write a mask's state into ``mask.npz``."""
    state: dict[str, Any] = dict(mask.state_dict())
    np.savez(folder / "mask.npz", **state)


def load_mask(mask: ActionMask, folder: Path) -> None:
    """Put the state of ``mask.npz`` into a mask of the same kind."""
    mask.load_state_dict(read_arrays(folder / "mask.npz"))


def _require_saved_parameters(model: BaseAlgorithm, saved: SavedAgent) -> None:
    loaded = model.policy.state_dict()
    if any(not torch.equal(value, loaded[name]) for name, value in saved.states["policy"].items()):
        raise RuntimeError(f"the loaded agent does not hold the parameters of {saved.path}")
