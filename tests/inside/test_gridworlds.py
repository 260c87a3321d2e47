"""Grid worlds and exact values: against hand-computed cases, simulation, and value iteration of another form."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from agents.inside.worlds.gridworlds import LAYOUTS, GridWorld
from agents.inside.worlds.tabular import OneHot, TabularMDP

GAMMA = 0.9


def frozen_lake(**kwargs: Any) -> TabularMDP:
    return TabularMDP.from_table(gym.make("FrozenLake-v1", **kwargs).unwrapped.P)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*Discrete.*")  # SB3 suggests one-hot vectors, which OneHot gives
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gymnasium_and_sb3_accept_it(layout: str) -> None:
    check_env(gym.make("GridWorld-v0", layout=layout, slip=0.2, render_mode="ansi").unwrapped)
    sb3_check_env(OneHot(gym.make("GridWorld-v0", layout=layout)))


def test_a_corridor_by_hand() -> None:
    mdp = TabularMDP.from_table(GridWorld(["...G"], step_reward=-0.1).P)
    last, middle = 1.0, -0.1 + GAMMA * 1.0
    first = -0.1 + GAMMA * middle
    assert mdp.optimal_values(GAMMA).tolist() == pytest.approx([first, middle, last, 0.0])
    # Always west: against the rim for ever.
    assert mdp.policy_values([3, 3, 3, 3], GAMMA)[:3].tolist() == pytest.approx([-1.0] * 3)
    # East or west by a coin: v0 = -.1 + .9 (v0 + v1) / 2, v1 = -.1 + .9 (v0 + v2) / 2, v2 = 1/2 + (-.1 + .9 v1) / 2.
    coin = np.tile([0.0, 0.5, 0.0, 0.5], (4, 1))
    expected = np.linalg.solve([[0.55, -0.45, 0], [-0.45, 1, -0.45], [0, -0.45, 1]], [-0.1, -0.1, 0.45])
    assert mdp.policy_values(coin, GAMMA)[:3].tolist() == pytest.approx(expected.tolist())


def test_nothing_comes_after_the_end() -> None:
    """A step that ends, though it leads back to where it began; and one that ends only half the time."""
    assert TabularMDP.from_table({0: {0: [(1.0, 0, 2.0, True)]}}).optimal_values(0.5).tolist() == [2.0]
    half = TabularMDP.from_table({0: {0: [(0.5, 0, 2.0, True), (0.5, 0, 2.0, False)]}})
    assert half.optimal_values(0.5).tolist() == pytest.approx([2 / (1 - 0.25)])


@pytest.mark.parametrize("layout", ["empty", "obstacles"])
def test_without_slips_the_value_is_the_shortest_path(layout: str) -> None:
    """Breadth-first search backwards from the goal."""
    env = GridWorld(layout, step_reward=-0.02)
    rows = LAYOUTS[layout]
    width = len(rows[0])
    goal = "".join(rows).index("G")
    far = {goal: 0}
    queue = deque([goal])
    while queue:
        here = queue.popleft()
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            r, c = here // width + dr, here % width + dc
            if 0 <= r < len(rows) and 0 <= c < width and rows[r][c] == "." and r * width + c not in far:
                far[r * width + c] = far[here] + 1
                queue.append(r * width + c)
    assert set(env.starts) <= set(far)
    values = TabularMDP.from_table(env.P).optimal_values(GAMMA)
    for state in env.starts:
        n = far[state]
        expected = GAMMA ** (n - 1) - 0.02 * (1 - GAMMA ** (n - 1)) / (1 - GAMMA)
        assert values[state] == pytest.approx(expected)


def test_optimal_values_of_frozen_lake_are_value_iterations() -> None:
    """Plain loops over ``P`` to a fixed point; and the known optimum of the undiscounted lake, 14/17 on its way."""
    table = gym.make("FrozenLake-v1").unwrapped.P  # type: ignore[attr-defined]
    values = [0.0] * len(table)
    for _ in range(3000):
        values = [
            max(sum(p * (r + 0.99 * values[t] * (not end)) for p, t, r, end in table[s][a]) for a in range(4))
            for s in range(len(table))
        ]
    assert TabularMDP.from_table(table).optimal_values(0.99).tolist() == pytest.approx(values, abs=1e-6)
    assert frozen_lake().optimal_values(1 - 1e-9)[0] == pytest.approx(14 / 17, abs=1e-4)


@pytest.mark.parametrize("layout", ["pits"])
def test_policy_values_are_mean_returns(layout: str) -> None:
    """Simulated episodes of a random policy with slips, from one state."""
    env = GridWorld(layout, slip=0.3)
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(4), size=len(env.P))
    value = TabularMDP.from_table(env.P).policy_values(policy, GAMMA)[16]
    env.reset(seed=0)
    returns = []
    for _ in range(3000):
        state, _ = env.reset(options={"state": 16})
        total, weight, ended = 0.0, 1.0, False
        while not ended and weight > 1e-4:
            state, reward, ended, _, _ = env.step(int(rng.choice(4, p=policy[state])))
            total, weight = total + weight * reward, weight * GAMMA
        returns.append(total)
    assert abs(np.mean(returns) - value) < 4 * np.std(returns) / np.sqrt(len(returns))


def test_without_discount_a_policy_must_end() -> None:
    mdp = TabularMDP.from_table(GridWorld(["..G"]).P)
    assert mdp.policy_values([1, 1, 0], 1.0).tolist() == pytest.approx([0.98, 1.0, 0.0])
    with pytest.raises(ValueError, match="must reach an end"):
        mdp.policy_values([3, 1, 0], 1.0)


def test_walls_and_rim_stop_and_slips_go_sideways() -> None:
    env = GridWorld([".#.", "...", ".PG"], slip=0.2)
    assert env.P[0][1] == [(0.8, 0, -0.02, False), (0.1, 0, -0.02, False), (0.1, 3, -0.02, False)]
    assert env.P[4][2] == [(0.8, 7, -1.0, True), (0.1, 5, -0.02, False), (0.1, 3, -0.02, False)]
    assert env.P[5][2][0] == (0.8, 8, 1.0, True)
    assert env.starts == [0, 2, 3, 4, 5, 6]
    env.reset(options={"state": 5})
    assert GridWorld([".G"]).P[1][0] == [(1.0, 1, 0.0, True)]


def test_render_and_seeds() -> None:
    env = GridWorld("pits", slip=0.5, render_mode="ansi")

    def course() -> list[int]:
        states = [int(env.reset(seed=5)[0])]
        while len(states) < 20:
            state, _, ended, _, _ = env.step(1)
            states.append(int(env.reset()[0] if ended else state))
        return states

    first = course()
    assert first == course()
    env.reset(options={"state": 2})
    assert str(env.render()).split("\n")[0] == "..A...."


def test_one_hot_vectors_train_a_network() -> None:
    env = OneHot(gym.make("FrozenLake-v1"))
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == np.eye(16)[0].tolist()
    state = int(env.unwrapped.s)  # type: ignore[attr-defined]
    assert state == 0
    model = DQN("MlpPolicy", env, learning_starts=5, device="cpu", seed=0).learn(20)
    assert model.q_net.q_net[0].in_features == 16
    with pytest.raises(ValueError, match="Discrete observations, got Box"):
        OneHot(gym.make("CartPole-v1"))


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(ValueError, match="unknown layout 'maze'; known: empty"):
        GridWorld("maze")
    with pytest.raises(ValueError, match="equal length"):
        GridWorld(["..", "."])
    with pytest.raises(ValueError, match="no floor"):
        GridWorld(["#G"])
    with pytest.raises(ValueError, match=r"slip.*1\.5"):
        GridWorld(slip=1.5)
    with pytest.raises(ValueError, match="'human'"):
        GridWorld(render_mode="human")
    env = GridWorld([".#G"])
    with pytest.raises(ValueError, match="state 1 is no floor"):
        env.reset(options={"state": 1})
    with pytest.raises(ValueError, match=r"unknown reset options \['cell'\]"):
        env.reset(options={"cell": 1})
    with pytest.raises(ValueError, match="got 4"):
        env.step(4)
    mdp = frozen_lake()
    with pytest.raises(ValueError, match=r"gamma.*1\.0"):
        mdp.optimal_values(1.0)
    with pytest.raises(ValueError, match=r"gamma.*-0\.1"):
        mdp.policy_values(np.zeros(16, int), -0.1)
    with pytest.raises(ValueError, match=r"\(16, 4\), got \(3,\)"):
        mdp.policy_values([0, 1, 2], 0.9)
    with pytest.raises(ValueError, match=r"state 0, action 0 add up to 0\.5"):
        TabularMDP.from_table({0: {0: [(0.5, 0, 0.0, True)]}})
