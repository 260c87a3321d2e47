"""One table over agents that were looked into: ``steer inside-summary --saes runs/sae-krk-*``.

Or ``--controllers runs/evidence-TicTacToe/seed-*``, tic-tac-toe runs that ``experiments.inside.controller`` has looked
into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from agents.inside.probes_data import OBSERVATION
from agents.inside.sae_report import hidden_predicates, learnt_predicates
from agents.report.markdown import markdown_table
from agents.runs.folder import read_json

SAE_COLUMNS = (
    *("agent", "return", "SAE", "explained", "L0", "kept", "features", "neurons", "components", "untrained SAE"),
    *("told", "beyond the outputs", "and beyond an untrained network"),
)
CONTROLLER_COLUMNS = (
    "fact",
    "holds",
    "residual",
    "actor",
    "critic",
    "critic, untrained",
    "critic less residual",
    "gains in",
)
_LEVEL = 0.05


@dataclass(frozen=True)
class InsideSummaryConfig:
    """Put studies of several agents into one table."""

    saes: tuple[Path, ...] = ()
    """Folders of ``experiments.inside.rl_sae``."""
    controllers: tuple[Path, ...] = ()
    """Run folders that ``experiments.inside.controller`` has looked into."""


def main(cfg: InsideSummaryConfig) -> str:
    """Print and return the table, in Markdown.

    Raises:
        FileNotFoundError: A folder has no such study.
        ValueError: There is nothing to put together, or the controllers were asked different facts.
    """
    if bool(cfg.saes) == bool(cfg.controllers):
        raise ValueError("give either saes or controllers")
    if cfg.saes:
        rows = [sae_cells(_read(folder, "rl_sae")) for folder in cfg.saes]
        table = markdown_table(SAE_COLUMNS, rows)
    else:
        table = markdown_table(
            CONTROLLER_COLUMNS, controller_rows([_read(run, "controller") for run in cfg.controllers])
        )
    print(table)
    return table


def sae_cells(result: Mapping[str, Any]) -> list[str]:
    """A row of ``SAE_COLUMNS``: the SAE that was chosen, beside columns of other kinds."""
    chosen, columns = result["saes"][result["chosen"]], result["columns"]
    mean = {name: cell["mean"] for name, cell in chosen["over_seeds"].items()}
    kept, hidden, learnt = chosen["return_kept"], hidden_predicates(result), learnt_predicates(result)
    others = [max(columns[name]["features"] for name in columns if name.startswith("neurons"))]
    others += [columns[name]["features"] for name in ("principal components", f"untrained {result['chosen']}")]
    return [
        f"{result['agent']['env']}, {result['agent']['seed']}",
        f"{result['plain']['return']:.1f}",
        result["chosen"],
        f"{mean['explained_variance']:.3f}",
        f"{mean['l0']:.1f}",
        "" if kept is None else f"{kept:.1%}",
        f"{mean['features']:.0f}",
        *(f"{count}" for count in others),
        f"{mean['told']:.0f} of {len(chosen['predicates'])}",
        str(len(hidden)),
        f"{len(learnt)}{': ' if learnt else ''}{', '.join(name.replace('_', ' ') for name in learnt)}",
    ]


def controller_rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of ``CONTROLLER_COLUMNS``: held-out AUROCs of the last hidden layers, means over runs; the gain's range too.

    A critic gains in a run where it tells a fact better than the residual and than its untrained twin, both with a
    95 % bound above 0 and p below 0.05 after Holm.

    Raises:
        ValueError: The runs were asked different facts.
    """
    asked = [list(result["states"]["facts"]) for result in results]
    if any(facts != asked[0] for facts in asked):
        raise ValueError("the controllers were asked different facts: look into all of them alike")
    return [_controller_row(results, fact) for fact in asked[0]]


def _controller_row(results: Sequence[Mapping[str, Any]], fact: str) -> list[str]:
    told, gained, proven = [], [], 0
    for result in results:
        probes, (actor, critic) = result["probes"], (result["layers"][name] for name in ("actor", "critic"))
        layers = (probes["trained"][actor], probes["trained"][critic], probes["untrained"][critic])
        told.append([areas[fact] for areas in (probes[OBSERVATION], *layers)])
        bars = [probes["gains"][critic][bar][fact] for bar in (OBSERVATION, "untrained")]
        gained.append(bars[0]["gain"])
        proven += all(bar["low"] > 0 and bar["p_holm"] < _LEVEL for bar in bars)
    holds = np.mean([result["states"]["facts"][fact] for result in results])
    return [
        fact.replace("_", " "),
        f"{holds:.0%}",
        *(f"{value:.3f}" for value in np.mean(told, axis=0)),
        f"{np.mean(gained):+.3f} ({min(gained):+.3f} to {max(gained):+.3f})",
        f"{proven} of {len(results)}",
    ]


def _read(folder: Path, study: str) -> dict[str, Any]:
    path = folder / f"{study}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: python -m experiments.{study} makes it")
    return read_json(path)


if __name__ == "__main__":
    main(tyro.cli(InsideSummaryConfig))
