"""Makes the embedded locked model: a made-up world as text -> language model -> SAEs -> measured card.

``steer make-locked`` writes weights (safetensors), tokenizer, SAEs and card within an hour on two
cores; the same seed gives the same files on the same versions and thread count.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from experiments.make.locked.batches import BATCHES, PAD, Texts, World, build_tokenizer
from experiments.make.locked.card import card_text
from experiments.make.locked.instrument import TEXT_ENVIRONMENTS, measure_task, planted_conditions, unlocked
from experiments.make.locked.texts import FORMATS, Shares
from experiments.make.locked.training import LanguageModelConfig, reply_residuals, train_language_model, weighted_loss
from steer_env.lm.cards import rounded, save_card
from steer_env.lm.loading import load_language_model
from steer_env.lm.sae_training import SAEConfig, loss_recovered, sae_quality, train_sae

NAME = "steer-locked"
EMBEDDED = Path(__file__).parents[3] / "steer_env" / "embedded" / "locked"


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
class Config:
    """Everything that decides what comes out.

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
    threads: int = 1
    reuse: bool = False

    @property
    def groups(self) -> dict[str, Group]:
        """The groups by name."""
        return {"choices": self.choices, "steps": self.steps, "talk": self.talk, "recall": self.recall}


def main(cfg: Config) -> dict[str, Any]:
    """Make, measure and save; returns the card.

    Raises:
        ValueError: a layer is not one of the model's blocks, a coefficient is not finite, or the groups do not hold
            every task once.
    """
    _check(cfg)
    torch.set_num_threads(cfg.threads)
    world = World()
    tokenizer = build_tokenizer(world)
    texts = Texts(tokenizer)
    if cfg.reuse:
        lm = load_language_model(str(cfg.out))
    else:
        lm = train_language_model(world, texts, len(tokenizer), cfg.lm, cfg.seed)
        lm.save_pretrained(cfg.out)
        tokenizer.save_pretrained(cfg.out)
    some = texts.batch(world.draw(dict.fromkeys(FORMATS, 32), np.random.default_rng(cfg.seed), Shares(0.0, 0.0)))
    measured: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in lm.parameters()),
        "texts_a_step": sum(sum(counts.values()) for counts in BATCHES),
        "reply_loss": float(weighted_loss(lm, some, 0.0)),
        "saes": {},
        "tasks": {},
    }
    steering: dict[str, Any] = {}
    for name, group in cfg.groups.items():
        how, measured["saes"][name] = _make_sae(cfg, name, lm, world, texts)
        for task in group.tasks:
            steering[task] = how
            measured["tasks"][task] = _measure(cfg, task, how)
    found = {
        "name": NAME,
        "benchmark": False,
        "steering": {task: steering[task] for task in FORMATS},
        "measured": rounded(measured),
        "config": {key: value for key, value in asdict(cfg).items() if key not in ("out", "reuse")},
    }
    return save_card(cfg.out, found, card_text)


def _make_sae(cfg: Config, name: str, lm: Any, world: World, texts: Texts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and save a group's SAE: how to steer with it, and what it is."""
    group, rng = cfg.groups[name], np.random.default_rng(cfg.seed)
    acts, fresh = (
        reply_residuals(lm, world, texts, group.tasks, group.layer, rounds, rng) for rounds in (cfg.rounds, 3)
    )
    hook = {"model_name": NAME, "hook_name": f"blocks.{group.layer}.hook_resid_post", "prepend_bos": True}
    sae = train_sae(acts, cfg.sae, hook, cfg.seed)
    sae.fold_W_dec_norm()
    sae.save_inference_model(cfg.out / f"sae_{name}")
    ids = texts.batch(world.draw(dict.fromkeys(group.tasks, 32), rng, Shares(0.0, 0.0))).ids
    quality = sae_quality(sae, fresh) | loss_recovered(lm, sae, ids, group.layer, read=ids != PAD)
    how = {
        "sae": f"sae_{name}",
        "layer": group.layer,
        "site": "post",
        "coefficient": group.coefficient,
        "coefficient_unit": "norm",
        "residual_norm": float(fresh.norm(dim=-1).median()),
    }
    return how, quality | {
        "layer": group.layer,
        "conditions": planted_conditions(lm, texts.tokenizer, sae, group.layer, group.tasks, 50),
    }


def _measure(cfg: Config, task: str, how: dict[str, Any]) -> dict[str, Any]:
    """The task's scores, played with what has just been saved."""
    kwargs = {
        "model": str(cfg.out),
        "sae": str(cfg.out / how["sae"]),
        "coefficient": how["coefficient"] * how["residual_norm"],
        "coefficient_unit": "residual",
    }
    scores = measure_task(TEXT_ENVIRONMENTS[task], kwargs, cfg.items, cfg.seed)
    return scores | {"unlocked": unlocked(str(cfg.out), task, cfg.items)}


def _check(cfg: Config) -> None:
    for name, group in cfg.groups.items():
        if not 0 <= group.layer < cfg.lm.blocks:
            raise ValueError(f"{name}.layer must be in [0, {cfg.lm.blocks}), got {group.layer}")
        if not np.isfinite(group.coefficient):
            raise ValueError(f"{name}.coefficient must be finite, got {group.coefficient}")
    if not all(0 <= layer < cfg.lm.blocks for layer in cfg.lm.over_layers):
        raise ValueError(f"lm.over_layers must be in [0, {cfg.lm.blocks}), got {cfg.lm.over_layers}")
    grouped = [task for group in cfg.groups.values() for task in group.tasks]
    if sorted(grouped) != sorted(FORMATS):
        raise ValueError(f"the groups must hold each of {list(FORMATS)} once, got {grouped}")


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Config))["measured"], indent=2))
