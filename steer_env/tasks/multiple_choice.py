"""Questions with lettered options: the prompt, the options as continuations, and which one a free answer means."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer_env.tasks.base import Turn, check_choice, check_count
from steer_env.tasks.data import Items, Row, Source, load_rows
from steer_env.tasks.single_turn import SingleTurn, TextTask, shares

LETTERS = "ABCDEFGHIJ"
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

    instruction = "Answer with the letter of the right option."
    stop = ("\n",)
    variants: Mapping[str, tuple[Any, ...]] = {"decode": tuple(DECODE)}

    def __init__(
        self,
        items: Items,
        template: str = "crl",
        decode: str = "constrained",
        max_new_tokens: int | None = None,
        few_shot: int = 0,
    ) -> None:
        check_choice("template", template, TEMPLATES)
        self.check_variants(decode=decode)
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
        """The question after header and examples, its letters as choices when decoding is constrained."""
        asked = self._questions[row.where]
        letters = LETTERS[: len(asked.options)] if self.decode == "constrained" else ""
        opening = self.header(row) + self._shown[self.topic(row)] + self._prompt(asked)
        choices = tuple(f" {letter}" for letter in letters)
        return SingleTurn(opening, lettered(asked), lambda completion: self._grade(row, asked, completion), choices)

    def right_reply(self, row: Row) -> str:
        """The letter of the right option."""
        return self._questions[row.where].letter

    def examples(self) -> Sequence[Row]:
        """The rows that prompts show solved: of each topic that is asked, its first."""
        return [row for rows in self._solved.values() for row in rows]

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """``accuracy`` and the share of answers that name no option."""
        found = shares([final["outcome"] for final in finals], ("correct", "unparseable"))
        return found and {"accuracy": found["correct"], "unparseable": found["unparseable"]}

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
        return Turn.end(outcome == "correct", info | self.details(row))


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


_LETTER = re.compile(r"(?<![\w'’])\(?([A-Ja-j])\)?(?![\w'’])")
_VERDICTS = (  # a letter follows each of them, and the first kind that has one counts
    re.compile(r"\banswer\b[^.\n]*?(?:\bis\b|\bbe\b|[:=])", re.IGNORECASE),
    re.compile(r"(?<![\w'’])(?=\(?[A-J]\)?\s+is\s+(?:the\s+)?(?:right|correct|best|answer)\b)"),
    re.compile(
        r"\b(?:option|choice)\b|\bI(?:\s+would|\s+will|['’]d|['’]ll)?\s+(?:choose|pick|go with)\b", re.IGNORECASE
    ),
)
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|neither|nor|than|except|instead of)|n['’]t)\s+(?:be\s+)?(?:(?:option|choice)\s+)?"
    r"(?:\(?[A-J]\)?\s+n?or\s+)*\W*$",
    re.IGNORECASE,
)
_REJECTED = re.compile(r"\W*\s(?:is|was)(?:n['’]t|\s+(?:not|wrong|incorrect|false))\b", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:option|choice|answer(?:\s+is)?)\s*[:=]?\s*(?:[A-J]\b[\s,/]*(?:(?:or|and)\s+)?)*$", re.IGNORECASE
)
_WORD = re.compile(  # "A dog", "I think"; "A is right" and "A or B" are about options
    r"(?<=[Aa])\s+(?!(?:or|and|is|was|because|since|as|but)\b)[a-z]|(?<=[Ii])\s+[a-z]"
)
_LISTED = re.compile(r"[^\w.]*(?:\b(?:or|and)\b[^\w.]*)*")  # between letters of which none is meant more than another
_CLAUSE = re.compile(r"\W*\s(?:is|was|has|would|could|seems)\b")  # after a letter with which a new thought begins
_EDGES = " .:()*\"'"
_BEFORE = 60  # characters in front of a letter that may deny it


def chosen_option(completion: str, options: Sequence[str]) -> int | None:
    """Place of the option that a free answer means, or None.

    In this order: the whole answer is a letter or an option's text; the letter that the last verdict names ("the answer
    is C", "C is right", "option C", "I choose C"); the only letter; the only option whose text occurs and is not
    denied. Letters stand alone and are neither denied ("not B but C", "B is wrong"), articles ("A dog") nor part of an
    option's text ("vitamin C"). Several at once ("A or B", "answer: A B C D") are no answer, whatever is said before.
    """
    said = completion.strip()
    whole = said.strip(_EDGES)
    if len(whole) == 1 and whole.upper() in LETTERS[: len(options)]:
        return LETTERS.index(whole.upper())
    texts = [option.strip(" .") for option in options]
    named = _places(whole, texts)
    if len(named) == 1:
        return named[0]
    mentions = _mentions(said, texts)
    letters = _letters(said, mentions, len(options))
    if letters:
        return _settled(said, letters)
    meant = {
        place for start, end in mentions if not _denied(said, start, end) for place in _places(said[start:end], texts)
    }
    return meant.pop() if len(meant) == 1 else None


def _places(said: str, texts: Sequence[str]) -> list[int]:
    """Places of the options that read so: letter for letter, and if there are none in any letter case."""
    same = [place for place, text in enumerate(texts) if text and text == said]
    return same or [place for place, text in enumerate(texts) if text and text.casefold() == said.casefold()]


def _mentions(said: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Where options stand in an answer as whole words, the longest first where one is part of another."""
    known = sorted((text for text in texts if text), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, known))})(?!\w)", re.IGNORECASE)
    return [match.span() for match in pattern.finditer(said)] if known else []


def _letters(said: str, mentions: Sequence[tuple[int, int]], count: int) -> list[re.Match[str]]:
    """The letters of options that stand alone and are meant, as `_LETTER` finds them."""
    return [
        match
        for match in _LETTER.finditer(said)
        if _is_option(said, match)
        and _index(match) < count
        and not any(end - start > 1 and start <= match.start(1) < end for start, end in mentions)
    ]


def _settled(said: str, letters: Sequence[re.Match[str]]) -> int | None:
    """Place of the one letter that a verdict names, or that is named at all; None where there are several."""
    undecided = 0  # verdicts before this are taken back
    for verdict in _VERDICTS:
        last = max((match.end() for match in verdict.finditer(said)), default=-1)
        after = [letter for letter in letters if letter.start() >= last >= undecided]
        named = _together(said, after)
        if len({_index(letter) for letter in named}) == 1:
            return _index(named[0])
        if named:
            undecided = named[-1].end()
    places = {_index(letter) for letter in letters}
    return places.pop() if len(places) == 1 else None


def _together(said: str, letters: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The first letter and those listed with it: "A or B", "A, B, C"."""
    listed = list(letters[:1])
    for letter in letters[1:]:
        if not _LISTED.fullmatch(said, listed[-1].end(), letter.start()) or _CLAUSE.match(said, letter.end()):
            break
        listed.append(letter)
    return listed


def _index(letter: re.Match[str]) -> int:
    return LETTERS.index(letter[1].upper())


def _is_option(said: str, match: re.Match[str]) -> bool:
    """Whether a letter standing alone is meant: not a word, nor denied, nor small without a sign that it is one."""
    letter, small = match[1], match[1].islower()
    named = _NAMED.search(said, max(0, match.start() - _BEFORE), match.start())
    word = _WORD.match(said, match.end()) and (small or not named)
    bare = small and match[0] == letter and not named
    return not (word or bare or _denied(said, match.start(), match.end()))


def _denied(said: str, start: int, end: int) -> bool:
    return bool(_DENIED.search(said, max(0, start - _BEFORE), start) or _REJECTED.match(said, end))
