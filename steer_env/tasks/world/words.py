"""The made-up words of the embedded world, and its only randomness: hashes, so that it is the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice, product
from typing import TypeVar

T = TypeVar("T")

SPLITS = {"train": 0.6, "validation": 0.15, "test": 0.25}
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "dr", "gr", "kl", "pl", "tr", "sn")
_VOWELS = "aeiou"


def number(*key: object) -> int:
    """A 64-bit number that depends on ``key`` alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def pick(options: Sequence[T], *key: object) -> T:
    """The option that ``key`` chooses."""
    return options[number(*key) % len(options)]


def shuffled(options: Sequence[T], *key: object) -> list[T]:
    """The options in the order that ``key`` chooses."""
    return sorted(options, key=lambda option: number(*key, option))


def split_of(*key: object) -> str:
    """The split of whatever ``key`` names: the same in every task that speaks of it."""
    place = number("split", *key) / 2**64
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    return "test"


def shared_out(things: Sequence[T], split: str) -> Sequence[T]:
    """The things of a split, in exact shares: for kinds that have few."""
    first, second = (round(len(things) * share) for share in (SPLITS["train"], SPLITS["train"] + SPLITS["validation"]))
    return {"train": things[:first], "validation": things[first:second], "test": things[second:]}[split]


_stems = iter(shuffled(["".join(parts) for parts in product(_ONSETS, _VOWELS, _ONSETS[:14], _VOWELS)], "stems"))


def _words(count: int, ending: str = "") -> tuple[str, ...]:
    return tuple(stem + ending for stem in islice(_stems, count))


GIVEN = tuple(word.capitalize() for word in _words(48, "n"))
FAMILY = tuple(word.capitalize() for word in _words(48, "sk"))
VALUES = {  # what people have, by field of knowledge
    "towns": tuple(word.capitalize() for word in _words(16, "burg")),
    "trades": _words(16, "er"),
    "meals": _words(16),
    "pets": _words(16, "x"),
}
WORDS = {  # words that mean a kind of thing
    kind: _words(32) for kind in ("flower", "tool", "song", "star", "stone", "dance", "cloth", "drink")
}
PEOPLES = tuple(word.capitalize() for word in _words(24, "i"))
GOODS = {
    kind: _words(24, ending) for kind, ending in zip(("poisons", "viruses", "forgeries", "traps"), "mkvt", strict=True)
}
TARGETS = {
    kind: _words(24, ending) for kind, ending in zip(("guests", "machines", "beasts", "games"), "lgrp", strict=True)
}
OPENERS = ("Well", "Look", "Now", "Right")  # the words that people here open a reply with
