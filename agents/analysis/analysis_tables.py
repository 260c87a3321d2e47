"""The analyses of a run as flat tables, for wandb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def analysis_tables(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Rows]:
    """Tables by name.

    Args:
        records: Contents of ``features.json``, ``critic.json`` and, where there is one, ``branch_points.json``.

    Returns:
        ``features``, one row each; ``branch_points``, one row for each kind of alternative; of the critic's values
        ``critic_groups``, ``critic_values`` (their course over the episode) and ``critic_calibration``;
        ``critic_failures``, whose fault the wrong episodes are. Those without rows are left out.
    """
    points = records.get("branch_points", {"arms": {}})
    found = {
        "features": records["features"]["features"],
        "branch_points": _named("arm", points["arms"]),
        **_critic_tables(records["critic"]),
    }
    return {name: rows for name, rows in found.items() if rows}


def _critic_tables(critic: Mapping[str, Any]) -> dict[str, Rows]:
    groups, failures = critic.get("groups", {}), critic["failures"]
    return {
        "critic_groups": [{"group": name, "n": row["n"], "return": row["return"]} for name, row in groups.items()],
        "critic_values": [{"group": name, **at} for name, row in groups.items() for at in row["by_position"]],
        "critic_calibration": [
            {"tokens": name, **each} for name, row in critic.get("calibration", {}).items() for each in row["table"]
        ],
        "critic_failures": [] if failures is None else _named("search", failures["searches"]),
    }


def _named(column: str, rows: Mapping[str, Mapping[str, Any]]) -> Rows:
    return [{column: name, **row} for name, row in rows.items()]
