"""One table over several runs: ``steer summary --runs runs/a runs/b``.

Of evaluated runs, usually seeds of one setup: mean, lowest and highest score of every arm. Of studies (``steer
evidence``), usually one a task: a row each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.compare.results import Evaluation, Evidence


@dataclass(frozen=True)
class SummaryConfig:
    """Put several runs, or several studies, into one table."""

    runs: tuple[Path, ...]
    """Run folders, or folders of studies."""
    file: str = "evaluation.json"
    """Which evaluation of each run."""


def main(cfg: SummaryConfig) -> str:
    """Print and return the table, in Markdown.

    Raises:
        FileNotFoundError: A run has no result yet.
        ValueError: Evaluations are not of the same environment, agent, items, decoding and coefficient.
    """
    from agents.compare.summary import over_seeds, seeds_table, tasks_table

    if any((run / "evidence.json").is_file() for run in cfg.runs):
        table = tasks_table([Evidence.read(run / "evidence.json") for run in cfg.runs])
    else:
        table = seeds_table(over_seeds([Evaluation.read(run / cfg.file) for run in cfg.runs]))
    print(table)
    return table
