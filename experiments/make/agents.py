"""Trains agents to be looked into: ``steer make-agents --env KingRookKing-v0 --out runs/agents/krk``.

One folder a seed: the agent's files and ``agent.json``, what it does and what it took. With ``--saves`` also the agent
as it was on the way, in folders below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class AgentsConfig:
    """Train agents of one world with several seeds."""

    out: Path
    """Folder to make; the agents are in ``seed-<n>`` below it."""
    env: str = "KingRookKing-v0"
    """World, a key of ``agents.inside.worlds.agents.RECIPES``."""
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


def main(cfg: AgentsConfig) -> list[Any]:
    """Train, evaluate and save; returns the ``AgentCard`` of each agent, in the order of writing.

    Raises:
        FileExistsError: An agent is there already.
        ValueError: The world has no recipe, or a save is not on the way.
    """
    import torch

    from agents.inside.worlds.agents import AgentSaver, new_card, parse_kwargs, recipe_of, train_agent

    recipe, kwargs = recipe_of(cfg.env), parse_kwargs(cfg.env_kwargs)
    steps = recipe.steps if cfg.steps is None else cfg.steps
    for due in cfg.saves:
        if not 0 < due < steps:
            raise ValueError(f"saves must be between 0 and the {steps} steps of the training, got {due}")
    folders = {seed: cfg.out / f"seed-{seed}" for seed in cfg.seeds}
    for folder in folders.values():
        if folder.exists():
            raise FileExistsError(f"{folder} exists")
    torch.set_num_threads(1)
    cards = []
    for seed, folder in folders.items():
        card = new_card(cfg.env, kwargs, seed, cfg.hidden or recipe.hidden, {**asdict(cfg), "out": str(cfg.out)})
        saver = AgentSaver(folder, card, cfg.episodes, cfg.saves)
        model = train_agent(cfg.env, seed, cfg.steps, cfg.hidden, kwargs, saver if cfg.saves else None)
        saver.save(model, folder)
        cards += saver.cards
    return cards
