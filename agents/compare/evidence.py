"""Does the learned policy earn its keep? ``python -m experiments.evidence --env Steer-XSTest-v0`` plays every arm.

Layer and coefficient are chosen on validation; what learns is trained with several seeds on train; every arm then plays
the same items of test with the same sampling seeds. All of it is one folder, ``runs/<name>/``.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from agents.compare.arms import Bench, item_oracle, play_arms, read_off
from agents.compare.rows import against_trained, rows
from agents.compare.table import draw, markdown
from agents.finetune import LoRA
from agents.policies import trained_policy
from agents.runs.config import Trainings
from agents.runs.folder import RunFolder, refuse_existing, write_json
from agents.runs.loading import load_trained, make_envs, model_sha256, provenance
from agents.runs.trainings import screened, train_all
from steer_env.envs.base import unwrap
from steer_env.evaluation.play import play

GRID = Path(__file__).parents[2] / "experiments" / "grids" / "embedded.json"


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig(Trainings):
    """Train, tune and compare on one environment."""

    train_samples: int | None = None
    """Items of train that anything may learn from, other ones with each seed; by default all."""
    tuning_timesteps: int = 30_000
    """Tokens of training for each point of the grid."""
    grid: Path = GRID
    """What is chosen on validation: a JSON list of settings of the environment."""
    lora: bool = True
    """Also fine-tune the model on the same items."""
    test_items: int | None = None
    """Items of test; by default all."""
    oracle_items: int = 200
    """Test items on which the item oracle tries every feature; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuning_timesteps < 1:
            raise ValueError(f"tuning_timesteps must be at least 1, got {self.tuning_timesteps}")
        if self.test_items is not None and self.test_items < 1:
            raise ValueError(f"test_items must be at least 1, got {self.test_items}")
        if self.oracle_items < 0:
            raise ValueError(f"oracle_items must be at least 0, got {self.oracle_items}")


def main(cfg: EvidenceConfig) -> dict[str, Any]:
    """Tune, train, play, and write ``evidence.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A setting is out of range, or the grid is not a list of settings.
        RuntimeError: The language model's weights changed.
    """
    torch.set_num_threads(1)
    start, points = time.perf_counter(), read_grid(cfg.grid)
    refuse_existing(cfg.folder)
    learners = own_settings(cfg)
    cfg.folder.mkdir(parents=True)
    tuning = tune(learners[0], points)
    chosen = max(tuning, key=lambda row: row["validation_score"])["settings"]
    bench = Bench(
        runs=train_seeds(learners, chosen, cfg.folder),
        folder=cfg.folder,
        test_items=cfg.test_items,
        oracle_items=cfg.oracle_items,
        num_envs=cfg.num_envs,
        seed=cfg.seed,
        lora=LoRA() if cfg.lora else None,
        every={} if cfg.screen is None else {"features": None},
    )
    result = {"env": cfg.env, "settings": cfg.record(), "tuning": tuning, "chosen": chosen, **compare(bench)}
    result["wall_s"] = time.perf_counter() - start
    write_json(cfg.folder / "evidence.json", result)
    (cfg.folder / "evidence.md").write_text(markdown(result))
    draw(result, cfg.folder / "evidence.png")
    print(markdown(result))
    return result


def compare(bench: Bench) -> dict[str, Any]:
    """Play every arm: what ``evidence.json`` says of arms, data and model.

    Raises:
        RuntimeError: The language model's weights changed.
    """
    before = model_sha256(bench.envs("test"))
    arms = play_arms(bench)
    found = {
        "train_samples": len(bench.train_items(0)),
        "data": unwrap(bench.envs("test")).task.data_record(),
        "arms": rows(bench, arms),
        "tests": against_trained(arms),
        "item_oracle": item_oracle(bench),
        "readable": read_off(bench),
        "weights_sha256": before,
        **provenance(),
    }
    if model_sha256(bench.envs("test")) != before:
        raise RuntimeError(f"the language model's weights changed: sha256 was {before}")
    return found


def read_grid(path: Path) -> list[dict[str, Any]]:
    """The settings to choose from.

    Raises:
        ValueError: The file is no list of settings.
    """
    points = json.loads(path.read_text())
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"{path} must hold a JSON list of settings, at least one")
    return points


def own_settings(cfg: EvidenceConfig) -> list[EvidenceConfig]:
    """The settings of each training seed: where samples are few, it has its own, and features screened on no others."""
    if cfg.train_samples is None:
        return [cfg.choosing_among(screened(cfg))] * cfg.seeds
    few = [cfg.env_kwargs | {"limit": cfg.train_samples, "limit_seed": seed} for seed in range(cfg.seeds)]
    limited = [replace(cfg, env_kwargs=settings) for settings in few]
    return [each.choosing_among(screened(each)) for each in limited]


def tune(cfg: EvidenceConfig, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One short training for each point of the grid: its ``settings`` and ``validation_score``.

    A grid of one point needs no training, and its score is NaN.
    """
    if len(points) == 1:
        return [{"settings": points[0], "validation_score": math.nan}]
    short = replace(cfg, total_timesteps=cfg.tuning_timesteps)
    folder = cfg.folder / "tuning"
    trainings = [short.training(str(number), cfg.seed, folder, point) for number, point in enumerate(points)]
    runs = train_all(trainings, cfg.jobs)
    return [
        {"settings": point, "validation_score": _validation_score(run, cfg)}
        for point, run in zip(points, runs, strict=True)
    ]


def train_seeds(learners: Sequence[EvidenceConfig], settings: dict[str, Any], folder: Path) -> list[Path]:
    """Train an agent with each seed, given its settings; returns the run folders."""
    return train_all(
        [own.training(f"seed-{seed}", seed, folder, settings) for seed, own in enumerate(learners)], learners[0].jobs
    )


def _validation_score(path: Path, cfg: EvidenceConfig) -> float:
    run = RunFolder.open(path)
    envs = make_envs(run.config, "validation", cfg.num_envs)
    policy = trained_policy(*load_trained(run, envs))
    return float(play(envs, policy, range(len(unwrap(envs).task)), cfg.seed, tokens=False).scores.mean())
