"""What a controller represents, for people: the study's file, tables, and one plot for the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

import numpy as np
from matplotlib.axes import Axes

from agents.inside.transitions import OBSERVATION
from agents.report.markdown import markdown_table
from agents.report.plots import Theme
from agents.runs.results import ResultFile

_CRITIC = ("critic", "critic, untrained", "critic less residual", "gains in")
SUMMARY_COLUMNS = ("fact", "holds", "residual", "actor", *_CRITIC)
_LEVEL = 0.05


@dataclass(frozen=True)
class ControllerResult(ResultFile):
    """``controller.json``.

    Attributes:
        run: Name of the run.
        env: Its environment.
        algo: Its algorithm.
        benchmark: Whether its scores may carry a benchmark's name.
        states: How many steps, states and positions there are, and how often each fact holds
            (:func:`agents.inside.controller.sizes`).
        layers: ``all`` layers of the policy, and the last hidden one of ``actor`` and ``critic``.
        probes: :func:`agents.inside.controller.probe_scores`.
        numbers: :func:`agents.inside.controller.number_scores`.
        values: :func:`agents.inside.controller.value_scores`.
        features: :func:`agents.inside.controller.feature_scores`.
        config: Settings of the study.
        wall_s: Seconds that it took.
        cpu_s: Seconds of CPU that it took.
    """

    MADE_BY: ClassVar[str] = "steer controller"

    run: str
    env: str
    algo: str
    benchmark: bool
    states: dict[str, Any]
    layers: dict[str, Any]
    probes: dict[str, Any]
    numbers: dict[str, dict[str, Any]]
    values: dict[str, dict[str, Any]]
    features: dict[str, Any]
    config: dict[str, Any]
    wall_s: float
    cpu_s: float


def as_markdown(result: ControllerResult) -> str:
    """The result of ``steer controller`` as Markdown."""
    states, probes = result.states, result.probes
    parts = [
        f"# What the controller of {result.run} represents",
        f"{result.env}, {result.algo}. {states['steps']:,} steps of the policy and of noisier versions "
        f"({', '.join(f'{noise:.0%}' for noise in result.config['noises'])} random actions) on split "
        f"{result.config['split']}; {states['train']} states of {states['positions']['train']} positions to learn "
        f"from and {states['test']} of {states['positions']['test']} to test on, each once: no position that was "
        "learnt from, turned or mirrored, is tested (the policy itself may have met it in training).",
        summary(result),
        "## Linear probes\nAUROC on held-out positions. *Residual*: what the policy reads. *Shuffled*: the actor's "
        "last hidden layer, taught with the facts dealt anew (mean of twenty, 95th percentile). *Holds*: share of the "
        "tested states.",
        _probe_table(result),
        "## Beyond what is read\nGain of the policy's last hidden layers over the same probe on the residual, and "
        "over the same layer of an untrained policy; one-sided 95 % bound (positions resampled), p after Holm.",
        _gain_table(result),
        "## Numbers\nR2 of linear probes on held-out positions.",
        _number_table(result.numbers),
        f"The critic's own value against minimax: Spearman "
        f"{_cell(result.numbers['critic_spearman']['value'])}; its AUROC for each fact: "
        + ", ".join(f"{_words(name)} {area:.2f}" for name, area in probes["critic"].items())
        + ".",
        "## Value probes\nAgainst returns of the policy's own games, the critic, and the minimax value, in held-out "
        "positions.",
        _value_table(result.values),
        "## Single columns\n*Features*: columns with an AUROC of 0.9 or more for some fact on both halves; *detected*: "
        "facts whose best column, chosen on one half, reaches 0.9 on the other.",
        _feature_table(result.features),
    ]
    return "\n\n".join(parts) + "\n"


def summary(result: ControllerResult) -> str:
    """In a sentence or two: what the policy tells better than what it reads."""
    gains, better = result.probes["gains"], []
    for layer, bars in gains.items():
        for fact, row in bars[OBSERVATION].items():
            both = (row, bars["untrained"][fact])
            if all(one["low"] > 0 and one["p_holm"] < _LEVEL for one in both):
                better.append(f"{_words(fact)} ({_layer(layer)}, {row['gain']:+.3f})")
    count = sum(len(bars[OBSERVATION]) for bars in gains.values())
    if not better:
        return (
            f"Of {count} pairs of a fact and a last hidden layer, none is told better than by the same linear probe on "
            "the residual and on an untrained policy."
        )
    return (
        f"{len(better)} of {count} pairs of a fact and a last hidden layer are told better than by the same linear "
        f"probe both on the residual and on an untrained policy: {', '.join(better)}."
    )


def as_html(result: ControllerResult) -> str:
    """The summary, for the run's report."""
    return (
        f"<p>{escape(summary(result))}</p>"
        f'<p class="note">Linear probes, AUROC in {result.states["test"]} states of held-out positions; '
        "details in controller.md.</p>"
    )


def controller_plot(axes: Axes, theme: Theme, result: ControllerResult) -> None:
    """AUROC of every fact, for what the policy reads, an untrained policy, and actor and critic."""
    probes, layers = result.probes, result.layers
    told = {
        "residual": (probes[OBSERVATION], "s", theme.grey),
        "untrained actor": (probes["untrained"][layers["actor"]], "x", theme.grey),
        "actor": (probes["trained"][layers["actor"]], "o", theme.blue),
        "critic": (probes["trained"][layers["critic"]], "D", theme.green),
    }
    facts = sorted(probes[OBSERVATION], key=lambda fact: probes[OBSERVATION][fact])
    for name, (areas, marker, color) in told.items():
        axes.plot([areas[fact] for fact in facts], range(len(facts)), marker, color=color, label=name, markersize=5)
    axes.axvline(0.5, color=theme.grey, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(facts)), list(map(_words, facts)), fontsize=8)
    axes.set(xlabel="AUROC of a linear probe, held-out positions", xlim=(min(0.45, axes.get_xlim()[0]), 1.01))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, columnspacing=1)


def summary_rows(results: Sequence[ControllerResult]) -> list[list[str]]:
    """Rows of ``SUMMARY_COLUMNS``: held-out AUROCs of the last hidden layers, means over runs; the gain's range too.

    A critic gains in a run where it tells a fact better than the residual and than its untrained twin, both with a
    95 % bound above 0 and p below 0.05 after Holm.

    Raises:
        ValueError: The runs were asked different facts.
    """
    asked = [list(result.states["facts"]) for result in results]
    if any(facts != asked[0] for facts in asked):
        raise ValueError("the controllers were asked different facts: look into all of them alike")
    return [_summary_row(results, fact) for fact in asked[0]]


def _summary_row(results: Sequence[ControllerResult], fact: str) -> list[str]:
    told, gained, proven = [], [], 0
    for result in results:
        probes, (actor, critic) = result.probes, (result.layers[name] for name in ("actor", "critic"))
        layers = (probes["trained"][actor], probes["trained"][critic], probes["untrained"][critic])
        told.append([areas[fact] for areas in (probes[OBSERVATION], *layers)])
        bars = [probes["gains"][critic][bar][fact] for bar in (OBSERVATION, "untrained")]
        gained.append(bars[0]["gain"])
        proven += all(bar["low"] > 0 and bar["p_holm"] < _LEVEL for bar in bars)
    holds = np.mean([result.states["facts"][fact] for result in results])
    return [
        fact.replace("_", " "),
        f"{holds:.0%}",
        *(f"{value:.3f}" for value in np.mean(told, axis=0)),
        f"{np.mean(gained):+.3f} ({min(gained):+.3f} to {max(gained):+.3f})",
        f"{proven} of {len(results)}",
    ]


def _probe_table(result: ControllerResult) -> str:
    probes, layers = result.probes, result.layers["all"]
    head = ["fact", "holds", "residual", *map(_layer, layers), *(f"untrained {_layer(name)}" for name in layers)]
    rows = [
        [
            _words(fact),
            f"{result.states['facts'][fact]:.0%}",
            *(_cell(table[fact]) for table in (probes[OBSERVATION], *probes["trained"].values())),
            *(_cell(table[fact]) for table in probes["untrained"].values()),
            "{mean:.2f} (< {high:.2f})".format(**probes["shuffled"][result.layers["actor"]][fact]),
        ]
        for fact in probes[OBSERVATION]
    ]
    return markdown_table([*head, "shuffled"], rows)


def _gain_table(result: ControllerResult) -> str:
    gains = result.probes["gains"]
    head = ["fact", *(f"{_layer(layer)} over {_source(bar)}" for layer, bars in gains.items() for bar in bars)]
    rows = [
        [_words(fact), *(_gain(bars[bar][fact]) for bars in gains.values() for bar in bars)]
        for fact in result.probes[OBSERVATION]
    ]
    return markdown_table(head, rows)


def _gain(row: Mapping[str, Any]) -> str:
    return f"{row['gain']:+.3f} (> {row['low']:+.3f}, p {row['p_holm']:.2g})"


def _number_table(numbers: Mapping[str, Any]) -> str:
    kinds = [name for name in numbers if name != "critic_spearman"]
    rows = [[_source(source), *(_cell(numbers[kind][source]) for kind in kinds)] for source in numbers[kinds[0]]]
    return markdown_table(["source", *kinds], rows)


def _value_table(values: Mapping[str, Any]) -> str:
    columns = ("returns_r2", "returns_spearman", "critic_spearman", "minimax_spearman")
    rows = [
        [_source(layer), loss, *(_cell(row[column]) for column in columns)]
        for layer, table in values.items()
        for loss, row in table.items()
    ]
    return markdown_table(
        ["layer", "loss", *(column.replace("_", ", ").replace("r2", "R2") for column in columns)], rows
    )


def _feature_table(features: Mapping[str, Any]) -> str:
    columns = ("live", "features", "shuffled_features", "detected", "mean_auroc")
    rows = [[name, *(_cell(row[column]) for column in columns)] for name, row in features["columns"].items()]
    sae = features["sae"]
    said = f"The SAE: {sae['features']} features, k {sae['k']}, explained variance {sae['explained_variance']:.3f}."
    return said + "\n\n" + markdown_table(["columns", *map(_words, columns)], rows)


def _layer(name: str) -> str:
    part, _, place = name.removeprefix("mlp_extractor.").partition(".")
    return {"policy_net": "actor", "value_net": "critic", "action_net": "logits"}.get(part, part) + f" {place}".rstrip()


def _source(name: str) -> str:
    if name == OBSERVATION:
        return "residual"
    return f"untrained {_layer(name.removeprefix('untrained '))}" if name.startswith("untrained ") else _layer(name)


def _cell(value: float | int | None) -> str:
    if value is None or not np.isfinite(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
