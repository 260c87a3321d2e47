"""One table over several evidence runs: ``steer summary --runs runs/evidence-*``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from agents.report.markdown import markdown_table
from agents.runs.folder import read_json

CORRSTEER = ("corrsteer", "corrsteer, same strength")
COLUMNS = (
    *("environment", "learned from", "unsteered", "prompt only", "best fixed", "CorrSteer", "**trained**", "on train"),
    *("item oracle", "LoRA", "p", "written", "minutes"),
)


@dataclass(frozen=True)
class EvidenceSummaryConfig:
    """Put evidence runs into one table."""

    runs: tuple[Path, ...]
    """Folders of agents.compare.evidence."""


def main(cfg: EvidenceSummaryConfig) -> str:
    """Print and return the table, in Markdown.

    Raises:
        FileNotFoundError: A run has no evidence yet.
    """
    table = markdown_table(COLUMNS, [_cells(_read(run)) for run in cfg.runs])
    print(table)
    return table


def _read(run: Path) -> dict[str, Any]:
    path = run / "evidence.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: steer evidence --name {run.name}")
    return read_json(path)


def _cells(result: Mapping[str, Any]) -> list[str]:
    """A row: scores of the arms; the largest p of the trained arm against any arm that leaves the weights alone."""
    arms, trained, oracle = result["arms"], result["arms"]["trained"], result["item_oracle"]
    corrsteer = max((arms[name]["score"] for name in CORRSTEER if name in arms), default=None)
    low, high = trained["ci95"]
    p = max(test["p_holm"] for name, test in result["tests"].items() if name != "lora")
    puppeteered = trained["puppeteered"]
    return [
        f"`{result['env']}`",
        f"{result['train_samples']:,}",
        _score(arms["unsteered"]["score"]),
        _score(arms.get("prompt_only", {}).get("score")),
        _score(arms["best_fixed"]["score"]),
        _score(corrsteer),
        f"**{trained['score']:.3f}** ({low:.3f} to {high:.3f})",
        _score(trained["train_score"]),
        _score(oracle and oracle["score"]),
        _score(arms.get("lora", {}).get("score")),
        f"{p:.0e}",
        "" if puppeteered is None else f"{puppeteered:.0%}",
        f"{result['wall_s'] / 60:.0f}",
    ]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(tyro.cli(EvidenceSummaryConfig))
