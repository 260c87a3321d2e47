"""Trains agents to be looked into: ``python -m experiments.make_agents --env KingRookKing-v0 --out runs/agents/krk``.

One folder a seed: ``agent.zip`` and ``agent.json``, what it does and what it took.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.recording import RolloutConfig, record
from agents.worlds.mate_table import mating
from agents.worlds.training import greedy_actions, make_world, recipe_of, train_agent
from experiments.run_folder import write_json


@dataclass(frozen=True)
class AgentsConfig:
    """Train agents of one world with several seeds."""

    out: Path
    """Folder to make; the agents are in ``seed-<n>`` below it."""
    env: str = "KingRookKing-v0"
    """World, a key of ``agents.worlds.training.RECIPES``."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON: ``--env-kwargs layout '"obstacles"'``."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training, one agent each."""
    steps: int | None = None
    """Training steps, instead of the recipe's; 0 saves an untrained agent."""
    hidden: tuple[int, ...] | None = None
    """Widths of the layers, instead of the recipe's."""
    episodes: int = 500
    """Episodes of the evaluation, where the world is not evaluated exactly."""


def main(cfg: AgentsConfig) -> list[dict[str, Any]]:
    """Train, evaluate and save; returns what is written into each ``agent.json``.

    Raises:
        FileExistsError: an agent is there already.
        ValueError: the world has no recipe.
    """
    recipe_of(cfg.env)
    torch.set_num_threads(1)
    folders = [cfg.out / f"seed-{seed}" for seed in cfg.seeds]
    for folder in folders:
        if folder.exists():
            raise FileExistsError(f"{folder} exists")
    return [_make(cfg, seed, folder) for seed, folder in zip(cfg.seeds, folders, strict=True)]


def _make(cfg: AgentsConfig, seed: int, folder: Path) -> dict[str, Any]:
    kwargs = {name: json.loads(value) for name, value in cfg.env_kwargs.items()}
    start, cpu = time.perf_counter(), time.process_time()
    model = train_agent(cfg.env, seed, cfg.steps, cfg.hidden, kwargs)
    card = {
        "env": cfg.env,
        "env_kwargs": kwargs,
        "seed": seed,
        "algorithm": type(model).__name__,
        "steps": model.num_timesteps,
        "hidden": list(cfg.hidden or recipe_of(cfg.env).hidden),
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "evaluation": evaluate(model, cfg.env, kwargs, cfg.episodes, seed),
        "config": {**asdict(cfg), "out": str(cfg.out)},
    }
    folder.mkdir(parents=True)
    model.save(folder / "agent.zip")
    write_json(folder / "agent.json", card)
    print(f"{folder}: {card['evaluation']}, {card['cpu_s']:.0f} s of CPU")
    return card


def evaluate(
    model: BaseAlgorithm, env_id: str, env_kwargs: dict[str, Any], episodes: int, seed: int
) -> dict[str, float]:
    """What the greedy policy earns: exactly from all positions of the chess world, by episodes elsewhere."""
    if env_id == "KingRookKing-v0":
        return mating(greedy_actions(model))
    envs = make_world(env_id, 8, **env_kwargs)
    lengths, returns = [], []
    for chunk in record(model, envs, [], RolloutConfig(episodes, seed=1_000 + seed, gamma=1.0)):
        first = chunk.steps["step"] == 0
        returns.append(chunk.steps["return"][first])
        lengths.append(np.bincount(chunk.steps["trajectory"])[chunk.steps["trajectory"][first]])
    earned = np.concatenate(returns)
    return {
        "episodes": len(earned),
        "return": float(earned.mean()),
        "return_std": float(earned.std()),
        "length": float(np.concatenate(lengths).mean()),
    }


if __name__ == "__main__":
    main(tyro.cli(AgentsConfig))
