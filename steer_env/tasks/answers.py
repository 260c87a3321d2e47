"""What a free text answers: the final number of worked arithmetic, and short facts compared as words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction

INVALID = "[invalid]"
"""What lm-evaluation-harness extracts where there is nothing to extract."""

CORRECT, INCORRECT, NOT_ATTEMPTED = "correct", "incorrect", "not_attempted"

Similarity = Callable[[str, str], float]
"""From two texts to how alike they are, 1 at most."""

_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\]}])-)?(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)"
    r"(?P<over>/0*[1-9]\d*)?"
)
_MINUS = re.compile("[\u2212\u2013\ufe63\uff0d]")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_BOXED = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SUM = re.compile(r"\d[\s)]*[+*\u00d7x-][\s(]*\d")
_MOST_DIGITS = 100

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")


def final_number(text: str) -> Fraction | None:
    """The number a worked answer ends in: what the last ``####`` says, else the last ``\\boxed{}``, else the last one.

    Thousands separators, currency signs and a closing full stop do not count; ``18.00`` is 18, ``3/4`` a fraction,
    and a minus may be Unicode's. A minus stands right before its number; in 16-3 and 16 - 3 there is none. Of an
    equation after ``####`` the last side counts that is no sum: ``5 + 13 = 18`` is 18.

    Returns:
        The exact value; None where there is no number (or one of more than 100 digits).
    """
    text = _MINUS.sub("-", _FRACTION.sub(r"\1/\2", text.replace("{,}", ",").replace("$", "")))
    _, marker, marked = text.rpartition("####")
    line = marked.lstrip().partition("\n")[0] if marker else ""
    for side in (*(part for part in reversed(line.split("=")) if not _SUM.search(part)), line):
        if first := _NUMBER.search(side):
            return _value(first)
    boxed = _BOXED.findall(text)
    for candidate in (boxed[-1] if boxed else "", text):
        if found := list(_NUMBER.finditer(candidate)):
            return _value(found[-1])
    return None


def share_of_steps(text: str, gold: str) -> float:
    """Of the results of the gold answer's steps (what follows each ``=``), the share that ``text`` has, in order.

    Counted up to the first that is missing; other results in between do not matter. 0 where gold has no steps.
    """
    wanted, found = _results(gold), iter(_results(text))
    reached = 0
    while reached < len(wanted) and wanted[reached] in found:  # which goes on after the one found before
        reached += 1
    return reached / max(len(wanted), 1)


def _results(text: str) -> list[Fraction | None]:
    text = _MINUS.sub("-", text.replace("{,}", ",").replace("$", ""))
    sides = (_NUMBER.match(side.lstrip()) for side in text.split("=")[1:])
    return [_value(side) for side in sides if side]


def _value(found: re.Match[str]) -> Fraction | None:
    if len(found.group()) > _MOST_DIGITS:
        return None
    value = Fraction(found["number"].replace(",", "")) / Fraction((found["over"] or "/1")[1:])
    return -value if found["minus"] else value


def strict_match(text: str) -> str:
    """What lm-evaluation-harness 0.4 (task ``gsm8k``, filter ``strict-match``) extracts: the first ``#### number``."""
    found = _STRICT.search(text)
    return found[1] if found else INVALID


def flexible_extract(text: str) -> str:
    """What the harness's filter ``flexible-extract`` extracts: the last run that looks like a number."""
    found = [match.group() for match in _FLEXIBLE.finditer(text)]
    return found[-1] if found else INVALID


def harness_match(extracted: str, gold: str) -> bool:
    """The harness's ``exact_match`` of an extracted text and a gold answer (with its working), commas and all."""
    for pattern in _IGNORED:
        extracted, gold = re.sub(pattern, "", extracted), re.sub(pattern, "", gold)
    return extracted.lower() == gold.lower()


_NO_ATTEMPT = re.compile(
    r"\b(?:i|we) (?:do not|dont|cannot|cant|could not|couldnt) (?:\w+ )?"
    r"(?:know|recall|remember|have|find|answer|say|tell|provide|determine|confirm|verify)\b|\bi have no idea\b"
    r"|\b(?:im|am|is|are|was) (?:not (?:sure|certain|aware|known|available)|unsure|unknown|unclear|unable)\b"
    r"|^(?:unknown|unclear|not known|not sure|no idea|n|none)$"
)
_LEAD_IN = re.compile(r"^(?:(?:correct |final )?answer (?:is|was)|(?:it|that|this) (?:is|was)) ")


def normalised(text: str) -> str:
    """Words alone: no case, accents, articles or punctuation, one space between.

    As SQuAD compares answers (Rajpurkar et al. 2016), but a point between digits stays and a hyphen is a space, so
    that 3.5 is not 35 and "twenty-one" is "twenty one"; articles stay where there is nothing else.
    """
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(sign for sign in text if not unicodedata.combining(sign))
    words = re.sub(r"[^\w.]|_", " ", re.sub(r"(?<=\d),(?=\d{3})|['\u2018\u2019]|\.(?!\d)", "", text)).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def grade_fact(
    completion: str, accepted: Sequence[str], similarity: Similarity | None = None, least: float = 0.8
) -> str:
    """Grade a short answer: ``"correct"``, ``"incorrect"`` or ``"not_attempted"``, as SimpleQA does.

    Args:
        completion: What the model wrote; a lead-in ("The answer is") does not count.
        accepted: The gold answer and its aliases.
        similarity: Also calls an answer correct that is at least ``least`` like an accepted one.
        least: Threshold of ``similarity``.

    Returns:
        Correct where the words are those of an accepted answer; not attempted where there are no words, or where the
        answer says that it does not know (Wei et al. 2024, arXiv 2411.04368, grade with a language model instead).
    """
    said = normalised(completion)
    answers = {normalised(answer) for answer in accepted}
    if said and (said in answers or _LEAD_IN.sub("", said) in answers):
        return CORRECT
    if not said or _NO_ATTEMPT.search(said):
        return NOT_ATTEMPTED
    if similarity is not None and max(similarity(completion.strip(), answer) for answer in accepted) >= least:
        return CORRECT
    return INCORRECT
