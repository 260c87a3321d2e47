"""Openings of stories by rule: somebody somewhere, a sentence that speaks of a class of things, and "She saw".

Names, places and sentences are divided among the splits, each by hash: no split has one of another's. Which class is
spoken of is a single word, and openings come alike but for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from steer_env.tasks.data import SPLITS, Row, check_split
from steer_env.tasks.world.words import pick, shuffled

SHARES = (0.5, 0.2, 0.3)  # of train, validation and test, which are small enough to be played whole
ASKED = {"animal": "animals", "food": "food", "vehicle": "cars", "weather": "the weather"}
"""The classes that openings speak of, and how."""

GIRLS = (
    *("Lily", "Anna", "Mia", "Sue", "Lucy", "Emma", "Ella", "Sara", "Jane", "Kate"),
    *("Molly", "Rose", "Nina", "Zoe", "Clara", "Maya", "Ivy", "Lola", "Sally", "Amy"),
)
BOYS = (
    *("Tom", "Tim", "Ben", "Sam", "Max", "Jack", "Bob", "Leo", "Joe", "Dan"),
    *("Fred", "Mark", "Luke", "Adam", "Paul", "Nick", "Pete", "Jim", "Bill", "John"),
)
PLACES = (
    *("park", "garden", "beach", "hill", "river", "lake", "school", "town", "village", "market", "forest", "field"),
    *("yard", "playground", "bridge", "house", "library", "castle", "pond", "cave"),
)
FRAMES = ("One day, {name} was near the {place}.", "Once upon a time, {name} went to the {place}.")
SENTENCES = (
    "{He} thought about {thing}.",
    "{He} wanted a story about {thing}.",
    "{His} friend liked {thing}.",
    "{He} had a dream about {thing}.",
    "The book was about {thing}.",
    "{He} talked about {thing}.",
    "{He} loved {thing}.",
    "{His} mom told {him} about {thing}.",
    "{He} was looking for {thing}.",
    "The song was about {thing}.",
    "{He} drew {thing}.",
    "There was a sign about {thing}.",
    "{His} dad asked about {thing}.",
    "{He} had a question about {thing}.",
    "{He} knew a lot about {thing}.",
    "They all sang about {thing}.",
    "{He} wanted to learn about {thing}.",
    "{His} teacher knew about {thing}.",
    "{He} dreamed all day of {thing}.",
    "There was a picture of {thing}.",
    "{He} never forgot about {thing}.",
    "A man came to show {thing}.",
    "{His} grandma loved {thing}.",
    "{He} asked {his} brother about {thing}.",
    "{He} read a lot about {thing}.",
    "{His} sister wrote about {thing}.",
    "Everyone was happy about {thing}.",
    "{He} was very curious about {thing}.",
    "A boy shouted about {thing}.",
    "{He} had a game about {thing}.",
    "{He} liked to paint {thing}.",
    "{He} wanted to know about {thing}.",
    "{He} had a big book of {thing}.",
    "It was a day for {thing}.",
    "{His} cousin was afraid of {thing}.",
    "{He} wanted to find {thing}.",
    "{His} uncle cared about {thing}.",
    "There was a show about {thing}.",
    "{He} could not stop talking of {thing}.",
    "The children whispered about {thing}.",
)
TAILS = ("{He} saw", "{He} saw the", "{He} liked the", "There were")
_SHE = {"He": "She", "he": "she", "him": "her", "His": "Her", "his": "her"}
_HE = {word: word for word in _SHE}


def of_split(things: Sequence[str], split: str) -> list[str]:
    """The things of a split in the order of their hashes, in exact `SHARES`.

    Raises:
        ValueError: there is no such split.
    """
    check_split(split)
    place = SPLITS.index(split)
    low, high = (round(len(things) * sum(SHARES[:end])) for end in (place, place + 1))
    return shuffled(things, "stories")[low:high]


def openings(split: str) -> list[Row]:
    """Every person of a split with every sentence of it, about every class: rows with ``opening`` and ``class``.

    Raises:
        ValueError: there is no such split.
    """
    people = of_split(GIRLS, split) + of_split(BOYS, split)
    told = product(people, of_split(SENTENCES, split), ASKED)
    made = shuffled([(_opening(name, sentence, kind, split), kind) for name, sentence, kind in told], "order")
    return [
        Row({"opening": text, "class": kind}, f"stories:{split}:{number}")
        for number, (text, kind) in enumerate(made, start=1)
    ]


def _opening(name: str, sentence: str, kind: str, split: str) -> str:
    frame, tail = pick(FRAMES, "frame", name, sentence), pick(TAILS, "tail", name, sentence)
    place = pick(of_split(PLACES, split), "place", name, sentence)
    pronouns = _SHE if name in GIRLS else _HE
    return f"{frame} {sentence} {tail}".format(name=name, place=place, thing=ASKED[kind], **pronouns)
