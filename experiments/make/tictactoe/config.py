"""Settings of the tic-tac-toe model's making, light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import steer_env
from steer_env.lm.sae_config import SAEConfig

EMBEDDED = Path(steer_env.__file__).parent / "embedded" / "tictactoe"


@dataclass(frozen=True)
class Players:
    """Who plays.

    Attributes:
        expert_share: probability that a player is an expert, drawn per player and game.
        habit: probability that a novice's move follows the habit; otherwise it is uniform.

    Raises:
        ValueError: one of them is not in [0, 1].
    """

    expert_share: float = 0.25
    habit: float = 0.7

    def __post_init__(self) -> None:
        for name, chance in (("expert_share", self.expert_share), ("habit", self.habit)):
            if not 0.0 <= chance <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {chance}")


@dataclass(frozen=True)
class LanguageModelConfig:
    """A small LLaMA and how it is trained.

    Attributes:
        width: residual width M.
        hidden: width of the MLP.
        blocks: number of blocks.
        heads: attention heads.
        steps: optimiser steps.
        batch: games per step.
        lr: peak of the one-cycle schedule.
    """

    width: int = 128
    hidden: int = 192
    blocks: int = 4
    heads: int = 4
    steps: int = 1_500
    batch: int = 256
    lr: float = 2e-3


@dataclass(frozen=True)
class GamesSAEConfig(SAEConfig):
    """The SAE of the tic-tac-toe model.

    Attributes:
        games: games whose residuals are the training set.
    """

    games: int = 20_000


@dataclass(frozen=True)
class MakeTicTacToeConfig:
    """Make the embedded tic-tac-toe model: everything that decides what comes out.

    Attributes:
        out: folder to write.
        seed: of the games, the weights and the batches.
        games: games to train on.
        held_out: games that loss and SAE are measured on.
        players: who plays them.
        lm: the language model.
        sae: the SAE.
        layer: block whose output the SAE reads and steers.
        coefficient: default steering strength, in medians of the residual norm at ``layer``.
        positions: positions sampled for controllability; 0 takes all.
        episodes: games per measured draw rate.
        probe_steps: steps of the probes that measure what can be read off the residual.
        threads: torch threads; part of what makes a run repeat exactly.
    """

    out: Path = EMBEDDED
    seed: int = 0
    games: int = 100_000
    held_out: int = 5_000
    players: Players = field(default_factory=Players)
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    sae: GamesSAEConfig = field(default_factory=GamesSAEConfig)
    layer: int = 1
    coefficient: float = 1.0
    positions: int = 500
    episodes: int = 1_000
    probe_steps: int = 300
    threads: int = 1
