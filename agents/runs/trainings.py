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
from agents.runs.loading import is_finished, make_envs
from agents.workers import started_ray
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


def train_all(trainings: Sequence[TrainConfig], jobs: int, on: str = "processes") -> list[Path]:
    """Train each, and return the run folders in the order asked for.

    A training that an earlier process finished is left as it is, and one that it began goes on (:func:`finish`).

    Args:
        trainings: What is trained.
        jobs: Trainings at a time; one stays in this process.
        on: ``"processes"``, or ``"ray"`` for tasks of a cluster, as many at a time as it has room for, each with a GPU
            where there are any. All its machines must see the folders of runs.

    Raises:
        Exception: What the first one that failed raised; the others that wait are given up.
    """
    if on == "ray":
        return _train_on_cluster(trainings)
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


def _train_on_cluster(trainings: Sequence[TrainConfig]) -> list[Path]:
    ray = started_ray()
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # A task whose worker dies is done again by Ray, and so goes on from its checkpoint.
    train = ray.remote(_train_quietly).options(num_cpus=1, num_gpus=gpus, max_retries=3)
    started = [train.remote(replace(cfg, runs_dir=cfg.runs_dir.absolute())) for cfg in trainings]
    try:
        return [Path(ray.get(run)) for run in tqdm(started, desc="trainings", disable=False)]
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for run in started:
            ray.cancel(run)


def finish(cfg: TrainConfig) -> Path:
    """Train, or do what an earlier process left undone, and return the run folder.

    Raises:
        ValueError: That had another setting (it is named).
    """
    if not (cfg.folder / "config.json").is_file():
        shutil.rmtree(cfg.folder, ignore_errors=True)  # killed before there was anything
        return training.main(cfg)
    if not is_finished(cfg.folder):
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
