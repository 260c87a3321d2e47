"""Do trained agents steer answers or letters? ``steer transfer --run runs/bbq/seed-0 --name bbq-transfer``.

What was learned in training plays the same items where the prompt is worded otherwise: other labels in front of the
options, another order, answers in the options' own words. Each arm is tested against the unsteered model there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.compare.results import Transfer, publish
from agents.runs.folder import provenance


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Evaluate trained runs where the prompt is worded otherwise."""

    run: tuple[Path, ...]
    """Run folders of one setup, one a training seed."""
    name: str
    """Name of the folder of results."""
    changes: tuple[str, ...] | None = None
    """Changes of the prompt: ABC, 123, PQR, KLM, reordered, words, free; by default those that fit, without KLM."""
    split: str = "test"
    """Split of the items; whatever is learned comes from train."""
    items: int | None = None
    """Number of items at most, drawn; by default the whole split."""
    search_games: tuple[int, int] = (32, 256)
    """Items that every candidate plays in the search for the best fixed feature, and those that the best 16 play."""
    lora_steps: int = 0
    """Optimiser steps of a model that is fine-tuned on the same items of train; 0 leaves it out."""
    seed: int = 0
    """Seed of the choice of items, of sampled decoding and of the search for the best fixed feature."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    resume: bool = False
    """Go on with what an earlier process of the same settings left."""
    runs_dir: Path = Path("runs")
    """Folder of run folders."""

    def __post_init__(self) -> None:
        for name, least in (("items", 1), ("lora_steps", 0), ("num_envs", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    @property
    def folder(self) -> Path:
        """Where all of it is written."""
        return self.runs_dir / self.name

    def record(self) -> dict[str, Any]:
        """All settings that numbers depend on."""
        names = ("split", "items", "lora_steps", "seed", "num_envs")
        listed: dict[str, Any] = {
            "run": [str(path) for path in self.run],
            "changes": self.changes and list(self.changes),
        }
        listed["search_games"] = list(self.search_games)
        return listed | {name: getattr(self, name) for name in names}


def main(cfg: TransferConfig) -> Transfer:
    """Play every arm under every change, and write ``transfer.json``, ``.md`` and ``.png``; returns the first.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: The task knows none of the changes.
        RuntimeError: The language model or what actions mean is not as in training, or the weights changed.
    """
    import torch

    from agents.compare import transfer as library
    from agents.compare.bench import Bench
    from agents.compare.evaluate import require_same_weights
    from agents.compare.kept import begin
    from agents.finetune import LoRA
    from agents.runs.loading import model_sha256

    torch.set_num_threads(1)
    start = time.perf_counter()
    lora = LoRA(steps=cfg.lora_steps) if cfg.lora_steps else None
    settings: dict[str, Any] = {"split": cfg.split, "items": cfg.items, "seed": cfg.seed, "num_envs": cfg.num_envs}
    settings["search_games"] = cfg.search_games
    bench = Bench(runs=cfg.run, lora=lora, **settings)
    task, trained = bench.parts.task, bench.configs[0]
    names = library.USUAL if cfg.changes is None else cfg.changes
    changes = library.changes_of(task, trained["env_kwargs"], names)
    bench = replace(bench, kept=begin(cfg.folder, cfg.record(), cfg.resume))
    before = model_sha256(bench.envs(compare=bench.compare))
    result = Transfer(
        env=trained["env"],
        runs=[path.name for path in cfg.run],
        settings=cfg.record(),
        data=task.data_record(),
        changes={name: library.play_change(bench, name, change) for name, change in {"home": {}, **changes}.items()},
        weights_sha256=require_same_weights(bench, before),
        wall_s=time.perf_counter() - start,
        **provenance(),
    )
    publish(result, cfg.folder / "transfer", library.markdown(result), lambda path: library.draw(result, path))
    return result
