"""The critic's values along episodes, how right they are, and why episodes failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from agents.analysis.evaluated_run import RIGHT, EvaluatedRun
from agents.analysis.results import Calibration, CalibrationBin, Critic, CriticGroup, FailureCounts, Failures, ValueAt

GROUPS = {  # unsteered right, steered right
    "correct": (True, True),
    "corrected": (False, True),
    "misguided": (True, False),
    "incorrect": (False, False),
}
BINS = 10
DEFINITIONS = {
    "policy": "one other choice at one token, or one feature kept up all along, would have made the episode right",
    "critic": "the mean over the episode of value less target is above half of the gap between the mean targets of "
    "right and of wrong episodes: the critic took a failure for a success",
    "neither": "no other choice that was tried is better, and the critic saw the failure coming",
}


class Search(NamedTuple):
    """A search for better choices in wrong episodes.

    Attributes:
        searched: The episodes.
        found: Those of them that another choice makes right.
    """

    searched: Sequence[int]
    found: Sequence[int]


def critic_record(evaluated: EvaluatedRun, searches: Mapping[str, Search] | None = None) -> Critic:
    """What ``critic.json`` holds: all from the token log, but ``failures``, which needs counterfactuals.

    Args:
        evaluated: The evaluation.
        searches: Searches for better choices, by name; None without counterfactuals.
    """
    tokens = valued_tokens(evaluated)
    failures = None if searches is None else failure_record(evaluated.episodes, tokens, searches)
    if tokens is None:
        return Critic(**evaluated.head, target=None, failures=failures)
    return Critic(
        **evaluated.head,
        target="return" if evaluated.steered["reward"].notna().all() else "score",
        gamma=evaluated.gamma,
        groups={name: _group(tokens[tokens["group"] == name]) for name in GROUPS},
        calibration={
            "all_tokens": _calibration(tokens),
            "first_tokens": _calibration(tokens[tokens["step"] == 0]),
        },
        separation={"first": _separation(tokens, 0), "last": _separation(tokens, -1)},
        failures=failures,
    )


def valued_tokens(evaluated: EvaluatedRun) -> pd.DataFrame | None:
    """``episode``, ``step``, ``value``, ``target``, ``position`` and ``group`` of each steered token.

    None where the algorithm has no values.
    """
    rows = evaluated.steered
    if rows["value"].isna().any():
        return None
    table = rows[["episode", "step", "value"]].copy()
    logged = rows["reward"].notna().all()
    table["target"] = returns_to_go(rows, evaluated.gamma) if logged else rows["score"]
    last = table.groupby("episode")["step"].transform("max")
    table["position"] = table["step"] / last.clip(lower=1)
    ends = evaluated.episodes
    kinds = {kind: name for name, kind in GROUPS.items()}
    right = zip(ends["unsteered_score"] > RIGHT, ends["score"] > RIGHT, strict=True)
    table["group"] = table["episode"].map(dict(zip(ends.index, (kinds[kind] for kind in right), strict=True)))
    return table


def returns_to_go(rows: pd.DataFrame, gamma: float) -> np.ndarray:
    """Discounted rewards from each token on; ``rows`` are sorted by episode and step."""
    episodes, rewards = rows["episode"].to_numpy(), rows["reward"].to_numpy(dtype=np.float64)
    found = np.zeros(len(rows))
    for i in reversed(range(len(rows))):
        goes_on = i + 1 < len(rows) and episodes[i + 1] == episodes[i]
        found[i] = rewards[i] + (gamma * found[i + 1] if goes_on else 0.0)
    return found


def failure_record(episodes: pd.DataFrame, tokens: pd.DataFrame | None, searches: Mapping[str, Search]) -> Failures:
    """Divide the wrong episodes into bad choices of the policy, misjudgements of the critic, both and neither.

    Args:
        episodes: ``score`` of each.
        tokens: What :func:`valued_tokens` returned.
        searches: Searches for better choices, by name.
    """
    fooled, gap = _fooled(episodes, tokens)
    counts = {}
    for name, (searched, found) in searches.items():
        policy = np.isin(searched, found)
        if fooled is None:
            counts[name] = FailureCounts(len(searched), int(policy.sum()), None, None, None)
        else:
            critic = np.isin(searched, sorted(fooled))
            sums = (policy, critic, policy & critic, ~policy & ~critic)
            counts[name] = FailureCounts(len(searched), *(int(each.sum()) for each in sums))
    wrong = int((episodes["score"] <= RIGHT).sum())
    return Failures(DEFINITIONS, wrong, gap, counts)


def _fooled(episodes: pd.DataFrame, tokens: pd.DataFrame | None) -> tuple[set[int] | None, float | None]:
    """The wrong episodes that the critic took for right ones, and the gap between right and wrong targets."""
    right = episodes["score"] > RIGHT
    if tokens is None or right.all() or not right.any():
        return None, None
    means = tokens.groupby("episode")[["value", "target"]].mean()
    gap = float(means["target"][right].mean() - means["target"][~right].mean())
    high = means["value"] - means["target"] > gap / 2
    return set(means.index[high & ~right].tolist()), gap


def _group(tokens: pd.DataFrame) -> CriticGroup:
    first = tokens[tokens["step"] == 0]
    # The first and the last token of an episode are the middles of the outer parts.
    parts = (tokens["position"] * (BINS - 1)).round() / (BINS - 1)
    mean = None if first.empty else float(first["target"].mean())
    return CriticGroup(len(first), mean, _values_at(tokens, tokens["step"]), _values_at(tokens, parts))


def _values_at(tokens: pd.DataFrame, at: pd.Series) -> list[ValueAt]:
    return [
        ValueAt(
            at=float(place),
            n=len(values),
            mean=float(values.mean()),
            p10=float(values.quantile(0.1)),
            p90=float(values.quantile(0.9)),
        )
        for place, values in tokens["value"].groupby(at)
    ]


def _calibration(tokens: pd.DataFrame) -> Calibration:
    value, target = tokens["value"].to_numpy(), tokens["target"].to_numpy()
    variance, error = float(np.var(target)), value - target
    varies = variance > 0 and float(np.var(value)) > 0
    order = np.argsort(value, kind="stable")
    return Calibration(
        n=len(tokens),
        bias=float(error.mean()),
        mae=float(np.abs(error).mean()),
        r2=1 - float(np.mean(error**2)) / variance if variance > 0 else None,
        correlation=float(np.corrcoef(value, target)[0, 1]) if varies else None,
        table=[_bin(value[rows], target[rows]) for rows in np.array_split(order, min(BINS, len(order)))],
    )


def _bin(value: np.ndarray, target: np.ndarray) -> CalibrationBin:
    return CalibrationBin(float(value.min()), float(value.max()), len(value), float(value.mean()), float(target.mean()))


def _separation(tokens: pd.DataFrame, place: int) -> dict[str, float | None]:
    """Areas under the ROC curve of the value at the first (0) or the last (-1) token."""
    each = tokens.groupby("episode").nth(place).set_index("group")["value"]

    def area(above: Sequence[str], below: Sequence[str]) -> float | None:
        high, low = each[each.index.isin(above)], each[each.index.isin(below)]
        if high.empty or low.empty:
            return None
        return float(stats.mannwhitneyu(high, low).statistic / (len(high) * len(low)))

    return {
        "right_from_wrong": area(["correct", "corrected"], ["misguided", "incorrect"]),
        "corrected_from_misguided": area(["corrected"], ["misguided"]),
    }
