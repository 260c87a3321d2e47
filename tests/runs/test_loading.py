"""A run read from its folder does what training left, and the front door of agents opens it without waiting."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file
from stable_baselines3 import PPO

import agents
from agents.runs.folder import RunFolder
from steer_env.evaluation.play import drawn_items


@pytest.fixture(scope="module")
def settings(tiny):
    return {
        "algo": "ppo",
        "num_envs": 4,
        "mask": "adaptive",
        "env_kwargs": {**tiny, "opponent": "random", "illegal": "random_move", "coefficient": 2, "limit": 5},
        "algo_kwargs": {"n_steps": 8, "batch_size": 32, "n_epochs": 1},
        "wandb": "disabled",
    }


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return agents.train(
        "Steer-TicTacToe-v0", "first", total_timesteps=64, runs_dir=folder, **{"mask": "off", **settings}
    )


def test_importing_agents_loads_nothing_heavy():
    code = "import agents, sys; assert not {'torch', 'stable_baselines3', 'gymnasium', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("name", agents.__all__)
def test_every_public_name_is_there(name):
    assert getattr(agents, name).__doc__
    assert name in dir(agents)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match=r"has no attribute 'lode_run'; it has ALGOS, .*load_run"):
        agents.lode_run  # noqa: B018


def test_train_hands_over_the_finished_run(run, settings):
    assert run.path.name == "first"
    assert run.config["total_timesteps"] == 64
    assert run.config["mask"] == settings["mask"]
    assert repr(run) == f"<Run {run.path}: env='Steer-TicTacToe-v0', algo='ppo', total_timesteps=64, seed=0>"
    assert sum(row["steps"] for row in run.folder.rows("episodes")) <= 64


def test_the_environments_are_those_of_the_training(run):
    envs = run.envs("train", 3, coefficient=1.5)
    assert envs.num_envs == 3
    assert len(envs.unwrapped.dealt) == 5
    assert envs.unwrapped.coefficient == pytest.approx(run.envs("train", 1).unwrapped.coefficient * 1.5 / 2)
    assert len(run.envs(num_envs=1).unwrapped.dealt) > 5, "a limit is one on what is learned from"


def test_agent_and_mask_are_those_of_the_folder(run):
    again = agents.load_run(str(run.path))
    saved = load_file(run.path / "policy.safetensors")
    assert type(again.model) is PPO
    assert all(value.equal(saved[f"policy/{name}"]) for name, value in again.model.policy.state_dict().items())
    with np.load(run.path / "mask.npz") as state:
        for name, value in again.mask.state_dict().items():
            np.testing.assert_array_equal(value, state[name])
    assert not again.mask.frozen
    assert again.policy.mask is again.mask
    assert again.mask.frozen, "playing teaches it nothing"


def test_it_plays_exactly_what_it_is_asked_to(run):
    dealt = run.envs(num_envs=1).unwrapped.dealt
    assert [episode["item"] for episode in run.play([3, 1, 3]).episodes] == [3, 1, 3]
    assert [episode["item"] for episode in run.play(4, seed=5).episodes] == drawn_items(dealt, 4, 5)
    assert run.play([3, 1, 3]).scores.tolist() == agents.load_run(run.path).play([3, 1, 3]).scores.tolist()


def test_it_does_not_play_what_its_actions_do_not_mean(run, tmp_path):
    other = RunFolder.create(tmp_path / "other", run.config | {"weights_sha256": "0" * 64})
    for name in ("policy.safetensors", "policy.json", "mask.npz"):
        (other.path / name).write_bytes((run.path / name).read_bytes())
    with pytest.raises(RuntimeError, match="language model is not the one"):
        agents.load_run(other.path).play(2)


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        agents.load_run(tmp_path)
    unfinished = agents.load_run(RunFolder.create(tmp_path / "unfinished", run.config).path)
    with pytest.raises(FileNotFoundError, match="training has not finished"):
        _ = unfinished.policy
    with pytest.raises(FileNotFoundError, match="steer evaluate --run RUN makes it"):
        unfinished.evaluation()
