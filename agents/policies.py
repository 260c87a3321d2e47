"""An SB3 algorithm as a policy that the evaluator plays, with what it says of its choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from steer_env.evaluation.counterfactuals import Ranked
from steer_env.evaluation.masks import ActionMask, carries_mask
from steer_env.evaluation.play import Array, Details, Lanes

Choice = Callable[[Any, Lanes], tuple[Array, Details]]


def trained_policy(model: BaseAlgorithm, mask: ActionMask | None = None, deterministic: bool = True) -> Choice:
    """The policy of an SB3 algorithm, with the observation it was trained on.

    Args:
        model: Any algorithm of ALGOS.
        mask: The mask it was trained with, which is frozen here: an evaluation teaches it nothing.
        deterministic: The most likely action; otherwise sampled from torch's global generator, as in training.

    Raises:
        ValueError: The model needs a mask and there is none, or the other way round.
    """
    if carries_mask(model.observation_space) != (mask is not None):
        raise ValueError("a model trained with a mask needs that mask, and a model trained without takes none")
    if mask is not None:
        mask.frozen = True
    if isinstance(model, RecurrentPPO):
        return _recurrent(model, deterministic)

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        seen = obs if mask is None else masked_observation(obs, lanes, mask)
        if isinstance(model.policy, ActorCriticPolicy):
            return _actor_critic(model.policy, seen, deterministic)
        actions, _ = model.predict(seen, deterministic=deterministic)
        if not isinstance(model, DQN):
            return actions, {}
        with torch.no_grad():
            values = model.q_net(model.policy.obs_to_tensor(seen)[0]).max(dim=1).values
        return actions, {"value": values.cpu().numpy()}

    return act


def _recurrent(model: RecurrentPPO, deterministic: bool) -> Choice:
    """A policy that remembers each lane's episode, and forgets it where the next one begins."""
    memory: Any = None

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        nonlocal memory
        actions, memory = model.predict(obs, memory, lanes.begins, deterministic)
        return actions, {}

    return act


def masked_observation(obs: Any, lanes: Lanes, mask: ActionMask) -> dict[str, Any]:
    """``{"obs", "mask"}`` as ``SB3VecEnv`` makes it."""
    legal = mask.legal(lanes.envs.action_masks())
    return {"obs": obs, "mask": np.packbits(legal, axis=1)}


def _actor_critic(policy: ActorCriticPolicy, obs: Any, deterministic: bool) -> tuple[Array, Details]:
    policy.set_training_mode(False)
    inputs, _ = policy.obs_to_tensor(obs)
    with torch.no_grad():
        distribution = policy.get_distribution(inputs)
        chosen = distribution.get_actions(deterministic=deterministic)
        details = {
            "log_prob": distribution.log_prob(chosen),
            "value": policy.predict_values(inputs).flatten(),
            "entropy": distribution.entropy(),
        }
    actions = chosen.cpu().numpy()
    if isinstance(policy.action_space, spaces.Box):
        actions = np.clip(actions, policy.action_space.low, policy.action_space.high)
    # A distribution without a closed form has no entropy.
    return actions, {name: value.cpu().numpy() for name, value in details.items() if value is not None}


def ranked_policy(model: BaseAlgorithm, mask: ActionMask | None = None) -> Ranked:
    """The trained policy, with how much it likes every action.

    Returns:
        From observations and lanes to the actions of :func:`steer_env.evaluation.play.trained_policy` and ``[B, A]``
        preferences: logits (or Q values) whose largest is the action's, minus infinity where illegal. None in their
        place where actions are strengths.
    """
    act = trained_policy(model, mask)
    if isinstance(model.action_space, spaces.Box):
        return lambda obs, lanes: (act(obs, lanes)[0], None)
    said: list[Array] = []
    head: Any = model.q_net if isinstance(model, DQN) else model.policy.action_net
    head.register_forward_hook(lambda module, inputs, output: said.append(output.detach().cpu().numpy()))

    def rank(obs: Any, lanes: Lanes) -> tuple[Array, Array]:
        said.clear()
        actions, _ = act(obs, lanes)
        preferences = said[-1].astype(np.float64)
        if mask is not None:
            legal = mask.legal(lanes.envs.action_masks())
            preferences[~legal] = -np.inf
        return actions, preferences

    return rank
