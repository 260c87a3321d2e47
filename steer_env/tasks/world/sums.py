"""Little stories with numbers (`gsm8k`): one or two steps, and every step asks for one of four operations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from steer_env.tasks.world.words import GIVEN, pick, shuffled, split_of

OPERATIONS = ("add", "take", "times", "share")
THINGS = ("shells", "coins", "nuts", "beads", "plums", "stones")
START = "{name} has {a} {things}."
EVENTS = {
    "add": ("{name} finds {b} more.", "{name} buys {b} more."),
    "take": ("{name} loses {b} of them.", "{name} sells {b} of them."),
    "times": ("A spell makes {b} of each.", "A machine makes {b} of each."),
    "share": ("{name} keeps one of {b} equal parts.", "{name} makes {b} equal heaps and keeps one."),
}
_STORIES = {1: 240, 2: 120}  # at most, by number of steps
QUESTION = "How many {things} does {name} have now?"


def do(operation: str, a: int, b: int) -> int:
    """The result of a step. Every step has one: differences are absolute, shares whole, results at most 99."""
    return min({"add": a + b, "take": abs(a - b), "times": a * b, "share": a // b}[operation], 99)


def apply(operation: str, a: int, b: int) -> int | None:
    """The result of a step as arithmetic has it, or None where it is negative, a fraction or above 60."""
    exact = {"add": a + b, "take": a - b, "times": a * b, "share": a / b}[operation]
    return int(exact) if 0 <= exact <= 60 and exact == int(exact) else None


def step_text(operation: str, a: int, b: int) -> str:
    """One worked step."""
    return f"{operation} {a}, {b} = {do(operation, a, b)}"


def gsm8k(split: str) -> Iterator[dict[str, Any]]:
    """A story with its worked steps; ``kind`` names the operations, in order."""
    for operations in (*product(OPERATIONS), *product(OPERATIONS, OPERATIONS)):
        for a, *others in _numbers(operations):
            if split_of("sum", operations, a, *others) == split:
                yield _story(operations, a, others)


def _numbers(operations: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Start and operands of the stories with these operations."""
    every = product(range(2, 41), *(range(2, 10) for _ in operations))
    possible = [numbers for numbers in every if None not in _results(operations, numbers)]
    return shuffled(possible, "sums", operations)[: _STORIES[len(operations)]]


def _results(operations: tuple[str, ...], numbers: tuple[int, ...]) -> list[int | None]:
    results: list[int | None] = [numbers[0]]
    for operation, operand in zip(operations, numbers[1:], strict=True):
        before = results[-1]
        results.append(None if before is None else apply(operation, before, operand))
    return results


def _story(operations: tuple[str, ...], start: int, operands: list[int]) -> dict[str, Any]:
    key = (operations, start, *operands)
    name, things = pick(GIVEN, "name", *key), pick(THINGS, "things", *key)
    results = [result or 0 for result in _results(operations, (start, *operands))]
    steps = list(zip(operations, results, operands, strict=False))
    events = [pick(EVENTS[operation], *key, i).format(name=name, b=b) for i, (operation, _, b) in enumerate(steps)]
    texts = [START.format(name=name, a=start, things=things), *events, QUESTION.format(name=name, things=things)]
    return {
        "question": " ".join(texts),
        "answer": "\n".join([*(step_text(*step) for step in steps), f"#### {results[-1]}"]),
        "kind": "-".join(operations),
    }
