"""PPO over many actions of which one in 64 is legal, beside sb3-contrib's MaskablePPO."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from experiments.bench.timing import Row, Sizes, compare

LANES, STEPS, LEGAL, MOST = 64, 8, 64, 256  # one in 64 is legal, and no more than a real SAE has active
SETTINGS: dict[str, Any] = {"n_steps": STEPS, "batch_size": 256, "n_epochs": 8, "device": "cpu", "seed": 0}
LARGEST_FOR_PEERS = 20_000
"""Actions above which MaskablePPO is left out: it would take minutes a round."""


def measure(sizes: Sizes) -> Iterator[Row]:
    """Steps a second, roll-out and update, networks of 128-128, 8 epochs of minibatches of 256."""
    for actions in sizes.actions:
        models = dict(_models(actions))
        runs = {name: partial(_learn, model) for name, model in models.items()}
        base = "MaskablePPO" if "MaskablePPO" in models else "linear head"
        yield compare(f"{actions:,} actions, {_legal(actions)} legal", "steps/s", base, runs, sizes)


def _legal(actions: int) -> int:
    return min(actions // LEGAL, MOST)


def _models(actions: int) -> Iterator[tuple[str, Any]]:
    import numpy as np
    from sb3_contrib import MaskablePPO
    from stable_baselines3 import PPO

    from agents.masked_policy import MaskedPolicy
    from agents.vec_env import SB3VecEnv
    from experiments.bench.worlds import BlankVectorEnv
    from steer_env.evaluation.masks import ScopeMask

    def world(masked: bool) -> SB3VecEnv:
        return SB3VecEnv(BlankVectorEnv(LANES, actions, _legal(actions)), ScopeMask(actions) if masked else None)

    directions = np.random.default_rng(0).standard_normal((actions - 1, 64)).astype(np.float32)
    tied = {"net_arch": [128, 128], "head": "tied", "directions": directions}
    plain = {"net_arch": [128, 128]}
    yield "linear head", PPO(MaskedPolicy, world(True), policy_kwargs=plain, **SETTINGS)
    yield "tied head", PPO(MaskedPolicy, world(True), policy_kwargs=tied, **SETTINGS)
    yield "linear head, all legal", PPO(MaskedPolicy, world(False), policy_kwargs=plain, **SETTINGS)
    yield "tied head, all legal", PPO(MaskedPolicy, world(False), policy_kwargs=tied, **SETTINGS)
    if actions <= LARGEST_FOR_PEERS:
        yield "MaskablePPO", MaskablePPO("MlpPolicy", world(False), policy_kwargs=plain, **SETTINGS)


def _learn(model: Any) -> int:
    model.learn(LANES * STEPS, reset_num_timesteps=False)
    return LANES * STEPS
