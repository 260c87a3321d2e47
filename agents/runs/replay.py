"""Logged episodes played again: from rows of the intervention log to actions, and to what differs.

The checks of a run and the analyses stand on it (:mod:`agents.runs.checks`, :mod:`agents.analysis.counterfactuals`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from gymnasium import spaces

from agents.compare.results import Evaluation
from agents.runs.loading import make_envs
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import idle
from steer_env.evaluation.play import Array, Lanes, Played, Policy, play

APPLIED = ("feature", "coefficient", "strengths")
SAID = ("token", "score")
_COLUMNS = ("arm", "episode", "item", "step", *SAID, *APPLIED)


class EvaluationLog:
    """The first episodes of every arm of an evaluation, and environments like those that it played in."""

    def __init__(self, config: Mapping[str, Any], result: Evaluation, episodes: list[pd.DataFrame]):
        self.result, self.episodes = result, episodes
        lanes = min(result.num_envs, len(episodes))
        self.envs = make_envs(config, result.split, lanes, temperature=result.temperature, compare=False)

    def play(self, episodes: Sequence[pd.DataFrame], policy: Policy) -> Played:
        """The items of these episodes, as the evaluation played them, with ``policy``."""
        return play(self.envs, policy, [int(rows["item"].iloc[0]) for rows in episodes], self.result.seed)


def logged_episodes(path: Path, count: int) -> list[pd.DataFrame]:
    """The first ``count`` episodes of every arm of an intervention log, a table of tokens each."""
    columns = [name for name in _COLUMNS if name in pq.read_schema(path).names]
    tokens = pd.read_parquet(path, columns=columns, filters=[("episode", "<", count)])
    tokens = tokens.sort_values("step", kind="stable")
    return [rows for _, rows in tokens.groupby(["arm", "episode"], sort=False)]


def logged_actions(envs: Any, rows: pd.DataFrame) -> Array:
    """The actions ``[n]`` or ``[n, k]`` that the rows of one episode say were applied."""
    if isinstance(envs.single_action_space, spaces.Box):
        return np.array(rows["strengths"].tolist(), dtype=np.float32)
    features = unwrap(envs).features
    # One place more than there are features: the log's -1 indexes the last place, which holds the no-op.
    numbers = np.full(unwrap(envs).sae.width + 1, len(features))
    numbers[features] = np.arange(len(features))
    return np.asarray(numbers[rows["feature"].to_numpy()])


def replay_policy(episodes: Sequence[Array]) -> Policy:
    """Plays ``episodes[index][step]`` in the episode that is ``index``-th in the list of items; then nothing."""

    def act(obs: Any, lanes: Lanes) -> Array:
        actions = idle(lanes.envs)
        for lane, place, step in lanes.under_way():
            if step < len(episodes[place]):
                actions[lane] = episodes[place][step]
        return actions

    return act


def differences(logged: Sequence[pd.DataFrame], played: Played, columns: Sequence[str]) -> tuple[list[str], int]:
    """Compare episodes of a log with the same episodes played again, each up to the first token that differs.

    Args:
        logged: Episodes of the log.
        played: The same items played again, in the same order, with their tokens.
        columns: What to compare, where both have it.

    Returns:
        One line for each episode that differs, which names the first token that does; and the number of tokens that
        were compared. Tokens after a difference are not: they follow from it.
    """
    tokens: dict[str, Array] = {**played.tokens, "score": played.scores[played.tokens["episode"]]}
    found, compared = [], 0
    for place, rows in enumerate(logged):
        mine = tokens["episode"] == place
        again = {name: tokens[name][mine] for name in columns if name in rows and name in tokens}
        step = _first_difference({name: np.array(rows[name].tolist()) for name in again}, again)
        compared += len(rows) if step is None else step + 1
        if step is not None:
            first = rows.iloc[0]
            found.append(f"arm {first['arm']}, item {first['item']}, step {step}")
    return found, compared


def tolerated(episodes: int, envs: Any) -> int:
    """How many of ``episodes`` may differ when they are played again, of a model and a log that are sound.

    A model rounds differently in batches of another size, which can decide between two tokens that are almost equally
    likely: hardly ever in 32 bits, where fewer than 100 episodes must all come out again, but now and then in 16 bits.
    It is a share of the episodes: of their many tokens it would let every long episode differ.

    Args:
        episodes: Number of episodes that were played again.
        envs: Where they were played again.
    """
    if unwrap(envs).lm.dtype == torch.float32:
        return episodes // 100
    return max(1, episodes // 10)


def _first_difference(logged: dict[str, Array], played: dict[str, Array]) -> int | None:
    """The first row in which some column differs; numbers that are not whole may differ by rounding."""
    lengths = {len(column) for columns in (logged, played) for column in columns.values()}
    n = min(lengths)
    differs = np.zeros(n, dtype=bool)
    for name, column in logged.items():
        one, other = column[:n], played[name][:n]
        same = np.isclose(one, other, rtol=1e-4, atol=1e-5) if one.dtype.kind == "f" else one == other
        differs |= ~same.reshape(n, -1).all(axis=1)
    places = np.flatnonzero(differs)
    if len(places):
        return int(places[0])
    return n if len(lengths) > 1 else None
