"""An agent on disk: ``policy.safetensors`` and ``policy.json``, which run no code when they are read.

Settings make an agent anew (:func:`agents.algos.make_algo`); these files hold what training changed in it, and the
spaces that it was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from agents.runs.results import ResultFile

TENSORS, RECORD = "policy.safetensors", "policy.json"
COUNTERS = (
    "num_timesteps",
    "exploration_rate",
    "_current_progress_remaining",
    "_episode_num",
    "_n_calls",
    "_n_updates",
    "_num_timesteps_at_start",
    "_total_timesteps",
)
"""Numbers of an agent that training changes."""


class MisfitError(ValueError):
    """What was saved is of another agent."""


@dataclass(frozen=True)
class OptimizerRecord:
    """What the tensors do not say of an optimizer.

    Attributes:
        groups: Its ``param_groups``, with numbers of parameters in the place of these.
        numbers: What it keeps of each parameter as plain numbers.
    """

    groups: list[dict[str, Any]]
    numbers: dict[int, dict[str, int | float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AgentRecord(ResultFile):
    """``policy.json``, beside ``policy.safetensors``.

    Attributes:
        algorithm: Name of the agent's class.
        observation_space: What it was made for (:func:`space_record`).
        action_space: The same of its actions.
        counters: Those of ``COUNTERS`` that it has.
        optimizers: By name.
    """

    MADE_BY: ClassVar[str] = "steer train --resume"

    algorithm: str
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    counters: dict[str, int | float]
    optimizers: dict[str, OptimizerRecord]


@dataclass(frozen=True)
class SavedAgent:
    """What training changed in an agent.

    Attributes:
        path: Where it comes from, for messages.
        states: Of networks and optimizers, by name, what their ``load_state_dict`` takes.
        variables: Tensors that belong to none of them.
        counters: Those of ``COUNTERS`` that are known.
        algorithm: Name of its class; None where it is not known.
        spaces: Of observations and actions; None where they are not known.
    """

    path: Path
    states: dict[str, dict[str, Any]]
    variables: dict[str, Tensor] = field(default_factory=dict)
    counters: dict[str, int | float] = field(default_factory=dict)
    algorithm: str | None = None
    spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None

    @classmethod
    def of(cls, model: BaseAlgorithm, path: Path) -> SavedAgent:
        """What there is to save of an agent; the tensors are its own."""
        names = model._get_torch_save_params()[1]
        return cls(
            path,
            model.get_parameters(),
            {name: recursive_getattr(model, name) for name in names},
            {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
            type(model).__name__,
            (model.observation_space, model.action_space),
        )

    def lanes(self, count: int) -> VecEnv:
        """So many lanes with its spaces, to make an agent for; they cannot be played."""
        assert self.spaces is not None
        return DummyVecEnv([partial(_Spaces, *self.spaces)] * count)


class _Spaces(gym.Env[Any, Any]):
    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def save_agent(model: BaseAlgorithm, folder: Path) -> None:
    """Write ``policy.json`` and then, whole or not at all, ``policy.safetensors``."""
    saved = SavedAgent.of(model, folder / TENSORS)
    tensors = dict(saved.variables)
    optimizers: dict[str, OptimizerRecord] = {}
    for module, state in saved.states.items():
        if "param_groups" in state:
            optimizers[module] = OptimizerRecord(state["param_groups"])
            for number, kept in state["state"].items():
                plain = {name: value for name, value in kept.items() if not isinstance(value, Tensor)}
                optimizers[module].numbers[number] = plain
                tensors |= {f"{module}/{number}/{name}": kept[name] for name in kept.keys() - plain.keys()}
        else:
            tensors |= {f"{module}/{name}": value for name, value in state.items()}
    AgentRecord(
        algorithm=type(model).__name__,
        observation_space=space_record(model.observation_space),
        action_space=space_record(model.action_space),
        counters=saved.counters,
        optimizers=optimizers,
    ).write(folder / RECORD)
    part = folder / f".{TENSORS}.part"
    # Copies, for networks may share tensors, which the format does not have.
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, part)
    part.replace(folder / TENSORS)


def read_agent(folder: Path) -> SavedAgent:
    """What :func:`save_agent` wrote.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: One is not what it should be.
    """
    path, record = folder / TENSORS, AgentRecord.read(folder / RECORD)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    states: dict[str, dict[str, Any]] = {
        module: {"param_groups": _groups(each), "state": {number: dict(kept) for number, kept in each.numbers.items()}}
        for module, each in record.optimizers.items()
    }
    variables = {}
    for key, value in tensors.items():
        match key.split("/"):
            case [name]:
                variables[name] = value
            case [module, name] if module not in record.optimizers:
                states.setdefault(module, {})[name] = value
            case [module, number, name] if module in record.optimizers and number.isdecimal():
                states[module]["state"].setdefault(int(number), {})[name] = value
            case _:
                raise ValueError(f"{path} has a tensor {key!r}, which belongs to no part of an agent")
    counters = {name: value for name, value in record.counters.items() if name in COUNTERS}
    found = space_of(record.observation_space), space_of(record.action_space)
    return SavedAgent(path, states, variables, counters, record.algorithm, found)


def _groups(optimizer: OptimizerRecord) -> list[dict[str, Any]]:
    """Lists but those of parameters were tuples, which JSON does not have."""
    return [
        {key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()}
        for group in optimizer.groups
    ]


def fill(model: BaseAlgorithm, saved: SavedAgent) -> None:
    """Put what training changed into a fresh agent.

    Raises:
        MisfitError: It is of another agent (what does not fit is named).
    """
    misfit = _misfit(model, saved)
    if misfit:
        raise MisfitError(f"{saved.path} does not fit the agent that the settings beside it describe: {misfit}")
    states: dict[str, Any] = saved.states
    model.set_parameters(states, exact_match=True, device=model.device)
    for name, value in saved.variables.items():
        recursive_getattr(model, name).data = value.detach().to(model.device)
    for name, number in saved.counters.items():
        if hasattr(model, name):
            setattr(model, name, number)


def _misfit(model: BaseAlgorithm, saved: SavedAgent) -> str | None:
    """What of ``saved`` is not for ``model``."""
    own = SavedAgent.of(model, saved.path)
    if saved.algorithm not in (None, own.algorithm):
        return f"it is of {saved.algorithm}, expected {own.algorithm}"
    if saved.spaces not in (None, own.spaces):
        return f"it is for {saved.spaces}, expected {own.spaces}"
    if set(saved.states) != set(own.states):
        return f"it has {', '.join(sorted(saved.states))}, expected {', '.join(sorted(own.states))}"
    differences = [_difference(saved.variables, own.variables)]
    for module, state in own.states.items():
        if "param_groups" in state:
            differences.append(_other_optimizer(saved.states[module], recursive_getattr(model, module)))
        else:
            differences.append(_difference(saved.states[module], state))
    return next(filter(None, differences), None)


def _difference(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str | None:
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            return f"it has no {name}"
        if name not in expected:
            return f"{name} is no part of that agent"
        one, other = found[name], expected[name]
        if not isinstance(one, Tensor) or (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"{name} is {_form(one)}, expected {_form(other)}"
    return None


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _other_optimizer(found: Mapping[str, Any], own: torch.optim.Optimizer) -> str | None:
    expected = own.state_dict()["param_groups"]
    if [group.get("params") for group in found["param_groups"]] != [group["params"] for group in expected]:
        return "an optimizer is of other parameters"
    for group, usual in zip(found["param_groups"], expected, strict=True):
        if not set(group) <= set(usual):
            return f"an optimizer has no setting {min(set(group) - set(usual))!r}"
    parameters = [parameter for group in own.param_groups for parameter in group["params"]]
    for number, kept in found["state"].items():
        shapes = {tuple(value.shape) for value in kept.values() if isinstance(value, Tensor)}
        if not 0 <= number < len(parameters) or not shapes <= {(), tuple(parameters[number].shape)}:
            return f"what an optimizer keeps of parameter {number} is of another shape"
    return None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, by name.

    Raises:
        ValueError: It is none, or holds pickles.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (ValueError, AttributeError, BadZipFile, EOFError) as error:
        raise ValueError(f"{path} holds no plain arrays ({' '.join(str(error).split())})") from error


def space_record(space: gym.Space[Any]) -> dict[str, Any]:
    """A space in plain values: Box, Discrete, MultiBinary, MultiDiscrete, or a dictionary of such.

    Raises:
        ValueError: It is of another kind.
    """
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "spaces": {name: space_record(each) for name, each in space.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "multi_binary", "n": np.asarray(space.n).tolist()}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "multi_discrete", "n": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"kind": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise ValueError(f"there is no record of a space like {space}")


def _bound(values: np.ndarray) -> str | list[str]:
    """As text, for JSON has no infinity."""
    listed = [str(value) for value in values.flatten().tolist()]
    return listed[0] if len(set(listed)) == 1 else listed


def space_of(record: Mapping[str, Any]) -> gym.Space[Any]:
    """The space of a :func:`space_record`.

    Raises:
        ValueError: There is none.
    """
    try:
        if record["kind"] == "dict":
            return spaces.Dict({name: space_of(each) for name, each in record["spaces"].items()})
        if record["kind"] == "discrete":
            return spaces.Discrete(record["n"], start=record["start"])
        if record["kind"] == "multi_binary":
            return spaces.MultiBinary(record["n"])
        if record["kind"] == "multi_discrete":
            return spaces.MultiDiscrete(record["n"], start=record["start"])
        shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
        low, high = (
            np.broadcast_to(np.array(record[name], dtype=str).astype(dtype), (np.prod(shape, dtype=int),))
            for name in ("low", "high")
        )
        return spaces.Box(low.reshape(shape), high.reshape(shape), dtype=dtype.type)
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"no space is described by {dict(record)}") from error
