"""Trains agents to be looked into: ``steer make-agents --env KingRookKing-v0 --out runs/agents/krk``.

One folder a seed: ``agent.zip`` and ``agent.json``, what it does and what it took. With ``--saves`` also the agent as
it was on the way, in folders below.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.inside.world_agents import earnings, parse_kwargs
from agents.inside.worlds.training import recipe_of, train_agent
from agents.runs.folder import write_json


@dataclass(frozen=True)
class AgentsConfig:
    """Train agents of one world with several seeds."""

    out: Path
    """Folder to make; the agents are in ``seed-<n>`` below it."""
    env: str = "KingRookKing-v0"
    """World, a key of ``agents.inside.worlds.training.RECIPES``."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON: ``--env-kwargs layout '"obstacles"'``."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training, one agent each."""
    steps: int | None = None
    """Training steps, instead of the recipe's; 0 saves an untrained agent."""
    saves: tuple[int, ...] = ()
    """Steps of training at which the agent is saved too, into ``seed-<n>/steps-<k>``: agents of several lengths of
    training for the price of one. Rates of learning and exploration are those of the whole training."""
    hidden: tuple[int, ...] | None = None
    """Widths of the layers, instead of the recipe's."""
    episodes: int = 500
    """Episodes of the evaluation, where the world is not evaluated exactly."""


def main(cfg: AgentsConfig) -> list[dict[str, Any]]:
    """Train, evaluate and save; returns what is written into each ``agent.json``, in the order of writing.

    Raises:
        FileExistsError: an agent is there already.
        ValueError: the world has no recipe, or a save is not on the way.
    """
    steps = recipe_of(cfg.env).steps if cfg.steps is None else cfg.steps
    for due in cfg.saves:
        if not 0 < due < steps:
            raise ValueError(f"saves must be between 0 and the {steps} steps of the training, got {due}")
    torch.set_num_threads(1)
    folders = [cfg.out / f"seed-{seed}" for seed in cfg.seeds]
    for folder in folders:
        if folder.exists():
            raise FileExistsError(f"{folder} exists")
    return [card for seed, folder in zip(cfg.seeds, folders, strict=True) for card in _make(cfg, seed, folder)]


def _make(cfg: AgentsConfig, seed: int, folder: Path) -> list[dict[str, Any]]:
    saver = _Saver(cfg, seed, folder)
    model = train_agent(cfg.env, seed, cfg.steps, cfg.hidden, saver.env_kwargs, saver if cfg.saves else None)
    saver.save(model, folder)
    return saver.cards


class _Saver:
    """Saves an agent with its card; as a callback of SB3, at the steps asked for."""

    def __init__(self, cfg: AgentsConfig, seed: int, folder: Path) -> None:
        self.cfg, self.seed, self.folder = cfg, seed, folder
        self.env_kwargs = parse_kwargs(cfg.env_kwargs)
        self.due = sorted(set(cfg.saves))
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        self.cards: list[dict[str, Any]] = []

    def __call__(self, local_names: dict[str, Any], _: dict[str, Any]) -> bool:
        model = local_names["self"]
        if self.due and model.num_timesteps >= self.due[0]:
            self.save(model, self.folder / f"steps-{self.due.pop(0)}")
        return True

    def save(self, model: BaseAlgorithm, folder: Path) -> None:
        """Write ``agent.zip`` and ``agent.json``."""
        cfg = self.cfg
        card = {
            "env": cfg.env,
            "env_kwargs": self.env_kwargs,
            "seed": self.seed,
            "algorithm": type(model).__name__,
            "steps": model.num_timesteps,
            "hidden": list(cfg.hidden or recipe_of(cfg.env).hidden),
            "wall_s": time.perf_counter() - self.wall,
            "cpu_s": time.process_time() - self.cpu,
            "evaluation": earnings(model, cfg.env, self.env_kwargs, cfg.episodes, self.seed),
            "config": {**asdict(cfg), "out": str(cfg.out)},
        }
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / "agent.zip")
        write_json(folder / "agent.json", card)
        self.cards.append(card)
        print(f"{folder}: {card['evaluation']}, {card['cpu_s']:.0f} s of CPU")


if __name__ == "__main__":
    main(tyro.cli(AgentsConfig))
