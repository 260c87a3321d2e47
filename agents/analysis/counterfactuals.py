"""The counterfactuals of an evaluation: its episodes played again, and left at each token for another choice.

:func:`play_counterfactuals` plays; :func:`branch_point_record` says at which tokens another choice flips the score.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from agents.analysis.critic import Search
from agents.analysis.evaluated_run import RIGHT, EvaluatedRun
from agents.analysis.results import (
    AlternativeChoice,
    ArmCounts,
    BranchPoint,
    BranchPoints,
    FactualEpisode,
    MeanOverEpisodes,
    RandomAlternatives,
)
from agents.policies import policy_of
from agents.runs.loading import load_trained, make_envs
from agents.runs.replay import differences, tolerated
from agents.runs.steering import require_same_steering
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import pushes, score_pushes
from steer_env.evaluation.counterfactuals import (
    NEXT_BEST,
    NO_OP,
    RANDOM_ARMS,
    Alternatives,
    Branch,
    Ranked,
    Trajectories,
    play_branches,
    play_trajectories,
    play_without,
    spread,
)
from steer_env.evaluation.play import Array
from steer_env.evaluation.statistics import bootstrap_mean

Envs = VectorEnv[Any, Any, Any]
Label = Callable[[int], "str | None"]
_LOGGED = ("feature", "strengths", "token", "score")
_OWN = ("item", "index", "score", "completion", "transcript", "steps", "return", "option_logprobs")


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        alternatives: What is tried at a token.
        tokens: At how many tokens of an episode it is tried, at most.
        search_plays: How many episodes the search over all features may play.
        num_envs: Lanes of one forward pass.
    """

    alternatives: Alternatives
    tokens: int
    search_plays: int
    num_envs: int

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("search_plays", 0), ("num_envs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Counterfactual:
    """A branch and how it ended.

    Attributes:
        branch: Where and how it leaves its episode.
        final: Final info of the counterfactual episode.
        flips: Whether its score is right where the episode's is wrong, or wrong where that is right.
    """

    branch: Branch
    final: Mapping[str, Any]
    flips: bool

    @property
    def right(self) -> bool:
        """Whether the counterfactual episode is right."""
        return bool(self.final["score"] > RIGHT)


def judged(
    trajectories: Trajectories, branches: Sequence[Branch], finals: Sequence[Mapping[str, Any]]
) -> list[Counterfactual]:
    """Put branches beside the episodes that they leave."""
    right = trajectories.played.scores > RIGHT
    return [
        Counterfactual(branch, final, bool((final["score"] > RIGHT) != right[branch.place]))
        for branch, final in zip(branches, finals, strict=True)
    ]


@dataclass
class Causal:
    """What the counterfactuals showed.

    Attributes:
        envs: Environments like those of the evaluation.
        trajectories: The evaluation's episodes, played again.
        found: Their branches.
        removals: Scores without a feature: ``removals[instead][feature][episode]``.
        searches: Wrong episodes, and those that another choice makes right: ``one_token`` among the branches,
            ``one_feature`` by every feature kept up for the whole episode, in as many episodes as the effort allows.
        alone: Scores ``[F, n]`` of each feature behind the actions kept up alone, in the first ``n`` episodes.
        cost: ``forward_passes``, ``episodes_played`` and ``seconds`` of each part.
        not_reproduced: One line for each episode that differs from the evaluation's log.
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
    """Play the episodes of an evaluation again, with every alternative that the effort allows.

    Raises:
        FileNotFoundError: Training has not finished.
        RuntimeError: The model, the steering or the episodes are not those of the evaluation.
    """
    result = evaluated.result
    envs = make_envs(evaluated.run.config, result.split, effort.num_envs, temperature=result.temperature, compare=False)
    require_same_steering(evaluated.run.config, envs, evaluated.run.path)
    model, mask = load_trained(evaluated.run, envs)
    ranked = policy_of(model, mask).rank
    cost: dict[str, dict[str, float]] = {}
    items = evaluated.episodes["item"].tolist()
    with _counted(envs, cost, "factual", len(items)):
        trajectories = play_trajectories(envs, ranked, items, result.seed, effort.alternatives)
    causal = Causal(envs, trajectories, cost=cost, not_reproduced=_not_reproduced(evaluated, trajectories, envs))
    branches = spread(trajectories.branches, [len(own) for own in trajectories.actions], effort.tokens)
    with _counted(envs, cost, "branches", len({branch.key for branch in branches})):
        causal.found = judged(trajectories, branches, play_branches(envs, ranked, trajectories, branches))
    cost["branches"] |= _tokens(causal.found)
    _play_removals(causal, ranked)
    _search(causal, effort)
    return causal


def _not_reproduced(evaluated: EvaluatedRun, trajectories: Trajectories, envs: Envs) -> list[str]:
    """Episodes that differ from the log; rounding in batches of another size may change a few.

    Raises:
        RuntimeError: More do than :func:`agents.runs.replay.tolerated` says.
    """
    logged = [rows for _, rows in evaluated.steered.groupby("episode")]
    found, _ = differences(logged, trajectories.played, _LOGGED)
    if len(found) > tolerated(len(logged), envs):
        raise RuntimeError(
            f"{len(found)} of {len(logged)} episodes of {evaluated.path} differ when played again, first {found[0]}: "
            f"the run or the log has changed since (steer check --run {evaluated.run.path})"
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


def _total(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sums over parts."""
    return {name: sum(part[name] for part in parts) for name in ("episodes_played", "forward_passes", "seconds")}


def branch_point_record(evaluated: EvaluatedRun, causal: Causal, effort: Effort, label: Label) -> BranchPoints:
    """What ``branch_points.json`` holds.

    Args:
        evaluated: The evaluation.
        causal: Its counterfactuals.
        effort: How much was tried.
        label: Gives the label of a feature.
    """
    features = unwrap(causal.envs).features.tolist()
    by_token: dict[tuple[int, int], list[Counterfactual]] = defaultdict(list)
    for each in causal.found:
        by_token[each.branch.place, each.branch.step].append(each)
    deciding = {token: tried for token, tried in by_token.items() if any(each.flips for each in tried)}
    rows = causal.trajectories.played.tokens
    row_of = {(int(rows["episode"][i]), int(rows["step"][i])): i for i in range(len(rows["step"]))}
    points = []
    for episode, step in sorted(deciding):
        row = row_of[episode, step]
        feature = int(rows["feature"][row])
        tried = [_alternative(each, features, label) for each in deciding[episode, step]]
        points.append(BranchPoint(episode, step, str(rows["token_text"][row]), feature, label(feature), tried))
    return BranchPoints(
        **evaluated.head,
        settings={**asdict(effort.alternatives), "tokens": effort.tokens},
        arms=_arms(by_token),
        random=_random(causal, effort.alternatives.seed),
        episodes=_episodes(causal.trajectories, by_token, deciding),
        branch_points=points,
        cost={**causal.cost, "all": _total(list(causal.cost.values()))},
        not_reproduced=causal.not_reproduced,
    )


def _arms(by_token: Mapping[tuple[int, int], list[Counterfactual]]) -> dict[str, ArmCounts]:
    arms: dict[str, ArmCounts] = defaultdict(ArmCounts)
    for tried in by_token.values():
        for name in dict.fromkeys(each.branch.arm for each in tried):
            own = [each for each in tried if each.branch.arm == name]
            flips, counts = [each for each in own if each.flips], arms[name]
            counts.tried += 1
            counts.alternatives += len(own)
            counts.flips += len(flips)
            counts.corrected += sum(each.right for each in flips)
            counts.broken += sum(not each.right for each in flips)
            counts.branch_points += bool(flips)
    return dict(arms)


def _random(causal: Causal, seed: int) -> RandomAlternatives | None:
    """How often a random alternative flips the score, and what the policy's choices are worth against it."""
    flips, losses = defaultdict(list), defaultdict(list)
    scores = causal.trajectories.played.scores
    for each in causal.found:
        if each.branch.arm in RANDOM_ARMS:
            flips[each.branch.place].append(each.flips)
            losses[each.branch.place].append(scores[each.branch.place] - each.final["score"])
    if not flips:
        return None

    def over_episodes(values: Mapping[int, Sequence[float]]) -> MeanOverEpisodes:
        # An episode counts once, however many of its tokens were tried.
        means = [float(np.mean(own)) for own in values.values()]
        return MeanOverEpisodes(float(np.mean(means)), bootstrap_mean(means, seed))

    return RandomAlternatives(len(flips), sum(map(len, flips.values())), over_episodes(flips), over_episodes(losses))


def _episodes(
    trajectories: Trajectories, by_token: Mapping[tuple[int, int], Any], deciding: Mapping[tuple[int, int], Any]
) -> list[FactualEpisode]:
    tried, decided = (Counter(place for place, _ in tokens) for tokens in (by_token, deciding))
    return [
        FactualEpisode(
            episode=place,
            item=int(final["item"]),
            score=float(final["score"]),
            completion=final["completion"],
            tokens=len(trajectories.actions[place]),
            tried=tried[place],
            branch_points=decided[place],
            info=_info(final),
        )
        for place, final in enumerate(trajectories.played.episodes)
    ]


def _alternative(each: Counterfactual, features: Sequence[int], label: Label) -> AlternativeChoice:
    action = np.asarray(each.branch.action)
    is_strengths = action.ndim > 0
    place = int(np.abs(action).argmax()) if is_strengths else int(action)
    steers = bool(action.any()) if is_strengths else place < len(features)
    feature = int(features[place]) if steers else -1
    return AlternativeChoice(
        arm=each.branch.arm,
        feature=feature,
        label=label(feature),
        score=float(each.final["score"]),
        flips=each.flips,
        strengths=action.tolist() if is_strengths else None,
        completion=each.final["completion"] if each.flips else None,
        info=_info(each.final) if each.flips else None,
    )


def _info(final: Mapping[str, Any]) -> dict[str, Any]:
    """What the task reports at the end, beyond what every episode has."""
    return {name: value for name, value in final.items() if name not in _OWN and value is not None}
