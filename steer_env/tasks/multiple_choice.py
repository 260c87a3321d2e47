"""Questions with labelled options: the prompt, the options as continuations, and what it takes to be right."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from steer_env.tasks.base import Turn, check_choice, check_count
from steer_env.tasks.chosen_option import LETTERS, chosen_option
from steer_env.tasks.data import Items, Row, Source, load_rows
from steer_env.tasks.single_turn import SingleTurn, TextTask, shares

LABELS: dict[str, tuple[str, ...]] = {
    "ABC": LETTERS,
    "123": tuple(str(number) for number in range(1, 11)),
    "PQR": tuple("PQRSTUVWXY"),
    "KLM": tuple("KLMNOPQRST"),
}
"""What may stand in front of options, by the name of the alphabet."""
MIXED = ("ABC", "123", "PQR")
"""The alphabets of ``letters="mixed"``; the others stay new to whoever learns from these."""
_CALLED = {"123": "number", "mixed": "label"}
TEMPLATES = ("crl", "harness")
# Tokens the model may write: "The answer is (B) because ..." takes a few; of an option's words the first is steered.
DECODE = {"constrained": 1, "free": 32, "words": 1}
_INSTRUCTION = {"crl": "\nChoose one of the following options only.", "harness": ""}


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: what is asked.
        options: in order.
        target: place of the right one.
        where: file and line, for messages.
    """

    text: str
    options: tuple[str, ...]
    target: int
    where: str

    def __post_init__(self) -> None:
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"{self.where}: a question has 2 to {len(LETTERS)} options, got {len(self.options)}")
        if not 0 <= self.target < len(self.options):
            raise ValueError(f"{self.where}: answer must be in [0, {len(self.options)}), got {self.target}")

    @property
    def letter(self) -> str:
        """Letter of the right option, where options have letters."""
        return LETTERS[self.target]


@dataclass(frozen=True)
class Asked:
    """A question as it is put.

    Attributes:
        question: With its options in the order in which they stand.
        labels: What stands in front of each.
        order: For each, its place in the data.
    """

    question: Question
    labels: tuple[str, ...]
    order: tuple[int, ...]

    @property
    def right(self) -> str:
        """Label of the right option."""
        return self.labels[self.question.target]

    @property
    def words(self) -> tuple[str, ...]:
        """The options' own words, on one line each."""
        return tuple(" ".join(option.split()) for option in self.question.options)


class MultipleChoice(TextTask):
    """Questions with options. Score and reward: 1 for the right one, else 0.

    Constrained decoding compares the labels (``" A"``, ``" B"``, ...) as continuations, which is how
    lm-evaluation-harness scores the same prompt; ``"words"`` compares the options' own words after the same prompt, by
    the sum of their tokens' log-probabilities. Free decoding takes what the model writes. In records ``answer`` and
    ``target`` are labels, however the answer was given.

    Args:
        items: what to ask, and all rows that may be shown solved.
        template: ``"crl"`` (with an instruction) or ``"harness"``.
        decode: ``"constrained"``, ``"free"`` or ``"words"``.
        max_new_tokens: tokens the model may write when it is free, at most to the end of the line; None is 32.
        few_shot: solved examples of the same topic in front of each question.
        letters: alphabet in front of the options, a key of ``LABELS``; ``"mixed"`` takes one of ``MIXED`` by item.
        shuffle_options: seed by which each item's options are reordered; None leaves them.

    Raises:
        ValueError: an argument or a row cannot be used, or a topic has too few examples.
    """

    instruction = "Answer with the letter of the right option."
    stop = ("\n",)
    variants: Mapping[str, tuple[Any, ...]] = {"decode": tuple(DECODE), "letters": (*LABELS, "mixed")}
    narrowing: tuple[str, ...] = ("letters", "shuffle_options")

    def __init__(
        self,
        items: Items,
        template: str = "crl",
        decode: str = "constrained",
        max_new_tokens: int | None = None,
        few_shot: int = 0,
        letters: str = "ABC",
        shuffle_options: int | None = None,
    ) -> None:
        check_choice("template", template, TEMPLATES)
        self.check_variants(decode=decode, letters=letters)
        if shuffle_options is not None:
            check_count("shuffle_options", shuffle_options, 0)
        super().__init__(items, DECODE[decode] if max_new_tokens is None else max_new_tokens)
        self._template, self.decode, self._letters, self._seed = template, decode, letters, shuffle_options
        called = "words" if decode == "words" else _CALLED.get(letters, "letter")
        self.instruction = self.instruction and self.instruction.replace("letter", called, 1)
        self._questions = {row.where: self.question(row) for row in (*items.rows, *items.examples)}
        self._few_shot = few_shot
        self._solved = {topic: self._of_topic(topic) for topic in sorted({self.topic(row) for row in items.rows})}
        self._shown = cache(self._solutions)

    @abstractmethod
    def question(self, row: Row) -> Question:
        """The question in a row.

        Raises:
            ValueError: the row holds none; file and line are named.
        """

    def header(self, row: Row) -> str:
        """What stands in front of examples and question."""
        return ""

    def topic(self, row: Row) -> str:
        """What a question and the examples in front of it have in common."""
        return ""

    def details(self, row: Row) -> dict[str, Any]:
        """What else the record says about an item."""
        return {}

    def label(self, row: Row, place: int) -> str:
        """What stands in front of the option that the row itself has at ``place``."""
        asked = self._asked(row)
        return asked.labels[asked.order.index(place)]

    def ask(self, row: Row) -> SingleTurn:
        """The question after header and examples, its labels or words as choices unless decoding is free."""
        asked = self._asked(row)
        opening = self.header(row) + self._shown(self.topic(row), self._alphabet(row)) + self._prompt(asked)
        choices = {"constrained": asked.labels, "free": (), "words": tuple(dict.fromkeys(asked.words))}[self.decode]
        shown = lettered(asked.question, asked.labels)
        return SingleTurn(opening, shown, partial(self._grade, row, asked), tuple(f" {choice}" for choice in choices))

    def right_reply(self, row: Row) -> str:
        """The label of the right option, or its words."""
        return self._answer(self._asked(row))

    def examples(self) -> Sequence[Row]:
        """The rows that prompts show solved: of each topic that is asked, its first."""
        return [row for rows in self._solved.values() for row in rows]

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """``accuracy`` and the share of answers that name no option."""
        found = shares([final["outcome"] for final in finals], ("correct", "unparseable"))
        return found and {"accuracy": found["correct"], "unparseable": found["unparseable"]}

    def data_record(self) -> dict[str, Any]:
        """As every text task's; ``few_shot`` counts the examples of one prompt, other options than usual are named."""
        other = {"letters": self._letters, "shuffle_options": self._seed}
        unusual = {name: value for name, value in other.items() if value not in ("ABC", None)}
        return super().data_record() | {"few_shot": self._few_shot} | unusual

    def _of_topic(self, topic: str) -> list[Row]:
        there = [row for row in self.items.examples if self.topic(row) == topic]
        if len(there) < self._few_shot:
            raise ValueError(f"few_shot must be at most {len(there)} for {topic!r}, got {self._few_shot}")
        return there[: self._few_shot]

    def _alphabet(self, row: Row) -> str:
        """The alphabet of an item's labels; those of an example are those of the item that is asked."""
        question = self._questions[row.where]
        return MIXED[_draw("letters", question) % len(MIXED)] if self._letters == "mixed" else self._letters

    def _asked(self, row: Row, alphabet: str | None = None) -> Asked:
        """The question of a row in its order, with labels of its own alphabet or of another."""
        question = self._questions[row.where]
        count = len(question.options)
        order = tuple(range(count))
        if self._seed is not None:
            order = tuple(np.random.default_rng(_draw(str(self._seed), question)).permutation(count).tolist())
        options = tuple(question.options[place] for place in order)
        moved = replace(question, options=options, target=order.index(question.target))
        return Asked(moved, LABELS[alphabet or self._alphabet(row)][:count], order)

    def _solutions(self, topic: str, alphabet: str) -> str:
        asked = [self._asked(row, alphabet) for row in self._solved[topic]]
        return "".join(f"{self._prompt(each)} {self._answer(each)}\n\n" for each in asked)

    def _answer(self, asked: Asked) -> str:
        return asked.words[asked.question.target] if self.decode == "words" else asked.right

    def _prompt(self, asked: Asked) -> str:
        return f"{lettered(asked.question, asked.labels)}{_INSTRUCTION[self._template]}\nAnswer:"

    def _grade(self, row: Row, asked: Asked, completion: str) -> Turn:
        chosen = self._chosen(asked, completion)
        outcome = "unparseable" if chosen is None else "correct" if chosen == asked.question.target else "incorrect"
        info = {"outcome": outcome, "answer": "" if chosen is None else asked.labels[chosen], "target": asked.right}
        return Turn.end(outcome == "correct", info | self.details(row))

    def _chosen(self, asked: Asked, completion: str) -> int | None:
        """Place of the option that is meant; of several with the same words the right one."""
        if self.decode != "words":
            return chosen_option(completion, asked.question.options, asked.labels)
        said = " ".join(completion.split())
        same = [place for place, words in enumerate(asked.words) if words == said]
        return asked.question.target if asked.question.target in same else next(iter(same), None)


def _draw(purpose: str, question: Question) -> int:
    """A number that depends on what is asked alone, so that an item keeps it in every selection."""
    said = "\0".join([purpose, question.text, *question.options])
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")


def lettered(question: Question, labels: Sequence[str] = LETTERS) -> str:
    """The question and its options, one a line."""
    lines = [f"{label}. {option}" for label, option in zip(labels, question.options, strict=False)]
    return "\n".join([question.text.strip(), *lines])


def example_rows(few_shot: int, data: str, source: Source, task: str) -> list[Row]:
    """All rows that may be shown solved: those of dev, or none where no example is asked for.

    Raises:
        ValueError: ``few_shot`` is not an integer of at least 0, or the data has no dev split.
    """
    check_count("few_shot", few_shot, 0)
    if few_shot and data == "embedded":
        raise ValueError(f"few_shot must be 0 in the embedded world, which has no dev split, got {few_shot}")
    return load_rows(data, "dev", source, task) if few_shot else []
