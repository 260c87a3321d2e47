"""From recordings of a policy and noisier versions of it to the transitions that a value probe is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.inside.recordings import Predicates, Recording, RolloutConfig, discounted, join, recompute, record
from agents.reading import family_of

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
OBSERVATION = "observation"
_MISSING = 0.05


@dataclass(frozen=True)
class Transitions:
    """n steps, with the activations of one layer before and after.

    Attributes:
        here: ``[n, D]``.
        there: ``[n, D]`` at the next step; of no meaning where ``over``.
        over: ``[n]`` whether nothing comes after.
        rewards: ``[n]``.
        returns: ``[n]`` from here on, of no meaning where not ``taught_returns``.
        taught_td: ``[n]`` whether the step is the policy's own choice and leads to a known state.
        taught_returns: ``[n]`` whether the policy alone played, to an end or to where the rest hardly counts.
        level: ``[n]`` 0 for the policy, 1, 2, ... for noisier versions.
        share: ``[n]`` what the step counts in a mean over trajectories: one over its trajectory's length.
        opposite: ``[n, D]`` the same positions as the opponent sees them, in a game of two.
    """

    here: Tensor
    there: Tensor
    over: Tensor
    rewards: Tensor
    returns: Tensor
    taught_td: Tensor
    taught_returns: Tensor
    level: Tensor
    share: Tensor
    opposite: Tensor | None = None


def layers_of(policy: BasePolicy) -> tuple[str, ...]:
    """Every layer of actor and critic (or of a Q network): outputs of the non-linearities, and the last linear maps.

    The critic's last map, its value, is left out.
    """
    family = family_of(policy)
    names: list[str] = []
    for root in family.networks:
        stack = list(policy.get_submodule(root).named_children())
        for place, (name, module) in enumerate(stack):
            last = place == len(stack) - 1
            if last or not isinstance(module, nn.Linear):
                names.append(f"{root}.{name}")
    return (*names, *family.heads)


def record_levels(
    model: BaseAlgorithm,
    envs: VecEnv,
    modules: Sequence[str],
    cfg: RolloutConfig,
    noises: Sequence[float],
    predicates: Predicates | None = None,
) -> Recording:
    """Play the policy and noisier versions, the same number of episodes each.

    Args:
        model: whose policy plays.
        envs: lanes.
        modules: recorded.
        cfg: of the policy; every level has a seed of its own, drawn from ``cfg.seed``, so that no lane of one starts as
            a lane of another does, nor as one of an agent with the next seed.
        noises: chances of a random action.
        predicates: as in :func:`agents.inside.recordings.record`.

    Returns:
        All steps, with a column ``level``: 0 for the policy, ``i`` for ``noises[i - 1]``; trajectories have numbers
        of their own.
    """
    parts = []
    seeds = np.random.SeedSequence(cfg.seed).generate_state(1 + len(noises)) // 2  # lanes add their number
    for level, (epsilon, seed) in enumerate(zip((cfg.epsilon, *noises), seeds.tolist(), strict=True)):
        rollout = replace(cfg, epsilon=epsilon, seed=seed)
        played = join(list(record(model, envs, modules, rollout, predicates)))
        own = {"trajectory": played.steps["trajectory"] + level * cfg.episodes, "level": np.full(len(played), level)}
        parts.append(Recording(played.activations, played.observations, played.steps | own))
    return join(parts)


def opposite_views(
    policy: BasePolicy, recording: Recording, modules: Sequence[str], swap: Callable[[npt.NDArray[Any]], Any]
) -> Recording:
    """The same positions of a game of two as the opponent sees them: row i belongs to row i of the recording.

    Args:
        policy: what looks at them.
        recording: of one player.
        modules: recorded.
        swap: from one player's observations to the other's.
    """
    seen = {name: swap(rows) for name, rows in recording.observations.items()}
    return recompute(policy, Recording({}, seen, recording.steps), modules)


def split_trajectories(recording: Recording, seed: int, held_out: float = 0.5) -> Bools:
    """Rows to learn from (True); all rows of one trajectory are on the same side, each level is split alike.

    Raises:
        ValueError: a level has fewer than two trajectories.
    """
    rng = np.random.default_rng(seed)
    learn = np.zeros(len(recording), dtype=bool)
    for level in np.unique(recording.steps["level"]):
        numbers = np.unique(recording.steps["trajectory"][recording.steps["level"] == level])
        if len(numbers) < 2:
            raise ValueError(
                f"level {level} has {len(numbers)} trajectory: there must be some to learn from and to test"
            )
        kept = np.clip(round(len(numbers) * (1 - held_out)), 1, len(numbers) - 1)
        learn |= np.isin(recording.steps["trajectory"], rng.permutation(numbers)[:kept])
    return learn


def shuffle_rewards(recording: Recording, seed: int, gamma: float) -> Recording:
    """The same trajectories with all rewards dealt anew to the steps, and the returns that follow.

    What a trajectory's length tells of its returns remains.
    """
    steps = {name: np.array(column) for name, column in recording.steps.items()}
    steps["reward"] = np.random.default_rng(seed).permutation(steps["reward"])
    for rows in _trajectories(steps["trajectory"]):
        steps["return"][rows] = discounted(steps["reward"][rows], gamma)
    return Recording(recording.activations, recording.observations, steps)


def layer_rows(recording: Recording, layer: str) -> Tensor:
    """``[N, D]`` activations of a layer, or the observations themselves, one row a step."""
    if layer == OBSERVATION:
        kinds = [np.asarray(rows).reshape(len(rows), -1) for rows in recording.observations.values()]
        return torch.from_numpy(np.concatenate(kinds, axis=1).astype(np.float32))
    return recording.activations[layer].flatten(start_dim=1)


def known_returns(recording: Recording, gamma: float) -> Bools:
    """``[N]`` rows whose return is the policy's: no noise, and cut off, if at all, where at most 5 % is missing."""
    length, step = _lengths(recording), recording.steps["step"]
    known: Bools = ~recording.steps["truncated"] | (gamma ** (length - step) <= _MISSING)
    return known & (recording.steps["level"] == 0)


def transitions(recording: Recording, layer: str, gamma: float, allowed: Bools, rows: Rows) -> Transitions:
    """Steps of a recording as a probe's lesson.

    Args:
        recording: of :func:`record_levels`.
        layer: a recorded module, or ``OBSERVATION``.
        gamma: discount.
        allowed: ``[N]`` rows that may be learnt from; a step that leads to another one teaches no TD.
        rows: those taken, all of them allowed.
    """
    steps, acts = recording.steps, layer_rows(recording, layer)
    last = np.append(np.diff(steps["trajectory"]) != 0, True)
    following = np.where(last, np.arange(len(recording)), np.arange(len(recording)) + 1)
    reaches = np.where(last, ~steps["truncated"], allowed[following])
    columns: dict[str, Any] = {
        "over": last & ~steps["truncated"],
        "rewards": steps["reward"].astype(np.float32),
        "returns": steps["return"].astype(np.float32),
        "taught_td": ~steps["explored"] & reaches,
        "taught_returns": known_returns(recording, gamma),
        "level": steps["level"],
        "share": (1.0 / _lengths(recording)).astype(np.float32),
    }
    taken = {name: torch.from_numpy(np.ascontiguousarray(column[rows])) for name, column in columns.items()}
    return Transitions(acts[rows], acts[following[rows]], **taken)


def draw_rows(recording: Recording, allowed: Bools, most: int, seed: int) -> Rows:
    """At most ``most`` of the allowed rows, shared out evenly over the levels, at random."""
    rng = np.random.default_rng(seed)
    levels = np.unique(recording.steps["level"])
    drawn = []
    for level in levels:
        rows = np.flatnonzero(allowed & (recording.steps["level"] == level))
        drawn.append(rng.permutation(rows)[: max(most // len(levels), 1)])
    return np.sort(np.concatenate(drawn))


def _lengths(recording: Recording) -> npt.NDArray[np.int64]:
    """``[N]`` length of each row's trajectory."""
    _, where, counts = np.unique(recording.steps["trajectory"], return_inverse=True, return_counts=True)
    return np.asarray(counts[where], dtype=np.int64)


def _trajectories(numbers: npt.NDArray[Any]) -> Iterator[Rows]:
    bounds = np.flatnonzero(np.diff(numbers)) + 1
    yield from np.split(np.arange(len(numbers)), bounds)
