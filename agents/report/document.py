"""One HTML file out of the page's parts (``page/``), the run's data and its pictures.

All that a model or a file may have written is data: it is JSON in inert blocks and becomes text nodes. What little is
written here is escaped, and a content security policy lets run only the page's own script and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from agents.report.figures import draw_svg
from agents.report.plots import DARK, LIGHT, Draw, Theme

SCRIPTS = ("page.js", "episodes.js", "points.js", "features.js", "start.js")
COMPRESSED_FROM = 4_000


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
    return (files("agents.report") / "page" / name).read_text(encoding="utf-8")


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
