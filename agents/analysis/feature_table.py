"""Which features a policy uses, what they are, and what would be lost without each.

``features.json``, by :func:`feature_record`:

* ``diversity``: ``tokens``, ``no_op`` (share of tokens not steered), ``choices`` (features there are to choose from),
  ``distinct`` (of them used), ``entropy`` (nats, of the steered tokens' features), ``effective`` (its exponential: as
  many equally used ones), ``gini`` (over all choices: 0 all alike, near 1 one alone).
* ``features``: a row for each used feature, most used first:

  - ``feature``, ``label``, ``label_source``; ``promoted`` and ``suppressed`` tokens, strongest first (null without the
    model);
  - ``kind``, ``kind_shares``, ``activity``, ``information`` (null without the model): where it is active in the prompts
    of the first episodes and what the model writes unsteered, by :mod:`agents.analysis.feature_kinds`;
  - ``tokens`` and ``episodes`` that used it; ``score_where_used`` and ``gain_where_used`` (less the unsteered score);
  - ``correlation`` over all episodes of its use (yes or no) with the score, null where one of them does not vary, and
    ``correlation_rank``, 1 the highest;
  - ``impact`` (null without counterfactuals): the causal effect of removing it from the policy in the episodes that
    used it, with the policy's ``next_best`` choice in its place or the ``no_op``. Each has ``effect``, by how much the
    mean score of all episodes falls; ``where_used``, of the episodes that used it, with ``ci95`` (bootstrap over them);
    how many the removal ``broken`` and ``corrected``; ``p`` (McNemar);
  - ``effect``, that of ``next_best``, and ``causal_rank`` by it, 1 the highest, where equal by that of ``no_op``;
  - ``reach`` (null without counterfactuals), the share of episodes it makes right by itself, kept up all along, and
    ``reach_rank`` among all choices;
  - ``examples``, where it was most active: ``activation``, ``episode``, ``item``, ``step``, ``prompt`` (its end; null
    without the model), ``before`` (what the model had written) and ``token_text`` (what it wrote then). The log holds
    the five strongest features of a token; one that is never among them has no examples.
* ``ranks``: correlation beside causation: ``n`` features with both, ``spearman`` and its ``p`` (null below three), and
  ``disagreements``, the five features whose ranks differ most.
* ``alone`` (null without counterfactuals): what features do by themselves, in the first ``episodes``: the share of
  those that are right ``unsteered``, with the policy (``trained``), and with the best feature of each (``oracle``);
  ``solvers``, how many features make one right (``p10``, ``median``, ``p90``). Where many do, none is necessary.
* ``planted``: :func:`agents.analysis.planted.planted_record`, or null where nothing is known to be planted.

Where actions are strengths, ``tokens`` counts a feature where its strength is the largest; all have rows; removal sets
the strength to zero, under ``no_op``, and ``effect`` is that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from agents.analysis.evaluated_run import RIGHT, EvaluatedRun
from agents.analysis.feature_meanings import Meanings, examples
from agents.analysis.planted import planted_record
from steer_env.evaluation.statistics import bootstrap_mean, mcnemar

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
) -> dict[str, Any]:
    """All of ``features.json`` but what the run is.

    Args:
        evaluated: The evaluation.
        choices: How many features there are to choose from.
        meanings: Of at least the used features.
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
    found = examples(steered, [row["feature"] for row in rows])
    for row in rows:
        own = found.get(row["feature"], [])
        row["examples"] = [{**each, "prompt": meanings.prompts.get(each["item"])} for each in own]
    return {
        "diversity": diversity(steered["feature"].to_numpy(), choices),
        "features": rows,
        "ranks": _agreement(rows),
        "alone": None if effects is None or not reach else _alone(evaluated.episodes, effects.alone),
        "planted": None if conditions is None else planted_record(rows, conditions, reach),
    }


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


def diversity(features: np.ndarray, choices: int) -> dict[str, Any]:
    """How widely choices are spread.

    Args:
        features: ``[n]`` SAE indices, -1 for none.
        choices: How many features there are to choose from.
    """
    counts = np.unique(features[features >= 0], return_counts=True)[1]
    shares = counts / counts.sum() if len(counts) else np.zeros(0)
    entropy = float(-(shares * np.log(shares)).sum())
    spread = np.concatenate([np.zeros(choices - len(counts)), np.sort(counts)])
    # Of sorted counts: twice their mean rank, weighted by count, less the middle (Gini 1912).
    ranks = np.arange(1, choices + 1)
    gini = float(((2 * ranks - choices - 1) * spread).sum() / (choices * spread.sum())) if len(counts) else 0.0
    return {
        "tokens": len(features),
        "no_op": float(np.mean(features < 0)),
        "choices": choices,
        "distinct": len(counts),
        "entropy": entropy,
        "effective": float(np.exp(entropy)) if len(counts) else 0.0,
        "gini": gini,
    }


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


def _impacts(scores: pd.Series, removals: Removals, feature: int) -> dict[str, dict[str, Any]] | None:
    known = {name: _impact(scores, table[feature]) for name, table in removals.items() if feature in table}
    return known or None


def _impact(scores: pd.Series, without: Mapping[int, float]) -> dict[str, Any]:
    """The effect of a removal, from the scores without the feature of the episodes that used it."""
    episodes = list(without)
    before, after = scores.loc[episodes].to_numpy(), np.array([without[episode] for episode in episodes])
    lost = before - after
    broken, corrected = ((before > RIGHT) & (after <= RIGHT)).sum(), ((before <= RIGHT) & (after > RIGHT)).sum()
    return {
        "effect": float(lost.sum() / len(scores)),
        "where_used": float(lost.mean()),
        "ci95": bootstrap_mean(lost.tolist(), seed=0, resamples=2_000),
        "broken": int(broken),
        "corrected": int(corrected),
        "p": mcnemar(int(corrected), int(broken)),
    }


def _rank(rows: list[dict[str, Any]]) -> None:
    """Give rows their places by correlation and by effects; equals share the best of theirs."""
    for row in rows:
        effects = [impact["effect"] for impact in (row["impact"] or {}).values()]
        row["effect"] = effects[0] if effects else None
        row["causal_rank"] = tuple(effects) or None
        row["correlation_rank"] = row["correlation"]
    for name in ("causal_rank", "correlation_rank"):
        known = sorted((row[name] for row in rows if row[name] is not None), reverse=True)
        for row in rows:
            row[name] = None if row[name] is None else known.index(row[name]) + 1


def _alone(episodes: pd.DataFrame, alone: np.ndarray) -> dict[str, Any]:
    right, first = alone > RIGHT, episodes.iloc[: alone.shape[1]]
    p10, median, p90 = np.quantile(right.sum(axis=0), [0.1, 0.5, 0.9])
    return {
        "episodes": alone.shape[1],
        "unsteered": float((first["unsteered_score"] > RIGHT).mean()),
        "trained": float((first["score"] > RIGHT).mean()),
        "oracle": float(right.any(axis=0).mean()),
        "solvers": {"p10": p10, "median": median, "p90": p90},
    }


def _agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("correlation_rank", "causal_rank")
    both = [row for row in rows if all(row[name] is not None for name in names)]
    columns = [[row[name] for row in both] for name in names]
    record: dict[str, Any] = {"n": len(both), "spearman": None, "p": None}
    if len(both) >= 3 and all(len(set(column)) > 1 for column in columns):
        result = stats.spearmanr(*columns)
        record |= {"spearman": float(result.statistic), "p": float(result.pvalue)}
    apart = sorted(both, key=lambda row: -abs(row["correlation_rank"] - row["causal_rank"]))
    shown = ("feature", "label", *names)
    return record | {"disagreements": [{name: row[name] for name in shown} for row in apart[:5]]}
