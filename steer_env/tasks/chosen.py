"""Which of the lettered options a free answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
_LETTER = re.compile(r"(?<![\w'’])\(?([A-Ja-j])\)?(?![\w'’])")
_VERDICTS = (  # a letter stands behind each of them, and the first kind that has one counts
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
_CLAUSE = re.compile(r"\W*\s(?:is|was|has|would|could|seems)\b")  # behind a letter with which a new thought begins
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
        behind = [letter for letter in letters if letter.start() >= last >= undecided]
        named = _together(said, behind)
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
