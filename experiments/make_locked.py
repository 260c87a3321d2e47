"""Makes the embedded locked model: a made-up world as text -> language model -> SAE -> measured card.

``python -m experiments.make_locked`` writes weights (safetensors), tokenizer, SAE and card within an hour on two
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

from experiments.cards import rounded, save_card
from experiments.locked_card import card_text
from experiments.locked_instrument import TEXT_ENVIRONMENTS, measure_task, planted_conditions, unlocked
from experiments.locked_texts import FORMATS
from experiments.locked_training import (
    BATCHES,
    LanguageModelConfig,
    Texts,
    World,
    build_tokenizer,
    reply_residuals,
    train_language_model,
    weighted_loss,
)
from experiments.sae_training import SAEConfig, loss_recovered, sae_quality, train_sae
from steer_env.loading import load_language_model

NAME = "steer-locked"
EMBEDDED = Path(__file__).parents[1] / "steer_env" / "embedded" / "locked"


@dataclass(frozen=True)
class Config:
    """Everything that decides what comes out.

    Attributes:
        out: folder to write.
        seed: of the weights and the batches.
        lm: the language model.
        sae: the SAE.
        layer: block whose output the SAE reads and steers.
        coefficient: default steering strength, in medians of the residual norm where replies begin.
        texts: rounds of 320 texts whose residuals the SAE is trained on.
        items: test items an arm.
        oracle_items: test items that every single feature plays.
        threads: torch threads; part of what makes a run repeat exactly.
        reuse: measure and train the SAE on the language model that ``out`` holds already.
    """

    out: Path = EMBEDDED
    seed: int = 0
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    sae: SAEConfig = field(default_factory=SAEConfig)
    layer: int = 2
    coefficient: float = 1.5
    texts: int = 30
    items: int = 500
    oracle_items: int = 100
    threads: int = 1
    reuse: bool = False


def main(cfg: Config) -> dict[str, Any]:
    """Make, measure and save; returns the card.

    Raises:
        ValueError: the layer is not one of the model's blocks, or the coefficient is not finite.
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
    rng = np.random.default_rng(cfg.seed)
    hook = {"model_name": NAME, "hook_name": f"blocks.{cfg.layer}.hook_resid_post", "prepend_bos": True}
    acts, fresh = (torch.cat(list(reply_residuals(lm, world, texts, cfg.layer, n, rng))) for n in (cfg.texts, 3))
    sae = train_sae(acts, cfg.sae, hook, cfg.seed)
    sae.fold_W_dec_norm()
    sae.save_inference_model(cfg.out / "sae")

    norm = float(fresh.norm(dim=-1).median())
    ids, learned = texts.batch(world.draw(dict.fromkeys(FORMATS, 32), rng))
    measured = {
        "parameters": sum(weight.numel() for weight in lm.parameters()),
        "texts_a_step": sum(sum(counts.values()) for counts in BATCHES),
        "reply_loss": float(weighted_loss(lm, ids, learned, 0.0)),
        "sae": sae_quality(sae, fresh) | loss_recovered(lm, sae, ids, cfg.layer, read=ids != tokenizer.pad_token_id),
        "tasks": {task: _measure(cfg, task, norm) for task in FORMATS},
        "conditions": planted_conditions(lm, tokenizer, sae, cfg.layer, 50),
    }
    return _save_card(cfg, norm, measured)


def _measure(cfg: Config, task: str, norm: float) -> dict[str, Any]:
    """The task's scores, played with what has just been saved."""
    kwargs = {
        "model": str(cfg.out),
        "sae": str(cfg.out / "sae"),
        "coefficient": cfg.coefficient * norm,
        "coefficient_unit": "residual",
    }
    scores = measure_task(TEXT_ENVIRONMENTS[task], kwargs, cfg.items, cfg.oracle_items, cfg.seed)
    return scores | {"unlocked": unlocked(str(cfg.out), task, cfg.items)}


def _save_card(cfg: Config, norm: float, measured: dict[str, Any]) -> dict[str, Any]:
    found = {
        "name": NAME,
        "tasks": list(FORMATS),
        "benchmark": False,
        "steering": {
            "layer": cfg.layer,
            "site": "post",
            "coefficient": cfg.coefficient,
            "coefficient_unit": "norm",
            "residual_norm": norm,
        },
        "measured": rounded(measured),
        "config": {key: value for key, value in asdict(cfg).items() if key not in ("out", "reuse")},
    }
    return save_card(cfg.out, found, card_text)


def _check(cfg: Config) -> None:
    if not 0 <= cfg.layer < cfg.lm.blocks:
        raise ValueError(f"layer must be in [0, {cfg.lm.blocks}), got {cfg.layer}")
    if not np.isfinite(cfg.coefficient):
        raise ValueError(f"coefficient must be finite, got {cfg.coefficient}")


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Config))["measured"], indent=2))
