"""The intervention log: one row a token of every arm, as a parquet table."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agents.evaluation import Played

_COLUMNS = {
    "item": pa.int64(),
    "step": pa.int64(),
    "token": pa.int64(),
    "token_text": pa.string(),
    "feature": pa.int64(),
    "coefficient": pa.float64(),
    "log_prob": pa.float64(),
    "value": pa.float64(),
    "entropy": pa.float64(),
}
_COMPARED = {"unsteered_token": pa.int64(), "unsteered_token_text": pa.string(), "changed": pa.bool_()}


def write_interventions(path: Path, run: str, arms: Mapping[str, Played], labels: Mapping[int, str]) -> None:
    """Write the table, whole or not at all.

    Columns: run, arm, episode, item, step, token, token_text, feature (-1 = not steered), label, coefficient
    (residual units, signed), log_prob, value, entropy (null where the arm has none), top_features and
    top_activations (the strongest SAE features before steering), unsteered_token, unsteered_token_text and
    changed (null without ``compare``), score of the episode, and strengths where actions are strengths.
    """
    part = path.with_name(f".{path.name}.part")
    pq.write_table(pa.concat_tables([_table(run, arm, played, labels) for arm, played in arms.items()]), part)
    part.replace(path)


def used_features(arms: Mapping[str, Played]) -> list[int]:
    """SAE indices of the features that any arm steered with."""
    return sorted({int(f) for played in arms.values() for f in np.unique(played.tokens["feature"]) if f >= 0})


def _table(run: str, arm: str, played: Played, labels: Mapping[int, str]) -> pa.Table:
    tokens = played.tokens
    n = len(tokens["step"])
    columns = {"run": pa.array([run] * n), "arm": pa.array([arm] * n), "episode": pa.array(tokens["episode"])}
    columns |= {name: pa.array(tokens[name], kind, from_pandas=True) for name, kind in _COLUMNS.items()}
    columns["label"] = pa.array([labels.get(feature) for feature in tokens["feature"].tolist()], pa.string())
    columns |= {
        name: pa.array(tokens[name], kind) if name in tokens else pa.nulls(n, kind) for name, kind in _COMPARED.items()
    }
    for name in ("top_features", "top_activations", "strengths"):
        if name in tokens:
            columns[name] = _lists(tokens[name])
    columns["score"] = pa.array(played.scores[tokens["episode"]])
    return pa.table(columns)


def _lists(values: np.ndarray) -> pa.Array:
    """``[n, k]`` as ``n`` lists of ``k``."""
    starts = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
    return pa.ListArray.from_arrays(starts, pa.array(values.ravel()))
