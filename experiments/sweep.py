"""Variants of one training side by side: ``python -m experiments.sweep --variants experiments/grids/policy.json ...``.

Every variant is trained with the same seeds and scored on the same items, by default those of validation, so that what
is chosen by the table has not seen test.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from agents.compare.sweep_table import draw, markdown
from agents.policies import trained_policy
from agents.runs.config import TrainConfig, Trainings
from agents.runs.folder import RunFolder, read_json, refuse_existing, write_json
from agents.runs.loading import drawn_items, load_trained, make_envs, provenance
from agents.runs.trainings import screened, train_all
from steer_env.envs.base import unwrap
from steer_env.evaluation.play import Played, play
from steer_env.evaluation.statistics import over_runs

_DICTS = ("env_kwargs", "algo_kwargs", "mask_kwargs")
_OWN = {"name", "seed", "resume", "runs_dir", "wandb", "threads", "checkpoint_every"}
FIELDS = {field.name for field in dataclasses.fields(TrainConfig)} - _OWN


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Trainings):
    """Train variants of one setup and compare them with the first."""

    variants: Path
    """A JSON list of {"name": ..., flags of agents.runs.training}; the first is what the others are compared with."""
    seeds: int = 3
    """Training seeds of every variant."""
    total_timesteps: int = 60_000
    """Tokens of each training."""
    split: str = "validation"
    """Where the variants are scored, beside train."""
    items: int = 1_000
    """At most so many items of either split."""


def main(cfg: SweepConfig) -> dict[str, Any]:
    """Train and score, and write ``sweep.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A setting is out of range, or the variants are not a list of named flags.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    variants = read_variants(cfg.variants)
    folder = cfg.folder
    refuse_existing(folder)
    chosen = cfg.choosing_among(screened(cfg))
    trainings = {name: _trainings(chosen, name, flags) for name, flags in variants.items()}
    folder.mkdir(parents=True)
    runs = train_all([training for several in trainings.values() for training in several], cfg.jobs)
    rows = {
        name: variants[name] | score_runs(runs[place * cfg.seeds : (place + 1) * cfg.seeds], cfg.split, cfg.items)
        for place, name in enumerate(variants)
    }
    result = {"env": cfg.env, "settings": cfg.record(), "variants": rows, **provenance()}
    result["wall_s"] = time.perf_counter() - start
    write_json(folder / "sweep.json", result)
    (folder / "sweep.md").write_text(markdown(result))
    draw(result, folder / "sweep.png")
    print(markdown(result))
    return result


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Flags of `agents.runs.training` by variant, the key=value ones as objects.

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
        ``scores`` by run, their mean ``score``, its ``ci95`` (:func:`steer_env.evaluation.statistics.over_runs`) and
        ``n`` of items, ``train_score``, ``distinct_features`` and ``idle`` (share of tokens left alone) on ``split``,
        ``steps_per_second`` of training.
    """
    found = [_score(RunFolder.open(path), split, items) for path in runs]
    scores = [row["score"] for row in found]
    means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
    return means | {"scores": scores, "ci95": over_runs(scores, int(found[0]["n"]))}


def _score(run: RunFolder, split: str, items: int) -> dict[str, float]:
    played, on_train = _played(run, split, items), _played(run, "train", items)
    feature = played.tokens["feature"]
    return {
        "n": len(played.scores),
        "score": float(played.scores.mean()),
        "train_score": float(on_train.scores.mean()),
        "distinct_features": float(len(np.unique(feature[feature >= 0]))),
        "idle": float((feature < 0).mean()),
        "steps_per_second": float(np.median([row["steps_per_second"] for row in run.rows("metrics")])),
    }


def _played(run: RunFolder, split: str, items: int) -> Played:
    envs = make_envs(run.config, split, run.config["num_envs"])
    dealt: list[int] = unwrap(envs).dealt
    return play(envs, trained_policy(*load_trained(run, envs)), drawn_items(dealt, items, seed=0), seed=0)


def _trainings(cfg: SweepConfig, name: str, flags: Mapping[str, Any]) -> list[TrainConfig]:
    """The variant's trainings, one a seed, checked."""
    trainings = []
    for seed in range(cfg.seeds):
        plain = cfg.training(f"{_plain_name(name)}-{seed}", seed, cfg.folder)
        pairs = {key: getattr(plain, key) | flags[key] for key in _DICTS if key in flags}
        changed = replace(plain, **(dict(flags) | pairs))
        trainings.append(replace(changed, checkpoint_every=changed.total_timesteps))
        trainings[-1].check()
    return trainings


def _plain_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


if __name__ == "__main__":
    main(tyro.cli(SweepConfig))
