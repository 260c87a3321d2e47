"""How an agent is read: what its networks say of a state, in one :class:`Family` a kind of SB3 policy.

Nothing here imports PyTorch or Stable-Baselines3: the functions only call methods of the policies they are given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from stable_baselines3.common.distributions import Distribution
    from torch import Tensor


class Context(NamedTuple):
    """What a policy may need beside the observation.

    Attributes:
        legal: ``[B, A]`` bool, the legal actions, or None where all are.
        begins: ``[B]`` bool, whether an episode begins, or None where all do.
        memory: What the reading of the step before returned as its memory, or None.
    """

    legal: np.ndarray | None = None
    begins: np.ndarray | None = None
    memory: Any = None


class Reading(NamedTuple):
    """What an agent says of ``B`` states, as tensors on its device.

    Attributes:
        value: ``[B]`` the critic's estimate of the return from here on, or None where there is no critic.
        preferences: ``[B, A]`` logits or Q values; the largest is the greedy action. None where actions are strengths.
        distribution: SB3's distribution over actions, or None where actions are not drawn from one.
        memory: What a recurrent agent must be given at its next step.
    """

    value: Tensor | None = None
    preferences: Tensor | None = None
    distribution: Distribution | None = None
    memory: Any = None


@dataclass(frozen=True)
class Family:
    """Policies that are read in one way.

    Attributes:
        fits: Whether a policy of SB3 is of this family, by what it has.
        read: From a policy, its observations as tensors and a :class:`Context` to a :class:`Reading`.
        values: What the value is, in words.
        preferences: What the preferences are, in words, or None where there are none.
        networks: Names of the stacks of layers through which the policy plays; empty where recordings have no names.
        heads: Names of the last layers behind them.
        memory: Whether an action depends on earlier states of the episode.
        own_mask: Whether the policy is handed the legal actions beside its observation.
    """

    fits: Callable[[Any], bool]
    read: Callable[[Any, Any, Context], Reading]
    values: str
    preferences: str | None = None
    networks: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    memory: bool = False
    own_mask: bool = False


def family_of(policy: Any) -> Family:
    """The family of an SB3 policy, by what it has: algorithms that are in no table are read in the same way.

    Args:
        policy: ``model.policy`` of any Stable-Baselines3 algorithm.
    """
    return next(family for family in FAMILIES if family.fits(policy))


def _actor_critic(policy: Any, inputs: Any, context: Context) -> Reading:
    return _drawn(policy.get_distribution(inputs), policy.predict_values(inputs))


def _maskable(policy: Any, inputs: Any, context: Context) -> Reading:
    return _drawn(policy.get_distribution(inputs, action_masks=context.legal), policy.predict_values(inputs))


def _recurrent(policy: Any, inputs: Any, context: Context) -> Reading:
    from sb3_contrib.common.recurrent.type_aliases import RNNStates  # heavy, and needed by these agents alone

    some = next(policy.parameters())
    count = _batch(inputs)
    begins = some.new_ones(count) if context.begins is None else some.new_tensor(context.begins)
    layers, _, width = policy.lstm_hidden_state_shape
    blank = (some.new_zeros(layers, count, width),) * 2
    memory = context.memory or RNNStates(blank, blank)
    _, value, _, following = policy.forward(inputs, memory, begins, deterministic=True)
    distribution, _ = policy.get_distribution(inputs, memory.pi, begins)
    return _drawn(distribution, value)._replace(memory=following)


def _q_values(policy: Any, inputs: Any, context: Context) -> Reading:
    values = policy.q_net(inputs)
    return Reading(values.max(dim=1).values, values)


def _quantiles(policy: Any, inputs: Any, context: Context) -> Reading:
    values = policy.quantile_net(inputs).mean(dim=1)
    return Reading(values.max(dim=1).values, values)


def _actor_and_critics(policy: Any, inputs: Any, context: Context) -> Reading:
    estimates = policy.critic(inputs, policy._predict(inputs, deterministic=True))
    smallest = estimates[0]
    for other in estimates[1:]:
        smallest = smallest.minimum(other)
    return Reading(smallest.flatten())


def _actor_and_quantiles(policy: Any, inputs: Any, context: Context) -> Reading:
    return Reading(policy.critic(inputs, policy._predict(inputs, deterministic=True)).mean(dim=(1, 2)))


def _drawn(distribution: Distribution, value: Tensor) -> Reading:
    # Only a categorical has logits; SB3's distributions keep PyTorch's inside.
    logits = getattr(distribution.distribution, "logits", None)
    return Reading(value.flatten(), logits, distribution)


def _batch(inputs: Any) -> int:
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda policy: all(hasattr(policy, name) for name in names)


def _takes_masks(policy: Any) -> bool:
    method = getattr(policy, "get_distribution", None)
    return method is not None and "action_masks" in inspect.signature(method).parameters


def _has_quantile_critics(policy: Any) -> bool:
    return hasattr(getattr(policy, "critic", None), "quantiles_total")


_MLP = ("mlp_extractor.policy_net", "mlp_extractor.value_net")
RECURRENT = Family(_has("lstm_actor"), _recurrent, "critic", "logits", memory=True)
MASKABLE = Family(_takes_masks, _maskable, "critic", "logits", _MLP, ("action_net",), own_mask=True)
ACTOR_CRITIC = Family(
    _has("get_distribution", "predict_values"), _actor_critic, "critic", "logits", _MLP, ("action_net",)
)
QUANTILES = Family(
    _has("quantile_net"), _quantiles, "largest mean quantile", "mean quantiles", ("quantile_net.quantile_net",)
)
Q_VALUES = Family(_has("q_net"), _q_values, "largest Q value", "Q values", ("q_net.q_net",))
ACTOR_AND_QUANTILES = Family(_has_quantile_critics, _actor_and_quantiles, "mean quantile of the greedy action")
ACTOR_AND_CRITICS = Family(_has("actor", "critic"), _actor_and_critics, "smallest Q value of the greedy action")
UNKNOWN = Family(lambda policy: True, lambda policy, inputs, context: Reading(), "none: no known network")
# The first that fits: a special kind stands before the general one.
FAMILIES = (
    RECURRENT,
    MASKABLE,
    ACTOR_CRITIC,
    QUANTILES,
    Q_VALUES,
    ACTOR_AND_QUANTILES,
    ACTOR_AND_CRITICS,
    UNKNOWN,
)
