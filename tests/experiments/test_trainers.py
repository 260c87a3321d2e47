"""Settings for other people's trainers, rl_zoo3's and wandb's sweeps: each is whole, and runs as it is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import steer_env  # noqa: F401  # registers the environments
from agents.algos import ALGOS
from tests.experiments.test_readme import ROOT, blocks

ZOO, SWEEPS = ROOT / "experiments" / "zoo", sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
OURS = {name: spec for name, spec in gym.registry.items() if "steer_env" in str(spec.entry_point)}
STRENGTHS = {name for name, spec in OURS.items() if spec.kwargs.get("action") == "strengths"}
FILES = {
    "ppo": ("ppo",),
    "a2c": ("a2c",),
    "trpo": ("trpo",),
    "dqn": ("dqn", "qrdqn"),
    "sac": ("sac", "tqc", "crossq"),
    "td3": ("td3", "ddpg"),
}
OF_THE_TRAINER = {"n_envs", "n_timesteps", "env_kwargs", "noise_type", "noise_std"}
needs_zoo = pytest.mark.skipif(find_spec("rl_zoo3") is None, reason="needs RL Zoo: pip install rl_zoo3")


def settings(file: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ZOO / f"{file}.yml").read_text())


# ---------------- rl_zoo3


@pytest.mark.parametrize(("file", "algo"), [(file, algo) for file, algos in FILES.items() for algo in algos])
def test_a_file_has_every_id_with_arguments_of_its_algorithms(file, algo):
    row, there = ALGOS[algo], settings(file)
    fitting = {name for name in OURS if ("box" if name in STRENGTHS else "discrete") in row.actions}
    assert set(there) == fitting | {"default"}
    for name, given in there.items():
        assert set(given) - OF_THE_TRAINER <= set(inspect.signature(row.cls).parameters), name
        assert given["gamma"] == 1.0, "an episode is one answer"


def test_there_is_no_other_file():
    assert {path.stem for path in ZOO.glob("*.yml")} == set(FILES)


def train(folder: Path, *flags: str) -> str:
    """Run the trainer in a folder; what it prints."""
    command = [sys.executable, "-m", "rl_zoo3.train", "--gym-packages", "steer_env", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "env_id"),
    [
        *((algo, "Steer-TicTacToe-v0") for algo in ("ppo", "a2c", "trpo", "dqn", "qrdqn")),
        *((algo, "AutoSteer-TicTacToe-v0") for algo in ("ppo", "sac", "td3")),
        ("ppo", "Steer-SimpleQA-v0"),
    ],
)
def test_the_trainer_accepts_them(algo, env_id, tmp_path):
    file = next(ZOO / f"{file}.yml" for file, algos in FILES.items() if algo in algos)
    few = ("-n", "600", "--seed", "0", "--eval-episodes", "1", "--num-threads", "1")
    said = train(tmp_path, "--algo", algo, "--env", env_id, "--conf-file", str(file), *few)
    assert "Using 'default' hyperparameters" not in said
    saved = tmp_path / "logs" / algo / f"{env_id}_1"
    assert (saved / f"{env_id}.zip").is_file()
    kept = yaml.unsafe_load((saved / env_id / "config.yml").read_text())  # what the trainer itself wrote
    assert dict(kept) | settings(file.stem)[env_id] == dict(kept)


# ---------------- wandb


def sweep(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())  # as wandb's `load_sweep_config`, which leaves the file open


def commands(path: Path, arguments: dict[str, Any]) -> list[str]:
    """What wandb's agent would run for these parameters."""
    config = sweep(path)
    given = create_sweep_command_args({"args": {name: {"value": value} for name, value in arguments.items()}})
    given["env"] = ["/usr/bin/env"]
    listed: list[str] = []
    for part in create_sweep_command(list(config["command"])):
        listed += given[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
    return listed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the checker's own
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_one_by_wandbs_own_schema(path):
    sweeps = pytest.importorskip("sweeps", reason="needs wandb's checker: pip install 'wandb[sweeps]'")
    config = sweep(path)
    assert sweeps.schema_violations_from_proposed_config(config) == []
    assert sweeps.next_run(config, []).config.keys() == config["parameters"].keys()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_of_a_sweep_trains_under_the_name_that_its_agent_gave(path, tmp_path, monkeypatch):
    """With the agent's environment, offline and for few tokens; the run on wandb's side is the agent's."""
    parameters = sweep(path)["parameters"]
    chosen = {name: row["values"][-1] if "values" in row else row["max"] for name, row in parameters.items()}
    steer = tmp_path / "bin" / "steer"
    steer.parent.mkdir()
    steer.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m experiments "$@"\n')
    steer.chmod(0o755)
    for name, value in {
        "PATH": f"{steer.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WANDB_RUN_ID": "abc123",
        "WANDB_SWEEP_ID": "sweep1",
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    few = [
        re.sub(r"--total-timesteps \d+ --wandb online", "--total-timesteps 2000 --wandb offline", part)
        for part in commands(path, chosen)
    ]
    done = subprocess.run(few, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "sweep-abc123"
    assert (run / "policy.safetensors").is_file()
    assert [folder.name.rpartition("-")[2] for folder in (run / "wandb").glob("offline-run-*")] == ["abc123"]
    config = yaml.safe_load((run / "config.json").read_text())
    swept = {**config, **config["algo_kwargs"], **config["env_kwargs"]}
    assert {name: swept[name] for name in chosen} == chosen


def test_the_page_names_what_is_there():
    page = "\n".join(blocks(ROOT / "experiments" / "README.md", "sh"))
    assert "experiments/zoo/ppo.yml" in page
    assert any(f"wandb sweep {path.relative_to(ROOT)}" in page for path in SWEEPS)
