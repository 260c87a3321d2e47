"""A run read from its folder, and what stands between its settings and its environments, agent and mask."""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

import steer_env  # noqa: F401  # registers the environments
from agents.algos import ALGOS, make_algo
from agents.policies import AgentPolicy, policy_of
from agents.runs.folder import RunFolder, read_json
from agents.runs.steering import require_same_steering
from agents.vec_env import SB3VecEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.masks import MASKS, ActionMask, make_mask
from steer_env.evaluation.play import Played, play
from steer_env.lm.loading import weights_sha256

PACKAGES = ("gymnasium", "numpy", "sae-lens", "stable-baselines3", "torch", "transformers", "wandb")


class Run:
    """A training run: its settings, its agent and what it was trained in. :func:`load_run` makes it.

    Args:
        folder: The run's folder.

    Attributes:
        path: Where the folder is.
        config: What ``config.json`` holds.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.path, self.config = folder, folder.path, folder.config

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def envs(self, split: str = "test", num_envs: int = 64, **overrides: Any) -> VectorEnv[Any, Any, Any]:
        """The environments of the training on another split.

        Args:
            split: Split of the items: ``"train"``, ``"validation"`` or ``"test"``.
            num_envs: Lanes in one forward pass.
            overrides: Settings of ``gym.make_vec`` in place of the training's.
        """
        return make_envs(self.config, split, num_envs, **overrides)

    @cached_property
    def model(self) -> BaseAlgorithm:
        """The trained agent, of Stable-Baselines3.

        Raises:
            FileNotFoundError: Training has not finished.
        """
        return load_agent(self.folder)

    @cached_property
    def mask(self) -> ActionMask | None:
        """The mask as training left it, or None."""
        return _loaded(_mask_of(self.config, self.model.action_space), self.path)

    @cached_property
    def policy(self) -> AgentPolicy:
        """The trained agent as a policy that :func:`steer_env.evaluation.play.play` takes."""
        return policy_of(self.model, self.mask)

    def play(self, items: Sequence[int] | None = None, split: str = "test", seed: int = 0) -> Played:
        """Play items once with the trained agent.

        Args:
            items: Items of the split; None plays all of them.
            split: Split of the items.
            seed: Seed of sampled decoding.

        Raises:
            RuntimeError: The language model or what actions mean is not as in training.
        """
        envs = self.envs(split)
        require_same_steering(self.config, envs, self.path)
        return play(envs, self.policy, unwrap(envs).dealt if items is None else items, seed)

    def evaluation(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds.

        Raises:
            FileNotFoundError: The run is not evaluated.
        """
        path = self.path / "evaluation.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: steer evaluate --run {self.path} makes it")
        return read_json(path)


def load_run(path: str | Path) -> Run:
    """Read a run.

    Args:
        path: Its folder, such as ``runs/first``.

    Raises:
        FileNotFoundError: There is no run.
    """
    return Run(RunFolder.open(Path(path)))


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
    kwargs = {**config["env_kwargs"], **free, "mask": MASKS[config["mask"]].scope, **overrides}
    return gym.make_vec(config["env"], num_envs=num_envs, split=split, **kwargs)


def make_run_mask(config: Mapping[str, Any], envs: VectorEnv[Any, Any, Any]) -> ActionMask | None:
    """The run's mask, or None.

    Raises:
        ValueError: Actions are strengths, which have no mask.
    """
    return _mask_of(config, envs.single_action_space)


def _mask_of(config: Mapping[str, Any], space: gym.Space[Any]) -> ActionMask | None:
    if config["mask"] == "off":
        return None
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"an action mask needs Discrete actions, got {space}; use --mask off")
    return make_mask(config["mask"], int(space.n), config["seed"], **config["mask_kwargs"])


def model_sha256(envs: Any) -> str:
    """Hash of the language model's weights."""
    return weights_sha256(unwrap(envs).lm)


def is_benchmark(envs: Any) -> bool:
    """Whether the scores may carry the benchmark's name: the preset's own model and SAE on the hub's items."""
    return unwrap(envs).benchmark


def fresh_agent(config: Mapping[str, Any], envs: Any, vec_env: SB3VecEnv) -> BaseAlgorithm:
    """The agent as training starts with it: the same settings make the same one."""
    directions = unwrap(envs).directions.cpu().numpy() if config["head"] == "tied" else None
    overrides = {"device": "cpu", **config["algo_kwargs"]}
    return make_algo(config["algo"], vec_env, config["seed"], config["head"], directions, **overrides)


def load_trained(run: RunFolder, envs: VectorEnv[Any, Any, Any]) -> tuple[BaseAlgorithm, ActionMask | None]:
    """The agent of :func:`load_agent`, and its mask as training left it."""
    return load_agent(run), trained_mask(run, envs)


def load_agent(run: RunFolder) -> BaseAlgorithm:
    """The agent in ``policy.zip``, of the class in ``config.json``.

    Raises:
        FileNotFoundError: Training has not finished.
        RuntimeError: The agent does not hold the parameters of the file.
    """
    path = run.path / "policy.zip"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: training has not finished (steer train --resume)")
    model = ALGOS[run.config["algo"]].cls.load(path, device="cpu")
    _require_saved_parameters(model, path)
    return model


def trained_mask(run: RunFolder, envs: VectorEnv[Any, Any, Any]) -> ActionMask | None:
    """The run's mask as training left it, or None."""
    return _loaded(make_run_mask(run.config, envs), run.path)


def _loaded(mask: ActionMask | None, folder: Path) -> ActionMask | None:
    if mask is not None:
        load_mask(mask, folder)
    return mask


def save_mask(mask: ActionMask, folder: Path) -> None:
    """Write a mask's state into ``mask.npz``."""
    state: dict[str, Any] = dict(mask.state_dict())
    np.savez(folder / "mask.npz", **state)


def load_mask(mask: ActionMask, folder: Path) -> None:
    """Put the state of ``mask.npz`` into a mask of the same kind."""
    with np.load(folder / "mask.npz") as state:
        mask.load_state_dict({name: state[name] for name in state.files})


def provenance() -> dict[str, Any]:
    """``git_commit`` (None outside a repository) and package ``versions``."""
    return {"git_commit": _git_commit(), "versions": {name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    if shutil.which("git") is None:
        return None
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _require_saved_parameters(model: BaseAlgorithm, path: Path) -> None:
    saved = load_from_zip_file(path, device="cpu")[1]["policy"]
    loaded = model.policy.state_dict()
    if set(saved) != set(loaded) or any(not torch.equal(saved[name], loaded[name]) for name in saved):
        raise RuntimeError(f"the loaded agent does not hold the parameters of {path}")


def drawn_items(items: Sequence[int], count: int | None, seed: int) -> list[int]:
    """At most ``count`` of ``items``, drawn; None takes all as they stand.

    Data sets come in an order of their own, often by subject: the first ones are no sample.
    """
    if count is None:
        return list(items)
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[place] for place in order.tolist()]
