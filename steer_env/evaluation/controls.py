"""What a trained policy must beat: policies without learning, at the same coefficient, in the same action space.

All are written over *pushes*, the actions that steer with one feature: the numbers below the no-op in
``Discrete(k + 1)``, or one strength at plus or minus the bound in ``Box(k)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from steer_env.envs.base import unwrap
from steer_env.evaluation.play import Array, Details, Envs, Lanes, Policy, play
from steer_env.tasks import find_task

if TYPE_CHECKING:
    from steer_env.envs.vector_env import SteerVectorEnv
    from steer_env.evaluation.masks import ActionMask

EPISODES = 50_000
"""Played at a time, where candidates are searched."""


@dataclass(frozen=True)
class Setting:
    """What a control may use.

    Attributes:
        seed: Seed of its random choices; they also depend on the number of lanes.
        mask: The mask of the policy it is compared with, if that has one.
        best: Number of the best push, found on the train split by :func:`search_best_fixed`.
    """

    seed: int = 0
    mask: ActionMask | None = None
    best: int | None = None


@dataclass(frozen=True)
class FixedSearch:
    """Result of :func:`search_best_fixed`.

    Attributes:
        best: Number of the best push.
        table: A row a candidate and round: ``round``, ``push``, ``feature``, ``strength`` (1 or of the Box), ``n``,
            ``score``, best first within a round.
    """

    best: int
    table: list[dict[str, Any]]


def pushes(envs: Envs) -> Array:
    """Actions that steer with one feature: ``[k]`` numbers, or ``[2k, k]`` strengths, the positive ones first.

    Push ``i < k`` steers with ``envs.features[i]`` positively.
    """
    space = envs.single_action_space
    if isinstance(space, spaces.Box):
        return np.concatenate([np.diag(space.high), np.diag(space.low)])
    assert isinstance(space, spaces.Discrete)
    return np.arange(space.n - 1)


def idle(envs: Envs) -> Array:
    """The action of every lane that does nothing."""
    if isinstance(envs.single_action_space, spaces.Box):
        return np.zeros(envs.action_space.shape or (), dtype=np.float32)
    return np.full(envs.num_envs, len(pushes(envs)))


def unsteered(setting: Setting) -> Policy:
    """Nothing at all."""
    return lambda obs, lanes: (idle(lanes.envs), {})


def random_feature(setting: Setting) -> Policy:
    """A random push at every token."""
    rng = np.random.default_rng(setting.seed)

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        choices = pushes(lanes.envs)
        return choices[rng.integers(len(choices), size=lanes.envs.num_envs)], {}

    return act


def random_in_mask(setting: Setting) -> Policy:
    """A random feature of those the mask allows, or without a mask of those active at the current token."""
    rng = np.random.default_rng(setting.seed)

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        allowed = _allowed(lanes.envs, setting.mask)
        # The largest of independent uniform numbers is at a uniformly random allowed place.
        chosen = (rng.random(allowed.shape) * allowed).argmax(axis=1)
        return _push_where(lanes.envs, chosen, allowed.any(axis=1)), {}

    return act


def most_active(setting: Setting) -> Policy:
    """The feature most active at the current token; nothing where none is."""

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        active = _activations(lanes.envs)
        return _push_where(lanes.envs, active.argmax(axis=1), active.max(axis=1) > 0), {}

    return act


def best_fixed(setting: Setting) -> Policy:
    """The push that is best on the train split, at every token.

    Raises:
        ValueError: It was not searched for.
    """
    if setting.best is None:
        raise ValueError("best_fixed needs Setting(best=...), from search_best_fixed on the train split")
    return fixed(setting.best)


def random_strengths(setting: Setting) -> Policy:
    """All strengths uniform within the bounds, anew at every token (Box actions only)."""
    rng = np.random.default_rng(setting.seed)

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        space = lanes.envs.action_space
        assert isinstance(space, spaces.Box)
        return rng.uniform(space.low, space.high).astype(np.float32), {}

    return act


CONTROLS: dict[str, Callable[[Setting], Policy]] = {
    "unsteered": unsteered,
    "random_feature": random_feature,
    "random_in_mask": random_in_mask,
    "most_active": most_active,
    "best_fixed": best_fixed,
    "random_strengths": random_strengths,
}
BOX_ONLY = frozenset({"random_strengths"})


def unsteered_variants(task: str) -> dict[str, dict[str, Any]]:
    """The arms that are unsteered play of another environment: what the same model does when asked otherwise.

    ``prompt_only`` has the task's instruction in front of every prompt. Where there are options, ``constrained_only``
    and ``free_only`` show what constrained decoding does by itself: one of them is the agent's own environment.

    Args:
        task: Key of the task table.

    Returns:
        For each arm what to give ``gym.make_vec`` beyond the agent's own arguments.
    """
    cls = find_task(task)
    arms: dict[str, dict[str, Any]] = {f"{way}_only": {"decode": way} for way in cls.variants.get("decode", ())}
    return arms | ({"prompt_only": {"instruction": True}} if cls.instruction is not None else {})


def controls_for(envs: Envs) -> list[str]:
    """Names of the controls that fit the action space."""
    box = isinstance(envs.single_action_space, spaces.Box)
    return [name for name in CONTROLS if box or name not in BOX_ONLY]


def fixed(push: int) -> Policy:
    """One push at every token."""
    return lambda obs, lanes: (np.repeat(pushes(lanes.envs)[[push]], lanes.envs.num_envs, axis=0), {})


def score_pushes(envs: Envs, candidates: Array, items: Sequence[int], seed: int) -> Array:
    """Scores ``[n, items]`` of each candidate push, kept up for a whole episode, on each item.

    Many candidates play in one batch, as many as ``EPISODES`` allow: the records of all episodes are held until all are
    played, transcripts among them. The largest of a column is what an oracle reaches on that item with one feature.

    Args:
        envs: On any split.
        candidates: ``[n]`` numbers of pushes.
        items: Items of the split; every candidate plays them with the same sampling seeds.
        seed: Seed of sampled decoding.
    """
    portion = max(1, EPISODES // max(1, len(items)))
    parts = [candidates[start : start + portion] for start in range(0, len(candidates), portion)]
    return np.concatenate([_score_portion(envs, part, items, seed) for part in parts])


def _score_portion(envs: Envs, candidates: Array, items: Sequence[int], seed: int) -> Array:
    choices = pushes(envs)

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        return choices[candidates[lanes.place // len(items) % len(candidates)]], {}

    played = play(envs, act, list(items) * len(candidates), seed, tokens=False)
    return played.scores.reshape(len(candidates), len(items))


def search_best_fixed(
    envs: Envs,
    seed: int,
    games: Sequence[int] = (32, 256),
    kept: Sequence[int] = (16,),
    candidates: int | None = None,
) -> FixedSearch:
    """Find the best push by successive halving (Karnin et al. 2013): all play a few items, the best play more.

    Every candidate of a round plays the same items with the same sampling seeds, all in one batch.

    Args:
        envs: On the train split; the search must not see what is reported, nor more items than ``envs`` deals.
        seed: Seed of the items (in a stream of its own: an evaluation with this seed plays others) and of sampled
            decoding.
        games: Items a candidate in each round; where there are fewer, all of them.
        kept: Candidates that go on after each round but the last.
        candidates: Pushes that are tried, drawn by ``seed``; None is all. Of a real SAE where replies are long, all
            cost more than any training.

    Raises:
        ValueError: ``kept`` is not one shorter than ``games``.
    """
    if len(kept) != len(games) - 1:
        raise ValueError(f"kept must be one shorter than games, got {len(kept)} and {len(games)}")
    dealt = np.array(unwrap(envs).dealt)
    items = dealt[np.random.default_rng([seed, 1]).permutation(len(dealt))]
    tried = np.random.default_rng([seed, 2]).permutation(len(pushes(envs)))[:candidates]
    tried.sort()
    table: list[dict[str, Any]] = []
    for number, n in enumerate(games):
        scores = score_pushes(envs, tried, items[:n].tolist(), seed).mean(axis=1)
        order = np.argsort(-scores, kind="stable")
        table += [_search_row(envs, number, int(tried[i]), min(n, len(items)), float(scores[i])) for i in order]
        tried = tried[order][: kept[number] if number < len(kept) else None]
    return FixedSearch(int(tried[0]), table)


def _search_row(envs: Envs, number: int, push: int, n: int, score: float) -> dict[str, Any]:
    features = unwrap(envs).features
    strength = float(pushes(envs)[push].sum()) if isinstance(envs.single_action_space, spaces.Box) else 1.0
    feature = int(features[push % len(features)])
    return {"round": number, "push": push, "feature": feature, "strength": strength, "n": n, "score": score}


def _activations(envs: SteerVectorEnv) -> Array:
    """SAE activations ``[B, k]`` of the features behind the actions."""
    return np.asarray(envs.encode().cpu().numpy()[:, envs.features])


def _allowed(envs: SteerVectorEnv, mask: ActionMask | None) -> Array:
    if mask is None:
        return _activations(envs) > 0
    return mask.legal(envs.action_masks())[:, :-1]


def _push_where(envs: Envs, features: Array, steered: Any) -> Array:
    """Push features ``[B]`` (by place) in the lanes ``steered`` ``[B]``, nothing in the others."""
    actions = idle(envs)
    actions[steered] = pushes(envs)[features[steered]]
    return actions
