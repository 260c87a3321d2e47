"""Have better agents more live features? ``steer live-features --agents runs/agents --out runs/live``.

The same SAE (width, K, samples, seed) on every agent; features that fire on as many held-out states of each; the
agent's score against their number, with training length, the obvious common cause, held fixed. JSON, Markdown, PNG.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from agents.inside.activations import Activations
from agents.inside.live_features_report import as_markdown, draw
from agents.inside.live_fits import correct, relation
from agents.inside.recording import RolloutConfig, join, record
from agents.inside.saes import distinct_rows, split_rows
from agents.inside.world_agents import PLACES, WorldAgent, unit_of
from agents.runs.folder import read_json, write_json
from steer_env.lm.sae_training import SAEConfig, sae_quality, train_sae

COUNTS = {"live": "its own held-out states", "live_on_same": "the same states for all"}


@dataclass(frozen=True)
class LiveFeaturesConfig:
    """Score against live features, over agents of one world."""

    out: Path
    """Folder to make: ``live_features.json``, ``.md`` and ``.png``."""
    agents: tuple[Path, ...]
    """Folders of ``experiments.make.agents``; every agent in them or below, those of ``--saves`` too."""
    score: str = "return"
    """What of the agent's evaluation is its score: ``return``, or ``mated`` in the chess world."""
    width: int = 1_024
    """Features of the TopK SAE."""
    k: int = 20
    """Active features of it."""
    samples: int = 500_000
    """Activations that each SAE sees."""
    module: str | None = None
    """Module to decompose; by default the last hidden layer before its non-linearity."""
    episodes: int = 1_500
    """Episodes recorded of each agent."""
    epsilon: float = 0.2
    """Share of random actions in them."""
    states: int = 4_000
    """Different held-out states on which features are counted, at most: as many of every agent."""
    shuffles: int = 10_000
    """Of the permutation tests."""
    seed: int = 0
    """Of recordings, splits, SAEs and tests."""


@dataclass(frozen=True)
class Decomposed:
    """An agent's SAE and the states that it has not seen.

    Attributes:
        row: what is written of it.
        sae: of SAELens.
        held_out: ``[n, M]`` activations of different states, in random order.
        observations: ``[n, ...]`` of the same states.
        read: from observations to activations of this agent.
    """

    row: dict[str, Any]
    sae: Any
    held_out: Tensor
    observations: np.ndarray
    read: Activations


def main(cfg: LiveFeaturesConfig) -> dict[str, Any]:
    """Run the whole study and write it down.

    Raises:
        FileExistsError: the folder exists.
        ValueError: there are fewer than four agents, they are of several worlds, or one's score is unknown.
    """
    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    cards = find_agents(cfg.agents, cfg.score)
    found = []
    for folder, card in cards.items():
        found.append(decompose(cfg, folder, card))
        print(f"{folder}: {time.process_time() - cpu:.0f} s of CPU so far")
    states = count_live(cfg, found)
    rows = [one.row for one in found]
    lengths, trainings = [row["steps"] for row in rows], [row["training"] for row in rows]
    scores = [row["score"] for row in rows]
    relations = {
        name: relation([row[name] for row in rows], scores, lengths, trainings, cfg.shuffles, cfg.seed)
        for name in COUNTS
    }
    correct(relations)
    result: dict[str, Any] = {
        "env": next(iter(cards.values()))["env"],
        "states": states,
        "counts": COUNTS,
        "agents": rows,
        "relations": relations,
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "config": asdict(cfg),
    }
    cfg.out.mkdir(parents=True)
    write_json(cfg.out / "live_features.json", result)
    (cfg.out / "live_features.md").write_text(as_markdown(result))
    draw(result, cfg.out / "live_features.png")
    return result


def find_agents(folders: Sequence[Path], score: str) -> dict[Path, dict[str, Any]]:
    """The card of every agent in the folders or below.

    Raises:
        ValueError: there are fewer than four agents, they are of several worlds, or one's score is unknown.
    """
    places = sorted({path.parent for folder in folders for path in folder.rglob("agent.json")})
    cards = {folder: read_json(folder / "agent.json") for folder in places}
    if len(cards) < 4:
        raise ValueError(f"a quadratic fit needs at least 4 agents, got {len(cards)}")
    worlds = sorted({str((card["env"], card["env_kwargs"], card["hidden"])) for card in cards.values()})
    if len(worlds) > 1:
        raise ValueError(f"agents must be of one world and one size, got {'; '.join(worlds)}")
    for folder, card in cards.items():
        if score not in card["evaluation"]:
            raise ValueError(f"the evaluation of {folder} has no {score!r}; it has: {', '.join(card['evaluation'])}")
    return cards


def decompose(cfg: LiveFeaturesConfig, folder: Path, card: dict[str, Any]) -> Decomposed:
    """Record an agent and train its SAE on half of what it visits."""
    agent = WorldAgent.load(folder)
    module = cfg.module or PLACES[agent.algorithm][0]
    rollout = RolloutConfig(cfg.episodes, cfg.seed, cfg.epsilon)
    recording = join(list(record(agent.model, agent.lanes(), [module], rollout)))
    learn = split_rows(recording, cfg.seed, unit_of(agent.env))
    held_out = np.random.default_rng(cfg.seed).permutation(distinct_rows(recording, learn)[1])
    acts = recording.activations[module]
    sae = train_sae(acts[learn], SAEConfig(cfg.width, cfg.k, cfg.samples, scaled=True), {}, cfg.seed)
    row = {
        "agent": str(folder),
        "training": str(folder.parent if folder.name.startswith("steps-") else folder),
        "steps": card["steps"],
        "score": card["evaluation"][cfg.score],
    }
    read = Activations(agent.model.policy, [module])
    return Decomposed(row, sae, acts[held_out], recording.observations["obs"][held_out], read)


@torch.no_grad()
def count_live(cfg: LiveFeaturesConfig, found: Sequence[Decomposed]) -> int:
    """Write ``live``, ``live_on_same`` and the SAE's quality into every row; returns on how many states.

    More states wake more features, so their number is the same for every agent: ``live`` counts on the agent's own
    held-out states, ``live_on_same`` on one set, drawn evenly from those of all agents, so that what an agent visits
    plays no part. In worlds of few states no SAE has learnt from any of them.
    """
    states = min(cfg.states, *(len(one.held_out) for one in found))
    shares = np.array_split(np.arange(states), len(found))
    same = {"obs": np.concatenate([one.observations[share] for one, share in zip(found, shares, strict=True)])}
    for one in found:
        own, other = one.held_out[:states], next(iter(one.read(same)[0].values()))
        quality = sae_quality(one.sae, own)
        one.row["live"] = cfg.width - quality.pop("dead_features")
        one.row["live_on_same"] = cfg.width - sae_quality(one.sae, other)["dead_features"]
        one.row.update(quality)
    return states


if __name__ == "__main__":
    print(as_markdown(main(tyro.cli(LiveFeaturesConfig))))
