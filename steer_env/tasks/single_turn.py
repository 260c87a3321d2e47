"""One prompt, one completion, one grade: what tasks over rows of text have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steer_env.tasks.base import Turn, check_count, check_item
from steer_env.tasks.data import Row, Source, load_rows
from steer_env.tasks.splits import check_split, seeded_split, split_sha256


@dataclass(frozen=True)
class Items:
    """The rows of a split, and where they come from.

    Attributes:
        rows: what is asked, in order.
        examples: rows shown solved in every prompt; none of them is asked.
        data: the argument that named the data.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seeded: whether the split is ours and not the data set's.
    """

    rows: Sequence[Row]
    data: str
    split: str
    seeded: bool
    examples: Sequence[Row] = ()


def seeded_items(task: str, source: Source, data: str | None, split: str, group: Callable[[Row], str]) -> Items:
    """A split of a data set that has none; the embedded world comes divided.

    Raises:
        ValueError: there is no such split, or the data cannot be had.
    """
    check_split(split)
    if data is None or data == "embedded":
        return Items(load_rows("embedded", split, source, task), "embedded", split, seeded=False)
    rows = load_rows(data, "all", source, task)
    return Items(seeded_split(rows, split, group), data, split, seeded=True)


class SingleTurn:
    """A `steer_env.tasks.base.Conversation` that ends with the model's first words.

    Args:
        opening: the prompt.
        question: what is asked, for people.
        grade: from a completion to the turn that ends the episode.
        choices: what the completion may be; ``()`` leaves it free.
    """

    def __init__(
        self, opening: str, question: str, grade: Callable[[str], Turn], choices: tuple[str, ...] = ()
    ) -> None:
        self.opening, self.choices = opening, choices
        self._question, self._grade = question, grade
        self._ended: Turn | None = None

    def respond(self, utterance: str) -> Turn:
        """Grade the completion.

        Raises:
            RuntimeError: there was one before.
        """
        if self._ended is not None:
            raise RuntimeError(f"the item is answered ({self._ended.info['outcome']}): start another")
        self._ended = self._grade(utterance)
        return self._ended

    def render(self) -> str:
        """Question, and once it is answered the answer, the target and the outcome."""
        if self._ended is None:
            return self._question
        info = self._ended.info
        return f"{self._question}\nanswer: {info['answer']} (target: {info['target']}; {info['outcome']})"

    def state(self) -> np.ndarray:
        """Nothing: text tasks have no board."""
        return np.zeros(0, dtype=np.int64)


class TextTask(ABC):
    """A split of rows, each asked once; a task says how a row is asked and graded.

    Attributes:
        items: the rows.
        instruction: what stands in front of every prompt (`steer_env.tasks.instructions`).

    Raises:
        ValueError: ``max_new_tokens`` is not an integer of at least 1.
    """

    name: str
    stop: tuple[str, ...] = ()
    state_shape: tuple[int, ...] = (0,)
    state_levels = 1
    turns = 1
    narrowing: tuple[str, ...] = ()

    def __init__(self, items: Items, max_new_tokens: int) -> None:
        check_count("max_new_tokens", max_new_tokens, 1)
        self.items, self.max_new_tokens = items, max_new_tokens
        self.instruction = ""

    @abstractmethod
    def ask(self, row: Row) -> SingleTurn:
        """The conversation about one row."""

    @abstractmethod
    def right_reply(self, row: Row) -> str:
        """A reply to a row that earns the full score."""

    @abstractmethod
    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The task's own numbers over the final infos of many episodes."""

    def examples(self) -> Sequence[Row]:
        """The rows that prompts show solved."""
        return self.items.examples

    def __len__(self) -> int:
        """Number of items of the split."""
        return len(self.items.rows)

    def start(self, item: int) -> SingleTurn:
        """Begin item ``item``.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """
        check_item(item, len(self), self.items.split)
        talk = self.ask(self.items.rows[item])
        if self.instruction:
            talk.opening = f"{self.instruction}\n\n{talk.opening}"
        return talk

    def reference(self, item: int) -> str:
        """A right reply to item ``item``, with the space in front of it that comes behind a prompt.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """
        check_item(item, len(self), self.items.split)
        return f" {self.right_reply(self.items.rows[item])}"

    def data_record(self) -> dict[str, Any]:
        """``data``, ``split``, ``items``, ``sha256`` of the rows, ``seeded_split``, ``few_shot``.

        Where prompts show examples also ``examples_sha256``: another choice of them is another test; and where an
        ``instruction`` stands in front of them, that.
        """
        shown = self.examples()
        return {
            "data": self.items.data,
            "split": self.items.split,
            "items": len(self),
            "sha256": split_sha256(self.items.rows),
            "seeded_split": self.items.seeded,
            "few_shot": len(shown),
            **({"examples_sha256": split_sha256(shown)} if shown else {}),
            **({"instruction": self.instruction} if self.instruction else {}),
        }


def shares(outcomes: Sequence[str], kinds: Sequence[str], prefix: str = "") -> dict[str, float]:
    """The share of each kind among the outcomes; nothing where there are none."""
    return {f"{prefix}{kind}": outcomes.count(kind) / len(outcomes) for kind in kinds} if outcomes else {}


def check_choice(name: str, choice: str, allowed: Sequence[str]) -> None:
    """Refuse an argument that is not one of ``allowed``.

    Raises:
        ValueError: naming the argument and what it may be.
    """
    if choice not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {choice!r}")
