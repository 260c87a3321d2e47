"""The study of an agent's SAEs as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.report.markdown import markdown_table


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result of ``experiments.inside.rl_sae`` as Markdown."""
    agent, rows = result["agent"], result["rows"]
    parts = [
        f"# SAEs on `{result['module']}` of {agent['from']}",
        f"{agent['env']}, hidden layers {agent['hidden']}, seed {agent['seed']}. The agent as it is: "
        f"{earned(result['plain'])}. {rows['visited']} states to learn from, {rows['test']} distinct ones to test on; "
        f"all rows of one {rows['kept_together']} are on the same side.",
        "## SAEs\nMeasured on held-out states. *Kept*: share of the return with the reconstruction in the "
        "activation's place. *Features*: columns with an AUROC of 0.9 or more for some predicate on both halves. "
        "*Told*: predicates whose best column, chosen on one half, reaches 0.9 on the other." + _over_seeds(result),
        markdown_table(
            ["SAE", "explained", "L0", "dead", *_earnings(result["plain"]), "kept", *_SCORES],
            [_sae(name, row, result) for name, row in result["saes"].items()],
        ),
        "What cruder stand-ins earn:",
        markdown_table(
            ["in place of the activation", "earns"], [[n, earned(r)] for n, r in result["substitutions"].items()]
        ),
        "## Other columns, by the same rule",
        markdown_table(["columns", *_SCORES], [[name, *_scores(row)] for name, row in result["columns"].items()]),
        f"## {result['chosen']}, SAE seed {result['config']['sae_seeds'][0]}, predicate by predicate",
        "AUROC on held-out states: the best feature; linear probes on the outputs (values, sorted values, choice), on "
        "the whole layer and on the observation; the best column, neuron or feature, of an untrained network. *Gain*: "
        "feature less outputs, one-sided 95 % bound, p after Holm. "
        "*Without it*: what is earned with that feature held at zero, and, where it is active (*fires*: in how many "
        "states), the mean change of an output in standard deviations and how often another choice becomes the best.",
        markdown_table(
            [*_TESTED, "without it", "fires", "outputs move", "choice changes"],
            [_close(name, row, result) for name, row in result["close"].items()],
        ),
        _verdict(result),
    ]
    return "\n\n".join(parts) + "\n"


_SCORES = ["live", "features", "after shuffling", "told", "mean AUROC", "mean F1"]
_TESTED = ["predicate", "feature", "F1", "outputs", "layer", "observation", "untrained", "gain", "bound", "p"]
_FORMATS = {"l0": ".1f", "dead_share": ".0%", "return": ".1f", "mated": ".1%", "live": ".0f"}
_FORMATS |= dict.fromkeys(("features", "shuffled_features", "told"), "g")


def _over_seeds(result: Mapping[str, Any]) -> str:
    seeds = result["config"]["sae_seeds"]
    return f" Mean ± standard deviation over {len(seeds)} seeds of the SAE." if len(seeds) > 1 else ""


def _earnings(plain: Mapping[str, float]) -> list[str]:
    return [name for name in ("mated", "return") if name in plain]


def _scores(row: Mapping[str, Any]) -> list[str]:
    counts = [str(row[name]) for name in ("live", "features", "shuffled_features")]
    told = f"{row['told']} of {len(row['predicates'])}"
    return [*counts, told, f"{row['mean_auroc']:.3f}", f"{row['mean_f1']:.3f}"]


def _sae(name: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    def cell(column: str) -> str:
        found, form = row["over_seeds"][column], _FORMATS.get(column, ".3f")
        if found["n"] == 1:
            return format(found["mean"], form)
        form = ".1f" if form in ("g", ".0f") else form
        return f"{found['mean']:{form}} ± {found['std']:{form}}"

    first = [cell(column) for column in ("explained_variance", "l0", "dead_share", *_earnings(result["plain"]))]
    scores = [cell(column) for column in ("live", "features", "shuffled_features", "told", "mean_auroc", "mean_f1")]
    scores[3] += f" of {len(row['predicates'])}"
    kept = row["return_kept"]
    return [name, *first, "" if kept is None else f"{kept:.1%}", *scores]


def _close(name: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    scored = result["saes"][result["chosen"]]["predicates"][name]
    numbers = [row["feature"], scored["f1"], row["outputs"], row["layer"], row["observation"], untrained(result, name)]
    tested = [f"{row['gain']:+.3f}", f"{row['gain_low']:+.3f}", f"{row['p_holm']:.3f}"]
    does = [f"{row['fires']:.1%}", f"{row['outputs_moved']:.2f}", f"{row['choices_changed']:.0%}"]
    return [name, *(f"{number:.3f}" for number in numbers), *tested, earned(row["played"]), *does]


def earned(row: Mapping[str, float]) -> str:
    """What an agent earns, in words."""
    if "mated" in row:
        return f"mates {row['mated']:.1%} in {row['moves']:.2f} moves, return {row['return']:.1f}"
    return f"return {row['return']:.2f}"


def hidden_predicates(result: Mapping[str, Any]) -> list[str]:
    """The predicates that a feature tells better than a linear probe on the outputs does."""
    return [name for name, row in result["close"].items() if row["gain_low"] > 0 and row["p_holm"] < 0.05]


def untrained(result: Mapping[str, Any], predicate: str) -> float:
    """The AUROC of the best column of an untrained network: its neurons, and features of the same kind of SAE."""
    kinds = ("untrained neurons", f"untrained {result['chosen']}")
    return max(float(result["columns"][kind]["predicates"][predicate]["auroc"]) for kind in kinds)


def learnt_predicates(result: Mapping[str, Any]) -> list[str]:
    """Those of :func:`hidden_predicates` that the feature also tells better than any column of an untrained network."""
    return [name for name in hidden_predicates(result) if result["close"][name]["feature"] > untrained(result, name)]


def _verdict(result: Mapping[str, Any]) -> str:
    hidden = hidden_predicates(result)
    count = len(result["close"])
    if not hidden:
        return f"No feature tells any of {count} predicates better than a linear probe on the outputs."
    learnt = learnt_predicates(result)
    return (
        f"{len(hidden)} of {count} predicates are told better by one feature than by the outputs: {', '.join(hidden)}. "
        f"Of these {len(learnt)} also better than by any column of an untrained network{': ' if learnt else ''}"
        f"{', '.join(learnt)}."
    )
