"""One prompt, one completion, one grade: what tasks over rows of text have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steer_env.tasks.base import Task, Turn, check_count, check_item
from steer_env.tasks.data import Items, Row, split_sha256


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


class TextTask(Task):
    """A split of rows, each asked once; a task says how a row is asked and graded.

    Attributes:
        items: the rows.
        outcomes: what ``info["outcome"]`` may be.

    Raises:
        ValueError: ``max_new_tokens`` is not an integer of at least 1.
    """

    items: Items
    outcomes: tuple[str, ...] = ("correct", "incorrect")

    def __init__(self, items: Items, max_new_tokens: int) -> None:
        check_count("max_new_tokens", max_new_tokens, 1)
        self.items, self.split, self.max_new_tokens = items, items.split, max_new_tokens

    @abstractmethod
    def ask(self, row: Row) -> SingleTurn:
        """The conversation about one row."""

    @abstractmethod
    def right_reply(self, row: Row) -> str:
        """A reply to a row that earns the full score."""

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The share of each outcome; nothing where there is no episode."""
        return shares([final["outcome"] for final in finals], self.outcomes)

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
        talk = self.ask(self._row(item))
        if self.instructed:
            talk.opening = f"{self.instruction}\n\n{talk.opening}"
        return talk

    def reference(self, item: int) -> str:
        """A right reply to item ``item``, with the space in front of it that comes after a prompt.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """
        return f" {self.right_reply(self._row(item))}"

    def _row(self, item: int) -> Row:
        check_item(item, len(self), self.split)
        return self.items.rows[item]

    def data_record(self) -> dict[str, Any]:
        """``data``, ``split``, ``items``, ``sha256`` of the rows, ``seeded_split``, ``few_shot``.

        Where prompts show examples also ``examples_sha256``: another choice of them is another test; and where an
        ``instruction`` stands in front of them, that.
        """
        shown = self.examples()
        return {
            "data": self.items.data,
            "split": self.split,
            "items": len(self),
            "sha256": split_sha256(self.items.rows),
            "seeded_split": self.items.seeded,
            "few_shot": len(shown),
            **({"examples_sha256": split_sha256(shown)} if shown else {}),
            **({"instruction": self.instruction} if self.instructed else {}),
        }


def shares(outcomes: Sequence[str], kinds: Sequence[str], prefix: str = "") -> dict[str, float]:
    """The share of each kind among the outcomes; nothing where there are none."""
    return {f"{prefix}{kind}": outcomes.count(kind) / len(outcomes) for kind in kinds} if outcomes else {}


def stop_strings(given: str | Sequence[str] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """What ends a reply: one text, several, or the usual ones where nothing is given.

    Raises:
        ValueError: One is no text, or empty.
    """
    stops = usual if given is None else (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"stop must be a text or a list of texts that are not empty, got {given!r}")
    return stops
