"""Any same-step Gymnasium vector environment as a Stable-Baselines3 VecEnv, with array operations.

SB3's own adapters work lane by lane in Python; here only lanes whose episode ended cost anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from steer_env.evaluation.masks import ActionMask, BoolArray, masked_space


class SB3VecEnv(VecEnv):
    """Adapter from ``gymnasium.vector.VectorEnv`` to ``stable_baselines3`` ``VecEnv``.

    Lanes that ended carry in their info everything of ``final_info``, ``terminal_observation``,
    ``TimeLimit.truncated`` and ``episode`` (``r`` return, ``l`` steps, ``t`` seconds of age); the
    infos of all other lanes are empty. The arrays of the last step are in ``step_info``.

    With a mask the observation is ``{"obs", "mask"}``, the mask as ``np.packbits`` over actions.

    Attributes:
        envs: the wrapped environment.
        mask: the mask, or None.
        step_info: the infos of ``envs`` from the last ``reset`` or ``step``, as they came.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], mask: ActionMask | None = None) -> None:
        """Wrap ``envs``; with ``mask``, add the legal actions to the observation.

        Raises:
            ValueError: ``envs`` does not reset in the same step; or it cannot have a mask: actions
                not discrete, no ``action_masks()``, or a nested observation.
        """
        mode = envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.SAME_STEP.value):
            raise ValueError(f"SB3 needs autoreset_mode=AutoresetMode.SAME_STEP, this environment has {mode}")
        self.envs = envs
        self.mask = mask
        observation = envs.single_observation_space
        if mask is not None:
            observation = masked_space(observation, _n_masked_actions(envs))
        self.step_info: Mapping[str, Any] = {}
        self._start = time.perf_counter()
        self._actions: npt.NDArray[Any] = np.zeros(envs.num_envs, dtype=np.int64)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self._legal: BoolArray = np.zeros((envs.num_envs, 0), dtype=bool)
        super().__init__(envs.num_envs, observation, envs.single_action_space)

    def reset(self) -> VecEnvObs:
        """Start an episode in every lane, with the seed and options set before, if any."""
        # Lane i takes seed + i, Gymnasium's reading of one integer and SB3's of its list.
        obs, self.step_info = self.envs.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = [_of_lane(self.step_info, lane) for lane in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        if self.mask is not None:
            self.mask.begin(self.num_envs)
        return self._observe(obs)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Options of the next reset, one dict for the whole batch.

        Raises:
            ValueError: a list of dicts, one a lane.
        """
        if isinstance(options, list):
            raise ValueError("set_options takes one dict for all lanes, got a list")
        self._options = [dict(options or {})] * self.num_envs

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep ``actions`` for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all lanes.

        Returns:
            Observations, rewards float32 ``[B]``, ended bool ``[B]``, infos. All arrays are copies.

        Raises:
            ValueError: a reward is not finite (the lane is named).
        """
        obs, rewards, terminated, truncated, self.step_info = self.envs.step(self._actions)
        if not np.isfinite(rewards).all():
            bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(f"reward of lane {bad} is {rewards[bad]}")
        ended = np.logical_or(terminated, truncated)
        self._returns += rewards
        self._lengths += 1
        if self.mask is not None:
            self.mask.update(self._actions, ended, self._returns)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for lane in np.flatnonzero(ended).tolist():
            cut = bool(truncated[lane] and not terminated[lane])
            infos[lane] = self._last_info(lane, cut)
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return self._observe(obs), np.array(rewards, dtype=np.float32), ended, infos

    def _observe(self, obs: Any) -> VecEnvObs:
        visible: Any = _copy(obs)
        if self.mask is None:
            return visible
        self._legal = self.mask.legal(np.asarray(self._call("action_masks")))
        return {"obs": visible, "mask": np.packbits(self._legal, axis=1)}

    def _last_info(self, lane: int, truncated: bool) -> dict[str, Any]:
        final = _copy(self.step_info["final_obs"][lane])
        if self.mask is not None:
            # Nothing is to be chosen after the end: only the no-op is legal there.
            noop = np.arange(self._legal.shape[1]) == self._legal.shape[1] - 1
            final = {"obs": final, "mask": np.packbits(noop)}
        return {
            **_of_lane(self.step_info.get("final_info", {}), lane),
            "terminal_observation": final,
            "TimeLimit.truncated": truncated,
            "episode": {
                "r": float(self._returns[lane]),
                "l": int(self._lengths[lane]),
                "t": time.perf_counter() - self._start,
            },
        }

    def close(self) -> None:
        """Close the wrapped environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of each lane; a natively batched environment has one for all.

        Raises:
            AttributeError: no layer of the environment has it.
        """
        lanes = self._get_indices(indices)
        owner = _owner(self.envs, attr_name)
        if owner is None:
            values = _per_lane_call(self.envs)(attr_name)
            return [values[lane] for lane in lanes]
        return [getattr(owner, attr_name) for _ in lanes]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all lanes.

        Raises:
            ValueError: only some lanes are asked for.
        """
        if len(_listed(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"{attr_name!r} is shared by all lanes, it cannot be set for some")
        owner = _owner(self.envs, attr_name)
        if owner is None and hasattr(self.envs.unwrapped, "set_attr"):
            self.envs.unwrapped.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(owner or self.envs.unwrapped, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method once for the whole batch and hand each lane its part of the answer.

        ``action_masks`` gives what the observation says where there is a mask.

        Raises:
            AttributeError: no layer of the environment has it.
        """
        if method_name == "action_masks" and self.mask is not None:
            rows: Any = self._legal
        else:
            rows = self._call(method_name, *method_args, **method_kwargs)
        return [rows[lane] for lane in self._get_indices(indices)]

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Sequence[Any]:
        owner = _owner(self.envs, name)
        if owner is None:
            return _per_lane_call(self.envs)(name, *args, **kwargs)
        result = getattr(owner, name)(*args, **kwargs)
        per_lane = hasattr(result, "__len__") and not isinstance(result, (str, bytes, dict))
        return result if per_lane and len(result) == self.num_envs else [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each lane has that wrapper. True for Monitor: its ``episode`` record is ours."""
        lanes = _listed(self._get_indices(indices))
        if issubclass(Monitor, wrapper_class):
            return [True] * len(lanes)
        singles = getattr(self.envs.unwrapped, "envs", None)
        if singles is None:
            return [False] * len(lanes)
        return [is_wrapped(singles[lane], wrapper_class) for lane in lanes]

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """What ``envs.render()`` gives, one image a lane."""
        return self._call("render")


def _n_masked_actions(envs: VectorEnv[Any, Any, Any]) -> int:
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(f"an action mask needs Discrete actions, got {envs.single_action_space}")
    if _owner(envs, "action_masks") is None and not hasattr(envs.unwrapped, "call"):
        raise ValueError(f"an action mask needs {envs.unwrapped} to have action_masks()")
    return int(envs.single_action_space.n)


def _owner(envs: VectorEnv[Any, Any, Any], name: str) -> Any | None:
    """The outermost layer of ``envs`` with that attribute; vector wrappers do not forward them."""
    layer: Any = envs
    while not hasattr(layer, name):
        if not hasattr(layer, "env"):
            return None
        layer = layer.env
    return layer


def _per_lane_call(envs: VectorEnv[Any, Any, Any]) -> Callable[..., Sequence[Any]]:
    call = getattr(envs.unwrapped, "call", None)  # SyncVectorEnv and AsyncVectorEnv
    if call is None:
        raise AttributeError(f"{envs} has no such attribute, and no environments of its own")
    return call


def _of_lane(infos: Mapping[str, Any], lane: int) -> dict[str, Any]:
    """One lane of a dict of arrays; ``_key``, if there, says where ``key`` is valid."""
    return {
        key: _plain(values, lane)
        for key, values in infos.items()
        if not key.startswith("_") and (f"_{key}" not in infos or infos[f"_{key}"][lane])
    }


def _plain(values: Any, lane: int) -> Any:
    if isinstance(values, Mapping):
        return _of_lane(values, lane)
    value = values[lane]
    return value.item() if isinstance(value, np.generic) else value


def _copy(obs: Any) -> Any:
    return {k: np.array(v) for k, v in obs.items()} if isinstance(obs, dict) else np.array(obs)


def _listed(indices: Iterable[int]) -> list[int]:
    return list(indices)
