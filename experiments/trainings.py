"""Several trainings, each in a process of its own, under one progress bar."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

from tqdm import tqdm
from transformers.utils import logging

from experiments import train
from experiments.train_config import TrainConfig
from steer_env.errors import NotTheBenchmark


def train_all(trainings: Sequence[TrainConfig], jobs: int) -> list[Path]:
    """Train each, ``jobs`` at a time, and return the run folders in the order asked for; one job stays in this process.

    Raises:
        Exception: What the first one that failed raised; the others that wait are given up.
    """
    if jobs == 1:
        return [train.main(training) for training in trainings]
    # Processes that start afresh: a fork would share PyTorch's threads. tqdm reads the variable as it is imported.
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, TQDM_DISABLE="1"), ProcessPoolExecutor(jobs, mp_context=context) as pool:
        started = [pool.submit(_train_quietly, training) for training in trainings]
        try:
            return [run.result() for run in tqdm(started, desc="trainings", disable=False)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _train_quietly(training: TrainConfig) -> Path:
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotTheBenchmark)  # the parent says it
        return train.main(training)
