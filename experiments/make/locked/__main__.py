"""Makes the embedded locked model: a made-up world as text -> language model -> SAEs -> measured card.

``steer make-locked`` writes weights (safetensors), tokenizer, SAEs and card within an hour on two cores; the same seed
gives the same files on the same versions and thread count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from experiments.make.locked.config import MakeLockedConfig

NAME = "steer-locked"


def main(cfg: MakeLockedConfig) -> dict[str, Any]:
    """Make, measure and save; returns the card.

    Raises:
        ValueError: A layer is not one of the model's blocks, a coefficient is not finite, or the groups do not hold
            every task once.
    """
    import numpy as np
    import torch

    from experiments.make.locked.batches import BATCHES, Texts, World, build_tokenizer
    from experiments.make.locked.card import card_text
    from experiments.make.locked.instrument import measure_task, planted_conditions
    from experiments.make.locked.texts import FORMATS, Shares
    from experiments.make.locked.training import make_sae, train_language_model, weighted_loss
    from steer_env.lm.cards import rounded, save_card
    from steer_env.lm.loading import load_language_model

    _check(cfg, FORMATS)
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
    steering, saes, tasks = {}, {}, {}
    for name, group in cfg.groups.items():
        sae, how, quality = make_sae(cfg, name, NAME, lm, world, texts)
        conditions = planted_conditions(lm, tokenizer, sae, group.layer, group.tasks, cfg.cue_items)
        saes[name] = {**quality, "layer": group.layer, "conditions": conditions}
        for task in group.tasks:
            steering[task] = how
            tasks[task] = measure_task(cfg, task, how)
    measured = {
        "parameters": sum(weight.numel() for weight in lm.parameters()),
        "texts_a_step": sum(sum(counts.values()) for counts in BATCHES),
        "reply_loss": float(weighted_loss(lm, some, 0.0)),
        "saes": saes,
        "tasks": tasks,
    }
    found = {
        "name": NAME,
        "benchmark": False,
        "steering": {task: steering[task] for task in FORMATS},
        "measured": rounded(measured),
        "config": {key: value for key, value in asdict(cfg).items() if key not in ("out", "reuse")},
    }
    print(json.dumps(found["measured"], indent=2))
    return save_card(cfg.out, found, card_text)


def _check(cfg: MakeLockedConfig, tasks: Iterable[str]) -> None:
    for name, group in cfg.groups.items():
        if not 0 <= group.layer < cfg.lm.blocks:
            raise ValueError(f"{name}.layer must be in [0, {cfg.lm.blocks}), got {group.layer}")
        if not math.isfinite(group.coefficient):
            raise ValueError(f"{name}.coefficient must be finite, got {group.coefficient}")
    if not all(0 <= layer < cfg.lm.blocks for layer in cfg.lm.over_layers):
        raise ValueError(f"lm.over_layers must be in [0, {cfg.lm.blocks}), got {cfg.lm.over_layers}")
    grouped = [task for group in cfg.groups.values() for task in group.tasks]
    if sorted(grouped) != sorted(tasks):
        raise ValueError(f"the groups must hold each of {list(tasks)} once, got {grouped}")
