"""A page that explains one run, without any other file and without a network.

The same plots are written for papers, as ``figures/*.png``. wandb gets the plots as images, and the page with the files
it is made from as an artifact.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.compare.layers_table import layer_kinds, layer_scores
from agents.inside.controller_report import controller_plot
from agents.report.document import document, picture
from agents.report.figures import calibration, critic_courses, draw_png, learning_curve, scores, variants
from agents.report.files import ANALYSES, RunFiles
from agents.report.plots import Draw
from agents.report.points import point_blocks
from agents.report.summary import facts, sections
from agents.report.tokens import token_blocks
from agents.runs.tracking import Tracker


def write_report(
    run: Path, evaluation: str = "evaluation.json", sweep: Path | None = None, layers: Path | None = None
) -> Path:
    """Write a run's page and ``figures/*.png``, and return the page's path.

    Args:
        run: The run folder. Whatever of its files is missing, the page says by which command to make it.
        evaluation: Which of its evaluations; the report of ``evaluation-1-test.json`` is ``report-1-test.html``.
        sweep: ``sweep.json`` of a comparison of variants, shown beside the run.
        layers: ``layers.json`` of a comparison of layers; None takes the one in the run folder or around it.

    Raises:
        FileNotFoundError: There is no such run, no such sweep or no such comparison of layers.
    """
    files = RunFiles.read(run, evaluation, sweep, layers)
    draws = figures_of(files)
    figures = [files.beside("figures", "") / f"{name}.png" for name in draws]
    for draw, figure in zip(draws.values(), figures, strict=True):
        draw_png(draw, figure)
    blocks = {**token_blocks(files), **point_blocks(files), "features": files.features, "missing": files.missing}
    pictures = {name: picture(draw, name.replace("_", " ")) for name, draw in draws.items()}
    page = files.beside("report", ".html")
    page.write_text(document(files.run.path.name, facts(files), sections(files, pictures), blocks), encoding="utf-8")
    _mirror(files, figures, page)
    return page


def figures_of(files: RunFiles) -> Mapping[str, Draw]:
    """The plots that the files of the run allow, by name."""
    found: dict[str, Draw] = {}
    rows, result, critic = files.metrics, files.result, files.critic
    sweep, compared = files.sweep, files.layers
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
        found["variants"] = lambda axes, theme: variants(axes, theme, sweep)
    if compared is not None:
        found["layers"] = lambda axes, theme: layer_scores(axes, theme, compared)
        found["layer_kinds"] = lambda axes, theme: layer_kinds(axes, theme, compared)
    return found


def _mirror(files: RunFiles, figures: Sequence[Path], page: Path) -> None:
    config = files.run.config
    tracker = Tracker(config.get("wandb", "disabled"), files.run.path, {}, config.get("wandb_id", ""))
    for figure in figures:
        tracker.image(f"{figure.parent.name}/{figure.stem}", figure)
    records = [files.path, *map(files.beside, ANALYSES)]
    tracker.artifact(files.beside("analysis", "").name, "analysis", [page, *filter(Path.is_file, records)])
    tracker.finish()
