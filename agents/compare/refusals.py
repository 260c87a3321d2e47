"""The refusal scorer against people's labels of XSTest's completions, and the coherence score on spoilt texts."""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from steer_env.evaluation.statistics import mcnemar, wilson
from steer_env.tasks.coherence import COHERENT, coherence
from steer_env.tasks.data import Row, Source, load_rows
from steer_env.tasks.refusal import COMPLIANCE, FULL, PARTIAL, phrase_refusal, refusal_class

SOURCE = Source(repo="", columns=("prompt", "completion", "final_label"))
LABELS = {"1_full_compliance": COMPLIANCE, "2_full_refusal": FULL, "3_partial_refusal": PARTIAL}
HALVES = ("development", "held_out")
SCORERS: dict[str, Callable[[str], str]] = {
    "speech acts": refusal_class,
    "phrases anywhere": lambda completion: FULL if phrase_refusal(completion) else COMPLIANCE,
    "phrases first": lambda completion: FULL if phrase_refusal(completion, only_prefix=True) else COMPLIANCE,
}


def compare_with_people(data: Path, words: int | None, seed: int) -> dict[str, Any]:
    """Agreement by model, half and scorer, and what the coherence score says of spoilt texts.

    Args:
        data: Folder with ``completions_*.jsonl``.
        words: Number of first words of each completion that are scored; None is all.
        seed: Seed of the spoilt texts.

    Returns:
        ``agreement[model][half][scorer]``: ``n``, ``refusal`` (agreement on refusal, full or partial, against
        compliance) with ``ci95``, ``full`` (on full refusal against the rest), ``precision`` and ``recall`` of full
        refusal, ``classes`` (on all three), ``p`` (McNemar, ``refusal`` against the first scorer). ``coherence[kind]``:
        share ``coherent``, and ``auroc`` of whole texts against that kind.

    Raises:
        ValueError: The folder has no labelled completions.
    """
    files = sorted(data.glob("completions_*.jsonl"))
    if not files:
        raise ValueError(f"no completions_*.jsonl in {data}")
    rows = {file.stem.removeprefix("completions_"): load_rows(str(file), "all", SOURCE, "xstest") for file in files}
    agreement = {
        model: {half: _agreement(_of_half(found, half), words) for half in (*HALVES, "all")}
        for model, found in rows.items()
    }
    return {
        "agreement": agreement,
        "coherence": _coherence([_text(row, words) for found in rows.values() for row in found], seed),
    }


def _of_half(rows: Sequence[Row], half: str) -> list[Row]:
    """The rows whose prompt's hash is even (development) or odd (held out)."""
    return [row for row in rows if half in ("all", HALVES[hashlib.sha256(row.text("prompt").encode()).digest()[0] % 2])]


def _text(row: Row, words: int | None) -> str:
    """The completion, or its first words with the space between them as it was."""
    text = row.text("completion")
    return text if words is None else "".join(re.findall(r"\s*\S+", text)[:words])


def _agreement(rows: Sequence[Row], words: int | None) -> dict[str, dict[str, Any]]:
    human = np.array([LABELS[row.text("final_label")] for row in rows])
    said = {
        name: np.array([scorer(_text(row, words)) for row in rows], dtype=object) for name, scorer in SCORERS.items()
    }
    right = {name: (found == COMPLIANCE) == (human == COMPLIANCE) for name, found in said.items()}
    first = next(iter(right.values()))
    table = {}
    for name, found in said.items():
        hits = int(((found == FULL) & (human == FULL)).sum())
        table[name] = {
            "n": len(rows),
            "refusal": float(right[name].mean()),
            "ci95": wilson(int(right[name].sum()), len(rows)),
            "full": float(((found == FULL) == (human == FULL)).mean()),
            "precision": hits / max(1, int((found == FULL).sum())),
            "recall": hits / max(1, int((human == FULL).sum())),
            "classes": float((found == human).mean()),
            "p": mcnemar(int((first & ~right[name]).sum()), int((right[name] & ~first).sum())),
        }
    return table


def _loop(text: str, length: int) -> str:
    return " ".join(text.split()[:length] * (1 + 60 // length))


def _shuffled(parts: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(parts, len(parts))


SPOILERS: dict[str, Callable[[str, random.Random], str]] = {
    "whole": lambda text, rng: text,
    "empty": lambda text, rng: "",
    "one word": lambda text, rng: _loop(text, 1),
    "loop of 3 words": lambda text, rng: _loop(text, 3),
    "loop of 8 words": lambda text, rng: _loop(text, 8),
    "8 words, then a loop": lambda text, rng: f"{' '.join(text.split()[:8])} {_loop(text, 2)}",
    "letters shuffled in words": lambda text, rng: " ".join("".join(_shuffled(word, rng)) for word in text.split()),
    "all letters shuffled": lambda text, rng: "".join(_shuffled(text, rng)),
    "30 % of letters replaced": lambda text, rng: "".join(
        rng.choice("abcdefghijklmnopqrstuvwxyz#@;") if sign != " " and rng.random() < 0.3 else sign for sign in text
    ),
    "words shuffled": lambda text, rng: " ".join(_shuffled(text.split(), rng)),
}


def _coherence(texts: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
    whole = np.array([coherence(text) for text in texts])
    table = {}
    for kind, spoil in SPOILERS.items():
        rng = random.Random(seed)
        found = np.array([coherence(spoil(text, rng)) for text in texts])
        above = stats.mannwhitneyu(whole, found).statistic / (len(whole) * len(found))
        table[kind] = {"coherent": float((found >= COHERENT).mean()), "auroc": float(above)}
    return table


def print_agreement(agreement: dict[str, Any], spoilt: dict[str, dict[str, float]]) -> None:
    """Both tables on the terminal."""
    table = Table(title="agreement with people", box=box.SIMPLE)
    columns = ("model", "half", "scorer", "n", "refusal", "95 %", "full", "precision", "recall", "classes", "p")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] else "right", no_wrap=True)
    for model, halves in agreement.items():
        for half, scorers in halves.items():
            for name, row in scorers.items():
                numbers = [f"{row[key]:.3f}" for key in ("full", "precision", "recall", "classes")]
                interval = "{:.3f}-{:.3f}".format(*row["ci95"])
                table.add_row(
                    model, half, name, str(row["n"]), f"{row['refusal']:.3f}", interval, *numbers, f"{row['p']:.1e}"
                )
    Console(width=140).print(table)
    texts = Table(title="coherence", box=box.SIMPLE)
    for column in ("texts", "coherent", "AUROC"):
        texts.add_column(column, justify="left" if column == "texts" else "right")
    for kind, row in spoilt.items():
        texts.add_row(kind, f"{row['coherent']:.3f}", f"{row['auroc']:.3f}")
    Console(width=140).print(texts)
