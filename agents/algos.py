"""The algorithms on offer: one row each, with defaults for short episodes. To add one, add a row.

Nothing heavy is imported here: classes are named, and loaded when an agent is made.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from agents.reading import (
    ACTOR_AND_CRITICS,
    ACTOR_AND_QUANTILES,
    ACTOR_CRITIC,
    MASKABLE,
    Q_VALUES,
    QUANTILES,
    RECURRENT,
    Family,
)
from steer_env.evaluation.masks import carries_mask

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from agents.masked_policy import MaskedPolicy

HEADS = ("linear", "tied")
SMALLEST_BATCH, LARGEST_BATCH = 32, 256  # transitions in a minibatch of PPO, where none is asked for
ROLLOUT, FEWEST_STEPS = 512, 8  # transitions and steps of its roll-out: many small updates learn from fewer tokens

Settings = dict[str, Any]
Fit = Callable[[Settings, Settings, "VecEnv"], None]


def _no_fit(settings: Settings, policy_kwargs: Settings, vec_env: VecEnv) -> None:
    """SB3's defaults do for any environment."""


def _fit_rollout(settings: Settings, policy_kwargs: Settings, vec_env: VecEnv) -> None:
    """A roll-out that minibatches divide, and first strengths that lie in the box."""
    settings.setdefault("n_steps", _steps(vec_env.num_envs))
    if "batch_size" not in settings:
        settings["batch_size"] = _batch_size(settings["n_steps"] * vec_env.num_envs)
    if isinstance(vec_env.action_space, spaces.Box):
        half_width = float(np.mean(vec_env.action_space.high - vec_env.action_space.low)) / 2
        if np.isfinite(half_width):
            # SB3 starts at a deviation of 1 in action units; in a box of half-width 0.25, as in AutoSteer,
            # nearly every action would be a clipped one.
            policy_kwargs.setdefault("log_std_init", float(np.log(half_width / 2)))


def _fit_noise(settings: Settings, policy_kwargs: Settings, vec_env: VecEnv) -> None:
    """Exploration for an actor that draws nothing; SB3 adds it to actions scaled to [-1, 1]."""
    from stable_baselines3.common.noise import NormalActionNoise  # loads PyTorch

    shape = vec_env.action_space.shape or ()
    settings.setdefault("action_noise", NormalActionNoise(np.zeros(shape), np.full(shape, 0.1)))


def _update_from_rollout(lanes: int, steps: int) -> Settings:
    """Settings with which ``learn`` collects ``steps`` steps a lane and updates once, by the policy's loss alone."""
    return {
        **{"n_steps": steps, "n_epochs": 1, "batch_size": min(LARGEST_BATCH, lanes * steps)},
        **{"ent_coef": 0.0, "target_kl": None, "max_grad_norm": np.inf},
    }


def _update_in_trust_region(lanes: int, steps: int) -> Settings:
    """The same for TRPO, whose region is no option."""
    return {"n_steps": steps, "batch_size": min(LARGEST_BATCH, lanes * steps), "n_critic_updates": 1}


def _update_from_replay(lanes: int, steps: int) -> Settings:
    """The same for algorithms with a replay buffer: their warm-up, then one update of everything."""
    return {
        **{"train_freq": 1, "gradient_steps": 1, "policy_delay": 1, "learning_starts": lanes * (steps - 1)},
        # The saved noise is of as many lanes as the training had.
        **{"buffer_size": lanes * steps, "batch_size": min(LARGEST_BATCH, lanes * steps), "action_noise": None},
    }


@dataclass(frozen=True)
class Algorithm:
    """A row of ALGOS.

    Attributes:
        path: Import path of the SB3 class.
        actions: Kinds of action space it is offered for, of ``"discrete"`` and ``"box"``.
        family: How its policies are read: values, preferences, distribution, memory.
        no_mask: Why it takes no action mask with discrete actions; None where it takes one.
        no_tied_head: Why it takes no tied head with discrete actions; None where it takes one.
        defaults: Settings of its constructor; gamma is 1, since an episode is one answer.
        for_box: What differs with Box actions.
        net_arch: Hidden layers; None is SB3's default.
        policies: Names of its policies for one observation array and for several.
        fit: Fills in what depends on the environment: into the settings and the policy's arguments, where not asked.
        one_update: From lanes and steps a lane to the settings of one short update.
        policy_step: The method that computes the policy's gradient, second in what it returns, where no optimizer does.
    """

    path: str
    actions: frozenset[str]
    family: Family
    no_mask: str | None = None
    no_tied_head: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    for_box: Mapping[str, Any] = field(default_factory=dict)
    net_arch: tuple[int, ...] | None = None
    policies: tuple[str, str] = ("MlpPolicy", "MultiInputPolicy")
    fit: Fit = _no_fit
    one_update: Callable[[int, int], Settings] = _update_from_rollout
    policy_step: str | None = None

    @cached_property
    def cls(self) -> type[BaseAlgorithm]:
        """The SB3 class."""
        package, name = self.path.rsplit(".", 1)
        found: type[BaseAlgorithm] = getattr(importlib.import_module(package), name)
        return found

    @cached_property
    def known_settings(self) -> frozenset[str]:
        """Names of its constructor's arguments."""
        return frozenset(inspect.signature(self.cls).parameters)

    @property
    def own_policy(self) -> bool:
        """With discrete actions its policy is a MaskedPolicy."""
        return self.no_tied_head is None

    def short_update(self, lanes: int, steps: int) -> Settings:
        """Settings with which ``learn`` collects ``steps`` steps a lane and then updates once."""
        return {name: value for name, value in self.one_update(lanes, steps).items() if name in self.known_settings}


_DISCRETE, _BOX, _BOTH = frozenset({"discrete"}), frozenset({"box"}), frozenset({"discrete", "box"})

_PPO = {
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "learning_rate": (2e-3, 1e-4),
    "n_epochs": 8,
    "ent_coef": 0.01,
}

_OFF_POLICY = {
    "gamma": 1.0,
    # SB3's million transitions of residuals of width 2,304 would take 18 GB.
    "buffer_size": 50_000,
    "learning_starts": 1_000,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 8,
}


def _of_q_values(path: str, family: Family) -> Algorithm:
    return Algorithm(
        path,
        _DISCRETE,
        family,
        no_mask="its random exploration would take illegal actions",
        no_tied_head="it has no logits, whose offset is free, but Q values",
        defaults={**_OFF_POLICY, "learning_rate": 1e-3, "target_update_interval": 1_000},
        one_update=_update_from_replay,
    )


def _of_strengths(path: str, family: Family = ACTOR_AND_CRITICS, fit: Fit = _no_fit) -> Algorithm:
    why = "strengths are no choice among features"
    return Algorithm(path, _BOX, family, why, why, defaults=_OFF_POLICY, fit=fit, one_update=_update_from_replay)


ALGOS: dict[str, Algorithm] = {
    "ppo": Algorithm(
        "stable_baselines3.PPO",
        _BOTH,
        ACTOR_CRITIC,
        defaults=_PPO,
        for_box={"learning_rate": (5e-4, 5e-5), "n_steps": 64, "n_epochs": 10, "ent_coef": 0.0, "target_kl": 0.03},
        net_arch=(128, 128),
        fit=_fit_rollout,
    ),
    "a2c": Algorithm(
        "stable_baselines3.A2C",
        _DISCRETE,
        ACTOR_CRITIC,
        defaults={"gamma": 1.0, "gae_lambda": 0.95, "n_steps": 8, "ent_coef": 0.01, "normalize_advantage": True},
    ),
    "trpo": Algorithm(
        "sb3_contrib.TRPO",
        _BOTH,
        ACTOR_CRITIC,
        defaults={"gamma": 1.0, "gae_lambda": 0.95},
        net_arch=(128, 128),
        fit=_fit_rollout,
        one_update=_update_in_trust_region,
        policy_step="_compute_actor_grad",
    ),
    # One residual is not all that the model knows; an LSTM remembers those before it.
    "recurrent_ppo": Algorithm(
        "sb3_contrib.RecurrentPPO",
        _DISCRETE,
        RECURRENT,
        no_mask="sb3-contrib's recurrent policies have none",
        no_tied_head="sb3-contrib's recurrent policies have a linear one",
        defaults={**_PPO, "n_steps": 32, "batch_size": 256},
        policies=("MlpLstmPolicy", "MultiInputLstmPolicy"),
    ),
    "maskable_ppo": Algorithm(
        "sb3_contrib.MaskablePPO",
        _DISCRETE,
        MASKABLE,
        no_tied_head="sb3-contrib's maskable policies have a linear one",
        defaults=_PPO,
        net_arch=(128, 128),
        fit=_fit_rollout,
    ),
    "dqn": _of_q_values("stable_baselines3.DQN", Q_VALUES),
    "qrdqn": _of_q_values("sb3_contrib.QRDQN", QUANTILES),
    "sac": _of_strengths("stable_baselines3.SAC"),
    "td3": _of_strengths("stable_baselines3.TD3", fit=_fit_noise),
    "ddpg": _of_strengths("stable_baselines3.DDPG", fit=_fit_noise),
    "tqc": _of_strengths("sb3_contrib.TQC", ACTOR_AND_QUANTILES),
    "crossq": _of_strengths("sb3_contrib.CrossQ"),
}


def table() -> list[dict[str, str]]:
    """What each algorithm takes and tells, one row each; no cell is empty, and a "no" has its reason."""
    return [
        {
            "algorithm": name,
            "actions": " or ".join(kind for kind in ("discrete", "box") if kind in row.actions),
            "mask": _yes(row.no_mask),
            "tied head": _yes(row.no_tied_head),
            "memory": "LSTM over the episode" if row.family.memory else "no: the state of the token alone",
            "values": row.family.values,
            "preferences": row.family.preferences or "no: strengths have no ranks",
        }
        for name, row in ALGOS.items()
    ]


def _yes(reason_against: str | None) -> str:
    return "yes" if reason_against is None else f"no: {reason_against}"


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
        name: A key of ALGOS.
        vec_env: The environment; it decides the action kind and, by its observation, whether there is a mask.
        seed: Seed of networks, exploration and environments.
        head: ``"linear"`` or ``"tied"`` (see :func:`table` for who takes it, with discrete actions).
        directions: ``[F, M]`` decoder directions for the tied head; reduced to its keys here, so that saved files
            stay small. ``overrides["policy_kwargs"]["key_dim"]`` is their width.
        net_arch: Hidden layers, as SB3 takes them, ``[]`` for none; None is the row's.
        overrides: Settings of the SB3 class, in place of the row's defaults; a ``learning_rate`` of two numbers goes
            linearly from the first to the second.

    Raises:
        ValueError: Unknown name, setting or head; actions, mask, head or roll-out it cannot take (the message says
            what would work).
    """
    row = _fitting_row(name, vec_env, overrides)
    policy_kwargs = dict(overrides.pop("policy_kwargs", None) or {})
    policy = _policy(name, row, vec_env, head, policy_kwargs)
    policy_kwargs |= _layers(net_arch, policy_kwargs.get("net_arch"), row.net_arch)
    if head == "tied":
        policy_kwargs |= _tied(directions, policy_kwargs.get("key_dim", 64))
    settings = _settings(row, vec_env, overrides)
    row.fit(settings, policy_kwargs, vec_env)
    return row.cls(policy, vec_env, seed=seed, policy_kwargs=policy_kwargs, **settings)


def _fitting_row(name: str, vec_env: VecEnv, overrides: Mapping[str, Any]) -> Algorithm:
    if name not in ALGOS:
        raise ValueError(f"unknown algorithm {name!r}; known algorithms: {', '.join(ALGOS)}")
    kind = "box" if isinstance(vec_env.action_space, spaces.Box) else "discrete"
    fitting = [key for key, row in ALGOS.items() if kind in row.actions]
    if name not in fitting:
        raise ValueError(f"{name!r} is not for {kind} actions ({vec_env.action_space}); use {_either(fitting)}")
    unknown = set(overrides) - ALGOS[name].known_settings
    if unknown:
        raise ValueError(f"{name} has no setting {', '.join(map(repr, sorted(unknown)))}")
    return ALGOS[name]


def _layers(*asked: Sequence[int] | dict[str, list[int]] | None) -> dict[str, Any]:
    """``net_arch`` from the first that asks for one; no hidden layer is a wish too."""
    for layers in asked:
        if layers is not None:
            return {"net_arch": layers if isinstance(layers, dict) else list(layers)}
    return {}


def _tied(directions: Any, key_dim: int) -> Settings:
    from agents.masked_policy import tied_keys  # loads PyTorch

    if directions is None:
        raise ValueError("head 'tied' needs directions=, the [F, M] decoder directions")
    keys = tied_keys(directions, key_dim)
    return {"head": "tied", "directions": keys, "key_dim": keys.shape[1]}


def _settings(row: Algorithm, vec_env: VecEnv, overrides: Mapping[str, Any]) -> Settings:
    """The row's settings for this environment, ``overrides`` in place of its defaults."""
    box = isinstance(vec_env.action_space, spaces.Box)
    settings = {**row.defaults, **(row.for_box if box else {}), **overrides}
    if isinstance(settings.get("learning_rate"), (list, tuple)):
        from stable_baselines3.common.utils import LinearSchedule  # loads PyTorch

        first, last = settings["learning_rate"]
        settings["learning_rate"] = LinearSchedule(first, last, end_fraction=1.0)
    return settings


def _policy(name: str, row: Algorithm, vec_env: VecEnv, head: str, policy_kwargs: Settings) -> str | type[MaskedPolicy]:
    from agents.masked_policy import MaskedPolicy, VisibleExtractor  # loads PyTorch

    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known heads: {', '.join(HEADS)}")
    observation = vec_env.observation_space
    masked = carries_mask(observation)
    nested = isinstance(observation, spaces.Dict) and not masked
    discrete = isinstance(vec_env.action_space, spaces.Discrete)
    if row.own_policy and discrete and not nested:
        return MaskedPolicy
    if masked and row.no_mask:
        takers = _either([key for key, other in ALGOS.items() if other.no_mask is None])
        raise ValueError(f"{name!r} cannot take an action mask; use {takers}, or mask 'off'")
    if head != "linear":
        takers = _either([key for key, other in ALGOS.items() if other.own_policy])
        raise ValueError(
            f"head {head!r} needs {takers} with discrete actions and one observation array, got "
            f"{name!r} with {vec_env.action_space} and {observation}"
        )
    if masked:
        # sb3-contrib asks the environment for the mask, which must not be an input of the networks.
        policy_kwargs.setdefault("features_extractor_class", VisibleExtractor)
    return row.policies[masked or nested]


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
