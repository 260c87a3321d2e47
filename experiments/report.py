"""A page that explains one run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReportConfig:
    """Write a run's report."""

    run: Path
    """Run folder. Whatever of its files is missing, the page says by which command to make it."""
    evaluation: str = "evaluation.json"
    """Which of its evaluations; the report of evaluation-1-test.json is report-1-test.html."""
    sweep: Path | None = None
    """``sweep.json`` of a comparison of variants, shown beside the run."""
    layers: Path | None = None
    """``layers.json`` of a comparison of layers; by default the one in the run folder or around it."""


def main(cfg: ReportConfig) -> Path:
    """Write the page and ``figures/*.png``, and return the page's path."""
    from agents.report.page import write_report

    return write_report(cfg.run, cfg.evaluation, cfg.sweep, cfg.layers)
