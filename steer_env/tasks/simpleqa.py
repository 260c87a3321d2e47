"""SimpleQA (Wei et al. 2024, arXiv 2411.04368): short questions about facts, each with one right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_env.tasks.answers import CORRECT, INCORRECT, NOT_ATTEMPTED, Similarity, grade_fact
from steer_env.tasks.base import Turn, is_number
from steer_env.tasks.data import Row, Source, seeded_items
from steer_env.tasks.single_turn import SingleTurn, TextTask

SOURCE = Source(
    repo="basicv8vc/SimpleQA",
    revision="e319282ab125c3dbd0c7fd00be2e4dd54e7e8f94",
    columns=("problem", "answer"),
)


class SimpleQA(TextTask):
    """Facts. Score and reward: 1 for a correct answer, else 0; ``info["outcome"]`` tells wrong from not attempted.

    A row may have a column ``aliases``, a list of other right answers. The data set has no train split: ours go by
    the hash of the question.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data: ``"embedded"`` (None), ``"hub"``, another hub id, or a file or folder.
        similarity: how alike an answer and the gold answer are; None grades by words alone.
        similarity_threshold: from where on alike is right.
        max_new_tokens: tokens the model may write.

    Raises:
        ValueError: an argument or a row cannot be used; the message names it.
    """

    name = "simpleqa"
    instruction = "Answer with the true fact alone, in a few words."
    stop = ("\n",)
    outcomes = (CORRECT, INCORRECT, NOT_ATTEMPTED)

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        similarity: Similarity | None = None,
        similarity_threshold: float = 0.8,
        max_new_tokens: int = 16,
    ) -> None:
        if similarity is not None and not callable(similarity):
            raise ValueError(f"similarity must be a function here (gym.make loads one by its name), got {similarity!r}")
        if not is_number(similarity_threshold) or not 0.0 < similarity_threshold <= 1.0:
            raise ValueError(f"similarity_threshold must be in (0, 1], got {similarity_threshold!r}")
        super().__init__(seeded_items(self.name, SOURCE, data, split, lambda row: row.text("problem")), max_new_tokens)
        self._similarity, self._threshold = similarity, similarity_threshold
        for row in self.items.rows:
            accepted_answers(row)

    def ask(self, row: Row) -> SingleTurn:
        """The question, and where its answer belongs."""
        problem = row.text("problem")
        return SingleTurn(f"Question: {problem}\nAnswer:", problem, lambda completion: self._grade(row, completion))

    def right_reply(self, row: Row) -> str:
        """The gold answer alone."""
        return row.text("answer")

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Shares of the three outcomes, ``correct_given_attempted``, and ``f_score``, the harmonic mean of it and
        ``correct`` (the published single number)."""
        found = super().summary(finals)
        if not found:
            return {}
        correct, attempted = found[CORRECT], found[CORRECT] + found[INCORRECT]
        return found | {
            "correct_given_attempted": correct / attempted if attempted else 0.0,
            "f_score": 2 * correct / (1 + attempted),
        }

    def _grade(self, row: Row, completion: str) -> Turn:
        outcome = grade_fact(completion, accepted_answers(row), self._similarity, self._threshold)
        info = {"outcome": outcome, "answer": completion.strip(), "target": row.text("answer")}
        return Turn.end(outcome == CORRECT, info)


def accepted_answers(row: Row) -> list[str]:
    """The gold answer and the aliases.

    Raises:
        ValueError: the column ``aliases`` is no list of texts; file and line are named.
    """
    aliases = row.values.get("aliases") or []
    if not isinstance(aliases, (list, tuple)) or not all(isinstance(alias, str) for alias in aliases):
        raise ValueError(f"{row.where}: aliases must be a list of texts, got {aliases!r}")
    return [row.text("answer"), *aliases]
