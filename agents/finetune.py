"""The price of not changing weights: LoRA (Hu et al. 2021, arXiv 2106.09685) on the right replies to the same items.

The environment's own model stays as it is; a copy learns, has the adapters merged into its weights, and is saved as a
folder that ``gym.make(..., model=folder)`` plays like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from steer_env.envs.base import unwrap
from steer_env.lm.loading import new_language_model, weights_sha256
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks import Task

Envs = VectorEnv[Any, Any, Any]
_NOT_LEARNED = -100  # the label that Hugging Face's losses leave out


@dataclass(frozen=True)
class LoRA:
    """How adapters are trained.

    Attributes:
        rank: Of the adapters, which sit on every linear layer but the output's.
        alpha: Their scale is ``alpha / rank``.
        lr: Constant learning rate of AdamW.
        steps: Optimiser steps, whatever the number of pairs: few pairs come round more often.
        batch: Pairs a step.
        seed: Of the adapters' beginning and the order of the pairs.
    """

    rank: int = 16
    alpha: float = 32.0
    lr: float = 1e-3
    steps: int = 200
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "lr", "steps", "batch"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be more than 0 and finite, got {getattr(self, name)}")


@dataclass(frozen=True)
class FineTuned:
    """What came of it.

    Attributes:
        folder: The merged model and its tokenizer.
        n: Pairs.
        losses: Of each step, in nats a token of the replies.
        trained_parameters: Of the adapters.
        weights_sha256: Hash of the weights that came of it.
        original_sha256: Hash of the environment's model, the same before and after.
    """

    folder: Path
    n: int
    losses: tuple[float, ...]
    trained_parameters: int
    weights_sha256: str
    original_sha256: str

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """What to give ``gym.make_vec`` beyond the original's arguments, to play the fine-tuned model unsteered.

        A coefficient in residual units needs no measuring.
        """
        return {"model": str(self.folder), "coefficient": 0.0, "coefficient_unit": "residual"}


class Pair(NamedTuple):
    """Tokens of a prompt and of the right reply to it, with the token that ends it."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]


def finetune(envs: Envs, items: Sequence[int], folder: Path, lora: LoRA | None = None) -> FineTuned:
    """Train a copy of the model of ``envs`` to give the reference replies to ``items``, and save it in ``folder``.

    The same arguments make the same weights, on one device and number of threads.

    Args:
        envs: On the train split.
        items: What is learned from.
        folder: Where to; it must not be there.
        lora: How; None takes the defaults.

    Raises:
        FileExistsError: The folder is there.
        ValueError: There are no items, or the task has no reference replies.
        ImportError: peft is not installed.
        RuntimeError: The environment's own model changed, or is not the one on disk.
    """
    lora = lora or LoRA()
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: a model that was played must stay what it was")
    inner = unwrap(envs)
    pairs = reply_pairs(inner.task, items, inner.tokenizer)
    original = inner.lm
    before = weights_sha256(original)
    # A copy comes from the disk, for the model in memory has the environment's hooks on it.
    base: Any = new_language_model(original.name_or_path, original.dtype)
    if weights_sha256(base) != before:
        raise RuntimeError(f"{original.name_or_path!r} has changed on disk since the environment loaded it")
    merged, losses, trained = _trained(base.to(original.device), pairs, lora)
    if weights_sha256(original) != before:
        raise RuntimeError("fine-tuning changed the environment's own model")
    merged.save_pretrained(folder)
    inner.tokenizer.hf.save_pretrained(folder)
    return FineTuned(folder, len(pairs), losses, trained, weights_sha256(merged), before)


def reply_pairs(task: Task, items: Sequence[int], tokenizer: Tokenizer) -> list[Pair]:
    """Each item's prompt and reference reply in the tokens in which the environment has them.

    Raises:
        ValueError: There are no items, or the task has no reference replies.
    """
    if len(items) == 0:
        raise ValueError("there are no items to learn from")
    pairs = []
    for item in items:
        reply = task.reference(item)
        if reply is None:
            raise ValueError(f"task {task.name!r} has no reference replies to learn")
        pairs.append(_pair(task.start(item).opening, reply, tokenizer))
    return pairs


def _pair(opening: str, reply: str, tokenizer: Tokenizer) -> Pair:
    prompt, (said,) = tokenizer.prompt(opening), tokenizer.spoken((reply,), True)
    # The reply's tokens are those it has behind the prompt: by itself it may read otherwise.
    whole = () if tokenizer.chat else tokenizer.prompt(opening + said)
    tokens = whole[len(prompt) :] if whole[: len(prompt)] == prompt else tokenizer.encode(said)
    end = tokenizer.hf.eos_token_id
    return Pair(prompt, tokens if end is None else (*tokens, end))


def _trained(base: Any, pairs: Sequence[Pair], lora: LoRA) -> tuple[Any, tuple[float, ...], int]:
    """``base`` with adapters trained and merged, the loss of each step, and how many parameters the adapters had."""
    peft = _peft()
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft draws from the global generator, which is not ours to move, and warns of what is between it and
        # transformers or goes without saying.
        torch.manual_seed(lora.seed)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated|fan_in_fan_out is set to False")
        model = peft.get_peft_model(base, config)
        losses = _train(model, pairs, lora)
    return model.merge_and_unload().eval(), losses, model.get_nb_trainable_parameters()[0]


def _train(model: Any, pairs: Sequence[Pair], lora: LoRA) -> tuple[float, ...]:
    rng = np.random.default_rng(lora.seed)
    stream = chain.from_iterable(rng.permutation(len(pairs)) for _ in count())
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=lora.lr)
    losses = []
    model.train()
    for _ in range(lora.steps):
        batch = _batch([pairs[i] for i in islice(stream, lora.batch)])
        loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return tuple(losses)


def _batch(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` ``[B, T]``, padded on the right; only replies are learned."""
    length = max(len(pair.prompt) + len(pair.reply) for pair in pairs)
    ids, labels = (torch.full((len(pairs), length), fill) for fill in (0, _NOT_LEARNED))
    mask = torch.zeros_like(ids)
    for row, (prompt, reply) in enumerate(pairs):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : end] = torch.tensor(reply)
        mask[row, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _peft() -> Any:
    try:
        import peft  # optional, and slow to import
    except ImportError as error:
        raise ImportError("fine-tuning needs peft: pip install 'steer-env[finetune]'") from error
    return peft
