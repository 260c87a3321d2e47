"""Story openings to be continued: the sentence must name something of a given class, in words that exist.

Made for small models of children's stories (TinyStories, Eldan and Li 2023, arXiv 2305.07759), which cannot answer
questions; a rule grades them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from steer_env.tasks.base import Turn
from steer_env.tasks.coherence import COHERENT, coherence
from steer_env.tasks.data import Items, Row
from steer_env.tasks.single_turn import SingleTurn, TextTask
from steer_env.tasks.stories.openings import openings
from steer_env.tasks.stories.vocabulary import CLASSES, is_known, nouns

ASKED = "asked"
REACHED, MISSED, GIBBERISH = "reached", "missed", "gibberish"

_CUT_WORD = re.compile(r"[^\W\d_]+$")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


class Stories(TextTask):
    """Openings by rule; the model writes the rest of the sentence. Score and reward: 1 where that reaches the goal.

    It does where it names something of the class that the opening has not named, all its words are known
    (`steer_env.tasks.stories.vocabulary`) and they are no stutter or salad (`steer_env.tasks.coherence`). Whether it is
    good grammar or a good story is not judged. Where the reply is as long as it may be, its last word may be cut off
    and does not count. No embedded model can tell stories: give ``model`` and ``sae``.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``; no name, place or sentence is in two of them.
        goal: a class of things (`steer_env.tasks.stories.vocabulary.CLASSES`), or ``"asked"``: the class that the
            opening speaks of, which differs from item to item.
        max_new_tokens: tokens the model may write.

    Raises:
        ValueError: an argument cannot be used; the message names it.
    """

    name = "stories"
    instruction = "In this story, each thing fits what was said before it."
    stop = (".", "!", "?", "\n")
    variants = {"goal": (ASKED, *CLASSES)}
    outcomes = (REACHED, MISSED, GIBBERISH)

    def __init__(self, split: str = "train", goal: str = ASKED, max_new_tokens: int = 64) -> None:
        self.check_variants(goal=goal)
        super().__init__(Items(openings(split), "generated", split, seeded=True), max_new_tokens)
        self._goal = goal

    def ask(self, row: Row) -> SingleTurn:
        """The opening."""
        opening = row.text("opening")
        return SingleTurn(opening, opening, lambda sentence: self._grade(row, sentence))

    def right_reply(self, row: Row) -> str:
        """The first thing of the class that the opening has not named."""
        goal, said = self._wanted(row), _words(row.text("opening"))
        return f"the {next(noun for noun in CLASSES[goal] if noun not in _named(said, goal))}"

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Shares of ``reached``, ``missed`` and ``gibberish`` (they sum to 1).

        ``named`` is the share that names something of the class, gibberish or not: what a search for words alone would
        count; ``coherence`` is the mean of `steer_env.tasks.coherence.coherence`, without the list of words.
        """
        found = super().summary(finals)
        return found and found | {
            "named": fmean(bool(final["answer"]) for final in finals),
            "coherence": fmean(final["coherence"] for final in finals),
        }

    def _wanted(self, row: Row) -> str:
        return row.text("class") if self._goal == ASKED else self._goal

    def _grade(self, row: Row, sentence: str) -> Turn:
        goal = self._wanted(row)
        if len(sentence) >= self.max_new_tokens - 1:  # no token is shorter, so that a shorter sentence is whole
            sentence = _CUT_WORD.sub("", sentence)
        words, level = _words(sentence), coherence(sentence)
        named = [noun for noun in _named(words, goal) if noun not in _named(_words(row.text("opening")), goal)]
        outcome = REACHED if named else MISSED
        if level < COHERENT or not all(map(is_known, words)):
            outcome = GIBBERISH
        info = {"outcome": outcome, "answer": next(iter(named), ""), "target": goal, "coherence": level}
        return Turn.end(outcome == REACHED, info)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _named(words: Sequence[str], goal: str) -> list[str]:
    """What the words name of the class, in the singular."""
    singular = nouns(goal)
    return [singular[word] for word in words if word in singular]
