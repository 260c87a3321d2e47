"""Branch points as a report's data: an index to filter by, and the points themselves in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.analysis.evaluated_run import RIGHT
from agents.report.files import RunFiles

POINTS_PER_BLOCK = 100


def point_blocks(files: RunFiles) -> dict[str, Any]:
    """``points``, the index (null without an analysis), and ``points-0``, ``points-1``, ...

    The index has, by point: ``episode``, ``item``, ``step``, ``token``, ``feature``, ``label`` and ``flips``, a list of
    pairs of an arm and ``"corrected"`` or ``"broken"``; also ``arms`` and ``random`` of the analysis, and how many
    tokens of an episode were looked at (``analysed``). A block's points have ``alternatives``, as the analysis tells
    them, and ``factual``: ``score``, ``completion`` and ``info`` of the episode. Where the task draws boards, all
    with ``info`` have a ``board``.
    """
    if files.points is None:
        return {"points": None}
    points = files.points["branch_points"]
    factual = {row["episode"]: row for row in files.points["episodes"]}
    index = {
        **{name: [point[name] for point in points] for name in ("episode", "step", "feature", "label")},
        "item": [factual[point["episode"]]["item"] for point in points],
        "right": RIGHT,
        "token": [point["token_text"] for point in points],
        "flips": [_flips(point) for point in points],
        "analysed": {row["episode"]: row["tried"] for row in factual.values()},
        "not_reproduced": len(files.points["not_reproduced"]),
        "block": POINTS_PER_BLOCK,
        **{name: files.points[name] for name in ("arms", "random")},
    }
    blocks = {
        f"points-{start // POINTS_PER_BLOCK}": [
            _point(files, point, factual[point["episode"]]) for point in points[start : start + POINTS_PER_BLOCK]
        ]
        for start in range(0, len(points), POINTS_PER_BLOCK)
    }
    return {"points": index, **blocks}


def _flips(point: Mapping[str, Any]) -> list[list[str]]:
    kinds = {
        (each["arm"], "corrected" if each["score"] > RIGHT else "broken")
        for each in point["alternatives"]
        if each["flips"]
    }
    return [list(kind) for kind in sorted(kinds)]


def _point(files: RunFiles, point: Mapping[str, Any], episode: Mapping[str, Any]) -> dict[str, Any]:
    def drawn(end: Mapping[str, Any]) -> dict[str, Any]:
        board = files.board(episode["item"], end["info"]) if "info" in end else None
        return {**end, **({"board": board} if board else {})}

    factual = {name: episode[name] for name in ("score", "completion", "info")}
    return {"alternatives": [drawn(each) for each in point["alternatives"]], "factual": drawn(factual)}
