"""One table over agents that were looked into: ``steer inside-summary --saes runs/sae-krk-*``.

Or ``--controllers runs/evidence-TicTacToe/seed-*``, tic-tac-toe runs that ``steer controller`` has looked into.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InsideSummaryConfig:
    """Put studies of several agents into one table."""

    saes: tuple[Path, ...] = ()
    """Folders of ``steer rl-sae``."""
    controllers: tuple[Path, ...] = ()
    """Run folders that ``steer controller`` has looked into."""


def main(cfg: InsideSummaryConfig) -> str:
    """Print and return the table, in Markdown.

    Raises:
        FileNotFoundError: A folder has no such study.
        ValueError: There is nothing to put together, or the controllers were asked different facts.
    """
    from agents.inside import controller_report, sae_report
    from agents.report.markdown import markdown_table

    if bool(cfg.saes) == bool(cfg.controllers):
        raise ValueError("give either saes or controllers")
    if cfg.saes:
        saes = [sae_report.RLSAEResult.read(folder / "rl_sae.json") for folder in cfg.saes]
        table = markdown_table(sae_report.SUMMARY_COLUMNS, map(sae_report.summary_cells, saes))
    else:
        runs = [controller_report.ControllerResult.read(run / "controller.json") for run in cfg.controllers]
        table = markdown_table(controller_report.SUMMARY_COLUMNS, controller_report.summary_rows(runs))
    print(table)
    return table
