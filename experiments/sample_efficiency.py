"""Score against the number of items to learn from: ``steer sample-efficiency --env Steer-XSTest-v0 --name samples``.

The learned policy, the best fixed feature, CorrSteer and LoRA learn from the same items, other ones with each seed; all
play the whole test split.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from agents.compare.results import SampleEfficiency, publish
from agents.runs.config import Study
from agents.runs.folder import provenance


@dataclass(frozen=True, kw_only=True)
class SampleEfficiencyConfig(Study):
    """Train on few and many items and compare."""

    sizes: tuple[int, ...] = (10, 25, 50, 100, 400)
    """Numbers of items of train; all of them come last."""
    total_timesteps: int = 60_000
    """Tokens of each training."""
    lora_steps: int = 200
    """Optimiser steps of the models that are fine-tuned on the same items; 0 leaves it out."""
    items: int | None = None
    """Number of items of test; by default all."""


def main(cfg: SampleEfficiencyConfig) -> SampleEfficiency:
    """Train, play, and write ``samples.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already, and ``resume`` is off.
        ValueError: A size is not between 1 and the items of train, or they do not increase.
    """
    import torch
    from tqdm import tqdm

    from agents.compare import samples as library
    from agents.compare.kept import begin
    from agents.finetune import LoRA

    torch.set_num_threads(1)
    start, sizes = time.perf_counter(), library.checked_sizes(cfg, cfg.sizes)
    begin(cfg.folder, cfg.begun_with(), cfg.resume)
    lora = LoRA(steps=cfg.lora_steps) if cfg.lora_steps else None
    points = [library.learned_from(cfg, size, cfg.items, lora) for size in tqdm(sizes, desc="sizes", disable=None)]
    names = [name for name in library.LEARNERS if any(name in point for point in points)]
    result = SampleEfficiency(
        env=cfg.env,
        settings=cfg.record(),
        sizes=sizes,
        arms={name: [point.get(name) for point in points] for name in names},
        wall_s=time.perf_counter() - start,
        **provenance(),
    )
    publish(result, cfg.folder / "samples", library.markdown(result), lambda path: library.draw(result, path))
    return result
