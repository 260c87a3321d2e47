"""Have better agents more live features? ``steer live-features --agents runs/agents --out runs/live``.

The same SAE (width, K, samples, seed) on every agent; features that fire on as many held-out states of each; the
agent's score against their number, with training length, the obvious common cause, held fixed. JSON, Markdown, PNG.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LiveFeaturesConfig:
    """Score against live features, over agents of one world."""

    out: Path
    """Folder to make: ``live_features.json``, ``.md`` and ``.png``."""
    agents: tuple[Path, ...]
    """Folders of ``steer make-agents``; every agent in them or below, those of ``--saves`` too."""
    score: str = "return"
    """What of the agent's evaluation is its score: ``return``, or ``mated`` in the chess world."""
    width: int = 1_024
    """Features of the TopK SAE."""
    k: int = 20
    """Active features of the SAE."""
    samples: int = 500_000
    """Activations that each SAE sees in training."""
    module: str | None = None
    """Module to decompose; by default the last hidden layer before its non-linearity."""
    episodes: int = 1_500
    """Episodes recorded of each agent."""
    epsilon: float = 0.2
    """Share of random actions in them."""
    states: int = 4_000
    """Different held-out states on which features are counted, at most: as many of every agent."""
    shuffles: int = 10_000
    """Shuffles of the permutation tests."""
    seed: int = 0
    """Seed of recordings, splits, SAEs and tests."""


def main(cfg: LiveFeaturesConfig) -> Any:
    """Run the whole study and write it down; returns the ``LiveFeaturesResult``.

    Raises:
        FileExistsError: The folder exists.
        ValueError: There are fewer than four agents, they are of several worlds, or one's score is unknown.
    """
    import torch
    from tqdm import tqdm

    from agents.inside import live_features as study
    from agents.inside.recordings import RolloutConfig
    from steer_env.lm.sae_training import SAEConfig

    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    cards = study.find_agents(cfg.agents, cfg.score)
    rollout = RolloutConfig(cfg.episodes, cfg.seed, cfg.epsilon)
    sae = SAEConfig(cfg.width, cfg.k, cfg.samples, scaled=True)
    found = [study.decompose(folder, cfg.score, cfg.module, rollout, sae) for folder in tqdm(cards, desc="agents")]
    states = study.count_live(found, cfg.states)
    rows = [one.row for one in found]
    result = study.LiveFeaturesResult(
        env=next(iter(cards.values())).env,
        states=states,
        counts=study.COUNTS,
        agents=rows,
        relations=study.relations_of(rows, cfg.shuffles, cfg.seed),
        config=asdict(cfg),
        wall_s=time.perf_counter() - start,
        cpu_s=time.process_time() - cpu,
    )
    text = study.as_markdown(result)
    cfg.out.mkdir(parents=True)
    result.write(cfg.out / "live_features.json")
    (cfg.out / "live_features.md").write_text(text)
    study.draw(result, cfg.out / "live_features.png")
    print(text)
    return result
