"""Predicates of CartPole and Breakout against playing on in the games themselves."""

from __future__ import annotations

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from agents.inside.worlds import arcade, cartpole
from agents.inside.worlds.agents import make_world
from agents.inside.worlds.cartpole import HORIZON


def test_how_long_a_cart_lasts_is_what_playing_on_shows() -> None:
    env = gym.make("CartPole-v1")
    rng = np.random.default_rng(0)
    seen = []
    for seed in range(12):
        state, _ = env.reset(seed=seed)
        for _ in range(int(rng.integers(12))):
            state, _, ended, _, _ = env.step(int(rng.integers(2)))
            if ended:
                state, _ = env.reset()
        state = env.unwrapped.state  # type: ignore[attr-defined]  # as exact as the game's own
        action = seed % 2
        expected = int(cartpole.lasts([state], action)[0])
        steps, ended = 0, False
        while not ended and steps < HORIZON:
            _, _, ended, _, _ = env.step(action)
            steps += 1
        assert expected == steps
        seen.append(steps)
    assert min(seen) < HORIZON


def test_what_is_true_of_a_cart() -> None:
    found = cartpole.predicates([[0.6, 0.1, 0.1, -0.2], [-0.1, 0.3, -0.01, -0.02], [2.39, 3.0, 0.0, 0.0]])
    assert {name for name, values in found.items() if values[0]} >= {
        "leans_right",
        "leans_far",
        "far_out",
        "moves_outwards",
    }
    assert not found["is_tipping_over"][0]
    assert found["is_tipping_over"][1]
    assert not found["moves_outwards"][1]
    assert found["lost_soon_pushing_left"][2]
    assert found["lost_soon_pushing_right"][2]
    assert CartPoleEnv().theta_threshold_radians > 0.2  # an angle of 0.1 is still a game


def test_lanes_are_asked_for_the_states_that_they_are_in() -> None:
    envs = make_world("CartPole-v1", 3)
    envs.seed(0)
    obs = envs.reset()
    for _ in range(60):  # some restart on the way
        found = cartpole.lane_predicates(envs)
        np.testing.assert_array_equal(found["leans_right"], obs[:, 2] > 0)
        np.testing.assert_array_equal(found["moves_right"], obs[:, 1] > 0)
        obs = envs.step(np.ones(3, dtype=int))[0]


def test_where_the_ball_comes_down_is_what_playing_on_shows() -> None:
    minatar = pytest.importorskip("minatar")
    lost, columns, scored = set(), set(), set()
    for seed in range(120):
        game = minatar.Environment("breakout", sticky_action_prob=0.0)
        game.seed(seed)
        game.reset()
        rng = np.random.default_rng(seed)
        for _ in range(int(rng.integers(1, 60))):
            ball = game.env.ball_x if rng.random() < 0.8 else int(rng.integers(10))  # follow it, so that games go on
            game.act(1 if ball < game.env.pos else 3 if ball > game.env.pos else 0)
        if game.env.terminal:
            continue
        said = arcade.breakout_predicates(game.env)
        column, steps = arcade.landing(game.env)
        assert said["about_to_score"] == (deepcopy(game).act(int(rng.choice([0, 1, 3])))[0] > 0)
        still, moving = deepcopy(game), deepcopy(game)
        for _ in range(steps):
            still.act(0)
            moving.act(int(rng.choice([0, 1, 3])))
        assert (still.env.ball_x, still.env.ball_y) == (moving.env.ball_x, moving.env.ball_y) == (column, 8)
        assert said["lost_without_moving"] == still.act(0)[1]
        assert said["comes_down_left"] == (column < game.env.pos)
        lost.add(said["lost_without_moving"])
        columns.add(column)
        scored.add(said["about_to_score"])
    assert lost == scored == {False, True}
    assert len(columns) > 2


def test_looking_ahead_leaves_the_game_alone() -> None:
    pytest.importorskip("minatar")
    envs = make_world("MinAtarBreakout-v0", 2, sticky=0.0)
    envs.seed(0)
    envs.reset()
    other = make_world("MinAtarBreakout-v0", 2, sticky=0.0)
    other.seed(0)
    other.reset()
    rng = np.random.default_rng(0)
    for _ in range(80):
        found = arcade.lane_predicates(envs)
        assert found["ball_rises"].shape == (2,)
        actions = rng.integers(3, size=2)
        one, same = envs.step(actions), other.step(actions)
        np.testing.assert_array_equal(one[0], same[0])
        np.testing.assert_array_equal(one[1], same[1])


def test_a_direction_is_named_as_it_moves() -> None:
    minatar = pytest.importorskip("minatar")
    game = minatar.Environment("breakout", sticky_action_prob=0.0)
    game.seed(0)
    game.reset()
    for _ in range(40):
        said, was = arcade.breakout_predicates(game.env), (game.env.ball_x, game.env.ball_y)
        game.act(0)
        if game.env.terminal:
            game.reset()
        elif 0 < was[0] < 9 and 0 < was[1] < 8 and not said["about_to_score"]:
            assert said["ball_goes_right"] == (game.env.ball_x > was[0])
            assert said["ball_rises"] == (game.env.ball_y < was[1])
