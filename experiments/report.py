"""A page that explains one run: ``python -m experiments.report --run runs/first`` writes ``report.html``.

It needs no other file and no network. The same plots are written for papers, as ``figures/*.png``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.controller_report import controller_plot
from experiments.report_document import document, picture
from experiments.report_figures import Draw, calibration, critic_courses, draw_png, layers, learning_curve, scores
from experiments.report_files import RunFiles
from experiments.report_points import point_blocks
from experiments.report_summary import facts, sections
from experiments.report_tokens import token_blocks


@dataclass(frozen=True)
class ReportConfig:
    """Write a run's report."""

    run: Path
    """Run folder. Whatever of its files is missing, the page says by which command to make it."""
    evaluation: str = "evaluation.json"
    """Which of its evaluations; the report of evaluation-1-test.json is report-1-test.html."""
    sweep: Path | None = None
    """``sweep.json`` of a comparison of layers (or of anything else), shown beside the run."""


def main(cfg: ReportConfig) -> Path:
    """Write the page and ``figures/*.png``, and return the page's path.

    Raises:
        FileNotFoundError: There is no such run, or no such sweep.
    """
    files = RunFiles.read(cfg.run, cfg.evaluation, cfg.sweep)
    draws = figures_of(files)
    for name, draw in draws.items():
        draw_png(draw, files.beside("figures", "") / f"{name}.png")
    blocks = {**token_blocks(files), **point_blocks(files), "features": files.features, "missing": files.missing}
    pictures = {name: picture(draw, name.replace("_", " ")) for name, draw in draws.items()}
    page = files.beside("report", ".html")
    page.write_text(document(files.run.path.name, facts(files), sections(files, pictures), blocks), encoding="utf-8")
    return page


def figures_of(files: RunFiles) -> Mapping[str, Draw]:
    """The plots that the files of the run allow, by name."""
    found: dict[str, Draw] = {}
    rows, result, critic, sweep = files.metrics, files.result, files.critic, files.sweep
    if rows:
        found["learning_curve"] = lambda axes, theme: learning_curve(axes, theme, rows, result)
    if result is not None:
        found["scores"] = lambda axes, theme: scores(axes, theme, result)
    if critic is not None and critic["target"] is not None:
        found["critic_values"] = lambda axes, theme: critic_courses(axes, theme, critic)
        found["calibration"] = lambda axes, theme: calibration(axes, theme, critic)
    if files.controller is not None:
        inside = files.controller
        found["controller"] = lambda axes, theme: controller_plot(axes, theme, inside)
    if sweep is not None:
        found["layers"] = lambda axes, theme: layers(axes, theme, sweep)
    return found


if __name__ == "__main__":
    print(main(tyro.cli(ReportConfig)))
