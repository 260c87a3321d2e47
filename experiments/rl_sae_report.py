"""The study of an agent's SAEs as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result of ``experiments.rl_sae`` as Markdown."""
    agent, rows = result["agent"], result["rows"]
    parts = [
        f"# SAEs on `{result['module']}` of {agent['from']}",
        f"{agent['env']}, hidden layers {agent['hidden']}, seed {agent['seed']}. The agent as it is: "
        f"{_earned(result['plain'])}. {rows['visited']} states to learn from, {rows['test']} distinct ones to test on; "
        f"all rows of one {rows['kept_together']} are on the same side.",
        "## SAEs\nMeasured on held-out states. *Kept*: share of the return with the reconstruction in the "
        "activation's place. *Features*: columns with an AUROC of 0.9 or more for some predicate on both halves. "
        "*Told*: predicates whose best column, chosen on one half, reaches 0.9 on the other.",
        _table(
            ["SAE", "explained", "L0", "dead", "earns", "kept", *_SCORES],
            [_sae(*item) for item in result["saes"].items()],
        ),
        "What cruder stand-ins earn:",
        _table(["in place of the activation", "earns"], [[n, _earned(r)] for n, r in result["substitutions"].items()]),
        "## Other columns, by the same rule",
        _table(["columns", *_SCORES], [[name, *_scores(row)] for name, row in result["columns"].items()]),
        f"## {result['chosen']}, predicate by predicate",
        "AUROC on held-out states: the best feature; linear probes on the outputs (values, sorted values, choice), on "
        "the whole layer and on the observation. *Gain*: feature less outputs, one-sided 95 % bound, p after Holm. "
        "*Without it*: what is earned with that feature held at zero.",
        _table(
            ["predicate", "feature", "F1", "outputs", "layer", "observation", "gain", "bound", "p", "without it"],
            [_close(name, row, result) for name, row in result["close"].items()],
        ),
        _verdict(result),
    ]
    return "\n\n".join(parts) + "\n"


_SCORES = ["live", "features", "after shuffling", "told", "mean AUROC", "mean F1"]


def _scores(row: Mapping[str, Any]) -> list[str]:
    counts = [str(row[name]) for name in ("live", "features", "shuffled_features")]
    told = f"{row['told']} of {len(row['predicates'])}"
    return [*counts, told, f"{row['mean_auroc']:.3f}", f"{row['mean_f1']:.3f}"]


def _sae(name: str, row: Mapping[str, Any]) -> list[str]:
    numbers = [f"{row['explained_variance']:.3f}", f"{row['l0']:.1f}", f"{row['dead_share']:.0%}"]
    return [name, *numbers, _earned(row["play"]), f"{row['return_kept']:.1%}", *_scores(row)]


def _close(name: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    scored = result["saes"][result["chosen"]]["predicates"][name]
    numbers = [row["feature"], scored["f1"], row["outputs"], row["layer"], row["observation"]]
    tested = [f"{row['gain']:+.3f}", f"{row['gain_low']:+.3f}", f"{row['p_holm']:.3f}"]
    return [name, *(f"{number:.3f}" for number in numbers), *tested, _earned(row["played"])]


def _earned(row: Mapping[str, float]) -> str:
    if "mated" in row:
        return f"mates {row['mated']:.1%} in {row['moves']:.2f} moves, return {row['return']:.1f}"
    return f"return {row['return']:.2f}"


def _verdict(result: Mapping[str, Any]) -> str:
    hidden = [name for name, row in result["close"].items() if row["gain_low"] > 0 and row["p_holm"] < 0.05]
    count = len(result["close"])
    if not hidden:
        return f"No feature tells any of {count} predicates better than a linear probe on the outputs."
    return (
        f"{len(hidden)} of {count} predicates are told better by one feature than by the outputs: {', '.join(hidden)}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
