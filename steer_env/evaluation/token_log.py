"""The intervention log: one row a token of every arm, as a parquet table of one schema for all tasks and actions.

``COLUMNS`` says what each column holds; the same text is in the file, as ``description`` of each field.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steer_env.evaluation.play import Played

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "run": (pa.string(), "name of the run"),
    "arm": (pa.string(), "policy that played: trained, unsteered or another control"),
    "episode": (pa.int64(), "place in the running order; the same number is the same item in every arm"),
    "item": (pa.int64(), "item of the split"),
    "step": (pa.int64(), "action within the episode, from 0: a token, or a whole option where decoding is constrained"),
    "token": (pa.int64(), "token that was written; of an option the first"),
    "token_text": (pa.string(), "its text; of an option all of it"),
    "feature": (pa.int64(), "SAE feature that steered, -1 for none; of several strengths the largest"),
    "label": (pa.string(), "what the feature is called; null where none steered"),
    "coefficient": (pa.float64(), "how much of its direction was added, signed, in residual units"),
    "strengths": (pa.list_(pa.float32()), "the whole action where it is strengths of features; else null"),
    "log_prob": (pa.float64(), "log-probability of the action under the policy; null where it has none"),
    "value": (pa.float64(), "the critic's estimate of the rewards from here on, before the action; null without one"),
    "entropy": (pa.float64(), "of the policy's distribution over actions, in nats; null where it has none"),
    "reward": (pa.float64(), "what the action earned; their sum over an episode is its return"),
    "top_features": (pa.list_(pa.int64()), "SAE features most active in the state, before steering, strongest first"),
    "top_activations": (pa.list_(pa.float32()), "their activations"),
    "unsteered_token": (pa.int64(), "token the model would have written here unsteered; null without compare"),
    "unsteered_token_text": (pa.string(), "its text, or the unsteered option's; null without compare"),
    "changed": (pa.bool_(), "whether that differs from what was written; null without compare"),
    "kl": (pa.float64(), "KL divergence of steered from unsteered next-token distribution, in nats; null without it"),
    "score": (pa.float64(), "of the episode the token belongs to"),
}
SCHEMA = pa.schema([pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in COLUMNS.items()])


def write_interventions(path: Path, run: str, arms: Mapping[str, Played], labels: Mapping[int, str]) -> None:
    """Write the table of ``COLUMNS``, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    pq.write_table(pa.concat_tables([_table(run, arm, played, labels) for arm, played in arms.items()]), part)
    part.replace(path)


def interventions_of(evaluation: Path) -> Path:
    """Where the log of an evaluation is: ``evaluation-1-test.json`` has ``interventions-1-test.parquet``."""
    return evaluation.with_name(evaluation.name.replace("evaluation", "interventions")).with_suffix(".parquet")


def used_features(arms: Mapping[str, Played]) -> list[int]:
    """SAE indices of the features that any arm steered with."""
    return sorted({int(f) for played in arms.values() for f in np.unique(played.tokens["feature"]) if f >= 0})


def _table(run: str, arm: str, played: Played, labels: Mapping[int, str]) -> pa.Table:
    tokens = played.tokens
    n = len(tokens["step"])
    known: dict[str, Any] = {
        **tokens,
        "run": [run] * n,
        "arm": [arm] * n,
        "label": [labels.get(feature) for feature in tokens["feature"].tolist()],
        "score": played.scores[tokens["episode"]],
    }
    return pa.table([_column(known.get(field.name), n, field.type) for field in SCHEMA], schema=SCHEMA)


def _column(values: np.ndarray | list[str] | None, n: int, kind: pa.DataType) -> pa.Array:
    """The values of a column, null where they are missing or not numbers."""
    if values is None:
        return pa.nulls(n, kind)
    if pa.types.is_list(kind):
        return _lists(np.asarray(values), kind)
    return pa.array(values, kind, from_pandas=True)


def _lists(values: np.ndarray, kind: pa.ListType) -> pa.Array:
    """``[n, k]`` as ``n`` lists of ``k``."""
    starts = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
    return pa.ListArray.from_arrays(starts, pa.array(values.ravel(), kind.value_type))
