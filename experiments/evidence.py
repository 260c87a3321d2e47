"""Does the learned policy earn its keep? ``steer evidence --env Steer-XSTest-v0 --name xstest`` plays every arm.

Layer and coefficient are chosen on validation; what learns is trained with several seeds on train; every arm then plays
the same items of test with the same sampling seeds. All of it is one folder, ``runs/<name>/``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Self

from agents.compare.results import Evidence, publish
from agents.runs.config import Study
from agents.runs.folder import SETTINGS, provenance, read_json


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig(Study):
    """Train, tune and compare on one environment."""

    train_items: int | None = None
    """Number of items of train that anything may learn from, other ones with each seed; by default all."""
    tuning_timesteps: int = 30_000
    """Tokens of training for each point of the grid."""
    grid: Path = field(default_factory=lambda: Path(str(files("experiments") / "grids" / "embedded.json")))
    """What is chosen on validation: a JSON list of settings of the environment."""
    lora_steps: int = 200
    """Optimiser steps of a model that is fine-tuned on the same items; 0 leaves it out."""
    items: int | None = None
    """Number of items of test; by default all."""
    oracle_items: int = 200
    """Number of these on which the item oracle tries every feature; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = {"tuning_timesteps": 1, "items": 1, "lora_steps": 0, "oracle_items": 0}
        for name, least in bounds.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def as_recorded(self) -> Self:
        """The settings that the study of this name was begun with.

        Raises:
            FileNotFoundError: There is no such study.
        """
        path = self.folder / SETTINGS
        if not path.is_file():
            raise FileNotFoundError(f"there is no study to go on with: {path} is missing")
        saved = read_json(path)
        own = {name: value for name, value in saved.items() if name not in ("points", "grid", "search_games")}
        return replace(self, **own, grid=Path(saved["grid"]), search_games=tuple(saved["search_games"]))


def main(cfg: EvidenceConfig) -> Evidence:
    """Tune, train, play, and write ``evidence.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already, and ``resume`` is off.
        ValueError: A setting is out of range or not the one a resumed study was begun with, or the grid is not a list
            of settings.
        RuntimeError: The language model's weights changed.
    """
    import torch

    from agents.compare import evidence as library
    from agents.compare.arms import against_trained, arm_results, item_oracle, play_arms, read_off
    from agents.compare.evaluate import require_same_weights
    from agents.compare.kept import begin
    from agents.finetune import LoRA
    from agents.runs.loading import model_sha256

    torch.set_num_threads(1)
    start, points = time.perf_counter(), library.read_grid(cfg.grid)
    kept = begin(cfg.folder, cfg.begun_with() | {"grid": str(cfg.grid), "points": points}, cfg.resume)
    learners = library.own_settings(cfg, cfg.train_items, kept)
    tuning = library.tune(learners[0], points, cfg.tuning_timesteps, kept)
    chosen = max(tuning, key=lambda point: point.validation_score or 0.0).settings
    lora = LoRA(steps=cfg.lora_steps) if cfg.lora_steps else None
    runs = library.train_seeds(learners, chosen)
    bench = library.bench_of(cfg, runs, items=cfg.items, lora=lora, kept=kept, **cfg.search)
    weights = model_sha256(bench.envs())
    arms = play_arms(bench)
    result = Evidence(
        env=cfg.env,
        settings=cfg.record(),
        tuning=tuning,
        chosen=chosen,
        train_items=len(bench.dealt_in_train(0)),
        data=bench.parts.task.data_record(),
        arms=arm_results(bench, arms),
        tests=against_trained(arms, bench.seed),
        item_oracle=item_oracle(bench, cfg.oracle_items),
        read_off=read_off(bench),
        weights_sha256=require_same_weights(bench, weights),
        wall_s=time.perf_counter() - start,
        **provenance(),
    )
    publish(result, cfg.folder / "evidence", library.markdown(result), lambda path: library.draw(result, path))
    return result
