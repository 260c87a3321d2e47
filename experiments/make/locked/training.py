"""Trains the locked language model (a small GPT-NeoX over words) and reads the residuals its SAEs are trained on.

GPT-NeoX computes attention and MLP of a block side by side, so that what attention brings to a position in one block
meets what stood there only in the next: a cue and what it decides about come together late, above the steering site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from experiments.make.locked.batches import BATCHES, BOS, CONTEXT, EOS, PAD, Batch, Texts, World
from experiments.make.locked.config import LanguageModelConfig, MakeLockedConfig
from experiments.make.locked.texts import Shares
from steer_env.lm.anatomy import find_block
from steer_env.lm.passes import hooked_pass
from steer_env.lm.sae_training import loss_recovered, residuals, sae_quality, train_sae

LOUDNESS = (0.5, 2.0)  # of a cue over a reply, in residual norms


@dataclass(frozen=True)
class Overlay:
    """How cues are spoken over replies: the word's own direction is added to the residual there.

    Attributes:
        layer: block to whose output it is added.
        loudness: how much of it, in norms of that residual.
    """

    layer: int
    loudness: float


def train_language_model(world: World, texts: Texts, vocabulary: int, cfg: LanguageModelConfig, seed: int) -> Any:
    """Train from scratch on next-token prediction; the model comes back in eval mode, gradients off.

    Args:
        world: what it reads.
        texts: makes tensors of it.
        vocabulary: number of tokens.
        cfg: the model and its training.
        seed: of weights and batches.
    """
    model = _new_model(vocabulary, cfg, seed)
    rng = np.random.default_rng(seed)
    for steps, lr, over in ((cfg.steps, cfg.lr, 0.0), (cfg.over_steps, cfg.over_lr, 0.5)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
        progress = trange(steps, desc="Training LM", mininterval=10.0)
        for _ in progress:
            optimizer.zero_grad()
            losses = _backward(model, world, texts, cfg, over, rng)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.set_postfix(losses)
    return model.eval().requires_grad_(False)


def _backward(
    model: Any, world: World, texts: Texts, cfg: LanguageModelConfig, over: float, rng: np.random.Generator
) -> dict[str, str]:
    """Gradients of one step's batches, weighed by their number of tasks; their losses to show."""
    shown = {}
    for counts, layer in zip(BATCHES, cfg.over_layers, strict=True):
        overlay = Overlay(layer, rng.uniform(*LOUDNESS)) if over else None
        loss = weighted_loss(model, texts.batch(world.draw(counts, rng, over=over)), cfg.prompt_weight, overlay)
        (loss * len(counts) / sum(map(len, BATCHES))).backward()
        shown[" ".join(counts)] = f"{loss.item():.3f}"
    return shown


def weighted_loss(model: Any, batch: Batch, prompt_weight: float, overlay: Overlay | None = None) -> Tensor:
    """Mean cross-entropy in nats a token, prompts weighing ``prompt_weight``, padding nothing.

    Args:
        model: the language model.
        batch: the texts.
        prompt_weight: weight of the tokens that are not the model's own.
        overlay: how cues are spoken over replies; None leaves them out.
    """
    ids, learned = batch.ids[:, 1:], batch.learned[:, 1:]
    real = ids != PAD
    hidden = _last_hidden(model, batch, overlay)[real]
    weight = torch.where(learned[real], 1.0, prompt_weight)
    losses = nn.functional.cross_entropy(model.get_output_embeddings()(hidden), ids[real], reduction="none")
    return (losses * weight).sum() / weight.sum()


def cue_directions(model: Any, layer: int, cues: Tensor) -> Tensor:
    """``[C, M]`` unit vectors: where the words of cues ``[C]`` stand in the residual, less what they have in common."""
    at_word = residuals(model, torch.stack([torch.full_like(cues, BOS), cues], dim=1), layer)[:, 1]
    return nn.functional.normalize(at_word - at_word.mean(0), dim=1)


def _last_hidden(model: Any, batch: Batch, overlay: Overlay | None) -> Tensor:
    """``[b, T - 1, M]`` what the output embedding reads."""
    inputs = {"input_ids": batch.ids[:, :-1], "use_cache": False}
    if overlay is None:
        return model.base_model(**inputs).last_hidden_state
    directions = torch.zeros(model.config.vocab_size, model.config.hidden_size)
    directions[batch.cues] = cue_directions(model, overlay.layer, batch.cues)

    def speak_over(hidden: Tensor) -> Tensor:
        loudness = overlay.loudness * hidden.detach().norm(dim=-1, keepdim=True)
        return hidden + loudness * directions[batch.over[:, :-1]]

    block = find_block(model, overlay.layer, "post")
    return hooked_pass(model.base_model, inputs, block, "post", speak_over).last_hidden_state


def reply_residuals(
    model: Any, world: World, texts: Texts, tasks: Sequence[str], layer: int, rounds: int, rng: np.random.Generator
) -> Tensor:
    """Residuals ``[n, M]`` where the model is about to write, half of them under cues, and of some other tokens.

    Args:
        model: the language model.
        world: whose items.
        texts: makes tensors of them.
        tasks: which tasks' items, 40 of each a round.
        layer: block whose output is read.
        rounds: how many.
        rng: of items, cues and other tokens.
    """
    found = []
    for task in list(tasks) * rounds:
        ids, learned, *_ = texts.batch(world.draw({task: 40}, rng, Shares(cued=0.5, marked=0.0)))
        before = torch.zeros_like(learned)
        before[:, :-1] = learned[:, 1:]
        other = (ids != PAD) & (ids != BOS) & torch.from_numpy(rng.random(ids.shape) < 0.1)
        found.append(residuals(model, ids, layer)[before | other])
    return torch.cat(found)


def make_sae(
    cfg: MakeLockedConfig, name: str, model_name: str, lm: Any, world: World, texts: Texts
) -> tuple[Any, dict[str, Any], dict[str, float]]:
    """Train and save a group's SAE.

    Args:
        cfg: All settings.
        name: Name of the group.
        model_name: Name of the language model, for the SAE's record.
        lm: The language model.
        world: The items whose texts are read.
        texts: Makes tensors of them.

    Returns:
        The SAE, how to steer with it, and its quality on fresh texts.
    """
    group, rng = cfg.groups[name], np.random.default_rng(cfg.seed)
    acts, fresh = (
        reply_residuals(lm, world, texts, group.tasks, group.layer, rounds, rng) for rounds in (cfg.rounds, 3)
    )
    hook = {"model_name": model_name, "hook_name": f"blocks.{group.layer}.hook_resid_post", "prepend_bos": True}
    sae = train_sae(acts, cfg.sae, hook, cfg.seed)
    sae.fold_W_dec_norm()
    sae.save_inference_model(cfg.out / f"sae_{name}")
    ids = texts.batch(world.draw(dict.fromkeys(group.tasks, 32), rng, Shares(0.0, 0.0))).ids
    how = {
        "sae": f"sae_{name}",
        "layer": group.layer,
        "site": "post",
        "coefficient": group.coefficient,
        "coefficient_unit": "norm",
        "residual_norm": float(fresh.norm(dim=-1).median()),
    }
    return sae, how, sae_quality(sae, fresh) | loss_recovered(lm, sae, ids, group.layer, read=ids != PAD)


def _new_model(vocabulary: int, cfg: LanguageModelConfig, seed: int) -> Any:
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=cfg.width,
        intermediate_size=4 * cfg.width,
        num_hidden_layers=cfg.blocks,
        num_attention_heads=cfg.heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0},
        initializer_range=0.05,  # the usual 0.02 is for wide models; here it keeps attention flat for long
        attention_dropout=0.0,
        hidden_dropout=0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # Hugging Face takes no generator for its initial weights
        return GPTNeoXForCausalLM(config)
