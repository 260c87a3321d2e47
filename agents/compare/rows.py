"""From what arms did to what is reported of them: scores, intervals, paired tests, train beside test, puppeteering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.compare.arms import Arm, Bench
from agents.compare.evaluate import beside_train, compare_arms
from agents.runs.loading import drawn_items
from steer_env.envs.base import unwrap
from steer_env.evaluation.play import Played, play
from steer_env.evaluation.statistics import holm, mcnemar, runs_interval
from steer_env.lm.labels import promoted

TRAIN_ITEMS = 5_000  # at most so many are played again
WRITES = 10  # a feature writes a token itself where the token is among so many that its direction promotes most


def rows(bench: Bench, arms: Mapping[str, Arm]) -> dict[str, dict[str, Any]]:
    """A row an arm; means over seeds, p-values against unsteered the largest over seeds, corrected over arms (Holm)."""
    unsteered, task = arms["unsteered"].played[0], unwrap(bench.envs("test")).task
    found = {name: _row(arm, unsteered, task, bench.seed) for name, arm in arms.items()}
    raw = {name: _largest_p(unsteered, arm.played) for name, arm in arms.items() if name != "unsteered"}
    for name, p in holm(raw).items():
        found[name] |= {"p_mcnemar": raw[name], "p_holm": p}
    found["trained"] |= _train_beside_test(bench, arms["trained"]) | _puppeteering(bench, arms)
    return found


def against_trained(arms: Mapping[str, Arm]) -> dict[str, dict[str, float]]:
    """The trained arm less every other on the same items; p the largest over seeds, corrected over arms (Holm)."""
    mine = arms["trained"]
    others = {name: arm for name, arm in arms.items() if not name.startswith("trained")}
    raw = {
        name: max(_p(arm.played[seed % len(arm.played)], played) for seed, played in enumerate(mine.played))
        for name, arm in others.items()
    }
    adjusted = holm(raw)
    return {
        name: {
            "difference": float(np.mean(_scores(mine)) - np.mean(_scores(arm))),
            "p_mcnemar": raw[name],
            "p_holm": adjusted[name],
        }
        for name, arm in others.items()
    }


def _row(arm: Arm, unsteered: Played, task: Any, seed: int) -> dict[str, Any]:
    scores, first = _scores(arm), arm.played[0]
    changes = [compare_arms(unsteered, played) for played in arm.played]
    summaries = [task.summary(played.episodes) for played in arm.played]
    used = [np.unique(played.tokens["feature"]) for played in arm.played]
    levels = [final["coherence"] for played in arm.played for final in played.episodes if "coherence" in final]
    return {
        "n": len(first.episodes),
        "score": float(np.mean(scores)),
        "scores": scores,
        "ci95": runs_interval([played.scores.tolist() for played in arm.played], seed),
        "corrected": float(np.mean([change["corrected"] for change in changes])),
        "broken": float(np.mean([change["broken"] for change in changes])),
        "coherence": float(np.mean(levels)) if levels else None,
        "distinct_features": float(np.mean([(features >= 0).sum() for features in used])),
        "summary": {name: float(np.mean([summary[name] for summary in summaries])) for name in summaries[0]},
        "tokens": sum(len(played.tokens["step"]) for played in arm.played),
        "wall_s": arm.wall_s,
        **arm.about,
    }


def _train_beside_test(bench: Bench, arm: Arm) -> dict[str, float]:
    """Score of the agents on items that they may learn from, and how many test episodes went as one of those."""
    found = []
    for seed, played in enumerate(arm.played):
        items, envs = drawn_items(bench.train_items(seed), TRAIN_ITEMS, bench.seed), bench.envs("train", seed)
        found.append(beside_train(played, play(envs, bench.agent(seed), items, bench.seed, tokens=False)))
    return {name: float(np.mean([row[name] for row in found])) for name in ("train_score", "train_n", "seen_in_train")}


def _puppeteering(bench: Bench, arms: Mapping[str, Arm]) -> dict[str, float | None]:
    """Of the items that steering corrected, the share where a feature wrote one of the tokens that steering changed.

    A feature *writes* a token where that is among the ``WRITES`` tokens its direction promotes most; otherwise it has
    set a condition, which the model above turned into words.
    """
    parts, unsteered = unwrap(bench.envs("test")), arms["unsteered"].played[0]
    shares = []
    for played in arms["trained"].played:
        right = (played.scores > 0.5) & (unsteered.scores <= 0.5)
        tokens = played.tokens
        changed = tokens["changed"].astype(bool) & (tokens["feature"] >= 0) & right[tokens["episode"]]
        features = np.unique(tokens["feature"][changed])
        if not len(features):
            continue
        writes = dict(
            zip(
                features.tolist(),
                promoted(parts.lm, parts.tokenizer, parts.sae.directions[features], WRITES),
                strict=True,
            )
        )
        wrote = [
            int(episode)
            for episode, feature, token in zip(
                tokens["episode"][changed], tokens["feature"][changed], tokens["token"][changed], strict=True
            )
            if token in writes[int(feature)]
        ]
        shares.append(len(set(wrote)) / right.sum())
    return {"puppeteered": float(np.mean(shares)) if shares else None}


def _scores(arm: Arm) -> list[float]:
    return [float(played.scores.mean()) for played in arm.played]


def _largest_p(reference: Played, several: Sequence[Played]) -> float:
    return max(_p(reference, played) for played in several)


def _p(reference: Played, played: Played) -> float:
    return mcnemar(**compare_arms(reference, played))
