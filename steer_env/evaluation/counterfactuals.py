"""What would have happened had a policy chosen otherwise: episodes replayed with one action, or one feature, changed.

An episode follows from its item, the seed and the actions. A counterfactual is therefore the same item played again
with the same actions up to a token, another one there, and the policy from there on; all of them are items of one list,
so that they share forward passes, and their prompts' keys and values are the environment's kept ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from steer_env.evaluation.controls import idle
from steer_env.evaluation.play import Array, Details, Envs, Lanes, Played, play

NO_OP, NEXT_BEST, RANDOM_ACTIVE = "no_op", "next_best", "random_active"
WITHOUT_STRONGEST, RANDOM_STRENGTHS = "without_strongest", "random_strengths"
RANDOM_ARMS = (RANDOM_ACTIVE, RANDOM_STRENGTHS)
Alternative = tuple[str, Any]
Ranked = Callable[[Any, Lanes], "tuple[Array, Array | None]"]
"""Observations and lanes -> actions, and preferences ``[B, A]`` among them; None where actions are strengths."""


@dataclass(frozen=True)
class Alternatives:
    """What is tried in place of an action.

    Choices of one feature have three arms: ``no_op``; ``next_best``, the features that the policy likes best after the
    chosen one; ``random_active``, other features active at the token, drawn without replacement. Strengths have
    ``no_op``; ``without_strongest``, the largest one set to zero; ``random_strengths``, uniform within the bounds.

    Attributes:
        next_best: Features in that arm, at most.
        draws: Actions of the random arm, at most.
        seed: Seed of the draws.
    """

    next_best: int = 3
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("next_best", "draws", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def to_choice(self, action: int, preferences: Array, active: Array, place: tuple[int, int]) -> list[Alternative]:
        """Pairs of arm and action in place of a choice.

        Args:
            action: What was chosen, the last number of all for the no-op.
            preferences: ``[A]``, minus infinity where illegal.
            active: Numbers of the features active at the token.
            place: Episode and step, on which draws depend.
        """
        no_op = len(preferences) - 1
        liked = np.argsort(-preferences[:no_op], kind="stable")
        liked = liked[np.isfinite(preferences[liked]) & (liked != action)]
        drawn = self._rng(place).permutation(active[active != action])
        found: list[Alternative] = [] if action == no_op else [(NO_OP, no_op)]
        found += [(NEXT_BEST, int(other)) for other in liked[: self.next_best]]
        return found + [(RANDOM_ACTIVE, int(other)) for other in drawn[: self.draws]]

    def to_strengths(self, action: Array, space: spaces.Box, place: tuple[int, int]) -> list[Alternative]:
        """Pairs of arm and action in place of strengths ``[k]``; ``place`` as above."""
        weaker = np.array(action)
        weaker[np.abs(weaker).argmax()] = 0.0
        drawn = self._rng(place).uniform(space.low, space.high, (self.draws, *space.shape)).astype(np.float32)
        steered = [(NO_OP, np.zeros_like(weaker)), (WITHOUT_STRONGEST, weaker)] if np.any(action) else []
        return steered + [(RANDOM_STRENGTHS, strengths) for strengths in drawn]

    def _rng(self, place: tuple[int, int]) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])


class Branch(NamedTuple):
    """An episode that leaves another one at a token.

    Attributes:
        place: The episode that is left, by its place in the list of items.
        step: The token at which it is left.
        arm: Which kind of alternative is chosen there.
        action: The alternative.
    """

    place: int
    step: int
    arm: str
    action: Any

    @property
    def key(self) -> tuple[int, int, bytes]:
        """What is the same for branches that are the same episode."""
        return self.place, self.step, np.asarray(self.action).tobytes()


@dataclass(frozen=True)
class Trajectories:
    """Episodes as the policy played them, and what else it could have done.

    Attributes:
        items: Items of the environment's split.
        seed: Seed of sampled decoding.
        played: Their results, with a row a token.
        actions: Actions of each episode, ``[T]`` or ``[T, k]``.
        branches: Every alternative at every token, by episode and step.
    """

    items: Sequence[int]
    seed: int
    played: Played
    actions: list[Array]
    branches: list[Branch]


def play_trajectories(
    envs: Envs, ranked: Ranked, items: Sequence[int], seed: int, alternatives: Alternatives
) -> Trajectories:
    """Play each of ``items`` once with the policy and note what else could be done at every token.

    Raises:
        ValueError: There are no items.
    """
    actions: list[list[Any]] = [[] for _ in items]
    branches: list[Branch] = []

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        chosen, preferences = ranked(obs, lanes)
        active = _active(lanes)
        for lane, place, step in lanes.under_way():
            actions[place].append(np.array(chosen[lane]))
            if preferences is None:
                others = alternatives.to_strengths(chosen[lane], _box(envs), (place, step))
            else:
                others = alternatives.to_choice(int(chosen[lane]), preferences[lane], active[lane], (place, step))
            branches.extend(Branch(place, step, *other) for other in others)
        return chosen, {}

    played = play(envs, act, items, seed)
    branches.sort(key=lambda branch: branch[:2])
    return Trajectories(items, seed, played, [np.array(own) for own in actions], branches)


def play_branches(
    envs: Envs, ranked: Ranked, trajectories: Trajectories, branches: Sequence[Branch]
) -> list[dict[str, Any]]:
    """Final info of each of ``branches``; those with one action at one token are played once.

    Args:
        envs: Environments like those of the trajectories.
        ranked: The policy that played the trajectories; it goes on after the branch.
        trajectories: The episodes that the branches leave.
        branches: Some of ``trajectories.branches``.
    """
    if not branches:
        return []
    distinct = {branch.key: branch for branch in branches}
    listed, order = list(distinct.values()), {key: number for number, key in enumerate(distinct)}

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        # The policy is asked at every token: it may remember what it saw.
        actions = np.array(ranked(obs, lanes)[0])
        for lane, number, step in lanes.under_way():
            branch = listed[number]
            if step < branch.step:
                actions[lane] = trajectories.actions[branch.place][step]
            elif step == branch.step:
                actions[lane] = branch.action
        return actions, {}

    items = [trajectories.items[branch.place] for branch in listed]
    episodes = play(envs, act, items, trajectories.seed, tokens=False).episodes
    return [episodes[order[branch.key]] for branch in branches]


def play_without(
    envs: Envs, ranked: Ranked, items: Sequence[int], removed: Sequence[int], instead: str, seed: int
) -> Played:
    """Play ``items[i]`` with a policy that may not use feature ``removed[i]``.

    Args:
        envs: On any split.
        ranked: The policy.
        items: Items of the split.
        removed: Numbers of actions (of strengths, places in the vector, which become zero).
        instead: ``"next_best"``, the policy's next choice, which may be the no-op; or ``"no_op"``.
        seed: Seed of sampled decoding.

    Raises:
        ValueError: ``instead`` is neither, or there are no items.
    """
    if instead not in (NEXT_BEST, NO_OP):
        raise ValueError(f"instead must be {NEXT_BEST!r} or {NO_OP!r}, got {instead!r}")

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        chosen, preferences = ranked(obs, lanes)
        actions, nothing = np.array(chosen), idle(envs)
        for lane, place, _ in lanes.under_way():
            if preferences is None:
                actions[lane, removed[place]] = 0.0
            elif actions[lane] == removed[place]:
                preferences[lane, removed[place]] = -np.inf
                actions[lane] = nothing[lane] if instead == NO_OP else preferences[lane].argmax()
        return actions, {}

    return play(envs, act, items, seed, tokens=False)


def spread(branches: Sequence[Branch], lengths: Sequence[int], tokens: int) -> list[Branch]:
    """The branches at no more than ``tokens`` tokens of each episode, evenly spread over it."""
    kept = [set(np.linspace(0, length - 1, min(tokens, length)).round().astype(int).tolist()) for length in lengths]
    return [branch for branch in branches if branch.step in kept[branch.place]]


def _box(envs: Envs) -> spaces.Box:
    assert isinstance(envs.single_action_space, spaces.Box)
    return envs.single_action_space


def _active(lanes: Lanes) -> list[Array]:
    """Of each lane the numbers of the actions whose feature is active in the state."""
    active = lanes.envs.encode().cpu().numpy()[:, lanes.envs.features] > 0
    return [np.flatnonzero(row) for row in active]
