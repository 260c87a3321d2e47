"""Interleaved timings: what is compared runs in turns in one process, and medians of several rounds are reported."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steer_env.lazy import torch

Run = Callable[[], int]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        model: A local folder, GGUF file or hub id, or a name of ``SHAPES``: random weights of that shape.
        batches: Lanes.
        prompt_tokens: Length of every prompt.
        new_tokens: Tokens that each lane writes.
        actions: Numbers of actions, for the learner.
        rounds: Interleaved rounds.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Of the weights.
    """

    model: str
    batches: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    actions: tuple[int, ...]
    rounds: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: What was measured, such as ``"batch 16"``.
        unit: What is counted a second.
        base: The name that others are compared with.
        rates: Units a second by name, medians over rounds.
        ratios: Each rate over that of ``base``: the median of the rounds' own ratios, so that noise that both meet
            cancels.
    """

    case: str
    unit: str
    base: str
    rates: dict[str, float]
    ratios: dict[str, float]


def compare(case: str, unit: str, base: str, runs: Mapping[str, Run], sizes: Sizes) -> Row:
    """Run every function in turns, ``sizes.rounds`` times after one round that warms up.

    Args:
        case: See :class:`Row`.
        unit: What the functions return the number of.
        base: One of the names.
        runs: Functions by name.
        sizes: Rounds and device.
    """
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for measured in range(sizes.rounds + 1):
        for name, run in runs.items():
            rate = _rate(run, sizes.device)
            if measured:
                rates[name].append(rate)
    ratios = {
        name: statistics.median(own / other for own, other in zip(rates[name], rates[base], strict=True))
        for name in runs
    }
    return Row(case, unit, base, {name: statistics.median(own) for name, own in rates.items()}, ratios)


def machine(sizes: Sizes) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    device = torch.cuda.get_device_name() if sizes.device == "cuda" else _processor()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sizes": asdict(sizes),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def _rate(run: Run, device: str) -> float:
    _finish(device)
    start = time.perf_counter()
    units = run()
    _finish(device)
    return units / (time.perf_counter() - start)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
