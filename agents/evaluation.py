"""The exact evaluator: each item once, the same items and sampling seeds for every policy, a row a token.

Stable-Baselines3's ``evaluate_policy`` counts episodes as lanes finish, so that short ones come too often and
some items twice; here the environment deals a list of items and says which one each lane plays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.masks import ActionMask, carries_mask

Array = npt.NDArray[Any]
Details = Mapping[str, Array]
Policy = Callable[[Any, "VectorEnv[Any, Any, Any]"], tuple[Array, Details]]
DETAILS = ("log_prob", "value", "entropy")
TOP = 5


@dataclass(frozen=True)
class Played:
    """What a policy did.

    Attributes:
        episodes: Final info of each item, in the order of the list of items.
        tokens: Columns with one entry a token, by ``episode`` (place in the list) and ``step``; ``top_features``
            and ``top_activations`` are ``[n, 5]``; ``strengths``, where actions are strengths, ``[n, k]``. Empty when
            not asked for.
    """

    episodes: list[dict[str, Any]]
    tokens: dict[str, Array]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Score of each item."""
        return np.array([episode["score"] for episode in self.episodes])


def play(
    envs: VectorEnv[Any, Any, Any], policy: Policy, items: Sequence[int], seed: int, tokens: bool = True
) -> Played:
    """Play each of ``items`` once.

    Args:
        envs: A SteerVectorEnv; its lanes take items as they become free.
        policy: From the observations of all lanes and ``envs`` to actions ``[B]`` or ``[B, k]``, and to the arrays
            ``[B]`` of ``DETAILS`` that it knows.
        items: Items of the environment's split. A repeated item is played again, with the same randomness.
        seed: Of sampled decoding; with the item it fixes every random number of the world.
        tokens: Keep a row a token.

    Raises:
        ValueError: There are no items.
    """
    if len(items) == 0:
        raise ValueError("there are no items to play")
    obs, infos = envs.reset(seed=seed, options={"items": list(items)})
    playing, steps = infos, np.zeros(envs.num_envs, dtype=np.int64)
    episodes: dict[int, dict[str, Any]] = {}
    rows: list[dict[str, Array]] = []
    while len(episodes) < len(items):
        actions, details = policy(obs, envs)
        seen = _strongest(envs) if tokens else {}
        obs, rewards, ended, _, infos = envs.step(actions)
        # Lanes that found no item left play repeats, which count for nothing.
        live = playing["index"] < len(items)
        if tokens:
            row = {"episode": playing["index"], "item": playing["item"], "step": steps.copy(), "reward": rewards}
            row |= _applied(envs, infos) | _complete(details, envs.num_envs) | seen
            rows.append({name: np.asarray(values)[live] for name, values in row.items()})
        for lane in np.flatnonzero(ended & live).tolist():
            episodes[int(playing["index"][lane])] = _final(infos["final_info"], lane)
        steps = np.where(ended, 0, steps + 1)
        playing = infos
    return Played([episodes[index] for index in range(len(items))], _joined(rows))


def trained_policy(model: BaseAlgorithm, mask: ActionMask | None = None, deterministic: bool = True) -> Policy:
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

    def act(obs: Any, envs: VectorEnv[Any, Any, Any]) -> tuple[Array, Details]:
        seen = obs if mask is None else masked_observation(obs, envs, mask)
        if isinstance(model.policy, ActorCriticPolicy):
            return _actor_critic(model.policy, seen, deterministic)
        actions, _ = model.predict(seen, deterministic=deterministic)
        if not isinstance(model, DQN):
            return actions, {}
        with torch.no_grad():
            values = model.q_net(model.policy.obs_to_tensor(seen)[0]).max(dim=1).values
        return actions, {"value": values.cpu().numpy()}

    return act


def _recurrent(model: RecurrentPPO, deterministic: bool) -> Policy:
    """A policy that remembers each lane's episode, and forgets it where the next one begins."""
    memory: Any = None

    def act(obs: Any, envs: VectorEnv[Any, Any, Any]) -> tuple[Array, Details]:
        nonlocal memory
        begins = envs.unwrapped.episode.steps() == 0  # type: ignore[attr-defined]  # a SteerVectorEnv
        actions, memory = model.predict(obs, memory, begins, deterministic)
        return actions, {}

    return act


def masked_observation(obs: Any, envs: VectorEnv[Any, Any, Any], mask: ActionMask) -> dict[str, Any]:
    """``{"obs", "mask"}`` as ``SB3VecEnv`` makes it."""
    legal = mask.legal(np.asarray(envs.unwrapped.action_masks()))  # type: ignore[attr-defined]  # a SteerVectorEnv
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


def _strongest(envs: Any) -> dict[str, Array]:
    """The strongest SAE features of the states last returned, as ``[B, 5]``."""
    active = envs.unwrapped.encode()
    best = active.topk(min(TOP, active.shape[1]), dim=1)
    return {"top_features": best.indices.cpu().numpy(), "top_activations": best.values.cpu().numpy()}


def _applied(envs: Any, infos: Mapping[str, Any]) -> dict[str, Array]:
    """What was done to each lane; of several strengths, the largest stands for them in ``feature``."""
    scale = envs.unwrapped.episode.scene.actuator.coefficient
    names = ("token", "token_text", "unsteered_token", "unsteered_token_text", "changed", "kl", "strengths")
    row = {name: infos[name] for name in names if name in infos}
    if "strengths" not in infos:
        return row | {"feature": infos["feature"], "coefficient": np.where(infos["feature"] >= 0, scale, 0.0)}
    strengths = infos["strengths"]
    largest = np.abs(strengths).argmax(axis=1)
    strength = strengths[np.arange(len(strengths)), largest]
    feature = np.where(strength != 0, envs.unwrapped.features[largest], -1)
    return row | {"feature": feature, "coefficient": scale * strength.astype(np.float64)}


def _complete(details: Details, lanes: int) -> dict[str, Array]:
    return {name: np.asarray(details.get(name, np.full(lanes, np.nan)), dtype=np.float64) for name in DETAILS}


def _final(final_info: Mapping[str, Any], lane: int) -> dict[str, Any]:
    return {name: values[lane] for name, values in final_info.items() if not name.startswith("_")}


def _joined(rows: list[dict[str, Array]]) -> dict[str, Array]:
    if not rows:
        return {}
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.lexsort((columns["step"], columns["episode"]))
    return {name: values[order] for name, values in columns.items()}
