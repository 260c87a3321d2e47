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

from steer_env.evaluation.alternatives import NEXT_BEST, NO_OP, Alternatives
from steer_env.evaluation.controls import idle
from steer_env.evaluation.play import Array, Details, Envs, Lanes, Played, play

Ranked = Callable[[Any, Lanes], "tuple[Array, Array | None]"]


class Branch(NamedTuple):
    """An episode that leaves another one at a token.

    Attributes:
        place: The episode that is left, by its place in the list of items.
        step: Where.
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
class Courses:
    """Episodes as the policy played them, and what else it could have done.

    Attributes:
        items: Items of the environment's split.
        seed: Of sampled decoding.
        played: What came out, with a row a token.
        actions: Of each episode ``[T]`` or ``[T, k]``.
        branches: Every alternative at every token, by episode and step.
    """

    items: Sequence[int]
    seed: int
    played: Played
    actions: list[Array]
    branches: list[Branch]


def play_courses(envs: Envs, ranked: Ranked, items: Sequence[int], seed: int, alternatives: Alternatives) -> Courses:
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
    return Courses(items, seed, played, [np.array(own) for own in actions], branches)


def play_branches(envs: Envs, ranked: Ranked, courses: Courses, branches: Sequence[Branch]) -> list[dict[str, Any]]:
    """Final info of each of ``branches``; those with one action at one token are played once.

    Args:
        envs: Environments as those of the courses.
        ranked: The policy that played the courses; it goes on behind the branch.
        courses: What is left.
        branches: Some of ``courses.branches``.
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
                actions[lane] = courses.actions[branch.place][step]
            elif step == branch.step:
                actions[lane] = branch.action
        return actions, {}

    items = [courses.items[branch.place] for branch in listed]
    episodes = play(envs, act, items, courses.seed, tokens=False).episodes
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
        seed: Of sampled decoding.

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
