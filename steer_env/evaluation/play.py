"""The exact evaluator: each item once, the same items and sampling seeds for every policy, a row a token.

Stable-Baselines3's ``evaluate_policy`` counts episodes as lanes finish, so that short ones come too often and
some items twice; here the environment deals a list of items and says which one each lane plays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from steer_env.envs.base import unwrap
from steer_env.evaluation.statistics import score_interval

if TYPE_CHECKING:
    from steer_env.envs.vector_env import SteerVectorEnv

Array = npt.NDArray[Any]
Envs = VectorEnv[Any, Any, Any]
Details = Mapping[str, Array]
DETAILS = ("log_prob", "value", "entropy")
TOP = 5
PATIENCE = 10
"""Seconds of play after which a progress bar appears."""


@dataclass(frozen=True)
class Lanes:
    """Where each of ``B`` lanes stands when a policy is asked.

    Attributes:
        envs: The environment, without wrappers.
        place: ``[B]`` place of the lane's episode in the list of items that is played.
        step: ``[B]`` actions that the episode has had so far.
        count: Items in the list. Lanes that found none left play repeats, at places from here on; they count for
            nothing.
    """

    envs: SteerVectorEnv
    place: Array
    step: Array
    count: int

    @classmethod
    def at_reset(cls, envs: Envs, count: int) -> Lanes:
        """The lanes of an environment that was just reset to play ``count`` items."""
        inner = _vector(envs)
        return cls(inner, inner.playing["index"], np.zeros(inner.num_envs, dtype=np.int64), count)

    @property
    def begins(self) -> npt.NDArray[np.bool_]:
        """``[B]`` whether an episode begins: whoever remembers something of a lane forgets it here."""
        return np.asarray(self.step == 0)

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """``[B]`` whether the episode counts."""
        return np.asarray(self.place < self.count)

    def under_way(self) -> list[tuple[int, int, int]]:
        """Lane, place and step of the episodes that count."""
        lanes = np.flatnonzero(self.live).tolist()
        return [(lane, int(self.place[lane]), int(self.step[lane])) for lane in lanes]


class Policy(Protocol):
    """Whatever chooses actions: a network, a rule, a table. Nothing of Stable-Baselines3 is needed."""

    def __call__(self, observations: Any, lanes: Lanes, /) -> Array | tuple[Array, Details]:
        """Choose an action in every lane.

        Args:
            observations: As ``envs`` returned them, ``[B, ...]``.
            lanes: Where each lane stands, :attr:`Lanes.begins` among it.

        Returns:
            Actions ``[B]`` (or ``[B, k]`` where actions are strengths); or a pair of these and of the arrays ``[B]``
            of ``DETAILS`` that the policy knows, for the log.
        """


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

    @property
    def score(self) -> float:
        """Mean score."""
        return float(self.scores.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean score: Wilson where scores are 0 or 1, bootstrap over items otherwise."""
        return score_interval(self.scores.tolist())


def evaluate(envs: Envs, policy: Policy, items: Sequence[int] | int | None = None, seed: int = 0) -> Played:
    """Play a policy on exact items, each once.

    Args:
        envs: What ``gym.make_vec`` returned; its lanes take items as they become free.
        policy: What plays: ``policy(observations, lanes) -> actions``.
        items: Items of the environment's split; a number draws so many of those that are dealt, None takes all of them.
        seed: Seed of sampled decoding, and of the choice of items where only their number is given.

    Raises:
        ValueError: There are no items, or fewer than are asked for.
    """
    if items is None or isinstance(items, int):
        dealt = unwrap(envs).dealt
        if items is not None and not 1 <= items <= len(dealt):
            raise ValueError(f"items must be in [1, {len(dealt)}], those that are dealt of the split; got {items}")
        items = drawn_items(dealt, items, seed)
    return play(envs, policy, items, seed)


def drawn_items(items: Sequence[int], count: int | None, seed: int) -> list[int]:
    """At most ``count`` of ``items``, drawn at random; None takes all as they stand.

    Data sets come in an order of their own, often by subject: the first ones are no sample.

    Args:
        items: What to draw from.
        count: How many at most.
        seed: Seed of the draw.
    """
    if count is None:
        return list(items)
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[place] for place in order.tolist()]


def play(envs: Envs, policy: Policy, items: Sequence[int], seed: int, tokens: bool = True) -> Played:
    """Play each of ``items`` once.

    Args:
        envs: A SteerVectorEnv; its lanes take items as they become free.
        policy: What plays.
        items: Items of the environment's split. A repeated item is played again, with the same randomness.
        seed: Seed of sampled decoding; with the item it fixes every random number of the world.
        tokens: Whether a row a token is kept.

    Raises:
        ValueError: There are no items.
    """
    if len(items) == 0:
        raise ValueError("there are no items to play")
    obs, _ = envs.reset(seed=seed, options={"items": list(items)})
    lanes = Lanes.at_reset(envs, len(items))
    episodes: dict[int, dict[str, Any]] = {}
    rows: list[dict[str, Array]] = []
    bar = tqdm(total=len(items), desc="episodes", delay=PATIENCE, leave=False, disable=None)
    while len(episodes) < len(items):
        chosen = policy(obs, lanes)
        actions, details = chosen if isinstance(chosen, tuple) else (chosen, {})
        row = _state(lanes, details) if tokens else {}
        obs, rewards, ended, _, infos = envs.step(actions)
        if tokens:
            row |= {"reward": rewards, **_applied(lanes.envs, infos)}
            rows.append({name: np.asarray(values)[lanes.live] for name, values in row.items()})
        for lane in np.flatnonzero(ended & lanes.live).tolist():
            episodes[int(lanes.place[lane])] = _final(infos["final_info"], lane)
            bar.update()
        lanes = replace(lanes, place=infos["index"], step=np.where(ended, 0, lanes.step + 1))
    bar.close()
    return Played([episodes[index] for index in range(len(items))], _joined(rows))


def _vector(envs: Envs) -> SteerVectorEnv:
    from steer_env.envs.vector_env import SteerVectorEnv  # needs PyTorch, which takes seconds to import

    inner = unwrap(envs)
    if not isinstance(inner, SteerVectorEnv):
        raise TypeError(f"items are played in lanes: make the environment with gym.make_vec, got {envs!r}")
    return inner


def _state(lanes: Lanes, details: Details) -> dict[str, Array]:
    """What is known of each lane before the action: where it stands, what the policy says, the strongest features."""
    active = lanes.envs.encode()
    best = active.topk(min(TOP, active.shape[1]), dim=1)
    unknown = np.full(lanes.envs.num_envs, np.nan)
    return {
        "episode": lanes.place,
        "item": lanes.envs.playing["item"],
        "step": lanes.step,
        **{name: np.asarray(details.get(name, unknown), dtype=np.float64) for name in DETAILS},
        "top_features": best.indices.cpu().numpy(),
        "top_activations": best.values.cpu().numpy(),
    }


def _applied(envs: SteerVectorEnv, infos: Mapping[str, Any]) -> dict[str, Array]:
    """What was done to each lane; of several strengths, the largest stands for them in ``feature``."""
    scale = envs.coefficient
    names = ("token", "token_text", "unsteered_token", "unsteered_token_text", "changed", "kl", "strengths")
    row = {name: infos[name] for name in names if name in infos}
    if "strengths" not in infos:
        return row | {"feature": infos["feature"], "coefficient": np.where(infos["feature"] >= 0, scale, 0.0)}
    strengths = infos["strengths"]
    largest = np.abs(strengths).argmax(axis=1)
    strength = strengths[np.arange(len(strengths)), largest]
    feature = np.where(strength != 0, envs.features[largest], -1)
    return row | {"feature": feature, "coefficient": scale * strength.astype(np.float64)}


def _final(final_info: Mapping[str, Any], lane: int) -> dict[str, Any]:
    return {name: values[lane] for name, values in final_info.items() if not name.startswith("_")}


def _joined(rows: list[dict[str, Array]]) -> dict[str, Array]:
    if not rows:
        return {}
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.lexsort((columns["step"], columns["episode"]))
    return {name: values[order] for name, values in columns.items()}
