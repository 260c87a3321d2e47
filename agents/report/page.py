"""A page that explains one run, without any other file and without a network.

The same plots are written for papers, as ``figures/*.png``. wandb gets the plots as images, and the page with the files
it is made from as an artifact.

All that a model or a file may have written is data: it is JSON in inert blocks and becomes text nodes. What little is
written here is escaped, and a content security policy lets run only the page's own script and lets nothing be fetched.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from string import Template
from typing import Any

from agents.compare.layers_table import layer_kinds, layer_scores
from agents.inside.controller_report import controller_plot
from agents.report.data import point_blocks, token_blocks
from agents.report.figures import calibration, critic_values, draw_png, draw_svg, learning_curve, scores, variants
from agents.report.files import ANALYSES, RunFiles
from agents.report.plots import DARK, LIGHT, Draw, Theme
from agents.report.summary import facts, sections
from agents.runs.tracking import Tracker

SCRIPTS = ("page.js", "episodes.js", "points.js", "features.js", "start.js")
COMPRESSED_FROM = 4_000


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
    features = None if files.features is None else asdict(files.features)
    blocks = {**token_blocks(files), **point_blocks(files), "features": features, "missing": files.missing}
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
    if critic is not None and critic.target is not None:
        found["critic_values"] = lambda axes, theme: critic_values(axes, theme, critic)
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


def document(title: str, facts: str, summary: str, blocks: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        title: Of the page, any text.
        facts: HTML under the title.
        summary: HTML of the first view.
        blocks: JSON content that the script reads, by name.
    """
    style, script = read_part("page.css"), "\n".join(map(read_part, SCRIPTS))
    return Template(read_part("page.html")).substitute(
        title=escape(title),
        facts=facts,
        summary=summary,
        blocks="\n".join(data_block(name, content) for name, content in blocks.items()),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def read_part(name: str) -> str:
    """A file of ``page/``."""
    return (package_files("agents.report") / "page" / name).read_text(encoding="utf-8")


def data_block(name: str, content: Any) -> str:
    """JSON in a block that no browser runs; large ones as ``{"gzip": "<base64>"}``."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text) > COMPRESSED_FROM:
        text = json.dumps({"gzip": base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()})
    # No "<" at all: neither "</script" nor "<!--" can end the block or change how it is read.
    return f'<script type="application/json" id="data-{escape(name)}">{text.replace("<", chr(92) + "u003c")}</script>'


def picture(draw: Draw, name: str) -> str:
    """A plot for light and for dark pages."""
    dark, light = _svg(draw, DARK), _svg(draw, LIGHT)
    return (
        f'<picture><source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(name)}" src="{light}"></picture>'
    )


def _svg(draw: Draw, theme: Theme) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(draw_svg(draw, theme).encode()).decode()}"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
