"""The texts that an SAE is made on: files, prompts of tasks, and what the model itself answers to those."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agents.runs.config import parse_settings
from steer_env.lm.replies import write_replies
from steer_env.lm.text_residuals import Corpus, windows
from steer_env.lm.tokenizer import Tokenizer, end_tokens
from steer_env.tasks import find_task

Texts = Callable[[bool], Iterable[list[int]]]
"""Windows of token ids of the part that is held out (True) or of the part that is trained on."""


def files(paths: Sequence[Path], held_out: float, tokenizer: Any, context: int) -> dict[str, Texts]:
    """A source for each file or folder.

    Raises:
        ValueError: One has no text, a malformed line, or too few documents to hold some out.
    """

    def read(corpus: Corpus, held: bool) -> Iterator[list[int]]:
        return windows(corpus.documents(held), tokenizer, context)

    sources: dict[str, Texts] = {}
    for path in paths:
        corpus = Corpus(path, held_out)
        corpus.count()
        sources[path.name] = partial(read, corpus)
    return sources


@dataclass(frozen=True)
class Prompts:
    """Prompts of a task: those of its train split are trained on, those of validation are held out.

    Attributes:
        name: The task.
        splits: The prompts' texts by split, in an order of their own.
    """

    name: str
    splits: dict[str, list[str]]

    def texts(self, held_out: bool) -> list[str]:
        """Prompts of one part."""
        return self.splits["validation" if held_out else "train"]


def prompts(asked: Sequence[str], seed: int) -> list[Prompts]:
    """Prompts of tasks that are asked for as ``NAME``, ``NAME=DATA`` or ``NAME=DATA,OPTION=VALUE``.

    Raises:
        ValueError: A task, an option or the data cannot be used.
    """
    return [_prompts(text, seed) for text in asked]


def _prompts(asked: str, seed: int) -> Prompts:
    first, *more = asked.split(",")
    name, equals, data = first.partition("=")
    options: dict[str, Any] = {**({"data": data} if equals else {}), **parse_settings(more)}
    splits = {}
    for split in ("train", "validation"):
        task = find_task(name)(split=split, **options)
        openings = [task.start(item).opening for item in range(len(task))]
        random.Random(seed).shuffle(openings)
        splits[split] = openings
    return Prompts(name, splits)


def plain(asked: Sequence[Prompts], tokenizer: Any, context: int) -> dict[str, Texts]:
    """A source for each task: prompts as they stand, the first ``context`` tokens of each."""
    begin = Tokenizer(tokenizer).prompt

    def read(rows: Prompts, held: bool) -> Iterator[list[int]]:
        return (list(begin(text))[:context] for text in rows.texts(held))

    return {rows.name: partial(read, rows) for rows in asked}


@dataclass(frozen=True)
class Chat:
    """How the model answers prompts in its chat template.

    Attributes:
        lm: The frozen model.
        tokenizer: Its tokenizer.
        count: Prompts of each task.
        tokens: Longest reply.
        rows: Prompts per pass.
        folder: Where replies are kept.
    """

    lm: Any
    tokenizer: Any
    count: int
    tokens: int
    rows: int
    folder: Path

    def sources(self, asked: Sequence[Prompts], context: int) -> dict[str, Texts]:
        """A source for each task: prompts in the chat template, each with the model's reply."""
        return {f"{rows.name}, chat": partial(self._answered, context, rows) for rows in asked}

    def _answered(self, context: int, asked: Prompts, held_out: bool) -> list[list[int]]:
        tokenizer = Tokenizer(self.tokenizer, chat=True)
        count = -(-self.count // 10) if held_out else self.count
        last = asked.texts(held_out)[-count:]  # the first are read as they stand
        said = [tokenizer.prompt(text) for text in last]
        fitting = [row for row in said if len(row) + self.tokens <= context]
        ends = end_tokens(self.lm, tokenizer)
        replies = write_replies(self.folder, self.lm, fitting, self.tokens, self.rows, ends)
        return [[*row, *reply] for row, reply in zip(fitting, replies, strict=True)]
