"""MinAtar games and Atari Breakout as Gymnasium environments, and what is said where their packages are missing."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from agents.inside.worlds.arcade import GAMES, MinAtar

IDS = [f"MinAtar{game.title().replace('_', '')}-v0" for game in GAMES]


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(ImportError, match=r"steer-env\[interpret\]"):
        MinAtar("breakout")


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(ValueError, match="unknown game 'pong'; known: asterix"):
        MinAtar("pong")
    with pytest.raises(ValueError, match=r"sticky.*-0\.1"):
        MinAtar(sticky=-0.1)
    with pytest.raises(ValueError, match="'human'"):
        MinAtar(render_mode="human")


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_and_sb3_accept_it(env_id: str) -> None:
    pytest.importorskip("minatar")
    check_env(gym.make(env_id, render_mode="ansi").unwrapped)
    sb3_check_env(gym.make(env_id))


def test_a_seed_decides_a_game_whatever_was_played_before() -> None:
    pytest.importorskip("minatar")
    env = gym.make("MinAtarBreakout-v0", sticky=0.5)

    def course(seed: int) -> list[float]:
        obs, _ = env.reset(seed=seed)
        rows = [obs]
        for step in range(30):
            obs, _, ended, _, _ = env.step((step // 5) % 3)
            rows.append(env.reset()[0] if ended else obs)
        return np.concatenate(rows).tolist()

    first = course(1)
    assert first == course(1)
    assert first != course(2)


def test_observations_are_the_games_cells() -> None:
    pytest.importorskip("minatar")
    env = MinAtar(render_mode="ansi")
    obs, _ = env.reset(seed=0)
    cells = obs.reshape(10, 10, 4)
    assert cells[9, :, 0].sum() == 1  # the paddle, in the lowest row
    assert cells[1:4, :, 3].all()  # three rows of bricks
    assert str(env.render()).split("\n")[1] == "3" * 10


def test_atari_is_seen_as_its_memory() -> None:
    pytest.importorskip("ale_py")
    env = gym.make("AtariBreakout-v0")
    sb3_check_env(env)
    first, _ = env.reset(seed=3)
    memory = env.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, memory.astype(np.float32) / np.float32(255))
    courses = []
    for _ in range(2):
        env.reset(seed=5)
        courses.append([env.step(action % 4)[0].tolist() for action in range(60)])
    assert courses[0] == courses[1]


def test_atari_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r"ale-py package: pip install 'steer-env\[interpret\]'"):
        gym.make("AtariBreakout-v0")
