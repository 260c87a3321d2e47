"""Variants of one training side by side: ``python -m experiments.sweep --variants experiments/grids/policy.json ...``.

Every variant is trained with the same seeds and scored on the same items, by default those of validation, so that what
is chosen by the table has not seen test.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from agents.evaluation import Played, play, trained_policy
from experiments.assembly import load_trained, make_envs, parse_settings, provenance
from experiments.run_folder import RunFolder, read_json, refuse_existing, write_json
from experiments.statistics import bootstrap_mean
from experiments.sweep_table import draw, markdown
from experiments.train_config import KeyValues, TrainConfig, check_config
from experiments.trainings import train_all

_DICTS = ("env_kwargs", "algo_kwargs", "mask_kwargs")
_OWN = {"name", "seed", "resume", "runs_dir", "wandb", "threads", "checkpoint_every"}
FIELDS = {field.name for field in dataclasses.fields(TrainConfig)} - _OWN


@dataclass(frozen=True)
class SweepConfig:
    """Train variants of one setup and compare them with the first."""

    env: str
    """Environment id."""
    name: str
    """Name of the folder."""
    variants: Path
    """A JSON list of {"name": ..., flags of experiments.train}; the first is what the others are compared with."""
    seeds: int = 3
    """Training seeds of every variant."""
    total_timesteps: int = 60_000
    """Tokens of each training."""
    split: str = "validation"
    """Where the variants are scored, beside train."""
    items: int = 1_000
    """At most so many items of either split."""
    env_kwargs: KeyValues = ()
    """key=value for gym.make_vec, in every variant that does not say otherwise."""
    algo_kwargs: KeyValues = ()
    """key=value for the algorithm, likewise."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    jobs: int = 2
    """Trainings at a time."""
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Mirror of each training."""
    runs_dir: Path = Path("runs")
    """Where the folder is."""


def main(cfg: SweepConfig) -> dict[str, Any]:
    """Train and score, and write ``sweep.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A setting is out of range, or the variants are not a list of named flags.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    variants = read_variants(cfg.variants)
    folder = cfg.runs_dir / cfg.name
    trainings = {name: _trainings(cfg, name, flags, folder) for name, flags in variants.items()}
    refuse_existing(folder)
    folder.mkdir(parents=True)
    runs = train_all([training for several in trainings.values() for training in several], cfg.jobs)
    rows = {
        name: variants[name] | score_runs(runs[place * cfg.seeds : (place + 1) * cfg.seeds], cfg.split, cfg.items)
        for place, name in enumerate(variants)
    }
    settings = {name: value for name, value in vars(cfg).items() if name not in ("runs_dir", "variants")}
    result = {"env": cfg.env, "settings": settings, "variants": rows, **provenance()}
    result["wall_s"] = time.perf_counter() - start
    write_json(folder / "sweep.json", result)
    (folder / "sweep.md").write_text(markdown(result))
    draw(result, folder / "sweep.png")
    print(markdown(result))
    return result


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Flags of `experiments.train` by variant, the key=value ones as objects.

    Raises:
        ValueError: The file is no such list, a name is missing or comes twice, or a flag does not exist.
    """
    listed = read_json(path)
    if not isinstance(listed, list) or not listed or not all(isinstance(row, dict) for row in listed):
        raise ValueError(f"{path} must hold a JSON list of variants, at least one")
    variants: dict[str, dict[str, Any]] = {}
    for row in listed:
        flags = dict(row)
        name = flags.pop("name", None)
        if not isinstance(name, str) or name in variants:
            raise ValueError(f"{path}: every variant needs a name of its own, got {name!r}")
        unknown = sorted(set(flags) - FIELDS)
        if unknown:
            raise ValueError(f"{path}: variant {name!r} sets {unknown[0]!r}; it can set {', '.join(sorted(FIELDS))}")
        variants[name] = flags
    return variants


def score_runs(runs: Sequence[Path], split: str, items: int) -> dict[str, Any]:
    """What trained agents score on a split and on train, and how they steer.

    Args:
        runs: Run folders of one variant, one a seed.
        split: Where, beside train.
        items: At most so many items of either.

    Returns:
        ``scores`` by run, their mean ``score`` and its ``ci95`` (bootstrap over runs), ``train_score``,
        ``distinct_features`` and ``idle`` (share of tokens left alone) on ``split``, ``steps_per_second`` of training.
    """
    found = [_score(RunFolder.open(path), split, items) for path in runs]
    scores = [row["score"] for row in found]
    means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
    return means | {"scores": scores, "ci95": bootstrap_mean(scores, seed=0)}


def _score(run: RunFolder, split: str, items: int) -> dict[str, float]:
    played, on_train = _played(run, split, items), _played(run, "train", items)
    feature = played.tokens["feature"]
    return {
        "score": float(played.scores.mean()),
        "train_score": float(on_train.scores.mean()),
        "distinct_features": float(len(np.unique(feature[feature >= 0]))),
        "idle": float((feature < 0).mean()),
        "steps_per_second": float(np.median([row["steps_per_second"] for row in run.rows("metrics")])),
    }


def _played(run: RunFolder, split: str, items: int) -> Played:
    envs = make_envs(run.config, split, run.config["num_envs"])
    dealt: list[int] = envs.unwrapped.episode.order.items.tolist()  # type: ignore[attr-defined]  # a SteerVectorEnv
    return play(envs, trained_policy(*load_trained(run, envs)), dealt[:items], seed=0)


def _trainings(cfg: SweepConfig, name: str, flags: Mapping[str, Any], folder: Path) -> list[TrainConfig]:
    """The variant's trainings, one a seed, checked."""
    given = {"env_kwargs": parse_settings(cfg.env_kwargs), "algo_kwargs": parse_settings(cfg.algo_kwargs)}
    pairs = {key: _pairs(given.get(key, {}) | flags.get(key, {})) for key in _DICTS}
    common = {"env": cfg.env, "num_envs": cfg.num_envs, "total_timesteps": cfg.total_timesteps, "wandb": cfg.wandb}
    asked: dict[str, Any] = common | dict(flags) | pairs
    first = TrainConfig(**asked, name="0", runs_dir=folder)
    first = replace(first, checkpoint_every=first.total_timesteps)
    each = [replace(first, name=f"{_plain_name(name)}-{seed}", seed=seed) for seed in range(cfg.seeds)]
    for training in each:
        check_config(training)
    return each


def _pairs(settings: Mapping[str, Any]) -> KeyValues:
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _plain_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


if __name__ == "__main__":
    main(tyro.cli(SweepConfig))
