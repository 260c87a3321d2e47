"""Questions with lettered options: the prompt, the options as continuations, the score."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer_env.tasks.base import Turn, check_count
from steer_env.tasks.chosen import LETTERS, chosen_option
from steer_env.tasks.data import Row, Source, load_rows
from steer_env.tasks.single_turn import Items, SingleTurn, TextTask, check_choice

TEMPLATES = ("crl", "harness")
DECODE = {"constrained": 1, "free": 32}  # tokens the model may write: "The answer is (B) because ..." takes a few
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
        """Letter of the right option."""
        return LETTERS[self.target]


class MultipleChoice(TextTask):
    """Questions with options. Score and reward: 1 for the right one, else 0.

    Constrained decoding compares the letters (``" A"``, ``" B"``, ...) as continuations, which is how
    lm-evaluation-harness scores the same prompt. Free decoding takes what the model writes.

    Args:
        items: what to ask, and all rows that may be shown solved.
        template: ``"crl"`` (with an instruction) or ``"harness"``.
        decode: ``"constrained"`` or ``"free"``.
        max_new_tokens: tokens the model may write when it is free, at most to the end of the line; None is 32.
        few_shot: solved examples of the same topic in front of each question.

    Raises:
        ValueError: an argument or a row cannot be used, or a topic has too few examples.
    """

    stop: tuple[str, ...] = ("\n",)

    def __init__(self, items: Items, template: str, decode: str, max_new_tokens: int | None, few_shot: int = 0) -> None:
        check_choice("template", template, TEMPLATES)
        check_choice("decode", decode, tuple(DECODE))
        super().__init__(items, DECODE[decode] if max_new_tokens is None else max_new_tokens)
        self._template, self.decode = template, decode
        self._questions = {row.where: self.question(row) for row in (*items.rows, *items.examples)}
        self._few_shot = few_shot
        self._solved = {topic: self._of_topic(topic) for topic in sorted({self.topic(row) for row in items.rows})}
        self._shown = {topic: self._solutions(rows) for topic, rows in self._solved.items()}

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

    def ask(self, row: Row) -> SingleTurn:
        """The question behind header and examples, its letters as choices when decoding is constrained."""
        asked = self._questions[row.where]
        choices = (
            tuple(f" {letter}" for letter in LETTERS[: len(asked.options)]) if self.decode == "constrained" else ()
        )
        opening = self.header(row) + self._shown[self.topic(row)] + self._prompt(asked)
        return SingleTurn(opening, lettered(asked), lambda completion: self._grade(row, asked, completion), choices)

    def right_reply(self, row: Row) -> str:
        """The letter of the right option."""
        return self._questions[row.where].letter

    def examples(self) -> Sequence[Row]:
        """The rows that prompts show solved: of each topic that is asked, its first."""
        return [row for rows in self._solved.values() for row in rows]

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """``accuracy`` and the share of answers that name no option."""
        if not finals:
            return {}
        outcomes = [final["outcome"] for final in finals]
        return {
            "accuracy": outcomes.count("correct") / len(outcomes),
            "unparseable": outcomes.count("unparseable") / len(outcomes),
        }

    def data_record(self) -> dict[str, Any]:
        """As every text task's; ``few_shot`` counts the examples of one prompt."""
        return super().data_record() | {"few_shot": self._few_shot}

    def _of_topic(self, topic: str) -> list[Row]:
        there = [row for row in self.items.examples if self.topic(row) == topic]
        if len(there) < self._few_shot:
            raise ValueError(f"few_shot must be at most {len(there)} for {topic!r}, got {self._few_shot}")
        return there[: self._few_shot]

    def _solutions(self, rows: Sequence[Row]) -> str:
        questions = [self._questions[row.where] for row in rows]
        return "".join(f"{self._prompt(question)} {question.letter}\n\n" for question in questions)

    def _prompt(self, question: Question) -> str:
        return f"{lettered(question)}{_INSTRUCTION[self._template]}\nAnswer:"

    def _grade(self, row: Row, asked: Question, completion: str) -> Turn:
        chosen = chosen_option(completion, asked.options)
        outcome = "unparseable" if chosen is None else "correct" if chosen == asked.target else "incorrect"
        info = {"outcome": outcome, "answer": "" if chosen is None else LETTERS[chosen], "target": asked.letter}
        right = float(outcome == "correct")
        return Turn(reward=right, score=right, info=info | self.details(row))


def lettered(question: Question) -> str:
    """The question and its options, one a line."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
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
