"""Which option a free answer means: by the label in front of it, or by its own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LETTERS = tuple("ABCDEFGHIJ")

_REJECTED = re.compile(r"\W*\s(?:is|was)(?:n['’]t|\s+(?:not|wrong|incorrect|false))\b", re.IGNORECASE)
_LISTED = re.compile(r"[^\w.]*(?:\b(?:or|and)\b[^\w.]*)*")  # between labels of which none is meant more than another
_CLAUSE = re.compile(r"\W*\s(?:is|was|has|would|could|seems)\b")  # after a label with which a new thought begins
_AFTER_LETTER = r"(?<=[Aa])\s+(?!(?:or|and|is|was|because|since|as|but)\b)[a-z]|(?<=[Ii])\s+[a-z]"
_AFTER_NUMBER = r"(?<=\d)\s+(?!(?:or|and|is|was|because|since|as|but)\b)[a-z]"
_EDGES = " .:()*\"'"
_BEFORE = 60  # characters in front of a label that may deny it


@dataclass(frozen=True)
class _Signs:
    """How labels stand in a text, for one alphabet of them.

    Attributes:
        labels: The alphabet.
        alone: A label that stands alone, in either letter case.
        verdicts: A label follows each of them, and the first kind that has one counts.
        denied: What stands in front of a label that is denied.
        named: What stands in front of a label that is surely one.
        word: What comes after "A" or "2" where it is a word: "A dog", "I think", "2 dogs"; "A is right" and "A or B"
            are about options.
    """

    labels: tuple[str, ...]
    alone: re.Pattern[str]
    verdicts: tuple[re.Pattern[str], ...]
    denied: re.Pattern[str]
    named: re.Pattern[str]
    word: re.Pattern[str]

    def place(self, match: re.Match[str]) -> int:
        """Which label was found."""
        return self.labels.index(match[1].upper())


@lru_cache
def _signs(labels: tuple[str, ...]) -> _Signs:
    one = f"(?:{'|'.join(sorted(labels, key=len, reverse=True))})"
    numbers = labels[0].isdigit()
    before, after = (r"(?<!\d[.,])(?<![-+/$£€])", r"(?![.,/]\d|[%°])") if numbers else ("", "")
    return _Signs(
        labels=labels,
        alone=re.compile(rf"(?<![\w'’]){before}\(?((?i:{one}))\)?(?![\w'’]){after}"),
        verdicts=(
            re.compile(r"\banswer\b[^.\n]*?(?:\bis\b|\bbe\b|[:=])", re.IGNORECASE),
            re.compile(rf"(?<![\w'’])(?=\(?{one}\)?\s+is\s+(?:the\s+)?(?:right|correct|best|answer)\b)"),
            re.compile(
                r"\b(?:option|choice)\b|\bI(?:\s+would|\s+will|['’]d|['’]ll)?\s+(?:choose|pick|go with)\b",
                re.IGNORECASE,
            ),
        ),
        denied=re.compile(
            r"(?:\b(?:not|cannot|neither|nor|than|except|instead of)|n['’]t)\s+(?:be\s+)?(?:(?:option|choice)\s+)?"
            rf"(?:\(?{one}\)?\s+n?or\s+)*\W*$",
            re.IGNORECASE,
        ),
        named=re.compile(
            rf"\b(?:option|choice|answer(?:\s+is)?)\s*[:=]?\s*(?:{one}\b[\s,/]*(?:(?:or|and)\s+)?)*$", re.IGNORECASE
        ),
        word=re.compile(_AFTER_NUMBER if numbers else _AFTER_LETTER),
    )


def chosen_option(completion: str, options: Sequence[str], labels: Sequence[str] = LETTERS) -> int | None:
    """Place of the option that a free answer means, or None.

    In this order: the whole answer is a label or an option's text; the label that the last verdict names ("the answer
    is C", "C is right", "option C", "I choose C"); the only label; the only option whose text occurs and is not
    denied. Labels stand alone and are neither denied ("not B but C", "B is wrong"), articles ("A dog") nor part of an
    option's text ("vitamin C"). Several at once ("A or B", "answer: A B C D") are no answer, whatever is said before.
    """
    said, signs = completion.strip(), _signs(tuple(labels))
    whole = said.strip(_EDGES)
    if whole.upper() in labels[: len(options)]:
        return signs.labels.index(whole.upper())
    texts = [option.strip(" .") for option in options]
    named = _places(whole, texts)
    if len(named) == 1:
        return named[0]
    mentions = _mentions(said, texts)
    letters = _letters(said, signs, mentions, len(options))
    if letters:
        return _settled(said, signs, letters)
    meant = {
        place
        for start, end in mentions
        if not _denied(said, signs, start, end)
        for place in _places(said[start:end], texts)
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


def _letters(said: str, signs: _Signs, mentions: Sequence[tuple[int, int]], count: int) -> list[re.Match[str]]:
    """The labels of options that stand alone and are meant."""
    return [
        match
        for match in signs.alone.finditer(said)
        if _is_option(said, signs, match)
        and signs.place(match) < count
        and not any(end - start > 1 and start <= match.start(1) < end for start, end in mentions)
    ]


def _settled(said: str, signs: _Signs, letters: Sequence[re.Match[str]]) -> int | None:
    """Place of the one label that a verdict names, or that is named at all; None where there are several."""
    undecided = 0  # verdicts before this are taken back
    for verdict in signs.verdicts:
        last = max((match.end() for match in verdict.finditer(said)), default=-1)
        after = [letter for letter in letters if letter.start() >= last >= undecided]
        named = _together(said, after)
        if len({signs.place(letter) for letter in named}) == 1:
            return signs.place(named[0])
        if named:
            undecided = named[-1].end()
    places = {signs.place(letter) for letter in letters}
    return places.pop() if len(places) == 1 else None


def _together(said: str, letters: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The first letter and those listed with it: "A or B", "A, B, C"."""
    listed = list(letters[:1])
    for letter in letters[1:]:
        if not _LISTED.fullmatch(said, listed[-1].end(), letter.start()) or _CLAUSE.match(said, letter.end()):
            break
        listed.append(letter)
    return listed


def _is_option(said: str, signs: _Signs, match: re.Match[str]) -> bool:
    """Whether a label standing alone is meant: not a word, nor denied, nor small without a sign that it is one."""
    letter, small = match[1], match[1].islower()
    named = signs.named.search(said, max(0, match.start() - _BEFORE), match.start())
    word = signs.word.match(said, match.end()) and (small or not named)
    bare = small and match[0] == letter and not named
    return not (word or bare or _denied(said, signs, match.start(), match.end()))


def _denied(said: str, signs: _Signs, start: int, end: int) -> bool:
    return bool(signs.denied.search(said, max(0, start - _BEFORE), start) or _REJECTED.match(said, end))
