"""How fast the parts are, each beside what a user would compare it with: ``steer benchmark engine learner``.

What is compared runs in turns in one process, and ratios are medians of the rounds' own: they hold on another machine,
where rates do not. ``--baseline`` says what fell by more than a tenth.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from agents.runs.config import one_of
from experiments.bench.timing import Row, Sizes, machine
from steer_env.lazy import torch

PARTS = {
    "engine": "the closed loop beside generate, on one engine",
    "loop": "the environment, and PPO in it, beside generate",
    "ragged": "lanes whose replies differ in length, beside even ones",
    "prompt": "answers behind known prompts, beside prompts that are read",
    "learner": "PPO over many actions, beside MaskablePPO",
    "adapter": "SB3VecEnv beside the environment alone",
    "sae": "reading to half depth beside the whole pass, encoding beside SAELens",
    "floor": "the closed loop and generate beside what the memory's bandwidth allows",
    "workers": "two Ray workers beside one process, with a model that sleeps",
    "peers": "the same loop with other libraries",
}
FALLEN = 0.9


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure parts of Steer, each in turns with what it is compared with."""

    parts: Positional[tuple[Annotated[str, one_of(tuple(PARTS))], ...]] = ("engine",)
    """What is measured: engine, loop, ragged, prompt, learner, adapter, sae, floor, workers,
    peers."""
    model: str = "small-llama"
    """A local folder, GGUF file or hub id, or random weights: small-llama, llama-100m, gpt2, gemma-2-2b,
    llama-3.1-8b."""
    batches: tuple[int, ...] = (16, 64)
    """Lanes."""
    prompt_tokens: int = 32
    """Length of every prompt."""
    new_tokens: int = 64
    """Tokens that each lane writes."""
    actions: tuple[int, ...] = (257, 1_025, 4_097, 16_385, 131_073)
    """Numbers of actions, for the learner."""
    rounds: int = 5
    """Interleaved rounds; medians are reported."""
    device: str = "cpu"
    """cpu or cuda."""
    dtype: str = "float32"
    """Of the weights."""
    threads: int = 1
    """CPU threads of PyTorch."""
    out: Path | None = None
    """Where all figures are written as JSON."""
    baseline: Path | None = None
    """What an earlier run wrote: what its ratios were more than a tenth above is said, and the exit code is 1."""

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("batches", "actions"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be numbers of at least 1, got {getattr(self, name)}")

    def sizes(self) -> Sizes:
        """What the parts are told."""
        names = ("model", "batches", "prompt_tokens", "new_tokens", "actions", "rounds", "device", "dtype")
        return Sizes(**{name: getattr(self, name) for name in names})


def main(cfg: BenchmarkConfig) -> int:
    """Measure, print a table, write ``out``; 1 where a ratio has fallen below the baseline's by more than a tenth.

    Raises:
        ValueError: The baseline cannot be read.
    """
    torch.set_num_threads(cfg.threads)
    before = _read(cfg.baseline) if cfg.baseline else {}
    sizes = cfg.sizes()
    about = machine(sizes)
    print(f"{about['device']}, {cfg.threads} threads, {cfg.model}, {cfg.dtype}; medians of {cfg.rounds} rounds")
    found: dict[str, list[dict[str, Any]]] = {}
    fallen = []
    for part in cfg.parts:
        found[part] = []
        for row in importlib.import_module(f"experiments.bench.{part}").measure(sizes):
            print("\n".join(_lines(part, row)), flush=True)
            found[part].append(asdict(row))
            fallen += list(_fallen(part, row, before.get(part, [])))
    if cfg.out:
        cfg.out.parent.mkdir(parents=True, exist_ok=True)
        cfg.out.write_text(json.dumps({"machine": about, "parts": found}, indent=1) + "\n")
    print("\n".join(fallen) if fallen else "nothing fell" if cfg.baseline else "", end="\n" if cfg.baseline else "")
    return 1 if fallen else 0


def _lines(part: str, row: Row) -> Iterator[str]:
    yield f"{part}: {row.case}"
    for name, rate in row.rates.items():
        yield f"  {name:28s} {rate:12,.0f} {row.unit}   {row.ratios[name]:6.2f} of {row.base}"


def _fallen(part: str, row: Row, before: list[dict[str, Any]]) -> Iterator[str]:
    for old in before:
        if old["case"] != row.case or old["base"] != row.base:
            continue
        for name, ratio in row.ratios.items():
            if name in old["ratios"] and ratio < FALLEN * old["ratios"][name]:
                yield f"{part}, {row.case}, {name}: {ratio:.2f} of {row.base}, was {old['ratios'][name]:.2f}"


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        parts: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())["parts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file that steer benchmark --out wrote ({error})") from error
    return parts
