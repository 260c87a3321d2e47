"""Which feature did what, at which token, and was it the reason.

From an evaluation's token log, and from its episodes played again with other choices, come ``branch_points.json``,
``critic.json`` and ``features.json`` (:mod:`agents.analysis.results`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.analysis.analyze import Analyses


@dataclass(frozen=True)
class AnalyzeConfig:
    """Explain an evaluated run."""

    run: Path
    """Run folder, evaluated."""
    evaluation: str = "evaluation.json"
    """Which of its evaluations; another's results carry its name, as critic-1-test.json."""
    items: int | None = None
    """Number of episodes, the first ones of the evaluation; by default all."""
    counterfactuals: bool = True
    """Replay episodes with other choices; without, only the logs are read, and no model is loaded."""
    next_best: int = 3
    """Features tried at each token, those the policy likes best after its choice."""
    random_draws: int = 4
    """Random actions tried at each token: features active there, or strengths."""
    tokens: int = 32
    """Tokens of an episode at which others are tried, at most; evenly spread."""
    search_plays: int = 20_000
    """Episodes played with each feature alone: what it does, and whether it would have made wrong episodes right."""
    num_envs: int = 256
    """Lanes in one forward pass."""
    seed: int = 0
    """Seed of the random alternatives and of bootstraps."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def main(cfg: AnalyzeConfig) -> Analyses:
    """Analyse an evaluation, write the result files beside it, and return their contents."""
    import torch

    from agents.analysis.analyze import analyze
    from agents.analysis.counterfactuals import Effort
    from steer_env.evaluation.counterfactuals import Alternatives

    torch.set_num_threads(cfg.threads)
    effort = Effort(Alternatives(cfg.next_best, cfg.random_draws, cfg.seed), cfg.tokens, cfg.search_plays, cfg.num_envs)
    return analyze(cfg.run, cfg.evaluation, cfg.items, effort if cfg.counterfactuals else None)
