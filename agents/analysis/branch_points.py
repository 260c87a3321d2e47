"""Branch points: the tokens of an episode at which another choice would have turned the final score.

``branch_points.json``, by :func:`branch_point_record`:

* ``settings``: what was tried (:class:`steer_env.evaluation.counterfactuals.Alternatives`), and ``tokens``, at most so
  many an episode.
* ``arms``: for each arm of alternatives at how many tokens it was ``tried``, how many ``alternatives``, how many of
  them turn the score (``flips``: ``corrected`` to right, ``broken`` to wrong), at how many tokens (``branch_points``).
* ``random``: of the arm of random alternatives ``episodes``, ``draws``; ``flip_rate``, the mean over episodes of the
  share that turn the score; ``advantage``, the mean over episodes of the score less the mean score of its random
  alternatives; both as ``mean`` and ``ci95``, a bootstrap over episodes. None without such alternatives.
* ``episodes``: of each ``episode``, ``item``, ``score``, ``completion``, ``tokens`` (its length), ``tried`` (tokens
  looked at), ``branch_points`` (how many) and ``info``, what else the task told at its end.
* ``branch_points``: by ``episode`` and ``step``; ``token_text``, ``feature`` and ``label`` of the choice (-1 and null
  for none); ``alternatives``, all that were tried there: ``arm``, ``feature``, ``label``, ``score``, ``flips``,
  ``strengths`` where actions are such, and where it flips ``completion`` and ``info`` of the counterfactual episode.
* ``cost``: ``episodes_played``, ``forward_passes`` and ``seconds`` of ``factual`` play, ``branches``, ``removals_*``
  and ``search`` (:mod:`agents.analysis.causal`), and of ``all``; of the branches also their ``tokens`` and those before
  the branch (``prefix_tokens``), which are played again.
* ``not_reproduced``: a line for each factual episode that came out otherwise than in the evaluation's log.

Right is a score above one half; a score turns when it goes from right to wrong or back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agents.analysis.evaluated_run import RIGHT
from steer_env.evaluation.counterfactuals import RANDOM_ARMS, Alternatives, Branch, Trajectories
from steer_env.evaluation.statistics import bootstrap_mean

_OWN = ("item", "index", "score", "completion", "transcript", "steps", "return", "option_logprobs")
Label = Callable[[int], "str | None"]


@dataclass(frozen=True)
class Counterfactual:
    """A branch and what came of it.

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


def branch_point_record(
    trajectories: Trajectories,
    found: Sequence[Counterfactual],
    wanted: Alternatives,
    features: Sequence[int],
    label: Label,
) -> dict[str, Any]:
    """All of ``branch_points.json`` but what the run is, ``tokens`` of the settings, and the cost.

    Args:
        trajectories: The factual episodes.
        found: Their counterfactuals.
        wanted: What was asked for.
        features: SAE indices behind the actions.
        label: Label of a feature.
    """
    by_token: dict[tuple[int, int], list[Counterfactual]] = defaultdict(list)
    for each in found:
        by_token[each.branch.place, each.branch.step].append(each)
    deciding = {token: tried for token, tried in by_token.items() if any(each.flips for each in tried)}
    rows = trajectories.played.tokens
    row_of = {(int(rows["episode"][i]), int(rows["step"][i])): i for i in range(len(rows["step"]))}
    points = []
    for token in sorted(deciding):
        row = row_of[token]
        feature = int(rows["feature"][row])
        points.append(
            {
                **{"episode": token[0], "step": token[1], "token_text": str(rows["token_text"][row])},
                **{"feature": feature, "label": label(feature)},
                "alternatives": [_alternative(each, features, label) for each in deciding[token]],
            }
        )
    return {
        "settings": asdict(wanted),
        "arms": _arms(by_token),
        "random": _random(trajectories, found, wanted.seed),
        "episodes": _episodes(trajectories, by_token, deciding),
        "branch_points": points,
    }


def _arms(by_token: Mapping[tuple[int, int], list[Counterfactual]]) -> dict[str, dict[str, int]]:
    arms: dict[str, dict[str, int]] = {}
    for tried in by_token.values():
        for name in dict.fromkeys(each.branch.arm for each in tried):
            own = [each for each in tried if each.branch.arm == name]
            counts = arms.setdefault(
                name, dict.fromkeys(("tried", "alternatives", "flips", "corrected", "broken", "branch_points"), 0)
            )
            flips = sum(each.flips for each in own)
            counts["tried"] += 1
            counts["alternatives"] += len(own)
            counts["flips"] += flips
            counts["corrected"] += sum(each.flips and each.right for each in own)
            counts["broken"] += sum(each.flips and not each.right for each in own)
            counts["branch_points"] += flips > 0
    return arms


def _random(trajectories: Trajectories, found: Sequence[Counterfactual], seed: int) -> dict[str, Any] | None:
    """How often a random alternative turns the score, and what the policy's choices are worth against it."""
    flips, losses = defaultdict(list), defaultdict(list)
    scores = trajectories.played.scores
    for each in found:
        if each.branch.arm in RANDOM_ARMS:
            flips[each.branch.place].append(each.flips)
            losses[each.branch.place].append(scores[each.branch.place] - each.final["score"])
    if not flips:
        return None
    record: dict[str, Any] = {"episodes": len(flips), "draws": sum(map(len, flips.values()))}
    for name, values in (("flip_rate", flips), ("advantage", losses)):
        means = [float(np.mean(own)) for own in values.values()]
        record[name] = {"mean": float(np.mean(means)), "ci95": bootstrap_mean(means, seed)}
    return record


def _episodes(
    trajectories: Trajectories, by_token: Mapping[tuple[int, int], Any], deciding: Mapping[tuple[int, int], Any]
) -> list[dict[str, Any]]:
    tried, decided = (Counter(place for place, _ in tokens) for tokens in (by_token, deciding))
    return [
        {
            **{"episode": place, "item": int(final["item"]), "score": float(final["score"])},
            **{"completion": final["completion"], "tokens": len(trajectories.actions[place])},
            **{"tried": tried[place], "branch_points": decided[place], "info": _info(final)},
        }
        for place, final in enumerate(trajectories.played.episodes)
    ]


def _alternative(each: Counterfactual, features: Sequence[int], label: Label) -> dict[str, Any]:
    action = np.asarray(each.branch.action)
    strengths = action.ndim > 0
    place = int(np.abs(action).argmax()) if strengths else int(action)
    steers = bool(action.any()) if strengths else place < len(features)
    feature = int(features[place]) if steers else -1
    row = {"arm": each.branch.arm, "feature": feature, "label": label(feature), "score": float(each.final["score"])}
    row["flips"] = each.flips
    if strengths:
        row["strengths"] = action.tolist()
    if each.flips:
        row |= {"completion": each.final["completion"], "info": _info(each.final)}
    return row


def _info(final: Mapping[str, Any]) -> dict[str, Any]:
    """What the task told at the end, beyond what every episode has."""
    return {name: value for name, value in final.items() if name not in _OWN and value is not None}
