"""Recipes, the worlds they are for, and the script that trains agents; mating is learnt in a slow test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.inside.worlds.agents import RECIPES, WorldAgent, greedy_actions, make_world, recipe_of, train_agent
from agents.inside.worlds.king_rook_king import observations
from agents.inside.worlds.king_rook_rules import LEGAL
from experiments.make.agents import AgentsConfig, main


@pytest.mark.parametrize("env_id", RECIPES)
def test_every_world_has_flat_lanes_that_restart_at_once(env_id: str) -> None:
    for word, package in {"MinAtar": "minatar", "Atari": "ale_py"}.items():
        if env_id.startswith(word):
            pytest.importorskip(package)
    envs: VecEnv = make_world(env_id, 3, recipe_of(env_id).reward_scale)
    obs = envs.reset()
    assert obs.shape == (3, *envs.observation_space.shape)  # type: ignore[misc]
    ended = np.zeros(3, dtype=bool)
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        if ended.all():
            break
        obs, _, over, infos = envs.step(rng.integers(envs.action_space.n, size=3))  # type: ignore[attr-defined]
        assert all("terminal_observation" in infos[lane] for lane in np.flatnonzero(over))
        ended |= over
    assert ended.all()


def test_rewards_are_scaled_and_arguments_reach_the_world() -> None:
    envs = make_world("KingRookKing-v0", 2, 0.01)
    envs.reset()
    assert envs.step(np.array([0, 0]))[1].tolist()[0] in (pytest.approx(-0.01), pytest.approx(-1.0))
    assert make_world("GridWorld-v0", 2, layout="pits").observation_space.shape == (49,)


def test_greedy_actions_are_the_networks() -> None:
    model = train_agent("KingRookKing-v0", seed=1, steps=0, hidden=(8,))
    assert isinstance(model, DQN)
    legal = np.flatnonzero(LEGAL)[::500]
    expected, _ = model.policy.predict(observations(legal), deterministic=True)
    np.testing.assert_array_equal(greedy_actions(model)[legal], expected)


def test_agents_are_saved_with_what_they_do(tmp_path: Path) -> None:
    cfg = AgentsConfig(tmp_path / "fresh", seeds=(0, 1), steps=0, hidden=(16, 16))
    cards = main(cfg)
    assert [card.seed for card in cards] == [0, 1]
    kept = json.loads((tmp_path / "fresh" / "seed-1" / "agent.json").read_text())
    assert kept["evaluation"] == cards[1].evaluation
    assert kept["evaluation"]["mated"] < 0.1
    model = WorldAgent.load(tmp_path / "fresh" / "seed-1").model
    np.testing.assert_array_equal(greedy_actions(model), greedy_actions(train_agent("KingRookKing-v0", 1, 0, (16, 16))))
    with pytest.raises(FileExistsError, match="seed-0 exists"):
        main(cfg)
    with pytest.raises(ValueError, match="no recipe for 'Pong'; there are: KingRookKing-v0"):
        main(AgentsConfig(tmp_path / "x", env="Pong"))
    with pytest.raises(ValueError, match=r"env_kwargs: layout must be JSON .*, got pits"):
        main(AgentsConfig(tmp_path / "x", "GridWorld-v0", {"layout": "pits"}))


def test_a_corridor_is_learnt(tmp_path: Path) -> None:
    """PPO on five cells: the optimum is known (mean over starts of 1 less 0.02 a step on the way)."""
    kwargs = {"layout": '["....G"]'}
    card = main(AgentsConfig(tmp_path / "grid", "GridWorld-v0", kwargs, steps=8_000, episodes=200))[0]
    assert card.evaluation["episodes"] == 200
    assert card.evaluation["length"] == pytest.approx(2.5, abs=0.3)
    assert card.evaluation["return"] == pytest.approx(1 - 0.02 * (card.evaluation["length"] - 1), abs=1e-6)
    assert isinstance(WorldAgent.load(tmp_path / "grid" / "seed-0").model, PPO)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mating_is_learnt(tmp_path: Path) -> None:
    card = main(AgentsConfig(tmp_path / "krk"))[0]
    assert card.evaluation["mated"] >= 0.95
