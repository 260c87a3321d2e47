"""Two Ray workers beside one process where the model does nothing but take time, and what a step's transfer costs.

On a GPU a model reads its weights for one lane or for many: a second worker doubles the lanes of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np

from experiments.bench.timing import Row, Sizes, compare

SECONDS = 0.04
"""What a step of the sleeping model takes: of a 2B model in bfloat16 on a small GPU, about."""
STEPS = 50
SHAPES = ((576, 2_305), (2_304, 16_385))
"""Observation and actions of SmolLM2-135M and of Gemma 2 2B with an SAE of 16,384 features."""
BOTH = {"one process": 0, "2 workers": 2}


def measure(sizes: Sizes) -> Iterator[Row]:
    """Steps a second of ``batches`` lanes a worker, each with its observations and masks."""
    for lanes in sizes.batches:
        for shape in SHAPES:
            case = f"{lanes} lanes a worker, {shape[0]:,} numbers, {shape[1]:,} actions"
            with ExitStack() as stack:
                runs = {
                    name: partial(_play, _made(stack, shape, lanes, SECONDS, count)) for name, count in BOTH.items()
                }
                yield compare(f"{case}, {1000 * SECONDS:.0f} ms a step", "lane steps/s", "one process", runs, sizes)
            with ExitStack() as stack:
                runs = {name: partial(_step, _made(stack, shape, lanes, 0.0, count)) for name, count in BOTH.items()}
                yield compare(f"{case}, transfer alone", "steps/s", "one process", runs, sizes)


def _made(stack: ExitStack, shape: tuple[int, int], lanes: int, seconds: float, workers: int) -> Any:
    from agents.workers import WorkersVectorEnv

    make = partial(sleeping, shape, seconds)
    return stack.enter_context(
        closing(WorkersVectorEnv(make, workers * lanes, workers, True) if workers else make(lanes))
    )


def sleeping(shape: tuple[int, int], seconds: float, lanes: int) -> Any:
    """An environment of random observations and masks, each step of which takes so long."""
    from experiments.bench.worlds import BlankVectorEnv

    width, actions = shape
    return BlankVectorEnv(lanes, actions, actions // 64, width, length=64, seconds=seconds)


def _play(envs: Any) -> int:
    return _step(envs) * int(envs.num_envs)


def _step(envs: Any) -> int:
    envs.reset()
    actions = np.zeros(envs.num_envs, dtype=np.int64)
    for _ in range(STEPS):
        envs.step(actions)
        envs.action_masks()
    return STEPS
