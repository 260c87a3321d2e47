"""Reasoning Gym (Stojanovski et al. 2025, arXiv 2505.24760): more than a hundred generators of tasks with checkers."""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from types import ModuleType
from typing import Any

from steer_env.tasks.base import Turn, check_count
from steer_env.tasks.data import Items, Row, seeded_split
from steer_env.tasks.single_turn import SingleTurn, TextTask, stop_strings

SYSTEMS = ("default", "simple", "direct", "chain_of_draft", "DeepSeekZero")
"""The library's system prompts, by which an answer stands between ``<answer>`` and ``</answer>``."""


class ReasoningGym(TextTask):
    """Items of one generator. Score and reward are its own scorer's, which may give a part for a part.

    The generator makes ``size`` items from one seed, and their questions are divided by hash: two seeds often make the
    same question, which must not be learned from and tested with. Needs the extra ``reasoning-gym``. No embedded model
    knows these tasks: give ``model`` and ``sae``, or a preset. Four generators (``isomorphic_strings``,
    ``polynomial_multiplication``, ``ransom_note``, ``word_ladder``) draw from sets: another process makes the same
    items only with the same ``PYTHONHASHSEED``.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``: 40, 10 and 50 % of the questions.
        dataset: Name of the generator, such as ``"chain_sum"``.
        config: The generator's settings, such as ``{"min_terms": 2, "max_terms": 3}``.
        size: Items that are generated; questions that come twice count once.
        seed: Seed of the generator.
        system: One of the library's system prompts (``SYSTEMS``) in front of the question, and its extraction of the
            answer between tags; or ``"none"``, the question alone, and the whole reply is the answer.
        stop: What ends a reply, a text or several; None is nothing but the end token, and without a system prompt the
            end of the line.
        max_new_tokens: Tokens the model may write; None is 512, and 32 without a system prompt.

    Raises:
        ImportError: The library is missing.
        ValueError: An argument cannot be used; the message names it.
    """

    name = "reasoning_gym"
    outcomes = ("correct", "partial", "incorrect", "unparseable")
    variants = {"system": (*SYSTEMS, "none")}

    def __init__(
        self,
        split: str = "train",
        dataset: str = "leg_counting",
        config: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
        size: int = 1000,
        seed: int = 0,
        system: str = "default",
        stop: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.check_variants(system=system)
        check_count("size", size, 1)
        check_count("seed", seed, 0)
        self._library = _library()
        self._made = _generator(self._library, dataset, dict(config), seed, size)
        self._dataset, self._tagged = dataset, system != "none"
        self._head = f"{self._library.utils.SYSTEM_PROMPTS[system].strip()}\n\n" if self._tagged else ""
        self.stop = stop_strings(stop, () if self._tagged else ("\n",))
        self._entries: dict[str, Mapping[str, Any]] = {}
        rows = seeded_split(self._rows(), split, lambda row: row.text("question"))
        tokens = (512 if self._tagged else 32) if max_new_tokens is None else max_new_tokens
        super().__init__(Items(rows, f"reasoning-gym:{dataset}", split, seeded=True), tokens)

    def ask(self, row: Row) -> SingleTurn:
        """The question after the system prompt."""
        question = row.text("question")
        return SingleTurn(self._head + question, question, lambda said: self._grade(row, said))

    def right_reply(self, row: Row) -> str:
        """The generator's answer, between the tags where they are asked for."""
        answer = row.values["answer"]
        return f"<answer>{answer}</answer>" if self._tagged else str(answer)

    def reference(self, item: int) -> str | None:  # type: ignore[override]  # many puzzles have many answers
        """The generator's answer, or None where it gives none that its scorer takes."""
        right = super().reference(item)
        return right if self._grade(self._row(item), right).score == 1.0 else None

    def data_record(self) -> dict[str, Any]:
        """As every text task's, with the generator, its settings and the library's version."""
        made = {name: value for name, value in vars(self._made.config).items() if name not in ("seed", "size")}
        source = {"dataset": self._dataset, "config": made, "library": self._library.__version__}
        return super().data_record() | json.loads(json.dumps(source, default=str))

    def _rows(self) -> list[Row]:
        """Each question once, in the generator's order."""
        rows: dict[str, Row] = {}
        for index in range(len(self._made)):
            with _drawing(f"{self._made.seed}:{index}"):
                entry = self._made[index]
            where = f"reasoning-gym:{self._dataset}:{index}"
            if entry["question"] not in rows:
                rows[entry["question"]] = Row({name: entry[name] for name in ("question", "answer")}, where)
                self._entries[where] = entry
        return list(rows.values())

    def _grade(self, row: Row, said: str) -> Turn:
        answer = self._library.utils.extract_answer(said) if self._tagged else said.strip()
        score = float(self._made.score_answer(answer or None, self._entries[row.where]))
        outcome = "correct" if score >= 1 else "partial" if score > 0 else "incorrect" if answer else "unparseable"
        return Turn.end(score, {"outcome": outcome, "answer": answer or "", "target": str(row.values["answer"])})


@contextmanager
def _drawing(seed: str) -> Iterator[None]:
    """Python's generator seeded, and as it was afterwards: some generators draw from it, whatever their own seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _library() -> ModuleType:
    try:
        import reasoning_gym  # with all its generators seconds to import, and an extra
    except ImportError as error:
        raise ImportError(
            f"Steer-ReasoningGym-v0 needs another package: pip install 'steer-env[reasoning-gym]' ({error})"
        ) from error
    return reasoning_gym


def _generator(library: ModuleType, dataset: str, config: dict[str, Any], seed: int, size: int) -> Any:
    known = library.factory.DATASETS
    if dataset not in known:
        near = difflib.get_close_matches(str(dataset), known, n=1)
        raise ValueError(f"dataset must be one of Reasoning Gym's{f' ({near[0]!r}?)' if near else ''}, got {dataset!r}")
    settings = {field.name for field in fields(known[dataset][1])} - {"seed", "size"}
    if unknown := sorted(set(config) - settings):
        raise ValueError(f"config of {dataset!r} has no {unknown[0]!r}; it has {sorted(settings)}")
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    try:
        return library.create_dataset(dataset, seed=seed, size=size, **listed)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"config of {dataset!r} cannot be used: {str(error) or type(error).__name__}") from error
