"""The algorithms on offer: stock classes of Stable-Baselines3 and its contrib, defaults for short episodes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.masked_policy import HEADS, MaskedPolicy, tied_keys
from steer_env.evaluation.masks import carries_mask

SMALLEST_BATCH, LARGEST_BATCH = 32, 256  # transitions in a minibatch of PPO, where none is asked for
ROLLOUT, FEWEST_STEPS = 512, 8  # transitions and steps of its roll-out: many small updates learn from fewer tokens


@dataclass(frozen=True)
class Algorithm:
    """A row of ALGOS.

    Attributes:
        cls: the SB3 class.
        actions: kinds of action space it is offered for, of ``"discrete"`` and ``"box"``.
        masked: it takes a MaskedPolicy with discrete actions (mask, tied head).
        defaults: settings of its constructor; gamma is 1, since an episode is one answer.
        for_box: what differs with Box actions.
        net_arch: hidden layers; None is SB3's default.
        policies: names of its policies for one observation array and for several.
    """

    cls: type[BaseAlgorithm]
    actions: frozenset[str]
    masked: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)
    for_box: Mapping[str, Any] = field(default_factory=dict)
    net_arch: tuple[int, ...] | None = None
    policies: tuple[str, str] = ("MlpPolicy", "MultiInputPolicy")


_OFF_POLICY = {
    "gamma": 1.0,
    # SB3's million transitions of residuals of width 2,304 would take 18 GB.
    "buffer_size": 50_000,
    "learning_starts": 1_000,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 8,
}

_PPO = {
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "learning_rate": (2e-3, 1e-4),
    "n_epochs": 8,
    "ent_coef": 0.01,
}

ALGOS: dict[str, Algorithm] = {
    "ppo": Algorithm(
        PPO,
        frozenset({"discrete", "box"}),
        masked=True,
        defaults=_PPO,
        for_box={"learning_rate": (5e-4, 5e-5), "n_steps": 64, "n_epochs": 10, "ent_coef": 0.0, "target_kl": 0.03},
        net_arch=(128, 128),
    ),
    "a2c": Algorithm(
        A2C,
        frozenset({"discrete"}),
        masked=True,
        defaults={
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "n_steps": 8,
            "ent_coef": 0.01,
            "normalize_advantage": True,
        },
    ),
    # One residual is not all that the model knows; an LSTM remembers those before it.
    "recurrent_ppo": Algorithm(
        RecurrentPPO,
        frozenset({"discrete"}),
        masked=False,
        defaults={**_PPO, "n_steps": 32, "batch_size": 256},
        policies=("MlpLstmPolicy", "MultiInputLstmPolicy"),
    ),
    "dqn": Algorithm(
        DQN,
        frozenset({"discrete"}),
        masked=False,
        defaults={**_OFF_POLICY, "learning_rate": 1e-3, "target_update_interval": 1_000},
    ),
    "sac": Algorithm(SAC, frozenset({"box"}), masked=False, defaults=_OFF_POLICY),
    "td3": Algorithm(TD3, frozenset({"box"}), masked=False, defaults=_OFF_POLICY),
}


def make_algo(
    name: str,
    vec_env: VecEnv,
    seed: int,
    head: str = "linear",
    directions: Any | None = None,
    net_arch: Sequence[int] | dict[str, list[int]] | None = None,
    **overrides: Any,
) -> BaseAlgorithm:
    """Build an algorithm on ``vec_env``.

    Args:
        name: a key of ALGOS.
        vec_env: decides the action kind and, by its observation, whether there is a mask.
        seed: of networks, exploration and environments.
        head: ``"linear"`` or ``"tied"`` (PPO and A2C with discrete actions).
        directions: ``[F, M]`` decoder directions for the tied head; reduced to its keys here, so
            that saved files stay small. ``overrides["policy_kwargs"]["key_dim"]`` is their width.
        net_arch: hidden layers, as SB3 takes them, ``[]`` for none; None is the row's.
        overrides: settings of the SB3 class, in place of the row's defaults; a ``learning_rate`` of two
            numbers goes linearly from the first to the second.

    Raises:
        ValueError: unknown name, setting or head; actions, mask, head or roll-out it cannot take (the message
            says what would work).
    """
    row = _fitting_row(name, vec_env, overrides)
    policy = _policy(name, row, vec_env, head)
    policy_kwargs = dict(overrides.pop("policy_kwargs", None) or {})
    policy_kwargs |= _layers(net_arch, policy_kwargs.get("net_arch"), row.net_arch)
    if head == "tied":
        if directions is None:
            raise ValueError("head 'tied' needs directions=, the [F, M] decoder directions")
        keys = tied_keys(directions, policy_kwargs.get("key_dim", 64))
        policy_kwargs |= {"head": head, "directions": keys, "key_dim": keys.shape[1]}
    settings = _settings(row, vec_env, overrides)
    if isinstance(vec_env.action_space, spaces.Box):
        _fit_noise(row.cls, vec_env.action_space, settings, policy_kwargs)
    return row.cls(policy, vec_env, seed=seed, policy_kwargs=policy_kwargs, **settings)


def _fitting_row(name: str, vec_env: VecEnv, overrides: Mapping[str, Any]) -> Algorithm:
    if name not in ALGOS:
        raise ValueError(f"unknown algorithm {name!r}; known algorithms: {', '.join(ALGOS)}")
    kind = "box" if isinstance(vec_env.action_space, spaces.Box) else "discrete"
    fitting = [key for key, row in ALGOS.items() if kind in row.actions]
    if name not in fitting:
        raise ValueError(f"{name!r} is not for {kind} actions ({vec_env.action_space}); use {_either(fitting)}")
    unknown = set(overrides) - set(inspect.signature(ALGOS[name].cls).parameters)
    if unknown:
        raise ValueError(f"{name} has no setting {', '.join(map(repr, sorted(unknown)))}")
    return ALGOS[name]


def _layers(*asked: Sequence[int] | dict[str, list[int]] | None) -> dict[str, Any]:
    """``net_arch`` from the first that asks for one; no hidden layer is a wish too."""
    for layers in asked:
        if layers is not None:
            return {"net_arch": layers if isinstance(layers, dict) else list(layers)}
    return {}


def _settings(row: Algorithm, vec_env: VecEnv, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The row's settings for this environment, ``overrides`` in place of its defaults."""
    box = isinstance(vec_env.action_space, spaces.Box)
    settings = {**row.defaults, **(row.for_box if box else {}), **overrides}
    if isinstance(settings.get("learning_rate"), (list, tuple)):
        first, last = settings["learning_rate"]
        settings["learning_rate"] = LinearSchedule(first, last, end_fraction=1.0)
    if row.cls is PPO:
        settings.setdefault("n_steps", _steps(vec_env.num_envs))
        if "batch_size" not in settings:
            settings["batch_size"] = _batch_size(settings["n_steps"] * vec_env.num_envs)
    return settings


def _policy(name: str, row: Algorithm, vec_env: VecEnv, head: str) -> str | type[MaskedPolicy]:
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known heads: {', '.join(HEADS)}")
    observation = vec_env.observation_space
    masked = carries_mask(observation)
    nested = isinstance(observation, spaces.Dict) and not masked
    discrete = isinstance(vec_env.action_space, spaces.Discrete)
    if row.masked and discrete and not nested:
        return MaskedPolicy
    takers = _either([key for key, other in ALGOS.items() if other.masked])
    if masked:
        raise ValueError(f"{name!r} cannot take an action mask; use {takers}, or mask 'off'")
    if head != "linear":
        raise ValueError(
            f"head {head!r} needs {takers} with discrete actions and one observation array, got "
            f"{name!r} with {vec_env.action_space} and {observation}"
        )
    return row.policies[nested]


def _fit_noise(
    cls: type[BaseAlgorithm], space: spaces.Box, settings: dict[str, Any], policy_kwargs: dict[str, Any]
) -> None:
    """Exploration of a size that fits the box, where none is asked for."""
    half_width = float(np.mean(space.high - space.low)) / 2
    if cls is PPO and np.isfinite(half_width):
        # SB3 starts at a deviation of 1 in action units; in a box of half-width 0.25, as in AutoSteer,
        # nearly every action would be a clipped one.
        policy_kwargs.setdefault("log_std_init", float(np.log(half_width / 2)))
    if cls is TD3:
        # SB3 adds it to actions scaled to [-1, 1].
        noise = NormalActionNoise(np.zeros(space.shape), np.full(space.shape, 0.1))
        settings.setdefault("action_noise", noise)


def _steps(lanes: int) -> int:
    """Steps of a roll-out of about ``ROLLOUT`` transitions, or a few more, that minibatches divide."""
    wanted = max(ROLLOUT // lanes, FEWEST_STEPS)
    return next(steps for steps in count(wanted) if _largest_batch(steps * lanes) >= SMALLEST_BATCH)


def _batch_size(rollout: int) -> int:
    """The largest minibatch that divides the roll-out, so that none is cut short.

    Raises:
        ValueError: only a tiny one does, with which an update would take very long and be noise.
    """
    largest = _largest_batch(rollout)
    if largest < min(rollout, SMALLEST_BATCH):
        raise ValueError(
            f"no minibatch of {SMALLEST_BATCH} to {LARGEST_BATCH} divides the roll-out of {rollout} transitions: "
            "choose num_envs and n_steps so that one divides their product, or give batch_size"
        )
    return largest


def _largest_batch(rollout: int) -> int:
    return max(size for size in range(1, LARGEST_BATCH + 1) if rollout % size == 0)


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
