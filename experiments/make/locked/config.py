"""Settings of the locked model's making, light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import steer_env
from steer_env.lm.sae_config import SAEConfig

EMBEDDED = Path(steer_env.__file__).parent / "embedded" / "locked"


@dataclass(frozen=True)
class LanguageModelConfig:
    """A small GPT-NeoX and how it is trained.

    Attributes:
        width: residual width M.
        blocks: number of blocks.
        heads: attention heads.
        steps: optimiser steps of the first stage, in which cues are words.
        lr: peak of its one-cycle schedule.
        over_steps: steps of the second stage, in which half of the cues are spoken over replies. From the beginning
            they would only delay what is hard to find, the pointing at options.
        over_lr: peak of its schedule.
        over_layers: for each of ``BATCHES`` the block at whose output cues are spoken over the replies.
        prompt_weight: weight of the prompts' tokens in the loss; those of the replies have 1.
    """

    width: int = 128
    blocks: int = 5
    heads: int = 4
    steps: int = 1100
    lr: float = 3e-3
    over_steps: int = 300
    over_lr: float = 1.5e-3
    over_layers: tuple[int, ...] = (0, 3, 3, 3)
    prompt_weight: float = 0.05


@dataclass(frozen=True)
class Group:
    """Tasks that are steered at one site, through an SAE of their own.

    Attributes:
        tasks: their names.
        layer: block whose output the SAE reads and steers.
        coefficient: default steering strength, in medians of the residual norm where replies begin.
    """

    tasks: tuple[str, ...]
    layer: int
    coefficient: float


@dataclass(frozen=True)
class MakeLockedConfig:
    """Make the embedded locked model: everything that decides what comes out.

    Attributes:
        out: folder to write.
        seed: of the weights and the batches.
        lm: the language model.
        sae: the SAE of each group of tasks.
        choices: the tasks whose replies point at an option.
        steps: the task whose replies take steps: a push must settle one and let the next token be.
        talk: the tasks that are about refusal. Whether the opening word fits is settled in the middle of the model,
            and one direction there would do for all items; so they are steered below.
        recall: the task whose reply has to be remembered, which steering below disturbs.
        rounds: of 40 texts a task, on whose residuals an SAE is trained.
        items: test items of each task, on which every single feature is tried.
        search: training items on which all features are tried to find the best fixed one, then the best of them again.
        cue_items: training items of each task, on which features are judged as detectors of the cues.
        threads: torch threads; part of what makes a run repeat exactly.
        reuse: measure and train the SAEs on the language model that ``out`` holds already.
    """

    out: Path = EMBEDDED
    seed: int = 0
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    sae: SAEConfig = field(default_factory=SAEConfig)
    choices: Group = Group(("mmlu", "mmlu_pro", "bbq"), layer=3, coefficient=1.5)
    steps: Group = Group(("gsm8k",), layer=3, coefficient=0.75)
    talk: Group = Group(("harmbench", "xstest"), layer=0, coefficient=0.75)
    recall: Group = Group(("simpleqa",), layer=2, coefficient=1.0)
    rounds: int = 40
    items: int = 200
    search: tuple[int, int] = (32, 256)
    cue_items: int = 50
    threads: int = 1
    reuse: bool = False

    @property
    def groups(self) -> dict[str, Group]:
        """The groups by name."""
        return {"choices": self.choices, "steps": self.steps, "talk": self.talk, "recall": self.recall}
