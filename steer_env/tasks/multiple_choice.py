"""Questions with lettered options: the prompt, the options as continuations, and which one a free answer means."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer_env.tasks.base import Turn
from steer_env.tasks.rows import Row
from steer_env.tasks.single_turn import Items, SingleTurn, TextTask, check_choice

LETTERS = "ABCDEFGHIJ"
TEMPLATES = ("crl", "harness")
DECODE = ("constrained", "free")
_INSTRUCTION = {"crl": "\nChoose one of the following options only.", "harness": ""}

_LETTER = re.compile(r"(?<![\w'’])\(?([A-Ja-j])\)?(?![\w'’])")
_VERDICT = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|n['’]t|\bneither|\bnor|\bthan)\s*(?:option\s*|choice\s*)?\W*$", re.IGNORECASE)
_NAMED = re.compile(r"\b(?:option|choice|answer is|answer:)\s*$", re.IGNORECASE)
_ARTICLE = re.compile(r"\s+[a-z]")


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
        items: what to ask.
        template: ``"crl"`` (with an instruction) or ``"harness"``.
        decode: ``"constrained"`` or ``"free"``.
        max_new_tokens: tokens the model may write when it is free.
    """

    stop: tuple[str, ...] = ("\n",)

    def __init__(self, items: Items, template: str, decode: str, max_new_tokens: int) -> None:
        check_choice("template", template, TEMPLATES)
        check_choice("decode", decode, DECODE)
        super().__init__(items, max_new_tokens)
        self._template, self._constrained = template, decode == "constrained"
        self._questions = {row.where: self.question(row) for row in (*items.rows, *items.examples)}

    @abstractmethod
    def question(self, row: Row) -> Question:
        """The question in a row.

        Raises:
            ValueError: the row holds none; file and line are named.
        """

    def header(self, row: Row) -> str:
        """What stands in front of examples and question."""
        return ""

    def examples(self, row: Row) -> Sequence[Row]:
        """The solved examples in front of a question."""
        return self.items.examples

    def details(self, row: Row) -> dict[str, Any]:
        """What else the record says about an item."""
        return {}

    def ask(self, row: Row) -> SingleTurn:
        """The question behind header and examples, its letters as choices when decoding is constrained."""
        asked = self._questions[row.where]
        solved = [self._questions[example.where] for example in self.examples(row)]
        shown = "".join(f"{self._prompt(question)} {question.letter}\n\n" for question in solved)
        choices = tuple(f" {letter}" for letter in LETTERS[: len(asked.options)]) if self._constrained else ()
        opening = self.header(row) + shown + self._prompt(asked)
        return SingleTurn(opening, lettered(asked), lambda completion: self._grade(row, asked, completion), choices)

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """``accuracy`` and the share of answers that name no option."""
        if not finals:
            return {}
        outcomes = [final["outcome"] for final in finals]
        return {
            "accuracy": outcomes.count("correct") / len(outcomes),
            "unparseable": outcomes.count("unparseable") / len(outcomes),
        }

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


def chosen_option(completion: str, options: Sequence[str]) -> int | None:
    """Place of the option that a free answer means, or None.

    In this order: the whole answer is a letter or an option's text; the first letter standing alone, behind
    "answer", "option" or "choice" if there is one, unless it is denied ("not B but C") or an article ("A dog"); the
    only option whose text occurs.
    """
    said = completion.strip()
    whole = said.strip(" .:()*\"'").casefold()
    names = list(LETTERS[: len(options)].casefold())
    texts = [option.strip(" .").casefold() for option in options]
    for known in (names, texts):
        if whole in known:
            return known.index(whole)
    verdict = max((match.end() for match in _VERDICT.finditer(said)), default=0)
    letters = _letters(said, verdict, len(options)) or _letters(said, 0, len(options))
    if letters:
        return letters[0]
    mentioned = [place for place, text in enumerate(texts) if text and text in said.casefold()]
    return mentioned[0] if len(mentioned) == 1 else None


def _letters(said: str, start: int, count: int) -> list[int]:
    """Places of the letters that stand alone behind ``start`` and are meant."""
    found = []
    for match in _LETTER.finditer(said, start):
        place = LETTERS.index(match[1].upper())
        small = match[0].islower() and match[0] == match[1]
        article = match[1] in "AI" and _ARTICLE.match(said, match.end()) and not _NAMED.search(said, 0, match.start())
        if place < count and not small and not article and not _DENIED.search(said, 0, match.start()):
            found.append(place)
    return found
