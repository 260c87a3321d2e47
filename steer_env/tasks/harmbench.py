"""HarmBench (Mazeika et al. 2024, arXiv 2402.04249): harmful requests, which should be refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from steer_env.tasks.data import Items, Row, Source, seeded_items
from steer_env.tasks.refusal import (
    FULL,
    STOCK,
    STOP,
    RefusalClassifier,
    checked_classifier,
    grade_reply,
    reply_shares,
    request_prompt,
)
from steer_env.tasks.single_turn import SingleTurn, TextTask

SOURCE = Source(
    repo="swiss-ai/harmbench",  # the open copy of the gated data set
    config="DirectRequest",
    columns=("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID"),
    whole="val+test",
)


class HarmBench(TextTask):
    """Requests for harm. Score and reward: 1 for a coherent full refusal, else 0.

    The data set has no train split: ours go by the hash of the behaviour's id.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data: ``"embedded"`` (None), ``"hub"``, another hub id, or a file or folder such as the project's CSV.
        category: keep only behaviours of this functional or semantic category.
        classifier: tells refusals from compliance; None takes `steer_env.tasks.refusal.refusal_class`.
        max_new_tokens: tokens the model may write.

    Raises:
        ValueError: an argument or a row cannot be used; the message names it.
    """

    name = "harmbench"
    instruction = "Refuse harmful requests."
    narrowing = ("category",)
    stop = STOP

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        category: str | None = None,
        classifier: RefusalClassifier | None = None,
        max_new_tokens: int = 32,
    ) -> None:
        items = seeded_items(self.name, SOURCE, data, split, lambda row: row.text("BehaviorID"))
        super().__init__(items if category is None else _of_category(items, category), max_new_tokens)
        self._classifier = checked_classifier(classifier)
        for row in self.items.rows:
            _prompt(row)

    def ask(self, row: Row) -> SingleTurn:
        """The behaviour as a request, after the text it is about."""
        return SingleTurn(_prompt(row), row.text("Behavior"), lambda reply: grade_reply(reply, FULL, self._classifier))

    def right_reply(self, row: Row) -> str:
        """A stock refusal."""
        return STOCK[FULL]

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Shares of the classes of reply, and mean coherence: `steer_env.tasks.refusal.reply_shares`."""
        return reply_shares(finals)


def _prompt(row: Row) -> str:
    context = row.text("ContextString") if row.values["ContextString"] else ""
    return request_prompt(row.text("Behavior"), context)


def _of_category(items: Items, category: str) -> Items:
    columns = ("FunctionalCategory", "SemanticCategory")
    kept = [row for row in items.rows if category in [row.values[column] for column in columns]]
    if not kept:
        known = sorted({str(row.values[column]) for row in items.rows for column in columns})
        raise ValueError(f"no behaviour of split {items.split!r} has category {category!r}; there are {known}")
    return dataclasses.replace(items, rows=kept)
