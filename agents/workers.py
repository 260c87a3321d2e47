"""Lanes in several processes, on one machine or many: Ray actors with a model each, as one vector environment.

What travels a step is what a learner needs: observations, packed masks, rewards, actions, and what is said of episodes
that ended. Ray is imported only where workers are asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

Make = Callable[[int], VectorEnv[Any, Any, Any]]
Array = npt.NDArray[Any]


class WorkerLostError(RuntimeError):
    """A worker died, and with it the episodes under way; go on from a checkpoint."""


class _Told(NamedTuple):
    """What a worker's lanes say after a reset or a step; the ends of episodes only where there were any."""

    seen: Any
    legal: Array | None
    rewards: Array | None = None
    terminated: Array | None = None
    truncated: Array | None = None
    numbers: Mapping[str, Array] = {}
    ends: Mapping[str, Any] = {}


class _Lanes:
    """The body of a worker."""

    def __init__(self, make: Make, lanes: int, masked: bool) -> None:
        import torch

        torch.set_num_threads(1)
        self.envs, self.masked = make(lanes), masked

    def spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any], Any]:
        """Of one lane: observations and actions; and what the environment says of itself."""
        return self.envs.single_observation_space, self.envs.single_action_space, self.envs.metadata

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> _Told:
        """Begin."""
        seen, infos = self.envs.reset(seed=seed, options=options)
        return _Told(seen, self._legal(), numbers=_numbers(infos))

    def step(self, actions: Array) -> _Told:
        """One step."""
        seen, rewards, terminated, truncated, infos = self.envs.step(actions)
        ends = {name: infos[name] for name in _ENDS if name in infos}
        return _Told(seen, self._legal(), rewards, terminated, truncated, _numbers(infos), ends)

    def _legal(self) -> Array | None:
        if not self.masked:
            return None
        return np.packbits(np.asarray(self.envs.unwrapped.action_masks()), axis=1)  # type: ignore[attr-defined]  # Steer's


_ENDS = ("final_obs", "_final_obs", "final_info", "_final_info")


class WorkersVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` lanes, shared evenly among workers. Lane ``i`` is what it would be in one process.

    Args:
        make: From a number of lanes to their environment; it is called in each worker, so it must be picklable.
        num_envs: Lanes of all workers.
        workers: Their number, which divides ``num_envs``.
        masked: Whether legal actions are asked for after every step.

    Raises:
        ValueError: The workers cannot have equally many lanes.
        ImportError: Ray is not installed.
        WorkerLostError: A worker died as its environment was made.
    """

    def __init__(self, make: Make, num_envs: int, workers: int, masked: bool) -> None:
        if workers < 1 or num_envs % workers:
            raise ValueError(f"workers must divide num_envs={num_envs}, got {workers}")
        self._ray = started_ray()
        self.num_envs, self._each = num_envs, num_envs // workers
        remote = self._ray.remote(_Lanes).options(**_shares(self._ray, workers))
        self._workers = [remote.remote(make, self._each, masked) for _ in range(workers)]
        observation, action, metadata = self._ask([self._workers[0].spaces.remote()])[0]
        self.metadata = {**metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = observation, action
        self.observation_space, self.action_space = batch_space(observation, num_envs), batch_space(action, num_envs)
        self._legal: Array | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane; lane ``i`` with ``seed + i``.

        Raises:
            ValueError: Items are pinned, whose order is one over all lanes, or the seeds are given one by one.
            WorkerLostError: A worker died.
        """
        if options and "items" in options:
            raise ValueError("items cannot be pinned over several workers")
        if seed is not None and not isinstance(seed, int):
            raise ValueError(f"workers take one seed for all lanes, got {seed!r}")
        seeds = [None if seed is None else seed + place * self._each for place in range(len(self._workers))]
        told = self._ask([w.reset.remote(own, options) for w, own in zip(self._workers, seeds, strict=True)])
        return self._seen(told), _merged([each.numbers for each in told])

    def step(self, actions: Array) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """One step in every lane.

        Raises:
            WorkerLostError: A worker died.
        """
        parts = np.split(np.asarray(actions), len(self._workers))
        told = self._ask([w.step.remote(part) for w, part in zip(self._workers, parts, strict=True)])
        infos = _merged([each.numbers for each in told])
        if any(each.ends for each in told):
            infos |= _ended([each.ends for each in told], self._each)
        columns = ([getattr(each, name) for each in told] for name in ("rewards", "terminated", "truncated"))
        rewards, terminated, truncated = (np.concatenate(column) for column in columns)
        return self._seen(told), rewards, terminated, truncated, infos

    def action_masks(self) -> Array:
        """``[B, A]`` bool: legal actions of the states last returned."""
        assert self._legal is not None, "the environment was made without masks"
        count = int(self.single_action_space.n)  # type: ignore[attr-defined]  # Discrete, or there were no masks
        return np.unpackbits(self._legal, axis=1, count=count).view(bool)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the workers."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _ask(self, calls: list[Any]) -> list[Any]:
        try:
            answers: list[Any] = self._ray.get(calls)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerLostError(f"a worker died: {str(error).splitlines()[0]}") from error
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return answers

    def _seen(self, told: Sequence[_Told]) -> Any:
        legal = [each.legal for each in told if each.legal is not None]
        self._legal = np.concatenate(legal) if legal else None
        first = told[0].seen
        if isinstance(first, dict):
            return {name: np.concatenate([each.seen[name] for each in told]) for name in first}
        return np.concatenate([each.seen for each in told])


def started_ray() -> Any:
    """The ``ray`` package, connected to the cluster of ``RAY_ADDRESS`` or to one of this machine.

    Raises:
        ImportError: It is not installed.
    """
    try:
        ray: Any = importlib.import_module("ray")  # optional, and slow to import
    except ImportError as error:
        raise ImportError("several workers need Ray: pip install 'steer-env[ray]'") from error
    if not ray.is_initialized():
        local = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", **local)
    return ray


def _shares(ray: Any, workers: int) -> dict[str, float]:
    """What a worker takes of the cluster: a core and a GPU where there are enough, else an equal share of them.

    A worker that asked for more than there is would wait for ever, without a word.
    """
    found = ray.cluster_resources()
    return {f"num_{kind.lower()}s": min(1.0, found.get(kind, 0.0) / workers) for kind in ("CPU", "GPU")}


def _numbers(infos: Mapping[str, Any]) -> dict[str, Array]:
    """Numbers that are said of every lane; texts stay where they are."""
    return {name: rows for name, rows in infos.items() if isinstance(rows, np.ndarray) and rows.dtype != object}


def _merged(parts: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name not in _ENDS}


def _ended(parts: Sequence[Mapping[str, Any]], each: int) -> dict[str, Any]:
    """``final_obs`` and ``final_info`` of all lanes; workers in which no episode ended say nothing."""
    names = {name for part in parts for name in part.get("final_info", {})}
    info = {name: _column([part.get("final_info", {}) for part in parts], name, each) for name in sorted(names)}
    whole = {name: _column(parts, name, each) for name in ("final_obs", "_final_obs")}
    return {**whole, "final_info": info, "_final_info": whole["_final_obs"]}


def _column(parts: Sequence[Mapping[str, Any]], name: str, each: int) -> Array:
    kind = bool if name.startswith("_") else object
    return np.concatenate([part.get(name, np.zeros(each, dtype=kind)) for part in parts])
