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
from typing import Any, Literal

import torch
import tyro

from agents.evaluation import play, trained_policy
from agents.finetune import LoRA
from agents.screening import screen_features
from experiments.assembly import load_trained, make_envs, model_sha256, parse_settings, provenance, scene
from experiments.evidence_arms import Bench, item_oracle, play_arms
from experiments.evidence_rows import against_trained, rows
from experiments.evidence_table import draw, markdown
from experiments.run_folder import RunFolder, refuse_existing, write_json
from experiments.train_config import KeyValues, TrainConfig, settings_of
from experiments.trainings import train_all

SCREEN_ITEMS = 64  # of train, on which every feature is tried
GRID = Path(__file__).parent / "grids" / "embedded.json"


@dataclass(frozen=True)
class EvidenceConfig:
    """Train, tune and compare on one environment."""

    env: str
    """Environment id."""
    name: str
    """Name of the folder."""
    seeds: int = 5
    """Training seeds of whatever learns."""
    train_samples: int | None = None
    """Items of train that anything may learn from, other ones with each seed; by default all."""
    total_timesteps: int = 100_000
    """Tokens of training for each seed."""
    tuning_timesteps: int = 30_000
    """Tokens of training for each point of the grid."""
    grid: Path = GRID
    """What is chosen on validation: a JSON list of settings of the environment."""
    algo: str = "ppo"
    """Algorithm."""
    mask: str = "off"
    """Legal actions."""
    head: str = "linear"
    """Policy head."""
    env_kwargs: KeyValues = ()
    """key=value for gym.make_vec, in every arm."""
    algo_kwargs: KeyValues = ()
    """key=value for the algorithm."""
    screen: int | None = None
    """The agent chooses among so many features, screened on train (agents/screening.py); by default among all."""
    lora: bool = True
    """Also fine-tune the model on the same items."""
    test_items: int | None = None
    """Items of test; by default all."""
    oracle_items: int = 200
    """Test items on which the item oracle tries every feature; 0 leaves it out."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    seed: int = 0
    """Of sampled decoding, random arms, searches and the tuning's trainings."""
    jobs: int = 2
    """Trainings at a time."""
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Mirror of each training."""
    runs_dir: Path = Path("runs")
    """Where the folder is."""


def main(cfg: EvidenceConfig) -> dict[str, Any]:
    """Tune, train, play, and write ``evidence.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A setting is out of range, or the grid is not a list of settings.
        RuntimeError: The language model's weights changed.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    points = _check(cfg)
    folder = cfg.runs_dir / cfg.name
    refuse_existing(folder)
    screened = screen(cfg)
    folder.mkdir(parents=True)
    given = cfg if screened is None else replace(cfg, env_kwargs=(*cfg.env_kwargs, f"features={screened}"))
    tuning = tune(given, points, folder / "tuning")
    chosen = max(tuning, key=lambda row: row["validation_score"])["settings"]
    runs = train_seeds(given, chosen, folder)
    config = RunFolder.open(runs[0]).config
    lora = LoRA() if cfg.lora else None
    every = {} if screened is None else {"features": None}
    bench = Bench(config, runs, folder, cfg.test_items, cfg.oracle_items, cfg.num_envs, cfg.seed, lora, every)
    before = model_sha256(bench.envs("test"))
    arms = play_arms(bench)
    result = {
        "env": cfg.env,
        "settings": {name: value for name, value in vars(cfg).items() if name not in ("runs_dir", "grid")},
        "tuning": tuning,
        "chosen": chosen,
        "screened": screened,
        "train_samples": len(bench.train_items(0)),
        "data": scene(bench.envs("test")).task.data_record(),
        "arms": rows(bench, arms),
        "tests": against_trained(arms),
        "item_oracle": item_oracle(bench),
        "weights_sha256": before,
        "wall_s": time.perf_counter() - start,
        **provenance(),
    }
    if model_sha256(bench.envs("test")) != before:
        raise RuntimeError(f"the language model's weights changed: sha256 was {before}")
    write_json(folder / "evidence.json", result)
    (folder / "evidence.md").write_text(markdown(result))
    draw(result, folder / "evidence.png")
    print(markdown(result))
    return result


def screen(cfg: EvidenceConfig) -> list[int] | None:
    """The features that the agent chooses among; None are all of them."""
    if cfg.screen is None:
        return None
    envs = train_envs(cfg)
    return screen_features(envs, cfg.screen, envs.unwrapped.episode.order.items[:SCREEN_ITEMS].tolist(), cfg.seed)


def train_envs(cfg: EvidenceConfig) -> Any:
    """The environments that the tuning learns in, before anything is tuned."""
    settings = settings_of(_training(cfg, {}, "train", cfg.seed))
    return make_envs(settings, "train", cfg.num_envs)


def tune(cfg: EvidenceConfig, points: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """One short training for each point of the grid: its ``settings`` and ``validation_score``.

    A grid of one point needs no training, and its score is NaN.
    """
    if len(points) == 1:
        return [{"settings": points[0], "validation_score": math.nan}]
    trainings = [
        replace(_training(cfg, point, str(number), cfg.seed), runs_dir=folder, total_timesteps=cfg.tuning_timesteps)
        for number, point in enumerate(points)
    ]
    runs = train_all(trainings, cfg.jobs)
    return [
        {"settings": point, "validation_score": _validation_score(run, cfg)}
        for point, run in zip(points, runs, strict=True)
    ]


def train_seeds(cfg: EvidenceConfig, settings: dict[str, Any], folder: Path) -> list[Path]:
    """Train the agent with each seed; returns the run folders."""
    trainings = [replace(_training(cfg, settings, f"seed-{seed}", seed), runs_dir=folder) for seed in range(cfg.seeds)]
    return train_all(trainings, cfg.jobs)


def _training(cfg: EvidenceConfig, settings: dict[str, Any], name: str, seed: int) -> TrainConfig:
    given = parse_settings(cfg.env_kwargs) | settings
    if cfg.train_samples is not None:
        given |= {"limit": cfg.train_samples, "limit_seed": seed}
    return TrainConfig(
        name=name,
        env=cfg.env,
        algo=cfg.algo,
        total_timesteps=cfg.total_timesteps,
        num_envs=cfg.num_envs,
        seed=seed,
        mask=cfg.mask,
        head=cfg.head,
        env_kwargs=tuple(f"{key}={json.dumps(value)}" for key, value in given.items()),
        algo_kwargs=cfg.algo_kwargs,
        checkpoint_every=cfg.total_timesteps,
        wandb=cfg.wandb,
    )


def _validation_score(path: Path, cfg: EvidenceConfig) -> float:
    run = RunFolder.open(path)
    envs = make_envs(run.config, "validation", cfg.num_envs)
    policy = trained_policy(*load_trained(run, envs))
    return float(play(envs, policy, range(len(scene(envs).task)), cfg.seed, tokens=False).scores.mean())


def _check(cfg: EvidenceConfig) -> list[dict[str, Any]]:
    for name in ("seeds", "total_timesteps", "tuning_timesteps", "num_envs", "jobs"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(cfg, name)}")
    if cfg.oracle_items < 0:
        raise ValueError(f"oracle_items must be at least 0, got {cfg.oracle_items}")
    points = json.loads(cfg.grid.read_text())
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"{cfg.grid} must hold a JSON list of settings, at least one")
    return points


if __name__ == "__main__":
    main(tyro.cli(EvidenceConfig))
