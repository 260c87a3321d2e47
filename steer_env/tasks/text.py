"""Your own prompts and answers as a task, without code: rows in a file, and one of five ways to grade a reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from steer_env.tasks.answers import final_number
from steer_env.tasks.base import Turn, is_number
from steer_env.tasks.data import Items, Row, Source, check_split, load_rows, seeded_split
from steer_env.tasks.gsm8k import GSM8K
from steer_env.tasks.mmlu import MMLU
from steer_env.tasks.simpleqa import SimpleQA
from steer_env.tasks.single_turn import SingleTurn, TextTask, stop_strings

SOURCE = Source(
    repo="",  # everybody has another
    columns=("prompt", "answer"),
    splits={"train": "train", "validation": "validation", "test": "test"},
    whole="all",
)
_TOKENS = 32


class Scorer(NamedTuple):
    """A row of SCORERS.

    Attributes:
        right: Whether a reply is right for an answer; neither has blanks around it.
        world: The task whose embedded items stand in where no data is given.
        refuse: What an answer lacks that cannot be graded, if anything.
        written: What of an answer has to be written.
    """

    right: Callable[[str, str], bool]
    world: Callable[..., TextTask]
    refuse: Callable[[str], str] = lambda answer: "" if answer else "must have words"
    written: Callable[[str], str] = str


def _no_pattern(answer: str) -> str:
    try:
        return "must not match an empty reply" if re.search(answer, "") else ""
    except re.error as error:
        return f"must be a regular expression ({error})"


def _no_number(answer: str) -> str:
    return "must have a number" if final_number(answer) is None else ""


def _contains(said: str, answer: str) -> bool:
    words = r"\s+".join(map(re.escape, answer.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", said, re.IGNORECASE) is not None


SCORERS: dict[str, Scorer] = {
    "exact": Scorer(lambda said, answer: said == answer, SimpleQA),
    "number": Scorer(
        lambda said, answer: final_number(said) == final_number(answer),
        GSM8K,
        _no_number,
        lambda answer: str(final_number(answer)),
    ),
    "choice": Scorer(lambda said, answer: said == answer, MMLU),
    "regex": Scorer(lambda said, answer: re.search(answer, said) is not None, SimpleQA, _no_pattern),
    "contains": Scorer(_contains, SimpleQA),
}


class Text(TextTask):
    """Rows of ``prompt`` and ``answer`` of your own. Score and reward: 1 for a right reply, else 0.

    Without ``data`` the rows are those of another task's embedded world. No embedded model is made for other rows: give
    ``model`` and ``sae``, or a preset.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data: A file or folder (JSON lines, JSON, CSV, parquet) or a hub id with the columns ``prompt`` and ``answer``.
        scorer: How a reply is graded: ``"exact"``, the answer's text; ``"number"``, its last number is the answer's;
            ``"choice"``, the likeliest of the row's ``choices``, a list of texts of which the answer is one, or its
            place from 0; ``"regex"``, the answer is a pattern that is found in it; ``"contains"``, it has the answer's
            words, in any letter case.
        splits: ``"seeded"``, 40, 10 and 50 % of the rows by the hash of the prompt; or ``"own"``, files of a folder by
            their names (``train.jsonl``).
        stop: What ends a reply, a text or several; None is the end of the line, ``[]`` nothing but the end token.
        max_new_tokens: Tokens the model may write; None is 32, and 1 among choices.

    Raises:
        ValueError: An argument or a row cannot be used; the message names it, a row by file and line.
    """

    name = "text"
    variants = {"scorer": tuple(SCORERS), "splits": ("seeded", "own")}

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        scorer: str = "exact",
        splits: str = "seeded",
        stop: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.check_variants(scorer=scorer, splits=splits)
        self.stop = stop_strings(stop, ("\n",))
        self._scorer, self._chooses = SCORERS[scorer], scorer == "choice"
        tokens = (1 if self._chooses else _TOKENS) if max_new_tokens is None else max_new_tokens
        super().__init__(_items(split, data, scorer, splits, self._answer), tokens)
        self._answers = {row.where: self._answer(row) for row in self.items.rows}

    def ask(self, row: Row) -> SingleTurn:
        """The prompt as it stands in the row."""
        prompt = row.text("prompt")
        choices = tuple(f" {choice}" for choice in _choices(row)) if self._chooses else ()
        return SingleTurn(prompt, prompt, lambda said: self._grade(row, said.strip()), choices)

    def right_reply(self, row: Row) -> str:
        """The answer; of a worked one its number."""
        return self._scorer.written(self._answers[row.where])

    def reference(self, item: int) -> str | None:  # type: ignore[override]  # a pattern need not be a reply
        """The answer, or None where it is a pattern that does not match itself."""
        right, answer = super().reference(item), self._answers[self._row(item).where]
        return right if self._scorer.right(right.strip(), answer) else None

    def _grade(self, row: Row, said: str) -> Turn:
        right = bool(said) and self._scorer.right(said, self._answers[row.where])
        outcome = "correct" if right else "incorrect"
        return Turn.end(right, {"outcome": outcome, "answer": said, "target": self.right_reply(row)})

    def _answer(self, row: Row) -> str:
        """What a row says is right, checked."""
        row.text("prompt")
        given = row.values["answer"]
        if self._chooses:
            return _chosen(row, given)
        answer = str(given).strip() if is_number(given) else row.text("answer").strip()
        why = self._scorer.refuse(answer)
        if cut := "" if why else next((stop for stop in self.stop if stop in self._scorer.written(answer)), ""):
            why = f"holds {cut!r}, at which replies stop (stop= says where)"
        if why:
            raise ValueError(f"{row.where}: answer {why}, got {given!r}")
        return answer


def _items(split: str, data: str | None, scorer: str, splits: str, check: Callable[[Row], object]) -> Items:
    check_split(split)
    if data is None or data == "embedded":
        return Items(_of_the_world(SCORERS[scorer].world(split=split)), "embedded", split, seeded=False)
    if data == "hub":
        raise ValueError("data must name rows of your own (a file, a folder or a hub id), got 'hub'")
    if splits == "own":
        return Items(load_rows(data, split, SOURCE, Text.name), data, split, seeded=False)
    rows = load_rows(data, "all", replace(SOURCE, splits={}), Text.name)  # whatever its files are called
    for row in rows:  # those of other splits too, before anything is learned on this one
        check(row)
    return Items(seeded_split(rows, split, lambda row: row.text("prompt")), data, split, seeded=True)


def _of_the_world(task: TextTask) -> list[Row]:
    """Another task's embedded items as rows of prompts and answers."""
    rows = []
    for item, row in enumerate(task.items.rows):
        talk = task.start(item)
        choices = {"choices": [choice.strip() for choice in talk.choices]} if talk.choices else {}
        rows.append(Row({"prompt": talk.opening, "answer": task.right_reply(row), **choices}, row.where))
    return rows


def _choices(row: Row) -> list[str]:
    """The texts to choose among.

    Raises:
        ValueError: There are none, or two are the same; file and line are named.
    """
    given = row.values.get("choices")
    if isinstance(given, (list, tuple)) and all(isinstance(text, str) and text.strip() for text in given):
        choices = [text.strip() for text in given]
        if 2 <= len(choices) == len(set(choices)):
            return choices
    raise ValueError(f"{row.where}: choices must be a list of two or more different texts, got {given!r}")


def _chosen(row: Row, answer: Any) -> str:
    choices = _choices(row)
    if isinstance(answer, int) and not isinstance(answer, bool) and answer in range(len(choices)):
        return choices[answer]
    if isinstance(answer, str) and answer.strip() in choices:
        return answer.strip()
    raise ValueError(f"{row.where}: answer must be one of {choices} or its place from 0, got {answer!r}")
