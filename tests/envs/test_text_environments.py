"""The seven text environments as a new user meets them: by their ids alone, offline, on the embedded model."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import steer_env  # registers the environments

IDS = (
    "Steer-MMLU-v0",
    "Steer-MMLUPro-v0",
    "Steer-BBQ-v0",
    "Steer-GSM8K-v0",
    "Steer-HarmBench-v0",
    "Steer-XSTest-v0",
    "Steer-SimpleQA-v0",
)
EMBEDDED = Path(steer_env.__file__).parent / "embedded"


def card(name: str) -> dict:
    return json.loads((EMBEDDED / name / "card.json").read_text())


def measured_tasks() -> dict:
    return card("locked")["measured"]["tasks"]


@pytest.mark.parametrize("env_id", IDS)
def test_everything_a_user_tries_first_takes_under_ten_seconds(env_id):
    start = time.process_time()  # of this process alone, whatever else the machine does
    env = gym.make(env_id)
    check_env(env.unwrapped)
    check_env_for_sb3(env.unwrapped)
    env.action_space.seed(0)
    for episode in range(10):
        obs, info = env.reset(seed=episode)
        steps, total, ended = 0, 0.0, False
        while not ended:
            assert env.observation_space.contains(obs)
            obs, reward, ended, truncated, info = env.step(env.action_space.sample())
            steps, total = steps + 1, total + reward
            assert not truncated
        assert {"outcome", "answer", "target", "completion", "transcript"} <= set(info)
        assert 0 <= info["score"] <= 1
        assert info["steps"] == steps <= env.unwrapped.episode.scene.task.max_new_tokens
        assert info["return"] == pytest.approx(total)
    envs = gym.make_vec(env_id, num_envs=4)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    finished = 0
    while finished < 8:
        _, _, ended, _, _ = envs.step(envs.action_space.sample())
        finished += int(ended.sum())
    assert time.process_time() - start < 10


@pytest.mark.parametrize("env_id", IDS)
def test_steering_decides_and_the_splits_differ(env_id):
    """One feature or another, the same item gets different replies; test is not train."""
    envs = gym.make_vec(env_id, num_envs=8, split="test")
    no_op = envs.single_action_space.n - 1
    said = set()
    for feature in [no_op, *range(0, no_op, 16)]:
        envs.reset(seed=0, options={"items": [3] * 8})
        ended = np.zeros(8, dtype=bool)
        while not ended.any():
            _, _, ended, _, infos = envs.step(np.full(8, feature))
        said.add(str(infos["final_info"]["completion"][0]))
    assert len(said) > 1
    records = [
        gym.make(env_id, split=split).unwrapped.episode.scene.task.data_record()
        for split in ("train", "validation", "test")
    ]
    assert len({record["sha256"] for record in records}) == 3
    assert all(record["data"] == "embedded" and record["items"] >= 100 for record in records)


def test_the_warning_is_loud_and_comes_once_a_process():
    script = (
        "import gymnasium as gym, steer_env\n"
        "for _ in range(2):\n"
        "    for env_id in ('Steer-MMLU-v0', 'Steer-BBQ-v0', 'Steer-TicTacToe-v0'):\n"
        "        assert gym.make(env_id).unwrapped.episode.scene.benchmark is False\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown = [line for line in done.stderr.splitlines() if "NotTheBenchmark" in line]
    assert len(shown) == 2
    assert "never report its scores as MMLU" in shown[0]
    assert "never report its scores as BBQ" in shown[1]


def test_the_cards_say_what_an_instrument_must_show():
    """Steering can unlock each task (40 points, item by item), and no single feature does (half of the way)."""
    game = card("tictactoe")["measured"]
    shown = {task: (row["unmarked"], row["best_fixed"], row["item_oracle"]) for task, row in measured_tasks().items()}
    shown["tictactoe"] = tuple(game[arm]["draw_rate"] for arm in ("unsteered_greedy", "best_fixed", "oracle"))
    for task, (unmarked, best_fixed, oracle) in shown.items():
        assert oracle - unmarked >= 0.4, task
        assert best_fixed - unmarked <= (oracle - unmarked) / 2, task


def test_the_locked_models_card_names_every_task_and_the_features_of_every_planted_condition():
    locked = card("locked")
    assert set(measured_tasks()) == set(locked["steering"])
    conditions = [row for sae in locked["measured"]["saes"].values() for row in sae["conditions"]]
    assert {task for row in conditions for task in row["tasks"]} == set(measured_tasks())


def test_the_embedded_models_are_small():
    assert sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file()) < 16e6


def test_prompted_shows_the_last_token_before_the_reply_beside_the_last_one():
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=3, observation="prompted")
    observation, _ = envs.reset(seed=1)
    width = envs.single_observation_space.shape[0] // 2
    plain = gym.make_vec("Steer-XSTest-v0", num_envs=3, observation="normalized")
    alone, _ = plain.reset(seed=1)
    begins = np.ones(3, dtype=bool)
    prompts, restarts = np.zeros_like(alone), 0
    for step in range(40):
        now, prompted = observation[:, :width], observation[:, width:]
        assert np.array_equal(now, alone)
        prompts[begins] = alone[begins]
        assert np.array_equal(prompted, prompts)
        actions = np.full(3, (7 * step) % 256)
        observation, _, begins, _, _ = envs.step(actions)
        alone = plain.step(actions)[0]
        restarts += begins.sum()
    assert restarts > 3
    assert not np.array_equal(prompts, alone)
