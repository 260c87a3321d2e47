"""The embedded models as they are played with, and a small trained run."""

from __future__ import annotations

import pytest

import agents
from agents.play.sessions import House
from agents.play.stage import stage_of_model, stage_of_run

SHORT = {"num_envs": 8, "total_timesteps": 256, "wandb": "disabled"}


@pytest.fixture(scope="session")
def stage():
    return stage_of_model(None, {})


@pytest.fixture(scope="session")
def games():
    return stage_of_model("Steer-TicTacToe-v0", {})


@pytest.fixture
def house(stage):
    return House(stage)


@pytest.fixture(scope="session", params=["ppo", "recurrent_ppo"])
def run(request, tmp_path_factory):
    """A policy that chooses differently from state to state; the second remembers the text."""
    mask = {"mask": "generation"} if request.param == "ppo" else {}
    kwargs = {"observation": "prompted", "coefficient": 3.0, "features": list(range(0, 256, 4))}
    own = {"algo": request.param, "env_kwargs": kwargs, "runs_dir": tmp_path_factory.mktemp("runs")}
    return agents.train("Steer-SimpleQA-v0", request.param, **own, **mask, **SHORT)


@pytest.fixture(scope="session")
def trained(run):
    return stage_of_run(run.path)
