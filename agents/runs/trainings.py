"""Several trainings of one setup: the features they choose among, and how they run, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tqdm import tqdm
from transformers.utils import logging

from agents.runs import training
from agents.runs.config import TrainConfig, Trainings
from agents.runs.folder import RunFolder
from agents.runs.loading import make_envs
from steer_env.envs.base import unwrap
from steer_env.errors import NotTheBenchmark
from steer_env.evaluation.screening import screen_features

SCREEN_ITEMS = 64
"""Items of train on which every feature is tried."""


def screened(cfg: Trainings, settings: Mapping[str, Any] | None = None) -> list[int] | None:
    """The features that ``cfg.screen`` keeps, found before anything is trained; None stands for all of them.

    Args:
        cfg: The trainings.
        settings: Arguments of the environment beside the common ones.

    Raises:
        ValueError: There are no features to choose from, or fewer than are to be kept.
    """
    if cfg.screen is None:
        return None
    envs = make_envs(cfg.training("screen", cfg.seed, cfg.folder, settings).settings(), "train", cfg.num_envs)
    return screen_features(envs, cfg.screen, unwrap(envs).dealt[:SCREEN_ITEMS], cfg.seed)


def train_all(trainings: Sequence[TrainConfig], jobs: int) -> list[Path]:
    """Train each, ``jobs`` at a time, and return the run folders in the order asked for; one job stays in this process.

    A training that an earlier process finished is left as it is, and one that it began goes on (:func:`finish`).

    Raises:
        Exception: What the first one that failed raised; the others that wait are given up.
    """
    if jobs == 1:
        return [finish(cfg) for cfg in trainings]
    # Processes that start afresh: a fork would share PyTorch's threads. tqdm reads the variable as it is imported.
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent)
    with patch.dict(os.environ, TQDM_DISABLE="1"), workers as pool:
        started = [pool.submit(_train_quietly, cfg) for cfg in trainings]
        try:
            return [run.result() for run in tqdm(started, desc="trainings", disable=False)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def finish(cfg: TrainConfig) -> Path:
    """Train, or do what an earlier process left undone, and return the run folder.

    Raises:
        ValueError: That had another setting (it is named).
    """
    if not (cfg.folder / "config.json").is_file():
        shutil.rmtree(cfg.folder, ignore_errors=True)  # killed before there was anything
        return training.main(cfg)
    if not (cfg.folder / "policy.zip").is_file():
        return training.main(replace(cfg, resume=True))
    cfg.require_recorded(RunFolder.open(cfg.folder).config)
    return cfg.folder


def _end_with_parent() -> None:
    """Let this process end when the one that started it is killed: nobody else would stop it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_quietly(cfg: TrainConfig) -> Path:
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotTheBenchmark)  # the parent says it
        return finish(cfg)
