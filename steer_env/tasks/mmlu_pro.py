"""MMLU-Pro (Wang et al. 2024, arXiv 2406.01574): harder questions of 14 categories with up to ten options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from steer_env.tasks.chosen_option import LETTERS
from steer_env.tasks.data import Row, Source, seeded_items
from steer_env.tasks.multiple_choice import MultipleChoice, Question, example_rows

SOURCE = Source(
    repo="TIGER-Lab/MMLU-Pro",
    revision="527feea0afed1de15a8c115abf7be4c912123315",
    columns=("question", "options", "answer_index", "category"),
    splits={"dev": "validation"},
)


class MMLUPro(MultipleChoice):
    """Questions with three to ten options; the data set has no train split, ours go by the hash of the question.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data: ``"embedded"`` (None), ``"hub"``, another hub id, or a file or folder.
        decode: ``"constrained"``, ``"free"`` or ``"words"``.
        few_shot: solved examples of the same category in front, from the data set's validation split.
        max_new_tokens: tokens the model may write when it is free; None is 32.
        letters: alphabet in front of the options: ``"ABC"``, ``"123"``, ``"PQR"``, ``"KLM"``, or ``"mixed"`` by item.
        shuffle_options: seed by which each item's options are reordered; None leaves them.

    Raises:
        ValueError: an argument or a row cannot be used; the message names it.
    """

    name = "mmlu_pro"
    narrowing = (*MultipleChoice.narrowing, "few_shot")

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        decode: str = "constrained",
        few_shot: int = 0,
        max_new_tokens: int | None = None,
        letters: str = "ABC",
        shuffle_options: int | None = None,
    ) -> None:
        items = seeded_items(self.name, SOURCE, data, split, lambda row: row.text("question"))
        items = replace(items, examples=example_rows(few_shot, items.data, SOURCE, self.name))
        super().__init__(items, "crl", decode, max_new_tokens, few_shot, letters, shuffle_options)

    def question(self, row: Row) -> Question:
        """The columns ``question``, ``options`` and ``answer_index``; a letter in ``answer`` must say the same."""
        options, answer = row.values["options"], row.values["answer_index"]
        if not isinstance(options, (list, tuple)) or not all(isinstance(option, str) for option in options):
            raise ValueError(f"{row.where}: options must be a list of texts, got {options!r}")
        if not isinstance(answer, int) or isinstance(answer, bool):
            raise ValueError(f"{row.where}: answer_index must be an integer, got {answer!r}")
        asked = Question(row.text("question"), tuple(options), answer, row.where)
        letter = row.values.get("answer", asked.letter)
        if str(letter).upper() in LETTERS and str(letter).upper() != asked.letter:
            raise ValueError(f"{row.where}: answer {letter!r} contradicts answer_index {answer} ({asked.letter!r})")
        return asked

    def topic(self, row: Row) -> str:
        """The category."""
        return row.text("category")

    def details(self, row: Row) -> dict[str, Any]:
        """The ``category``."""
        return {"category": row.text("category")}
