"""MMLU (Hendrycks et al. 2021, arXiv 2009.03300): questions of 57 subjects with four options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_env.tasks.chosen_option import LETTERS
from steer_env.tasks.data import Items, Row, Source, check_split, load_rows, seeded_split
from steer_env.tasks.multiple_choice import TEMPLATES, MultipleChoice, Question, example_rows

SOURCE = Source(
    repo="cais/mmlu",
    config="all",
    revision="c30699e8356da336a370243923dbaf21066bb9fe",
    columns=(),  # the two layouts have different ones: see `_question`
    splits={"train": "auxiliary_train", "validation": "validation", "test": "test", "dev": "dev"},
    headerless=("question", "A", "B", "C", "D", "answer"),
)


class MMLU(MultipleChoice):
    """Questions of one subject or all.

    Args:
        split: ``"train"`` (the data set's ``auxiliary_train``), ``"validation"`` or ``"test"``.
        data: ``"embedded"`` (None), ``"hub"``, another hub id, or a file or folder in the hub's columns or the original
            release's (CSV without a header, the subject in the file's name).
        subject: ``"anatomy"``, ... or ``"all"``.
        splits: ``"own"``, or ``"seeded"``: all three from the data set's test rows by the hash of the question.
        template: ``"crl"`` or ``"harness"`` (lm-evaluation-harness).
        decode: ``"constrained"``, ``"free"`` or ``"words"``.
        few_shot: solved examples of the same subject in front, from dev.
        max_new_tokens: tokens the model may write when it is free; None is 32.
        letters: alphabet in front of the options: ``"ABC"``, ``"123"``, ``"PQR"``, ``"KLM"``, or ``"mixed"`` by item.
        shuffle_options: seed by which each item's options are reordered; None leaves them.

    Raises:
        ValueError: an argument or a row cannot be used; the message names it.
    """

    name = "mmlu"
    narrowing = (*MultipleChoice.narrowing, "subject", "few_shot")
    variants = {**MultipleChoice.variants, "template": TEMPLATES, "splits": ("own", "seeded")}

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        subject: str = "all",
        splits: str = "own",
        template: str = "crl",
        decode: str = "constrained",
        few_shot: int = 0,
        max_new_tokens: int | None = None,
        letters: str = "ABC",
        shuffle_options: int | None = None,
    ) -> None:
        check_split(split)
        self.check_variants(splits=splits)
        if not isinstance(subject, str):
            raise ValueError(f"subject must be text, got {subject!r}")
        source = "embedded" if data is None else data
        rows = _rows(source, split, splits)
        chosen = [row for row in rows if subject in ("all", subject_of(row))]
        if not chosen:
            raise _unknown(subject, split, {subject_of(row) for row in rows})
        shown = example_rows(few_shot, source, SOURCE, self.name)
        self._header = template == "harness"
        items = Items(chosen, source, split, splits == "seeded", shown)
        super().__init__(items, template, decode, max_new_tokens, few_shot, letters, shuffle_options)

    def question(self, row: Row) -> Question:
        """From the hub's columns, or the original release's."""
        return _question(row)

    def header(self, row: Row) -> str:
        """The harness's description of the subject."""
        if not self._header:
            return ""
        subject = subject_of(row).replace("_", " ")
        about = f" about {subject}" if subject else ""
        return f"The following are multiple choice questions (with answers){about}.\n\n"

    def topic(self, row: Row) -> str:
        """The subject."""
        return subject_of(row)

    def details(self, row: Row) -> dict[str, Any]:
        """The ``subject``."""
        return {"subject": subject_of(row)}

    def summary(self, finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Accuracy over all items, ``macro_accuracy`` over subjects, and the share of unparseable answers."""
        if not finals:
            return {}
        subjects: dict[str, list[bool]] = {}
        for final in finals:
            subjects.setdefault(final["subject"], []).append(final["outcome"] == "correct")
        macro = sum(sum(right) / len(right) for right in subjects.values()) / len(subjects)
        return {**super().summary(finals), "macro_accuracy": macro}


def subject_of(row: Row) -> str:
    """The column ``subject``, or what the file's name says; ``""`` in auxiliary_train, which is from elsewhere.

    Raises:
        ValueError: the row has neither; file and line are named.
    """
    if "subject" in row.values:
        return str(row.values["subject"] or "")
    if "file" not in row.values:
        raise ValueError(f"{row.where}: column 'subject' is missing; there are {sorted(row.values)}")
    found = re.fullmatch(r"(.+)_(test|val|dev)\.csv", row.values["file"])
    # One of the files for training is called mc_test.csv.
    return found[1] if found and Path(row.where).parent.name != SOURCE.splits["train"] else ""


def _rows(data: str, split: str, splits: str) -> list[Row]:
    if splits == "own" or data == "embedded":
        rows = load_rows(data, split, SOURCE, MMLU.name)
    else:
        rows = seeded_split(load_rows(data, "test", SOURCE, MMLU.name), split, _asked)
    # Some revisions of the hub's auxiliary_train nest each row under "train".
    return [Row(row.values["train"], row.where) if set(row.values) == {"train"} else row for row in rows]


def _unknown(subject: str, split: str, there: set[str]) -> ValueError:
    if there == {""}:
        return ValueError(
            f"the rows of split {split!r} name no subject; take splits='seeded' to have {subject!r} in it"
        )
    near = difflib.get_close_matches(subject, sorted(there), n=5, cutoff=0.4) or sorted(there)
    return ValueError(f"unknown subject {subject!r} in split {split!r}; did you mean {near}?")


def _question(row: Row) -> Question:
    values = row.values
    if "choices" in values:
        choices, answer = values["choices"], values.get("answer")
    elif all(letter in values for letter in "ABCD"):
        choices, answer = [values[letter] for letter in "ABCD"], values.get("answer")
    else:
        raise ValueError(f"{row.where}: column 'choices' is missing; there are {sorted(values)}")
    if not isinstance(choices, (list, tuple)) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"{row.where}: choices must be a list of texts, got {choices!r}")
    return Question(_asked(row), tuple(choices), _place(answer, row), row.where)


def _asked(row: Row) -> str:
    if "question" not in row.values:
        raise ValueError(f"{row.where}: column 'question' is missing; there are {sorted(row.values)}")
    return row.text("question")


def _place(answer: Any, row: Row) -> int:
    """Place of the answer, given as a number or a letter."""
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS:
        return LETTERS.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    raise ValueError(f"{row.where}: answer must be a place or a letter, got {answer!r}")
