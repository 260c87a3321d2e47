"""Variants of one training side by side: ``steer sweep --variants experiments/grids/policy.json ...``.

Every variant is trained with the same seeds and scored on the same items, by default those of validation, so that what
is chosen by the table has not seen test.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agents.compare.results import Sweep, publish
from agents.runs.config import Trainings
from agents.runs.folder import provenance


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
    reach: float | None = None
    """A score of the last 200 episodes of training: the table says after how many tokens each variant had it."""
    resume: bool = False
    """Go on with the sweep of this name that an earlier process with the same settings began."""


def main(cfg: SweepConfig) -> Sweep:
    """Train and score, and write ``sweep.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already, and ``resume`` is off.
        ValueError: A setting is out of range or not the one a resumed sweep was begun with, or the
            variants are not a list of named flags.
    """
    import torch

    from agents.compare import sweep as library
    from agents.compare.evidence import bench_of
    from agents.compare.kept import begin
    from agents.runs.trainings import screened, train_all

    torch.set_num_threads(1)
    start, variants = time.perf_counter(), library.read_variants(cfg.variants)
    for name, flags in variants.items():
        library.trainings_of(cfg, name, flags)  # what is wrong with a variant is said before anything is made
    kept = begin(cfg.folder, cfg.begun_with() | {"variants": variants}, cfg.resume)
    chosen = cfg.choosing_among(kept.get("screened", partial(screened, cfg)))
    trainings = {name: library.trainings_of(chosen, name, flags) for name, flags in variants.items()}
    train_all([training for several in trainings.values() for training in several], cfg.jobs, cfg.on)
    asked = {"split": cfg.split, "items": cfg.items, "train_items": cfg.items, "seed": 0, "compare": False}
    benches = {
        name: bench_of(
            cfg, [each.folder for each in several], kept=kept.inside(several[0].name.removesuffix("-0")), **asked
        )
        for name, several in trainings.items()
    }
    result = Sweep(
        env=cfg.env,
        settings=cfg.record(),
        variants=library.score_variants(benches, variants, cfg.reach),
        wall_s=time.perf_counter() - start,
        **provenance(),
    )
    publish(result, cfg.folder / "sweep", library.markdown(result), lambda path: library.draw(result, path))
    return result
