"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school sums in words, graded by their final number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_env.tasks.answers import (
    INVALID,
    final_number,
    flexible_extract,
    harness_match,
    share_of_steps,
    strict_match,
)
from steer_env.tasks.base import Turn, check_count
from steer_env.tasks.data import Items, Row, Source, check_split, load_rows, seeded_split
from steer_env.tasks.single_turn import SingleTurn, TextTask

SOURCE = Source(
    repo="openai/gsm8k",
    config="main",
    revision="740312add88f781978c0658806c59bc2815b9866",
    columns=("question", "answer"),
    splits={"train": "train", "test": "test"},
)
_INSTRUCTION = "Give the final number after ####."
TEMPLATES = {"crl": f"{{}}\n{_INSTRUCTION}\nAnswer:", "harness": "Question: {}\nAnswer:"}
# Where the model goes on to ask itself the next question; a blank line may stand between steps.
_STOPS = {"crl": ("Question:", _INSTRUCTION), "harness": ("Question:", "</s>", "<|im_end|>")}
_PUBLISHED_TOKENS, _WORLD_TOKENS = 512, 32
_TRAIN_SHARES = (0.9, 0.1, 0.0)


class GSM8K(TextTask):
    """Sums in words. Score: 1 where the final number is the gold one, else 0.

    The data set has train and test; a tenth of train, by hash of the question, is validation.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data: ``"embedded"`` (None), ``"hub"``, another hub id, or a file or folder.
        template: ``"crl"`` or ``"harness"`` (lm-evaluation-harness).
        scoring: ``"last"`` (`steer_env.tasks.answers.final_number`), or the harness's ``"strict"`` or ``"flexible"``.
        reward: ``"answer"`` is the score; ``"steps"`` the mean of it and of the share of the gold answer's steps whose
            results the reply has (`steer_env.tasks.answers.share_of_steps`), where right answers are too rare to
            learn from.
        few_shot: solved examples in front, the first ones of train; they are not asked.
        max_new_tokens: tokens the model may write; None is the published 512, and 32 in the embedded world.

    Raises:
        ValueError: an argument or a row cannot be used; the message names it.
    """

    name = "gsm8k"
    # After "zero-shot chain of thought" (Kojima et al. 2022, arXiv 2205.11916).
    instruction = "Let's think step by step and check each step."
    narrowing = ("few_shot",)
    variants = {
        "template": tuple(TEMPLATES),
        "scoring": ("last", "strict", "flexible"),
        "reward": ("answer", "steps"),
    }
    outcomes = ("correct", "incorrect", "unparseable")

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        template: str = "crl",
        scoring: str = "last",
        reward: str = "answer",
        few_shot: int = 0,
        max_new_tokens: int | None = None,
    ) -> None:
        self.check_variants(template=template, scoring=scoring, reward=reward)
        items = _items("embedded" if data is None else data, split, few_shot)
        if max_new_tokens is None:
            max_new_tokens = _WORLD_TOKENS if items.data == "embedded" else _PUBLISHED_TOKENS
        super().__init__(items, max_new_tokens)
        self.stop, self._template, self._scoring = _STOPS[template], TEMPLATES[template], scoring
        self._for_steps = reward == "steps"
        for row in self.items.rows:
            row.text("question")
            if final_number(row.text("answer")) is None:
                raise ValueError(f"{row.where}: answer has no number, got {row.text('answer')[-40:]!r}")
        self._shown = "".join(f"{self._prompt(row)} {row.text('answer')}\n\n" for row in self.items.examples)

    def ask(self, row: Row) -> SingleTurn:
        """The question after the solved examples."""
        question = row.text("question")
        return SingleTurn(self._shown + self._prompt(row), question, lambda completion: self._grade(row, completion))

    def right_reply(self, row: Row) -> str:
        """The worked answer, as solved examples show it."""
        return row.text("answer")

    def pay(self, final: Mapping[str, Any]) -> float:
        """The reward as it was paid: the share of steps is computed again from the reply, which the record has."""
        return self._reward(self._row(final["item"]), final["completion"], final["score"])

    def _prompt(self, row: Row) -> str:
        return self._template.format(row.text("question"))

    def _grade(self, row: Row, completion: str) -> Turn:
        gold = row.text("answer")
        if self._scoring == "last":
            number = final_number(completion)
            answer, right = "" if number is None else str(number), number == final_number(gold)
        else:
            found = strict_match(completion) if self._scoring == "strict" else flexible_extract(completion)
            answer, right = "" if found == INVALID else found, harness_match(found, gold)
        outcome = "correct" if right else "incorrect" if answer else "unparseable"
        info = {"outcome": outcome, "answer": answer, "target": str(final_number(gold))}
        return Turn.end(right, info, self._reward(row, completion, right))

    def _reward(self, row: Row, completion: str, score: float) -> float:
        if not self._for_steps:
            return float(score)
        return (score + share_of_steps(completion, row.text("answer"))) / 2


def _items(data: str, split: str, few_shot: int) -> Items:
    """The split's rows without the examples, which are the first rows of train."""
    check_split(split)
    check_count("few_shot", few_shot, 0)
    train = _rows(data, "train") if few_shot or split == "train" else []
    if few_shot and few_shot >= len(train):
        raise ValueError(f"few_shot must be below the {len(train)} items of train, got {few_shot}")
    rows = train[few_shot:] if split == "train" else _rows(data, split)
    return Items(rows, data, split, seeded=data != "embedded" and split != "test", examples=train[:few_shot])


def _rows(data: str, split: str) -> list[Row]:
    if data == "embedded" or split == "test":
        return load_rows(data, split, SOURCE, GSM8K.name)
    rows = load_rows(data, "train", SOURCE, GSM8K.name)
    return seeded_split(rows, split, lambda row: row.text("question"), shares=_TRAIN_SHARES)
