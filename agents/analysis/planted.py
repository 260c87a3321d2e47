"""Does a policy rely on what was planted? The embedded model's card names the features of its conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_env.lm.presets import find_preset
from steer_env.registration import task_of

RELIED_ON = 0.05


def planted_conditions(config: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of the embedded model's card about the conditions of a run's task.

    Args:
        config: The run's ``config.json``.

    Returns:
        ``cue``, ``feature`` and what the card says of how well it detects the cue; None where the run is not on an
        embedded model with its own SAE, or its card has no conditions for the task.
    """
    kwargs = config["env_kwargs"]
    if {"model", "sae"} & set(kwargs) or kwargs.get("preset", "embedded") != "embedded":
        return None
    task = task_of(config["env"]).name
    card = json.loads((Path(find_preset("embedded", task).model) / "card.json").read_text())
    saes = card["measured"].get("saes", {}).values()
    return [row for sae in saes for row in sae.get("conditions", []) if task in row["tasks"]] or None


def planted_record(
    rows: Sequence[Mapping[str, Any]],
    conditions: Sequence[Mapping[str, Any]],
    reach: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Whether the features that matter to a policy are those of the planted conditions.

    Args:
        rows: ``features`` of :func:`agents.analysis.feature_table.feature_record`.
        conditions: ``cue`` and ``feature`` of each; several may share a feature.
        reach: ``reach`` and ``reach_rank`` of every feature, where they are known.

    Returns:
        ``conditions``: for each ``cue`` its ``feature``, the ``tokens`` that the policy used it for, its
        ``causal_rank`` among the features used, and its ``reach`` and ``reach_rank`` among all. And for several sets of
        features their number ``n``, ``features``, ``precision`` (None for an empty set) and ``recall`` against the
        planted ones: those ``used`` at all; those relied on, whose removal (``relied_next_best``, ``relied_no_op``)
        breaks more episodes than it corrects at p < 0.05; and the ``first`` by causal rank with a positive effect, as
        many as are planted.
    """
    planted = {int(condition["feature"]) for condition in conditions}
    known = {row["feature"]: row for row in rows}
    record: dict[str, Any] = {
        "conditions": [
            {
                "cue": condition["cue"],
                "feature": int(condition["feature"]),
                "tokens": known.get(condition["feature"], {}).get("tokens", 0),
                "causal_rank": known.get(condition["feature"], {}).get("causal_rank"),
                **reach.get(condition["feature"], {"reach": None, "reach_rank": None}),
            }
            for condition in conditions
        ],
        "used": _against({row["feature"] for row in rows if row["tokens"]}, planted),
    }
    impacts = {row["feature"]: row["impact"] for row in rows if row["impact"] is not None}
    for name in dict.fromkeys(name for impact in impacts.values() for name in impact):
        relied = {feature for feature, impact in impacts.items() if name in impact and _matters(impact[name])}
        record[f"relied_{name}"] = _against(relied, planted)
    if impacts:
        best = {row["feature"] for row in rows if (row["effect"] or 0) > 0 and row["causal_rank"] <= len(planted)}
        record["first"] = _against(best, planted)
    return record


def _matters(impact: Mapping[str, Any]) -> bool:
    return bool(impact["broken"] > impact["corrected"] and impact["p"] < RELIED_ON)


def _against(features: set[int], planted: set[int]) -> dict[str, Any]:
    right = len(features & planted)
    precision = right / len(features) if features else None
    return {"n": len(features), "precision": precision, "recall": right / len(planted), "features": sorted(features)}
