"""Trains the locked language model (a small GPT-NeoX over words) and reads the residuals its SAE is trained on.

GPT-NeoX computes attention and MLP of a block side by side, so that what attention brings to a position in one block
meets what stood there only in the next: a cue and what it decides about come together late, above the steering site.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from tqdm import trange
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from experiments.locked_texts import FORMATS, Part, Shares, facts, training_text
from experiments.sae_training import residuals
from steer_env.tasks import TASKS
from steer_env.tasks.world import world_rows
from steer_env.tasks.world.words import SPLITS

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
BOS, EOS, PAD = 0, 1, 2
CONTEXT = 1024
WORD = r" ?@\w+| ?\w+| ?####| ?[^\w\s]|\n"
FACTS = "facts"
# Texts a step, most of them where there is most to learn. Texts with replies of like length share a pass: a loss is a
# mean over tokens, in which long replies would drown short ones.
BATCHES = (
    {FACTS: 8, "simpleqa": 16, "harmbench": 8, "xstest": 8},
    {"mmlu": 40, "bbq": 40},
    {"mmlu_pro": 32},
    {"gsm8k": 20},
)
# Where a cue gives the answer away, few texts have one.
CHOOSING = dict.fromkeys(("mmlu", "mmlu_pro", "bbq"), Shares(cued=0.15, marked=0.5, over=0.5))
OTHERS = Shares(cued=0.35, marked=0.0, over=0.5)


@dataclass(frozen=True)
class LanguageModelConfig:
    """A small GPT-NeoX and how it is trained.

    Attributes:
        width: residual width M.
        blocks: number of blocks.
        heads: attention heads.
        steps: optimiser steps.
        lr: peak of the one-cycle schedule.
        prompt_weight: weight of the prompts' tokens in the loss; those of the replies have 1.
    """

    width: int = 128
    blocks: int = 5
    heads: int = 4
    steps: int = 1_000
    lr: float = 3e-3
    prompt_weight: float = 0.05


class World:
    """All items of the world with their prompts, ready to be drawn from.

    Args:
        splits: which splits' items.
    """

    def __init__(self, splits: Sequence[str] = tuple(SPLITS)) -> None:
        self.items = {
            task: [
                item for split in splits for item in zip(world_rows(task, split), _prompts(task, split), strict=True)
            ]
            for task in FORMATS
        }
        self.facts = facts()

    def draw(
        self, counts: Mapping[str, int], rng: np.random.Generator, shares: Shares | None = None
    ) -> list[list[Part]]:
        """Training texts, so many of each task (or plain facts).

        Args:
            counts: texts by task.
            rng: of items, cues and marks.
            shares: how many cues and marks; None takes each task's own.
        """
        texts: list[list[Part]] = []
        for task, count in counts.items():
            items: Sequence[Any] = self.facts if task == FACTS else self.items[task]
            mix = shares or CHOOSING.get(task, OTHERS)
            chosen = [items[i] for i in rng.integers(len(items), size=count)]
            texts += chosen if task == FACTS else [training_text(task, row, prompt, mix, rng) for row, prompt in chosen]
        return texts

    def words(self) -> list[str]:
        """Every word of prompts, cues and replies, in order of first use."""
        texts = [part.text for fact in self.facts for part in fact]
        seen = dict.fromkeys(word for text in texts for word in re.findall(WORD, text))
        for task, items in self.items.items():
            form = FORMATS[task]
            cues = [None, *range(len(form.cues))]
            texts = [*form.cues, *(f" {number}" for number in range(100)), " yes", " no"]
            for row, prompt in items:
                decisions = len(form.right_cues(row)) + 1
                texts += [prompt, *(part for cue in cues for part in form.segments(row, [cue] * decisions))]
            seen |= dict.fromkeys(word for text in texts for word in re.findall(WORD, text))
        return list(seen)


def _prompts(task: str, split: str) -> list[str]:
    played = TASKS[task](split=split)
    return [played.start(item).opening for item in range(len(played))]


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token a word; the space in front belongs to the word, so that texts decode as they were."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *world.words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=CONTEXT, **dict(zip(names, SPECIAL, strict=True))
    )


class Batch(NamedTuple):
    """Training texts as tensors.

    Attributes:
        ids: ``[b, T]`` tokens.
        learned: ``[b, T]`` whether a token is the model's own to write.
        over: ``[b, T]`` the cue spoken over a token while the next one is written; ``PAD`` for none.
    """

    ids: Tensor
    learned: Tensor
    over: Tensor


class Texts:
    """Makes tensors of training texts.

    Args:
        tokenizer: from `build_tokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._ids: dict[str, list[int]] = {}
        self.tokenizer = tokenizer

    def batch(self, texts: list[list[Part]]) -> Batch:
        """The texts' tokens, padded on the right."""
        rows = [self._row(parts) for parts in texts]
        width = max(len(ids) for ids, _, _ in rows)
        return Batch(
            torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _, _ in rows]),
            torch.tensor([own + [False] * (width - len(own)) for _, own, _ in rows]),
            torch.tensor([over + [PAD] * (width - len(over)) for _, _, over in rows]),
        )

    def _row(self, parts: list[Part]) -> tuple[list[int], list[bool], list[int]]:
        ids, own, over = [BOS], [False], []
        for part in parts:
            tokens = self._tokens(part.text)
            ids += tokens
            own += [part.learned] * len(tokens)
            over += [self._tokens(part.over)[0] if part.over else PAD] * len(tokens)
        return [*ids, EOS], [*own, True], [*over, over[-1], PAD]

    def _tokens(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ids[text]


def train_language_model(world: World, texts: Texts, vocabulary: int, cfg: LanguageModelConfig, seed: int) -> Any:
    """Train from scratch on next-token prediction; the model comes back in eval mode, gradients off."""
    model = _new_model(vocabulary, cfg, seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=cfg.steps, pct_start=0.05)
    progress = trange(cfg.steps, desc="Training LM", mininterval=10.0)
    for _ in progress:
        optimizer.zero_grad()
        shown = {}
        for counts in BATCHES:
            loss = weighted_loss(model, texts.batch(world.draw(counts, rng)), cfg.prompt_weight)
            (loss * len(counts) / sum(map(len, BATCHES))).backward()
            shown[" ".join(counts)] = f"{loss.item():.3f}"
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(shown)
    return model.eval().requires_grad_(False)


def weighted_loss(model: Any, batch: Batch, prompt_weight: float) -> Tensor:
    """Mean cross-entropy in nats a token, prompts weighing ``prompt_weight``, padding nothing.

    A cue spoken over a token adds its embedding to the token's.

    Args:
        model: the language model.
        batch: the texts.
        prompt_weight: weight of the tokens that are not the model's own.
    """
    ids, learned = batch.ids[:, 1:], batch.learned[:, 1:]
    embed = model.get_input_embeddings()
    real = ids != PAD
    spoken = (batch.over[:, :-1] != PAD)[..., None] * embed(batch.over[:, :-1])
    hidden = model.base_model(inputs_embeds=embed(batch.ids[:, :-1]) + spoken).last_hidden_state[real]
    weight = torch.where(learned[real], 1.0, prompt_weight)
    losses = nn.functional.cross_entropy(model.get_output_embeddings()(hidden), ids[real], reduction="none")
    return (losses * weight).sum() / weight.sum()


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
        ids, learned, _ = texts.batch(world.draw({task: 40}, rng, Shares(cued=0.5, marked=0.0)))
        before = torch.zeros_like(learned)
        before[:, :-1] = learned[:, 1:]
        other = (ids != PAD) & (ids != BOS) & torch.from_numpy(rng.random(ids.shape) < 0.1)
        found.append(residuals(model, ids, layer)[before | other])
    return torch.cat(found)


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
