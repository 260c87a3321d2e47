"""The study of value probes over seeds, for people: its file, means and spreads, tables, and a picture by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from agents.inside.transitions import OBSERVATION
from agents.report.markdown import markdown_table
from agents.runs.results import ResultFile

SOURCES = {
    "trained": "the trained agent",
    "untrained": "control: an untrained network at the same states",
    "shuffled": "control: the trained agent, rewards shuffled among steps",
}


@dataclass(frozen=True)
class ValueProbeResult(ResultFile):
    """``value_probe.json``.

    Attributes:
        env: World of the agents.
        env_kwargs: Its arguments.
        supervised: Names of the losses that use rewards.
        agents: An entry an agent (:func:`agents.inside.value_study.study_agent`).
        summary: :func:`summarize` of them.
        config: Settings of the study.
        wall_s: Seconds that it took.
        cpu_s: Seconds of CPU that it took.
    """

    MADE_BY: ClassVar[str] = "steer value-probe"

    env: str
    env_kwargs: dict[str, Any]
    supervised: list[str]
    agents: list[dict[str, Any]]
    summary: dict[str, Any]
    config: dict[str, Any]
    wall_s: float
    cpu_s: float


def summarize(agents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``mean`` and the sample's ``std`` over agents of every score, in the shape that the scores have."""

    def over(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Mapping):
            return {name: over([part[name] for part in parts]) for name in parts[0]}
        known = np.array([part for part in parts if part is not None], dtype=float)
        known = known[np.isfinite(known)]
        if not len(known):
            return {"mean": None, "std": None}
        return {"mean": known.mean(), "std": known.std(ddof=min(1, len(known) - 1))}

    return {part: over([agent[part] for agent in agents]) for part in ("data", "references", "probes")}


def as_markdown(result: ValueProbeResult) -> str:
    """The result of ``steer value-probe`` as Markdown."""
    summary, exact = result.summary, _is_exact(result)
    data = {name: entry["mean"] for name, entry in summary["data"].items()}
    truth = "exact" if exact else "returns"
    seen = (
        f" Of {data['test_states']:.1f} states in tested trajectories {data['test_states_seen_in_train']:.1f} also "
        "came in trajectories learnt from: see *unseen states* for values of states that did not."
        if exact
        else ""
    )
    parts = [
        f"# The value of a state in agents of {result.env} {result.env_kwargs or ''}".rstrip(),
        f"{len(result.agents)} agents, gamma {result.agents[0]['gamma']:g}; mean ± standard deviation over them. "
        f"Split by trajectory: {data['train_trajectories']:.0f} to learn from, {data['test_trajectories']:.0f} to test "
        f"on, of the policy and of versions with random actions ({_noises(result)}).{seen}",
        "R2 is after scale and offset were fitted to the returns of the policy's training trajectories (probes taught "
        "without rewards have no unit), with a slope of at least 0. Supervised: "
        f"{', '.join(result.supervised) or 'none'}.",
        "## In short",
        _short(result, truth),
        "## References",
        _references(summary["references"], exact),
    ]
    for source, words in SOURCES.items():
        parts.append(f"## {words[0].upper()}{words[1:]}")
        for column, title in _columns(exact):
            if not _has(summary["probes"][source], column):
                continue
            parts += [f"{title}:", _grid(summary["probes"][source], column)]
    return "\n\n".join(parts) + "\n"


def draw(result: ValueProbeResult, path: Path) -> None:
    """Score of each loss by layer, one panel a source; the shade is the spread over agents."""
    column = "exact_r2" if _is_exact(result) else "returns_r2"
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        panels = figure.subplots(1, len(SOURCES), sharey=True)
        for panel, (source, words) in zip(panels, SOURCES.items(), strict=True):
            _panel(panel, result.summary["probes"][source], column)
            panel.set_title(words.removeprefix("control: "))
        critic = result.summary["references"]["critic"][column]["mean"]
        panels[0].axhline(critic, color="black", linestyle=":", label="critic")
        panels[0].set_ylabel(f"held-out R2, {'exact value' if _is_exact(result) else 'return'}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
        figure.savefig(path, dpi=150)


def _panel(panel: Any, table: Mapping[str, Any], column: str) -> None:
    layers = list(table)
    places = np.arange(len(layers))
    for loss in table[layers[0]]:
        means, spreads = (
            np.array([_number(table[layer][loss][column][part]) for layer in layers]) for part in ("mean", "std")
        )
        (line,) = panel.plot(places, means, marker=".", label=loss)
        panel.fill_between(places, means - spreads, means + spreads, color=line.get_color(), alpha=0.15)
    panel.set_xticks(places, [_layer(layer) for layer in layers], rotation=30, ha="right")
    panel.set_ylim(-0.6, 1.05)
    panel.grid(alpha=0.3)


def _short(result: ValueProbeResult, truth: str) -> str:
    """A row a loss; the last hidden layer of the critic and of the actor, and what the controls reach there."""
    table = result.summary["probes"]
    hidden = [name for name in table["untrained"] if "value_net" in name or "policy_net" in name or "q_net" in name]
    places = {_layer(name): name for name in hidden[:-1] if name.rsplit(".", 1)[0] != hidden[-1].rsplit(".", 1)[0]}
    last = list(places.values())[-1:] + hidden[-1:]
    head = ["loss", *(f"{_layer(name)}: {kind}" for name in last for kind in SOURCES), "observations"]
    rows = []
    for loss in table["trained"][last[0]]:
        cells = [_pair(table[kind][name][loss], truth) for name in last for kind in SOURCES]
        rows.append([loss, *cells, _pair(table["trained"][OBSERVATION][loss], truth)])
    name = "the exact value" if truth == "exact" else "returns"
    return f"R2 / Spearman against {name}.\n\n" + markdown_table(head, rows)


def _columns(exact: bool) -> list[tuple[str, str]]:
    tabular = [
        ("exact_r2", "R2 against the exact value"),
        ("exact_spearman", "Spearman against the exact value"),
        ("unseen_r2", "R2 against the exact value, unseen states"),
        ("planned", "Return of planning one step ahead with the probe"),
    ]
    others = [
        ("returns_r2", "R2 against returns"),
        ("returns_spearman", "Spearman against returns"),
        ("critic_r2", "R2 against the critic"),
        ("critic_spearman", "Spearman against the critic"),
    ]
    return [*(tabular if exact else []), *others]


def _has(table: Mapping[str, Any], column: str) -> bool:
    return any(column in row for losses in table.values() for row in losses.values())


def _references(table: Mapping[str, Any], exact: bool) -> str:
    columns = [column for column, _ in _columns(exact) if not column.startswith("unseen")]
    rows = [[name, *(_cell(row.get(column)) for column in columns)] for name, row in table.items()]
    return markdown_table(["", *(column.replace("_", " ") for column in columns)], rows)


def _grid(table: Mapping[str, Any], column: str) -> str:
    losses = list(next(iter(table.values())))
    rows = [[_layer(layer), *(_cell(row[loss][column]) for loss in losses)] for layer, row in table.items()]
    return markdown_table(["layer", *losses], rows)


def _cell(entry: Mapping[str, float | None] | None) -> str:
    if entry is None or entry["mean"] is None:
        return ""
    return f"{entry['mean']:.2f} ± {entry['std']:.2f}"


def _pair(row: Mapping[str, Any], truth: str) -> str:
    first, second = row[f"{truth}_r2"], row[f"{truth}_spearman"]
    return f"{_cell(first)} / {_number(second['mean']):.2f}"


def _layer(name: str) -> str:
    short = {"policy_net": "actor", "value_net": "critic", "q_net": "Q", OBSERVATION: "observations"}
    parts = [part for part in name.split(".") if part != "mlp_extractor"]
    return " ".join(dict.fromkeys(short.get(part, part) for part in parts)).replace("action_net", "actor's logits")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _noises(result: ValueProbeResult) -> str:
    return ", ".join(f"{noise:.0%}" for noise in result.config["noises"])


def _is_exact(result: ValueProbeResult) -> bool:
    return "exact value" in result.summary["references"]
