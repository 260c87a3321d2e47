"""Which features a policy uses, what they are, what would be lost without each, and whether they are the planted ones.

The embedded model's card names the features of the conditions that were planted into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from agents.analysis.evaluated_run import RIGHT, EvaluatedRun
from agents.analysis.feature_meanings import Meanings, examples
from agents.analysis.results import Diversity, Features, Impact, RankAgreement, SingleFeatures, UsedFeature
from steer_env.evaluation.statistics import bootstrap_mean, mcnemar
from steer_env.lm.presets import find_preset
from steer_env.registration import task_of

RELIED_ON = 0.05
Removals = Mapping[str, Mapping[int, Mapping[int, float]]]


@dataclass(frozen=True)
class Effects:
    """What counterfactuals say of features.

    Attributes:
        features: SAE indices behind the actions.
        removals: Scores without a feature: ``removals[instead][feature][episode]``.
        alone: Scores ``[F, n]`` of each of ``features`` kept up alone, in the first ``n`` episodes.
    """

    features: Sequence[int]
    removals: Removals
    alone: np.ndarray


def feature_record(
    evaluated: EvaluatedRun,
    choices: int,
    meanings: Meanings,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    effects: Effects | None = None,
) -> Features:
    """What ``features.json`` holds.

    Args:
        evaluated: The evaluation.
        choices: Number of features to choose from.
        meanings: What is known of the used features, and perhaps of others.
        conditions: Planted conditions of the card (``cue``, ``feature``).
        effects: What counterfactuals say; None without them.
    """
    steered = evaluated.steered
    used = steered[steered["feature"] >= 0]
    counts = used["feature"].value_counts()
    removals = {} if effects is None else effects.removals
    removed = [feature for table in removals.values() for feature in table]
    reach = {} if effects is None else reaches(effects.alone, effects.features)
    rows = []
    for feature in dict.fromkeys([*map(int, counts.index), *removed]):
        row = _usage(evaluated, used[used["feature"] == feature])
        row["impact"] = _impacts(evaluated.episodes["score"], removals, feature)
        row |= reach.get(feature, {"reach": None, "reach_rank": None})
        rows.append({"feature": feature} | _meaning(meanings, feature) | row)
    _rank(rows)
    found = examples(steered, [row["feature"] for row in rows], meanings.prompts)
    return Features(
        **evaluated.head,
        diversity=diversity(steered["feature"].to_numpy(), choices),
        features=[UsedFeature(**row, examples=found.get(row["feature"], [])) for row in rows],
        ranks=_agreement(rows),
        alone=None if effects is None or not reach else _alone(evaluated.episodes, effects.alone),
        planted=None if conditions is None else planted_record(rows, conditions, reach),
    )


def reaches(alone: np.ndarray, features: Sequence[int]) -> dict[int, dict[str, Any]]:
    """``reach`` and ``reach_rank`` of every feature, from scores ``[F, n]`` of each kept up alone; none without any."""
    if alone.shape[1] == 0:
        return {}
    share = (alone > RIGHT).mean(axis=1)
    ranks = stats.rankdata(-share, method="min")
    return {
        feature: {"reach": float(own), "reach_rank": int(rank)}
        for feature, own, rank in zip(features, share, ranks, strict=True)
    }


def diversity(features: np.ndarray, choices: int) -> Diversity:
    """How widely choices are spread.

    Args:
        features: ``[n]`` SAE indices, -1 for none.
        choices: Number of features to choose from.
    """
    counts = np.unique(features[features >= 0], return_counts=True)[1]
    shares = counts / counts.sum() if len(counts) else np.zeros(0)
    entropy = float(-(shares * np.log(shares)).sum())
    spread = np.concatenate([np.zeros(choices - len(counts)), np.sort(counts)])
    # Of sorted counts: twice their mean rank, weighted by count, less the middle (Gini 1912).
    ranks = np.arange(1, choices + 1)
    gini = float(((2 * ranks - choices - 1) * spread).sum() / (choices * spread.sum())) if len(counts) else 0.0
    return Diversity(
        tokens=len(features),
        no_op=float(np.mean(features < 0)),
        choices=choices,
        distinct=len(counts),
        entropy=entropy,
        effective=float(np.exp(entropy)) if len(counts) else 0.0,
        gini=gini,
    )


def _meaning(meanings: Meanings, feature: int) -> dict[str, Any]:
    kind = meanings.kinds.get(feature, {})
    return {
        "label": meanings.labels.get(feature),
        "label_source": meanings.sources.get(feature),
        "promoted": meanings.promoted.get(feature),
        "suppressed": meanings.suppressed.get(feature),
        **{name: kind.get(name) for name in ("kind", "kind_shares", "activity", "information")},
    }


def _usage(evaluated: EvaluatedRun, own: pd.DataFrame) -> dict[str, Any]:
    episodes = evaluated.episodes
    uses = episodes.index.isin(own["episode"])
    score, gain = episodes["score"], episodes["score"] - episodes["unsteered_score"]
    varies = score.nunique() > 1 and 0 < uses.sum() < len(uses)
    return {
        "tokens": len(own),
        "episodes": int(uses.sum()),
        "score_where_used": float(score[uses].mean()) if uses.any() else None,
        "gain_where_used": float(gain[uses].mean()) if uses.any() else None,
        "correlation": float(np.corrcoef(uses, score)[0, 1]) if varies else None,
    }


def _impacts(scores: pd.Series, removals: Removals, feature: int) -> dict[str, Impact] | None:
    known = {name: _impact(scores, table[feature]) for name, table in removals.items() if feature in table}
    return known or None


def _impact(scores: pd.Series, without: Mapping[int, float]) -> Impact:
    """The effect of a removal, from the scores without the feature of the episodes that used it."""
    episodes = list(without)
    before, after = scores.loc[episodes].to_numpy(), np.array([without[episode] for episode in episodes])
    lost = before - after
    broken, corrected = ((before > RIGHT) & (after <= RIGHT)).sum(), ((before <= RIGHT) & (after > RIGHT)).sum()
    return Impact(
        effect=float(lost.sum() / len(scores)),
        where_used=float(lost.mean()),
        ci95=bootstrap_mean(lost.tolist(), seed=0, resamples=2_000),
        broken=int(broken),
        corrected=int(corrected),
        p=mcnemar(int(corrected), int(broken)),
    )


def _rank(rows: list[dict[str, Any]]) -> None:
    """Give rows their places by correlation and by effects; equals share the best of theirs."""
    for row in rows:
        effects = [impact.effect for impact in (row["impact"] or {}).values()]
        row["effect"] = effects[0] if effects else None
        row["causal_rank"] = tuple(effects) or None
        row["correlation_rank"] = row["correlation"]
    for name in ("causal_rank", "correlation_rank"):
        known = sorted((row[name] for row in rows if row[name] is not None), reverse=True)
        for row in rows:
            row[name] = None if row[name] is None else known.index(row[name]) + 1


def _alone(episodes: pd.DataFrame, alone: np.ndarray) -> SingleFeatures:
    right, first = alone > RIGHT, episodes.iloc[: alone.shape[1]]
    p10, median, p90 = np.quantile(right.sum(axis=0), [0.1, 0.5, 0.9])
    return SingleFeatures(
        episodes=alone.shape[1],
        unsteered=float((first["unsteered_score"] > RIGHT).mean()),
        trained=float((first["score"] > RIGHT).mean()),
        oracle=float(right.any(axis=0).mean()),
        solvers={"p10": float(p10), "median": float(median), "p90": float(p90)},
    )


def _agreement(rows: Sequence[Mapping[str, Any]]) -> RankAgreement:
    names = ("correlation_rank", "causal_rank")
    both = [row for row in rows if all(row[name] is not None for name in names)]
    columns = [[row[name] for row in both] for name in names]
    spearman = p = None
    if len(both) >= 3 and all(len(set(column)) > 1 for column in columns):
        result = stats.spearmanr(*columns)
        spearman, p = float(result.statistic), float(result.pvalue)
    apart = sorted(both, key=lambda row: -abs(row["correlation_rank"] - row["causal_rank"]))
    shown = ("feature", "label", *names)
    return RankAgreement(len(both), spearman, p, [{name: row[name] for name in shown} for row in apart[:5]])


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
        rows: A row for each used feature, with the fields of :class:`agents.analysis.results.UsedFeature`.
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


def _matters(impact: Impact) -> bool:
    return impact.broken > impact.corrected and impact.p < RELIED_ON


def _against(features: set[int], planted: set[int]) -> dict[str, Any]:
    right = len(features & planted)
    precision = right / len(features) if features else None
    return {"n": len(features), "precision": precision, "recall": right / len(planted), "features": sorted(features)}
