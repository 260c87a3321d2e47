"""What a task is: items, what the world answers to the model's words, and how the result is scored.

A task knows text only: no tensors, no model, no environment. The episode passes utterances in and turns out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

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

    @classmethod
    def end(cls, score: float, info: Mapping[str, Any], reward: float | None = None) -> Self:
        """The turn that ends an episode, and pays its score where no other reward is given."""
        return cls(reward=float(score if reward is None else reward), score=float(score), info=info)


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


@dataclass(frozen=True)
class Board:
    """A board as a report draws it.

    Attributes:
        columns: cells of a row.
        cells: the text of each cell, row after row.
        own: places of the cells that the model has marked.
        recent: places of the cells that were marked since the model's last turn began.
        text: the same in words.
        caption: how the episode ended; ``""`` while it goes on.
    """

    columns: int
    cells: tuple[str, ...]
    own: tuple[int, ...] = ()
    recent: tuple[int, ...] = ()
    text: str = ""
    caption: str = ""


class Task(ABC):
    """A split of items. Item ``i`` of a split is always the same question or game.

    A subclass sets ``name`` and ``max_new_tokens`` and says how many items there are and how one starts; all else has
    a default. Its constructor's arguments are those of ``gym.make``; one of them must be ``split``.

    Attributes:
        name: the key in ``TASKS``.
        instruction: what one would tell the model in words in place of steering it; None where nobody would.
        instructed: whether the instruction stands in front of every prompt (`instruct` sets it, `start` obeys).
        split: the name of the split.
        max_new_tokens: tokens the model may write per turn.
        stop: strings that end the model's turn.
        state_shape: shape of `Conversation.state`; ``(0,)`` where a task has none.
        state_levels: number of values one entry of the state can take.
        turns: turns of the model an episode has at most; where it is one, the prompt is all that the model reads.
        narrowing: arguments that only choose among a split's items or word their prompts otherwise. What actions mean
            is measured without them: one measure for all choices, and a split that cannot be narrowed has one too.
        variants: arguments that choose one of a few ways to play, each with its values.
    """

    name: str
    instruction: str | None = None
    instructed: bool = False
    split: str
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    state_shape: tuple[int, ...] = (0,)
    state_levels: int = 1
    turns: int = 1
    narrowing: tuple[str, ...] = ()
    variants: Mapping[str, tuple[Any, ...]] = {}

    if TYPE_CHECKING:  # each task has arguments of its own, which a type checker cannot know from the table

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    @abstractmethod
    def __len__(self) -> int:
        """Number of items of the split."""

    @abstractmethod
    def start(self, item: int) -> Conversation:
        """Begin item ``item``, deterministically.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """

    @classmethod
    def check_variants(cls, **given: str) -> None:
        """Refuse an argument that is not among its ``variants``.

        Raises:
            ValueError: naming the argument and what it may be.
        """
        for name, value in given.items():
            check_choice(name, value, cls.variants[name])

    def reference(self, item: int) -> str | None:
        """What the model should write for item ``item``, as it would write it; None where no single reply is right.

        Raises:
            ValueError: ``item`` is outside ``[0, len(self))``.
        """
        self.start(item)  # refuses what is outside
        return None

    def pay(self, final: Mapping[str, Any]) -> float:
        """The return that an episode earns, computed again from its final info; the score, unless a task pays else.

        Args:
            final: ``item``, ``score``, ``completion`` and the last turn's ``info``.
        """
        return float(final["score"])

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The task's own numbers over the final infos of many episodes (shares, unless said otherwise)."""
        return {}

    def data_record(self) -> dict[str, Any]:
        """Where the items come from: at least ``data``, ``split``, ``items`` and, of stored data, ``sha256``."""
        return {"data": "generated", "split": self.split, "items": len(self)}

    def board(self, final: Mapping[str, Any]) -> Board | None:
        """The board that a report draws for an episode, None where there is none to draw.

        Args:
            final: ``item`` and the ``info`` of the turn after which it is drawn.
        """
        return None

    def instruct(self) -> None:
        """Put the task's instruction in front of all prompts that `start` gives from now on.

        Raises:
            ValueError: the task has none.
        """
        if self.instruction is None:
            raise ValueError(f"task {self.name!r} has no instruction to put in front of its prompts")
        self.instructed = True


def check_item(item: int, n_items: int, split: str) -> None:
    """Refuse an item that the split does not have.

    Raises:
        ValueError: ``item`` is outside ``[0, n_items)``.
    """
    if not 0 <= item < n_items:
        raise ValueError(f"item must be in [0, {n_items}) for split '{split}', got {item}")


def check_choice(name: str, choice: str, allowed: Sequence[str]) -> None:
    """Refuse an argument that is not one of ``allowed``.

    Raises:
        ValueError: naming the argument and what it may be.
    """
    if choice not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {choice!r}")


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
