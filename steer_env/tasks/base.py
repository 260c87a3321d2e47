"""What a task is: items, what the world answers to the model's words, and how the result is scored.

A task knows text only: no tensors, no model, no environment. The episode passes utterances in and turns out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Turn:
    """What the world answers to one utterance of the model.

    Attributes:
        text: appended to the context, never steered; ``""`` when the episode is over.
        reward: what is optimised; every terminal reward is in the turn that ends the episode.
        score: what is reported; a number ends the episode, ``None`` goes on.
        info: for the record, for example ``{"outcome": "draw"}``.
        replace: text that stands in the context in place of the utterance (a fallback took over the
            model's turn); ``None`` keeps the model's own tokens.
    """

    text: str = ""
    reward: float = 0.0
    score: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    replace: str | None = None


class Conversation(Protocol):
    """One episode of a task, made by `Task.start`."""

    @property
    def opening(self) -> str:
        """The prompt; ``""`` means the beginning-of-sequence token alone."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Continuations, one of which the model's turn must be (constrained decoding); ``()`` leaves it free."""

    def respond(self, utterance: str) -> Turn:
        """Take what the model said and answer it.

        Raises:
            RuntimeError: the episode is already over.
        """

    def render(self) -> str:
        """The episode as a person would read it (a board, a transcript)."""

    def state(self) -> np.ndarray:
        """Integers of shape `Task.state_shape`, each in ``[0, Task.state_levels)``."""


class Task(Protocol):
    """A split of items. Item ``i`` of a split is always the same question or game.

    Attributes:
        name: the key in ``TASKS``.
        max_new_tokens: tokens the model may write per turn.
        stop: strings that end the model's turn.
        state_shape: shape of `Conversation.state`; ``(0,)`` where a task has none.
        state_levels: number of values one entry of the state can take.
        turns: turns of the model an episode has at most; where it is one, the prompt is all that the model reads.
        narrowing: arguments that only choose among a split's items or lengthen their prompts. What actions mean is
            measured without them: one measure for all choices, and a split that cannot be narrowed has one too.
    """

    name: str
    max_new_tokens: int
    stop: tuple[str, ...]
    state_shape: tuple[int, ...]
    state_levels: int
    turns: int
    narrowing: tuple[str, ...]

    def __len__(self) -> int:
        """Number of items of the split."""

    def start(self, item: int) -> Conversation:
        """Begin item ``item``, deterministically.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """

    def reference(self, item: int) -> str | None:
        """What the model should write for item ``item``, as it would write it; None where no single reply is right.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The task's own numbers over the final infos of many episodes (shares, unless said otherwise)."""

    def data_record(self) -> dict[str, Any]:
        """Where the items come from: ``data``, ``split``, ``items`` and ``sha256`` of the split."""


def check_item(item: int, n_items: int, split: str) -> None:
    """Refuse an item that the split does not have.

    Raises:
        ValueError: ``item`` is outside ``[0, n_items)``.
    """
    if not 0 <= item < n_items:
        raise ValueError(f"item must be in [0, {n_items}) for split '{split}', got {item}")


def check_count(name: str, count: Any, least: int) -> None:
    """Refuse an argument that does not count something.

    Raises:
        ValueError: ``count`` is not an integer of at least ``least``; True is none.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {count!r}")


def is_number(value: Any) -> bool:
    """Whether an argument is a real number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
