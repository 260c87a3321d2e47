"""What the page's script reads: an index of the episodes and one of the branch points, and blocks of what each holds.

Blocks are unpacked when they are shown, so that a page of many megabytes opens at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from agents.analysis.evaluated_run import RIGHT, STEERED, UNSTEERED
from agents.analysis.results import BranchPoint, FactualEpisode
from agents.report.files import RunFiles

EPISODES_PER_BLOCK = 30
POINTS_PER_BLOCK = 100
DECIMALS = {"coefficient": 3, "log_prob": 3, "value": 3, "entropy": 3, "reward": 3, "kl": 4}
Boards = Callable[[int, Sequence[str]], "list[dict[str, Any] | None] | None"]


def token_blocks(files: RunFiles) -> dict[str, Any]:
    """``episodes``, the index (null without a log), and ``tokens-0``, ``tokens-1``, ...

    The index has, by episode of the trained arm: ``episode``, ``item``, ``score``, ``unsteered_score``, ``length``,
    ``changed`` (tokens), ``kl`` (mean) and ``features``; also ``texts`` of tokens and ``labels`` of features, which
    tokens refer to, and ``kl_scale``, the KL divergence that 95 % of the tokens stay below. A block has for each of its
    episodes a row of columns over tokens, ``unsteered``, what the model wrote by itself, and ``boards``,
    where the task draws some.
    """
    if files.tokens is None:
        return {"episodes": None}
    steered, alone = (files.tokens[files.tokens["arm"] == arm] for arm in (STEERED, UNSTEERED))
    texts, coded = _coded(steered)
    rows = [frame for _, frame in coded.groupby("episode")]
    written = alone["token_text"].groupby(alone["episode"]).agg("".join).to_dict()
    boards = _boards(files)
    blocks = {
        f"tokens-{start // EPISODES_PER_BLOCK}": [
            _episode(frame, texts, written, boards) for frame in rows[start : start + EPISODES_PER_BLOCK]
        ]
        for start in range(0, len(rows), EPISODES_PER_BLOCK)
    }
    return {"episodes": {**_index(coded, alone), "texts": texts, "block": EPISODES_PER_BLOCK}, **blocks}


def _coded(steered: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """The tokens' texts, and the tokens with numbers in place of texts."""
    both = pd.concat([steered["token_text"], steered["unsteered_token_text"]])
    codes, texts = pd.factorize(both)  # -1 for null
    own, other = np.split(codes, 2)
    return [str(text) for text in texts], steered.assign(text=own, other=other)


def _index(coded: pd.DataFrame, alone: pd.DataFrame) -> dict[str, Any]:
    grouped = coded.groupby("episode")
    unsteered = alone.groupby("episode")["score"].first().reindex(grouped.size().index)
    first = grouped[["item", "score"]].first()
    named = coded[coded["feature"] >= 0].drop_duplicates("feature")
    labels = {str(f): str(label) for f, label in zip(named["feature"], named["label"], strict=True) if pd.notna(label)}
    known = coded["kl"].dropna()
    return {
        "episode": first.index.tolist(),
        "item": first["item"].tolist(),
        "score": _numbers(first["score"], 4),
        "unsteered_score": _numbers(unsteered, 4),
        "right": RIGHT,
        "length": grouped.size().tolist(),
        "changed": coded["changed"].eq(True).groupby(coded["episode"]).sum().tolist(),
        "kl": _numbers(grouped["kl"].mean(), 3),
        "features": [sorted(set(found)) for found in grouped["feature"].agg(list)],
        "labels": labels,
        "kl_scale": float(known.quantile(0.95)) if len(known) else None,
    }


def _episode(frame: pd.DataFrame, texts: Sequence[str], written: dict[int, str], boards: Boards) -> dict[str, Any]:
    episode = int(frame["episode"].iloc[0])
    own = frame["text"].tolist()
    return {
        "text": own,
        "other": frame["other"].tolist(),
        "feature": frame["feature"].tolist(),
        "changed": [None if value is None or value != value else bool(value) for value in frame["changed"].tolist()],
        **{name: _numbers(frame[name], decimals) for name, decimals in DECIMALS.items()},
        "strengths": _lists(frame["strengths"], lambda value: round(float(value), 2)),
        "top": _lists(frame["top_features"], int),
        "top_activations": _lists(frame["top_activations"], lambda value: round(float(value), 2)),
        "unsteered": written.get(episode),
        "boards": boards(int(frame["item"].iloc[0]), [texts[code] for code in own]),
    }


def _numbers(values: pd.Series, decimals: int) -> list[float | None]:
    rounded = np.round(values.to_numpy(dtype=float, na_value=np.nan), decimals)
    return [value if value == value else None for value in rounded.tolist()]


def _lists(column: pd.Series, number: Callable[[Any], Any]) -> list[list[Any] | None]:
    return [[number(v) for v in row] if isinstance(row, (list, np.ndarray)) else None for row in column.tolist()]


def _boards(files: RunFiles) -> Boards:
    """The boards after each token of an episode, which the task plays again from the log, without the model."""
    task = files.task
    if task is None or task.max_new_tokens != 1:  # the log does not say where a turn of several tokens ends
        return lambda item, utterances: None

    def play(item: int, utterances: Sequence[str]) -> list[dict[str, Any] | None]:
        talk = task.start(item)
        return [files.board(item, talk.respond(utterance).info) for utterance in utterances]

    return play


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
    points = files.points.branch_points
    factual = {row.episode: row for row in files.points.episodes}
    index = {
        **{name: [getattr(point, name) for point in points] for name in ("episode", "step", "feature", "label")},
        "item": [factual[point.episode].item for point in points],
        "right": RIGHT,
        "token": [point.token_text for point in points],
        "flips": [_flips(point) for point in points],
        "analysed": {row.episode: row.tried for row in factual.values()},
        "not_reproduced": len(files.points.not_reproduced),
        "block": POINTS_PER_BLOCK,
        "arms": {name: vars(counts) for name, counts in files.points.arms.items()},
        "random": None if files.points.random is None else asdict(files.points.random),
    }
    blocks = {
        f"points-{start // POINTS_PER_BLOCK}": [
            _point(files, point, factual[point.episode]) for point in points[start : start + POINTS_PER_BLOCK]
        ]
        for start in range(0, len(points), POINTS_PER_BLOCK)
    }
    return {"points": index, **blocks}


def _flips(point: BranchPoint) -> list[list[str]]:
    kinds = {(each.arm, "corrected" if each.score > RIGHT else "broken") for each in point.alternatives if each.flips}
    return [list(kind) for kind in sorted(kinds)]


def _point(files: RunFiles, point: BranchPoint, episode: FactualEpisode) -> dict[str, Any]:
    def drawn(end: dict[str, Any]) -> dict[str, Any]:
        board = None if end["info"] is None else files.board(episode.item, end["info"])
        return {**end, **({"board": board} if board else {})}

    factual = {name: getattr(episode, name) for name in ("score", "completion", "info")}
    return {"alternatives": [drawn(vars(each)) for each in point.alternatives], "factual": drawn(factual)}
