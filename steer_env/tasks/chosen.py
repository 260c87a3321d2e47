"""Which of the lettered options a free answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
_LETTER = re.compile(r"(?<![\w'’])\(?([A-Ja-j])\)?(?![\w'’])")
_VERDICTS = (
    re.compile(r"\banswer\b[^.\n]*?(?:\bis\b|\bbe\b|[:=])", re.IGNORECASE),
    re.compile(r"\b(?:option|choice)\b", re.IGNORECASE),
)
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|neither|nor|than|except|instead of)|n['’]t)\s+(?:be\s+)?(?:(?:option|choice)\s+)?"
    r"(?:\(?[A-J]\)?\s+n?or\s+)*\W*$",
    re.IGNORECASE,
)
_REJECTED = re.compile(r"\W*\s(?:is|was)(?:n['’]t|\s+(?:not|wrong|incorrect|false))\b", re.IGNORECASE)
_NAMED = re.compile(r"\b(?:option|choice|answer(?:\s+is)?)\s*[:=]?\s*$", re.IGNORECASE)
_WORD = re.compile(  # "A dog", "I think"; "A is right" and "A or B" are about options
    r"(?<=[Aa])\s+(?!(?:or|and|is|was|because|since|as|but)\b)[a-z]|(?<=[Ii])\s+[a-z]"
)
_EDGES = " .:()*\"'"
_BEFORE = 60  # characters in front of a letter that may deny it


def chosen_option(completion: str, options: Sequence[str]) -> int | None:
    """Place of the option that a free answer means, or None.

    In this order: the whole answer is a letter or an option's text; the first letter standing alone, behind "answer
    is", "option" or "choice" if there is one, unless it is denied ("not B but C", "B is wrong"), an article ("A dog")
    or part of an option's text ("vitamin C"); the only option whose text occurs and is not denied.
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
        return letters[0]
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


def _letters(said: str, mentions: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Places of the letters that stand alone and are meant, behind a verdict if any are."""
    found = [
        (match.start(), LETTERS.index(match[1].upper()))
        for match in _LETTER.finditer(said)
        if _is_option(said, match)
        and not any(end - start > 1 and start <= match.start(1) < end for start, end in mentions)
    ]
    verdicts = [match.end() for verdict in _VERDICTS for match in list(verdict.finditer(said))[-1:]]
    for verdict in (*verdicts, 0):
        behind = [place for start, place in found if start >= verdict and place < count]
        if behind:
            return behind
    return []


def _is_option(said: str, match: re.Match[str]) -> bool:
    """Whether a letter standing alone is meant: not a word, nor denied, nor small without a sign that it is one."""
    letter, small = match[1], match[1].islower()
    named = _NAMED.search(said, max(0, match.start() - _BEFORE), match.start())
    word = _WORD.match(said, match.end()) and (small or not named)
    bare = small and match[0] == letter and not named
    return not (word or bare or _denied(said, match.start(), match.end()))


def _denied(said: str, start: int, end: int) -> bool:
    return bool(_DENIED.search(said, max(0, start - _BEFORE), start) or _REJECTED.match(said, end))
