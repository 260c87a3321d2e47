"""From a run's settings to its environments, agent and record of origin: what train and evaluate share."""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping
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
from agents.runs.folder import RunFolder
from agents.vec_env import SB3VecEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.masks import MASKS, ActionMask, make_mask
from steer_env.evaluation.play import drawn_items as drawn_items
from steer_env.lm.loading import weights_sha256

PACKAGES = ("gymnasium", "numpy", "sae-lens", "stable-baselines3", "torch", "transformers", "wandb")


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
    if config["mask"] == "off":
        return None
    space = envs.single_action_space
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
    """The agent in ``policy.zip``, of the class in ``config.json``, and its mask as training left it.

    Raises:
        FileNotFoundError: Training has not finished.
        RuntimeError: The agent does not hold the parameters of the file.
    """
    path = run.path / "policy.zip"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: training has not finished (steer train --resume)")
    model = ALGOS[run.config["algo"]].cls.load(path, device="cpu")
    _require_saved_parameters(model, path)
    return model, trained_mask(run, envs)


def trained_mask(run: RunFolder, envs: VectorEnv[Any, Any, Any]) -> ActionMask | None:
    """The run's mask as training left it, or None."""
    mask = make_run_mask(run.config, envs)
    if mask is not None:
        load_mask(mask, run.path)
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
