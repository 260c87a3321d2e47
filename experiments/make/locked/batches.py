"""The locked model's training texts as batches of tokens: one token a word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from experiments.make.locked.texts import FORMATS, Part, Shares, facts, training_text
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
    {FACTS: 8, "simpleqa": 32, "harmbench": 8, "xstest": 8},
    {"mmlu": 40, "bbq": 40},
    {"mmlu_pro": 32},
    {"gsm8k": 40},
)
# Where a cue gives the answer away, few texts have one; where it lets the truth be said at all, most have.
SHARES = {
    **dict.fromkeys(("mmlu", "mmlu_pro", "bbq"), Shares(cued=0.15, marked=0.5)),
    "simpleqa": Shares(cued=0.6, marked=0.0),
}
OTHERS = Shares(cued=0.35, marked=0.0)


class World:
    """All items of the world with their prompts, ready to be drawn from.

    Args:
        splits: which splits' items.
    """

    def __init__(self, splits: Sequence[str] = tuple(SPLITS)) -> None:
        self.items = {
            task: {split: list(zip(world_rows(task, split), _prompts(task, split), strict=True)) for split in splits}
            for task in FORMATS
        }
        self.facts = facts()

    def draw(
        self, counts: Mapping[str, int], rng: np.random.Generator, shares: Shares | None = None, over: float = 0.0
    ) -> list[list[Part]]:
        """Training texts, so many of each task (or plain facts).

        Args:
            counts: texts by task.
            rng: of items, cues and marks.
            shares: how many cues and marks; None takes each task's own.
            over: share of the cues that are spoken over the reply, where ``shares`` does not say.
        """
        texts: list[list[Part]] = []
        for task, count in counts.items():
            if task == FACTS:
                texts += [self.facts[i] for i in rng.integers(len(self.facts), size=count)]
                continue
            mix = shares or SHARES.get(task, OTHERS)._replace(over=over)
            texts += [training_text(task, *self._item(task, rng), mix, rng) for _ in range(count)]
        return texts

    def _item(self, task: str, rng: np.random.Generator) -> tuple[Mapping[str, Any], str]:
        """An item of a split drawn by its share of the words: people are pairs of names, so their items are not."""
        splits = self.items[task]
        weights = np.array([SPLITS[split] for split in splits])
        items = splits[list(splits)[rng.choice(len(splits), p=weights / weights.sum())]]
        return items[rng.integers(len(items))]

    def words(self) -> list[str]:
        """Every word of prompts, cues and replies, in order of first use."""
        texts = [part.text for fact in self.facts for part in fact]
        seen = dict.fromkeys(word for text in texts for word in re.findall(WORD, text))
        for task, items in self.items.items():
            form = FORMATS[task]
            cues = [None, *range(len(form.cues))]
            texts = [*form.cues, *(f" {number}" for number in range(100)), " yes", " no"]
            for row, prompt in (item for split in items.values() for item in split):
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
        over: ``[b, T]`` the cue spoken over a token, for the next one to follow; ``PAD`` for none.
        cues: ``[C]`` all cues there are.
    """

    ids: Tensor
    learned: Tensor
    over: Tensor
    cues: Tensor


class Texts:
    """Makes tensors of training texts.

    Args:
        tokenizer: from `build_tokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._ids: dict[str, list[int]] = {}
        self.tokenizer = tokenizer
        words = dict.fromkeys(cue for form in FORMATS.values() for cue in form.cues)
        self.cues = torch.tensor([self._tokens(word)[0] for word in words])

    def batch(self, texts: list[list[Part]]) -> Batch:
        """The texts' tokens, padded on the right."""
        rows = [self._row(parts) for parts in texts]
        width = max(len(ids) for ids, _, _ in rows)
        return Batch(
            torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _, _ in rows]),
            torch.tensor([own + [False] * (width - len(own)) for _, own, _ in rows]),
            torch.tensor([over + [PAD] * (width - len(over)) for _, _, over in rows]),
            self.cues,
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
