"""Makes the embedded locked model: a made-up world as text -> language model -> SAE -> measured card.

``python -m experiments.make_locked`` writes weights (safetensors), tokenizer, SAE and card within an hour on two
cores; the same seed gives the same files on the same versions and thread count.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

from experiments.cards import rounded, save_card
from experiments.locked_card import card_text
from experiments.locked_instrument import measure_task, planted_conditions, unlocked
from experiments.locked_texts import FORMATS
from experiments.locked_training import (
    LanguageModelConfig,
    Texts,
    World,
    build_tokenizer,
    decision_residuals,
    train_language_model,
    weighted_loss,
)
from experiments.sae_training import SAEConfig, loss_recovered, sae_quality, train_sae

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
        texts: rounds of 280 texts whose residuals the SAE is trained on.
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
    model = _language_model(cfg, world, texts, len(tokenizer))
    rng = np.random.default_rng(cfg.seed)
    acts = torch.cat(list(decision_residuals(model, world, texts, cfg.layer, cfg.texts, rng)))
    fresh = torch.cat(list(decision_residuals(model, world, texts, cfg.layer, 3, rng)))
    hook = {"model_name": NAME, "hook_name": f"blocks.{cfg.layer}.hook_resid_post", "prepend_bos": True}
    sae = train_sae(acts, cfg.sae, hook, cfg.seed)
    sae.fold_W_dec_norm()
    tokenizer.save_pretrained(cfg.out)
    sae.save_inference_model(cfg.out / "sae")

    ids, learned = texts.batch([text for task in FORMATS for text in world.draw(task, 32, 0.5, rng)])
    steering = {
        "layer": cfg.layer,
        "site": "post",
        "coefficient": cfg.coefficient,
        "coefficient_unit": "norm",
        "residual_norm": float(fresh.norm(dim=-1).median()),
    }
    kwargs = {**steering, "model": str(cfg.out), "sae": str(cfg.out / "sae")}
    del kwargs["residual_norm"]
    kwargs |= {"coefficient": cfg.coefficient * steering["residual_norm"], "coefficient_unit": "residual"}
    measured = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "reply_loss": float(weighted_loss(model, ids, learned, 0.0)),
        "sae": sae_quality(sae, fresh) | loss_recovered(model, sae, ids, cfg.layer, read=ids != tokenizer.pad_token_id),
        "tasks": {
            task: measure_task(env_id, kwargs, cfg.items, cfg.oracle_items, cfg.seed)
            | {"unlocked": unlocked(model, tokenizer, task, cfg.items)}
            for task, env_id in text_environments().items()
        },
        "conditions": planted_conditions(model, tokenizer, sae, cfg.layer, 50),
    }
    settings = {key: value for key, value in asdict(cfg).items() if key not in ("out", "reuse")}
    found = {
        "name": NAME,
        "tasks": list(FORMATS),
        "benchmark": False,
        "steering": steering,
        "measured": rounded(measured),
        "config": settings,
    }
    return save_card(cfg.out, found, card_text)


def text_environments() -> dict[str, str]:
    """Ids of the environments of the world's tasks, by task."""
    specs = [spec for name, spec in gym.registry.items() if name.startswith("Steer-")]
    return {task: spec.id for task in FORMATS for spec in specs if spec.kwargs["task"] == task}


def _language_model(cfg: Config, world: World, texts: Texts, vocabulary: int) -> Any:
    if cfg.reuse:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(cfg.out).eval().requires_grad_(False)
    model = train_language_model(world, texts, vocabulary, cfg.lm, cfg.seed)
    cfg.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(cfg.out)
    return model


def _check(cfg: Config) -> None:
    if not 0 <= cfg.layer < cfg.lm.blocks:
        raise ValueError(f"layer must be in [0, {cfg.lm.blocks}), got {cfg.layer}")
    if not np.isfinite(cfg.coefficient):
        raise ValueError(f"coefficient must be finite, got {cfg.coefficient}")


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Config))["measured"], indent=2))
