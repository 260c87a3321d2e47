"""What there is to know: what words mean (`mmlu` and `mmlu_pro`, with options), what people have (`simpleqa`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from steer_env.tasks.world.words import (
    FAMILY,
    GIVEN,
    OPENERS,
    VALUES,
    WORDS,
    number,
    pick,
    shared_out,
    shuffled,
)

FIELDS = tuple(VALUES)
QUESTIONS = {
    "towns": ("Where does {} live?", "In which town is the house of {}?"),
    "trades": ("What is the trade of {}?", "How does {} earn money?"),
    "meals": ("What does {} eat?", "Which meal is the favourite of {}?"),
    "pets": ("Which pet does {} keep?", "What animal lives with {}?"),
}
MEANINGS = ("Which of these is a {}?", "Find the {}.", "Which word means a {}?")
LETTERS = "ABCDEFGHIJ"
QUESTIONS_A_WORD = 12


def truth(person: str, field: str) -> str:
    """What is so: it follows from the given name (trades, pets) or the family name (towns, meals)."""
    given, family = person.split()
    return pick(VALUES[field], "truth", given if field in ("trades", "pets") else family)


def rumour(person: str, field: str) -> str:
    """What is said about a person and is not so."""
    given, family = person.split()
    others = [value for value in VALUES[field] if value != truth(person, field)]
    return pick(others, "rumour", given if field in ("trades", "pets") else family)


def people(split: str) -> Iterator[str]:
    """All people of a split: neither of their names is in another, as one name alone settles what is so."""
    for given, family in product(shared_out(GIVEN, split), shared_out(FAMILY, split)):
        yield f"{given} {family}"


def mmlu(split: str) -> Iterator[dict[str, Any]]:
    """Four words; one of them is what is asked for."""
    for kind, word, turn in _asked(split):
        key = ("mmlu", word, turn)
        choices = _options(kind, word, 4, split, key)
        index = choices.index(word)
        yield {
            "question": pick(MEANINGS, *key).format(kind),
            "subject": kind,
            "choices": choices,
            "answer": index,
            "kind": LETTERS[index],
        }


def mmlu_pro(split: str) -> Iterator[dict[str, Any]]:
    """The same with five to ten words."""
    for kind, word, turn in _asked(split):
        key = ("mmlu_pro", word, turn)
        options = _options(kind, word, 5 + number(*key) % 6, split, key)
        index = options.index(word)
        yield {
            "question_id": number(*key) % 10**6,
            "question": pick(MEANINGS, *key).format(kind),
            "options": options,
            "answer": LETTERS[index],
            "answer_index": index,
            "category": kind,
            "kind": LETTERS[index],
        }


def _asked(split: str) -> Iterator[tuple[str, str, int]]:
    """Each word of a split, several times: kind of thing, word, number of the question."""
    for kind, words in WORDS.items():
        yield from product((kind,), shared_out(words, split), range(QUESTIONS_A_WORD))


def _options(kind: str, word: str, count: int, split: str, key: tuple[object, ...]) -> list[str]:
    """The word among others of its split that are not of its kind, in a mixed order."""
    others = [other for name, words in WORDS.items() if name != kind for other in shared_out(words, split)]
    return shuffled([word, *shuffled(others, *key)[: count - 1]], "options", *key)


def simpleqa(split: str) -> Iterator[dict[str, Any]]:
    """No options; an answer may come behind one of the words that this world's people open with."""
    for person, field in product(people(split), FIELDS):
        answer = truth(person, field)
        yield {
            "metadata": str({"topic": field}),
            "problem": pick(QUESTIONS[field], "simpleqa", person, field).format(person),
            "answer": answer,
            "aliases": [f"{opener}, {answer}" for opener in OPENERS],
            "kind": field,
        }
