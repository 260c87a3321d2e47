"""Several trainings of one setup: their common settings, and how they run, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self
from unittest.mock import patch

from tqdm import tqdm
from transformers.utils import logging

from agents.runs import training as train
from agents.runs.config import KeyValues, TrainConfig, as_flags, settings_of
from agents.runs.loading import make_envs, parse_settings
from steer_env.envs.base import unwrap
from steer_env.errors import NotTheBenchmark
from steer_env.evaluation.screening import screen_features

SCREEN_ITEMS = 64  # of train, on which every feature is tried


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """What the trainings of one experiment have in common."""

    env: str
    """Environment id."""
    name: str
    """Name of the folder."""
    seeds: int = 5
    """Training seeds of whatever learns."""
    total_timesteps: int = 100_000
    """Tokens of each training."""
    env_kwargs: KeyValues = ()
    """key=value for gym.make_vec, in every training and arm."""
    algo: str = "ppo"
    """Algorithm."""
    algo_kwargs: KeyValues = ()
    """key=value for the algorithm."""
    mask: str = "off"
    """Legal actions."""
    head: str = "linear"
    """Policy head."""
    screen: int | None = None
    """The agent chooses among so many features, screened on train (agents/screening.py); by default among all."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    seed: int = 0
    """Of whatever draws and is no training: decoding, random arms, searches."""
    jobs: int = 2
    """Trainings at a time."""
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Mirror of each training."""
    runs_dir: Path = Path("runs")
    """Where the folder is."""

    def __post_init__(self) -> None:
        for name in ("seeds", "total_timesteps", "num_envs", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def folder(self) -> Path:
        """Where all of it is written."""
        return self.runs_dir / self.name

    def common(self) -> dict[str, Any]:
        """The settings of this class alone, for another experiment that trains in the same way."""
        return {field.name: getattr(self, field.name) for field in fields(Trainings)}

    def record(self) -> dict[str, Any]:
        """All settings that are not of this machine, as they are written into results."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Path)}

    def training(self, name: str, seed: int, folder: Path, settings: Mapping[str, Any] | None = None) -> TrainConfig:
        """One training in ``folder``, with ``settings`` of the environment beside the common ones."""
        flags = {key: getattr(self, key) for key in ("env", "algo", "algo_kwargs", "mask", "head", "num_envs", "wandb")}
        return TrainConfig(
            **flags,
            name=name,
            seed=seed,
            runs_dir=folder,
            env_kwargs=as_flags(parse_settings(self.env_kwargs) | dict(settings or {})),
            total_timesteps=self.total_timesteps,
            checkpoint_every=self.total_timesteps,
        )

    def screened(self, settings: Mapping[str, Any] | None = None) -> list[int] | None:
        """The features that ``screen`` keeps, found before anything is trained; None are all of them.

        Raises:
            ValueError: There are no features to choose from, or fewer than are to be kept.
        """
        if self.screen is None:
            return None
        config = settings_of(self.training("screen", self.seed, self.folder, settings))
        envs = make_envs(config, "train", self.num_envs)
        items = unwrap(envs).dealt[:SCREEN_ITEMS]
        return screen_features(envs, self.screen, items, self.seed)

    def choosing_among(self, features: Sequence[int] | None) -> Self:
        """The same with these features to choose from."""
        if features is None:
            return self
        return replace(self, env_kwargs=as_flags(parse_settings(self.env_kwargs) | {"features": list(features)}))


def train_all(trainings: Sequence[TrainConfig], jobs: int) -> list[Path]:
    """Train each, ``jobs`` at a time, and return the run folders in the order asked for; one job stays in this process.

    Raises:
        Exception: What the first one that failed raised; the others that wait are given up.
    """
    if jobs == 1:
        return [train.main(training) for training in trainings]
    # Processes that start afresh: a fork would share PyTorch's threads. tqdm reads the variable as it is imported.
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent)
    with patch.dict(os.environ, TQDM_DISABLE="1"), workers as pool:
        started = [pool.submit(_train_quietly, training) for training in trainings]
        try:
            return [run.result() for run in tqdm(started, desc="trainings", disable=False)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let this process end when the one that started it is killed: nobody else would stop it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_quietly(training: TrainConfig) -> Path:
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotTheBenchmark)  # the parent says it
        return train.main(training)
