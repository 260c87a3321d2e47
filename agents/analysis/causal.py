"""The counterfactuals of an evaluation: its episodes played again, and every way of leaving them that is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from agents.analysis.branch_points import Counterfactual, judged
from agents.analysis.critic import Search
from agents.analysis.evaluated_run import RIGHT, EvaluatedRun
from agents.policies import policy_of
from agents.runs.loading import load_trained, make_envs
from agents.runs.replay import differences
from agents.runs.steering import require_same_steering
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import pushes, score_pushes
from steer_env.evaluation.counterfactuals import (
    NEXT_BEST,
    NO_OP,
    Alternatives,
    Ranked,
    Trajectories,
    play_branches,
    play_trajectories,
    play_without,
    spread,
)
from steer_env.evaluation.play import Array

Envs = VectorEnv[Any, Any, Any]
_LOGGED = ("feature", "strengths", "token", "score")


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        alternatives: At each token.
        tokens: Tokens of an episode at which they are tried, at most.
        search_plays: Episodes that the search over all features may play.
        num_envs: Lanes.
    """

    alternatives: Alternatives
    tokens: int
    search_plays: int
    num_envs: int

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("search_plays", 0), ("num_envs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass
class Causal:
    """What came of the counterfactuals.

    Attributes:
        envs: Environments as those of the evaluation.
        trajectories: The evaluation's episodes again.
        found: Their branches.
        removals: Scores without a feature: ``removals[instead][feature][episode]``.
        searches: Wrong episodes, and those that another choice makes right: ``one_token`` among the branches,
            ``one_feature`` by every feature kept up for the whole episode, in as many episodes as the effort allows.
        alone: Scores ``[F, n]`` of each feature behind the actions kept up alone, in the first ``n`` episodes.
        cost: ``forward_passes``, ``episodes_played`` and ``seconds`` of each part.
        not_reproduced: One line for each episode that came out otherwise than in the evaluation's log.
    """

    envs: Envs
    trajectories: Trajectories
    found: list[Counterfactual] = field(default_factory=list)
    removals: dict[str, dict[int, dict[int, float]]] = field(default_factory=dict)
    searches: dict[str, Search] = field(default_factory=dict)
    alone: Array = field(default_factory=lambda: np.zeros((0, 0)))
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    not_reproduced: list[str] = field(default_factory=list)


def play_counterfactuals(evaluated: EvaluatedRun, effort: Effort) -> Causal:
    """Play everything.

    Raises:
        FileNotFoundError: Training has not finished.
        RuntimeError: The model, the steering or the episodes are not those of the evaluation.
    """
    result = evaluated.result
    envs = make_envs(
        evaluated.run.config, result["split"], effort.num_envs, temperature=result["temperature"], compare=False
    )
    require_same_steering(evaluated.run.config, envs, evaluated.run.path)
    model, mask = load_trained(evaluated.run, envs)
    ranked = policy_of(model, mask).rank
    cost: dict[str, dict[str, float]] = {}
    items = evaluated.episodes["item"].tolist()
    with _counted(envs, cost, "factual", len(items)):
        trajectories = play_trajectories(envs, ranked, items, result["seed"], effort.alternatives)
    causal = Causal(envs, trajectories, cost=cost, not_reproduced=_not_reproduced(evaluated, trajectories, envs))
    branches = spread(trajectories.branches, [len(own) for own in trajectories.actions], effort.tokens)
    with _counted(envs, cost, "branches", len({branch.key for branch in branches})):
        causal.found = judged(trajectories, branches, play_branches(envs, ranked, trajectories, branches))
    cost["branches"] |= _tokens(causal.found)
    _play_removals(causal, ranked)
    _search(causal, effort)
    return causal


def _not_reproduced(evaluated: EvaluatedRun, trajectories: Trajectories, envs: Envs) -> list[str]:
    """Episodes that differ from the log; rounding in batches of another size may turn a few.

    Raises:
        RuntimeError: More than a hundredth of them do (a tenth where the model computes in 16 bits).
    """
    logged = [rows for _, rows in evaluated.steered.groupby("episode")]
    found = differences(logged, trajectories.played, _LOGGED)
    tolerated = len(logged) // (100 if unwrap(envs).lm.dtype == torch.float32 else 10)
    if len(found) > tolerated:
        raise RuntimeError(
            f"{len(found)} of {len(logged)} episodes of {evaluated.path} come out otherwise when played again, first "
            f"{found[0]}: the run or the log has changed since (steer check --run {evaluated.run.path})"
        )
    return found


def _tokens(found: Sequence[Counterfactual]) -> dict[str, float]:
    """Tokens of the branches, and those of them before the branch: what sharing prefixes would save."""
    distinct = {each.branch.key: each for each in found}.values()
    before = sum(each.branch.step for each in distinct)
    return {"tokens": sum(int(each.final["steps"]) for each in distinct), "prefix_tokens": before}


def _play_removals(causal: Causal, ranked: Ranked) -> None:
    """Every episode again without each of the features it used."""
    features, trajectories = unwrap(causal.envs).features, causal.trajectories
    box = isinstance(causal.envs.single_action_space, spaces.Box)
    pairs = [
        (place, number)
        for place, actions in enumerate(trajectories.actions)
        for number in (np.flatnonzero(actions.any(axis=0)) if box else np.unique(actions)).tolist()
        if number < len(features)
    ]
    items, removed = [trajectories.items[place] for place, _ in pairs], [number for _, number in pairs]
    for instead in (NO_OP,) if box else (NEXT_BEST, NO_OP):
        table: dict[int, dict[int, float]] = {}
        with _counted(causal.envs, causal.cost, f"removals_{instead}", len(pairs)):
            played = (
                play_without(causal.envs, ranked, items, removed, instead, trajectories.seed).episodes if pairs else []
            )
        for (place, number), final in zip(pairs, played, strict=True):
            table.setdefault(int(features[number]), {})[place] = float(final["score"])
        causal.removals[instead] = table


def _search(causal: Causal, effort: Effort) -> None:
    """Look for better choices in wrong episodes, and at what each feature does by itself.

    Half of the plays go to the first episodes, the other to more of the wrong ones.
    """
    scores = causal.trajectories.played.scores
    tried = {each.branch.place for each in causal.found}
    mended = {each.branch.place for each in causal.found if each.flips and each.right}
    searched = sorted(place for place in tried if scores[place] <= RIGHT)
    causal.searches["one_token"] = Search(searched, [place for place in searched if place in mended])
    width = len(unwrap(causal.envs).features)
    candidates = np.arange(len(pushes(causal.envs)))
    share = effort.search_plays // (2 * len(candidates))
    first = list(range(min(share, len(scores))))
    more = [int(place) for place in np.flatnonzero(scores <= RIGHT) if place >= len(first)][:share]
    places = first + more
    best = np.zeros((width, 0))
    with _counted(causal.envs, causal.cost, "search", len(places) * len(candidates)):
        if places:
            items = [causal.trajectories.items[place] for place in places]
            table = score_pushes(causal.envs, candidates, items, causal.trajectories.seed)
            # A strength has two pushes, up and down.
            best = table.reshape(-1, width, len(places)).max(axis=0)
    causal.alone = best[:, : len(first)]
    searched = [place for place in places if scores[place] <= RIGHT]
    found = {place for place, column in zip(places, best.T, strict=True) if column.max() > RIGHT}
    causal.searches["one_feature"] = Search(searched, [place for place in searched if place in found])


@contextmanager
def _counted(envs: Envs, cost: dict[str, dict[str, float]], part: str, episodes: int) -> Iterator[None]:
    model, start = unwrap(envs).episode.scene.model, time.perf_counter()
    before = model.forward_passes
    yield
    cost[part] = {
        "episodes_played": episodes,
        "forward_passes": model.forward_passes - before,
        "seconds": time.perf_counter() - start,
    }


def total_cost(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sums over parts."""
    return {name: sum(part[name] for part in parts) for name in ("episodes_played", "forward_passes", "seconds")}
