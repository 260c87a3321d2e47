"""Variants of one training side by side: ``steer sweep --variants experiments/grids/policy.json ...``.

Every variant is trained with the same seeds and scored on the same items, by default those of validation, so that what
is chosen by the table has not seen test.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from agents.compare.results import Sweep, publish
from agents.runs.config import Trainings
from agents.runs.folder import provenance, refuse_existing


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Trainings):
    """Train variants of one setup and compare them with the first."""

    variants: Path
    """A JSON list of {"name": ..., flags of steer train}; the first is what the others are compared with."""
    seeds: int = 3
    """Training seeds of every variant."""
    total_timesteps: int = 60_000
    """Tokens of each training."""
    split: str = "validation"
    """Where the variants are scored, beside train."""
    items: int = 1_000
    """Number of items of either split at most."""


def main(cfg: SweepConfig) -> Sweep:
    """Train and score, and write ``sweep.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A setting is out of range, or the variants are not a list of named flags.
    """
    import torch

    from agents.compare import sweep as library
    from agents.compare.evidence import bench_of
    from agents.runs.trainings import screened, train_all

    torch.set_num_threads(1)
    start, variants = time.perf_counter(), library.read_variants(cfg.variants)
    refuse_existing(cfg.folder)
    chosen = cfg.choosing_among(screened(cfg))
    trainings = {name: library.trainings_of(chosen, name, flags) for name, flags in variants.items()}
    cfg.folder.mkdir(parents=True)
    train_all([training for several in trainings.values() for training in several], cfg.jobs, cfg.on)
    asked = {"split": cfg.split, "items": cfg.items, "train_items": cfg.items, "seed": 0, "compare": False}
    benches = {
        name: bench_of(cfg, [training.folder for training in several], **asked) for name, several in trainings.items()
    }
    result = Sweep(
        env=cfg.env,
        settings=cfg.record(),
        variants=library.score_variants(benches, variants),
        wall_s=time.perf_counter() - start,
        **provenance(),
    )
    publish(result, cfg.folder / "sweep", library.markdown(result), lambda path: library.draw(result, path))
    return result
