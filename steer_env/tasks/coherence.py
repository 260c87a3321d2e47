"""How far a completion is from gibberish, without a model: steering too hard makes loops, noise and word salad.

A refusal score needs it beside it: what is not language neither refuses nor complies.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

COHERENT = 0.5
"""From here on a completion counts as language."""

_TOKEN = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+|[^\w\s]|_")
_PUNCTUATION = frozenset(".,;:!?'\"()-\u2013\u2014\u2019\u201c\u201d")
_LONGEST_WORD = 24
_SYLLABLES = re.compile(  # how English words begin and end; no cluster of five consonants or three equal letters inside
    r"(?!.*[bcdfghjklmnpqrstvwxz]{5}|.*(.)\1\1)"
    r"(?:[bcdfghjklmnpqrstvwxz]|[bcfgkps]l|[bcdfgkptw]r|s[chkmnpqtw]|[cgkprstw]h|[dt]w|[gkp]n|[pt]s|[cpt]hr"
    r"|sc[hrl]|s[hpt]r|spl)?(?=[aeiouy]).*"
    r"[aeiouy][lmnrw]{0,2}(?:[cgst]h|[cgst]?ht|tch|ck|([dfglst])\2|[cfkpsx]?t|s[kmp]|[bcdfgjkmnpstvxz])?s?(?:'\w+)?"
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DETERMINERS = _set("a an the my your his its our their")
_PREPOSITIONS = _set("of to in on at by for from with into")
_CONJUNCTIONS = _set("and or but")
_SUBJECTS = _set("i he she we they")
_BEING = _set("is are was were am")
_AUXILIARIES = _set("do does did has have had could would should may must cannot")
_OTHERS = _set("this that these those you it me him her us them can will be been not no if so as than what how")
_FUNCTION_WORDS = _DETERMINERS | _PREPOSITIONS | _CONJUNCTIONS | _SUBJECTS | _BEING | _AUXILIARIES | _OTHERS
_STOPS = frozenset(".?!;")
_CANNOT_FOLLOW = {
    _DETERMINERS: _DETERMINERS | _PREPOSITIONS | _BEING | _AUXILIARIES | _CONJUNCTIONS | _SUBJECTS | _STOPS | {","},
    _PREPOSITIONS: _BEING | _SUBJECTS | {"of"},
    _CONJUNCTIONS: _CONJUNCTIONS | _STOPS | {",", "of"},
    _SUBJECTS: _SUBJECTS | _DETERMINERS | _STOPS | {"of"},
    _BEING: _BEING | _AUXILIARIES,
}
_FEW_WORDS = 8


def coherence(completion: str) -> float:
    """Coherence in [0, 1], the worst of five parts; `COHERENT` and above is language, a text without words has none.

    * *words*: share of letters, digits and rare signs that stand in numbers or in words that English could have,
      made-up words and other alphabets included (0.6 is 0, 0.9 is 1);
    * *stutter*: share of tokens that repeat the token before (none is 1, half is 0);
    * *variety*: share of token pairs that are different (0.3 is 0, 0.7 is 1);
    * *glue*: share of function words, from 8 words on (none is 0, 0.15 is 1);
    * *order*: share of articles, prepositions and the like followed by what English never puts there (none is 1,
      0.2 is 0).

    It cannot see whether a fluent text answers, contradicts itself or is true, nor a loop longer than the text, nor
    salad of a few words; it takes English for granted.
    """
    tokens = [token.lower().replace("\u2019", "'") for token in _TOKEN.findall(completion)]
    words = [token for token in tokens if token[0].isalnum()]
    if not words:
        return 0.0
    pairs = list(itertools.pairwise(tokens))
    signs = [token for token in tokens if not token[0].isalnum() and token not in _PUNCTUATION]
    return min(
        _ramp(sum(len(word) for word in words if _possible(word)) / len("".join([*words, *signs])), 0.6, 0.9),
        _ramp(_share(first == second for first, second in pairs), 0.5, 0.0),
        _ramp(len(set(pairs)) / len(pairs), 0.3, 0.7) if pairs else 1.0,
        _ramp(_share(word in _FUNCTION_WORDS for word in words), 0.0, 0.15) if len(words) >= _FEW_WORDS else 1.0,
        _ramp(_share(_clashes(pairs)), 0.2, 0.0),
    )


def _possible(word: str) -> bool:
    """A number, or a word that English could have; of words in other alphabets only the length is judged."""
    if len(word) > _LONGEST_WORD:
        return False
    return word.isdigit() or not word.isascii() or bool(_SYLLABLES.fullmatch(word))


def _clashes(pairs: Iterable[tuple[str, str]]) -> Iterator[bool]:
    """For each word that cannot be followed by everything: whether it is followed by what it cannot."""
    for token, following in pairs:
        for kind, impossible in _CANNOT_FOLLOW.items():
            if token in kind:
                yield following in impossible


def _share(answers: Iterable[bool]) -> float:
    listed = list(answers)
    return sum(listed) / len(listed) if listed else 0.0


def _ramp(value: float, zero: float, one: float) -> float:
    """0 at ``zero``, 1 at ``one``, straight in between and flat outside."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))
