"""Files that would run code when they are unpickled: no command does it, unless it is asked to by name."""

import base64
import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from zipfile import ZipFile

import cloudpickle
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import agents
from agents.compare.kept import Kept
from agents.inside.worlds.agents import WorldAgent, greedy_actions
from agents.runs.folder import RunFolder, write_json
from agents.runs.pickles import TRUST, UntrustedPickleError
from experiments.__main__ import COMMANDS, load
from experiments.__main__ import main as steer
from experiments.make.agents import AgentsConfig
from experiments.make.agents import main as make_agents

GAME = {"opponent": "random", "illegal": "random_move", "coefficient": 2}
FEW = {"features": [3, 40, 90], "limit": 16, "coefficient": 1.0, "coefficient_unit": "norm"}
LEARN = {"n_steps": 8, "n_epochs": 1, "net_arch": [8]}


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture(autouse=True)
def nobody_visits(monkeypatch):
    """The play page opens what it plays and is closed again."""
    monkeypatch.setattr("agents.play.server.serve", lambda opened, port, announce: opened())


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture(scope="module")
def game(tiny, tmp_path_factory):
    folder, settings = tmp_path_factory.mktemp("game"), {"num_envs": 4, "mask": "adaptive", "wandb": "disabled"}
    settings |= {"env_kwargs": tiny | GAME, "algo_kwargs": LEARN, "runs_dir": folder, "checkpoint_every": 32}
    run = agents.train("Steer-TicTacToe-v0", "game", 64, **settings)
    assert (
        steer(["evaluate", "--run", str(run.path), "--items", "12", "--num-envs", "4", "--search-games", "1", "2"]) == 0
    )
    return run.path


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    settings = {"num_envs": 16, "mask": "off", "wandb": "disabled", "env_kwargs": FEW, "algo_kwargs": LEARN}
    return agents.train("Steer-BBQ-v0", "bbq", 128, runs_dir=tmp_path_factory.mktemp("bbq"), **settings).path


def as_once(run, to, marker, part="data"):
    """A copy of a run as older versions left it, with a trap in ``part`` of its agent."""
    path = Path(shutil.copytree(run, to))
    model = agents.load_run(run).model
    save_trapped(model, path / "policy.zip", marker, part)
    (path / "policy.safetensors").unlink()
    (path / "policy.json").unlink()
    return path


def save_trapped(model, path, marker, part):
    model.save(path)
    with ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    if part == "data":
        data = json.loads(content["data"])
        code = base64.b64encode(cloudpickle.dumps(Trap(marker))).decode()
        data["ep_info_buffer"] = {":type:": "deque", ":serialized:": code}
        content["data"] = json.dumps(data).encode()
    else:
        content[part] = pickle.dumps(Trap(marker))
    with ZipFile(path, "w") as archive:
        for name, held in content.items():
            archive.writestr(name, held)


def run_flags(game, questions, tmp_path):
    """Of every command that takes a run, flags with which it does all that it can do with one."""
    few = ["--items", "8", "--num-envs", "4"]
    searched = ["--search-games", "1", "2"]
    return {
        "evaluate": ["--run", str(game), *few, *searched, "--seed", "3", "--temperature", "1.0"],
        "check": ["--run", str(game), "--items", "4"],
        "analyze": ["--run", str(game), "--items", "4", "--search-plays", "8", "--tokens", "1"],
        "report": ["--run", str(game)],
        "play": ["--run", str(game)],
        "controller": [
            "--run",
            str(game),
            "--episodes",
            "24",
            "--samples",
            "1024",
            "--sae-width",
            "64",
            "--shuffles",
            "20",
        ],
        "transfer": [
            "--run",
            str(questions),
            "--name",
            "t",
            "--runs-dir",
            str(tmp_path),
            "--changes",
            "123",
            *few,
            *searched,
        ],
        "summary": ["--runs", str(game)],
        "share": ["--run", str(game), "--to", str(tmp_path / "shared")],
        "train": ["--name", game.name, "--runs-dir", str(game.parent), "--resume"],
    }


LOAD_AGENTS = ("evaluate", "check", "analyze", "play", "share", "controller", "transfer")


def test_the_trap_is_one(game, tmp_path, marker):
    PPO.load(as_once(game, tmp_path / "old", marker) / "policy.zip")
    assert marker.exists()


def test_the_table_of_this_test_has_every_command_that_takes_a_run(game, tmp_path):
    takes = set()
    for name in COMMANDS:
        module = load(name)
        declared = module.main.__annotations__["cfg"]
        config = getattr(module, declared) if isinstance(declared, str) else declared
        names = {field.name for field in dataclasses.fields(config)}
        if names & {"run", "runs"} or name == "train":
            takes.add(name)
    assert takes == set(run_flags(game, game, tmp_path))


@pytest.mark.parametrize("command", run_flags(Path(), Path(), Path()))
def test_a_trapped_agent_is_used_without_running_what_it_holds(command, game, questions, tmp_path, marker):
    old = [as_once(run, tmp_path / run.name, marker) for run in (game, questions)]
    assert steer([command, *run_flags(*old, tmp_path)[command]]) in (0, 1)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["pytorch_variables.pth", "policy.optimizer.pth", "policy.pth"])
def test_a_trap_among_the_tensors_is_refused(part, game, tmp_path, marker):
    with pytest.raises(UntrustedPickleError, match="holds more than tensors"):
        _ = agents.load_run(as_once(game, tmp_path / "old", marker, part)).policy
    assert not marker.exists()


@pytest.mark.parametrize("command", LOAD_AGENTS)
def test_an_agent_without_plain_tensors_is_refused_in_one_line(command, game, questions, tmp_path, marker, capsys):
    old = [as_once(run, tmp_path / run.name, marker, "policy.pth") for run in (game, questions)]
    assert steer([command, *run_flags(*old, tmp_path)[command]]) == (1 if command == "check" else 2)
    assert not marker.exists()
    said = capsys.readouterr()
    (line,) = {line[line.index("/") :] for line in (said.out + said.err).splitlines() if "--trust-pickle" in line}
    assert "policy.zip holds more than tensors" in line


def test_the_flag_unpickles_and_the_processes_that_a_command_starts_inherit_it(game, tmp_path, marker, monkeypatch):
    old = as_once(game, tmp_path / "game", marker)
    assert steer(["evaluate", "--trust-pickle", *run_flags(old, old, tmp_path)["evaluate"]]) == 0
    assert marker.exists()
    marker.unlink()
    assert steer(["evaluate", *run_flags(old, old, tmp_path)["evaluate"]]) == 0
    assert not marker.exists(), "the next command has not been asked to"
    assert type(agents.load_run(old, trust_pickle=True).model) is PPO
    assert marker.exists()
    marker.unlink()
    monkeypatch.setenv(TRUST, "1")
    _ = agents.load_run(old).model
    assert marker.exists()


def test_an_old_agent_plays_as_it_did(game, tmp_path, marker):
    old, new = agents.load_run(as_once(game, tmp_path / "old", marker)), agents.load_run(game)
    assert old.model.num_timesteps == new.model.num_timesteps == 64
    for name, value in new.model.policy.state_dict().items():
        assert torch.equal(old.model.policy.state_dict()[name], value)
    assert old.play(8).scores.tolist() == new.play(8).scores.tolist()


def test_a_foreign_agent_is_refused_by_what_does_not_fit(game, tmp_path, marker):
    old = as_once(game, tmp_path / "old", marker)
    config = RunFolder.open(old).config
    write_json(old / "config.json", config | {"algo_kwargs": LEARN | {"net_arch": [9]}})
    with pytest.raises(UntrustedPickleError, match=r"zip does not fit .*expected \S+ \[25, 9\], and"):
        _ = agents.load_run(old).model
    assert not marker.exists()


@pytest.mark.parametrize("name", ["random.pkl", "model.zip"])
def test_a_trapped_checkpoint_is_refused(name, game, tmp_path, marker, capsys):
    path = Path(shutil.copytree(game, tmp_path / "game"))
    checkpoint = RunFolder.open(path).checkpoints()[-1]
    save_trapped(agents.load_run(game).model, checkpoint / "model.zip", marker, "data" if name == "model.zip" else "x")
    (checkpoint / "random.pkl").write_bytes(pickle.dumps(Trap(marker)))
    (path / "policy.safetensors").unlink()
    flags = run_flags(path, path, tmp_path)["train"]
    assert steer(["train", *flags]) == 2
    assert "was saved as pickles by an older version" in capsys.readouterr().err
    assert not marker.exists()
    assert steer(["train", *flags, "--trust-pickle"]) == 2, "a trap is no random state"
    assert marker.exists()


@pytest.mark.parametrize("name", ["mask.npz", "policy.safetensors"])
def test_pickles_in_the_place_of_arrays_are_refused(name, game, tmp_path, marker):
    path = Path(shutil.copytree(game, tmp_path / "game"))
    if name == "mask.npz":
        np.savez(path / name, clock=np.array([Trap(marker)], dtype=object))
    else:
        (path / name).write_bytes(pickle.dumps(Trap(marker)))
    assert steer(["evaluate", *run_flags(path, path, tmp_path)["evaluate"]]) == 2
    assert not marker.exists()


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("evidence", ["--screen", "4", "--items", "4", "--lora-steps", "0"]),
        ("sample-efficiency", ["--screen", "4", "--sizes", "4", "8"]),
        ("sweep", ["--screen", "4"]),
        ("layers", ["--layers", "0", "--mask", "off"]),
    ],
)
def test_a_trapped_step_of_a_study_is_refused(command, flags, tmp_path, marker, capsys, monkeypatch):
    """Whatever a study keeps first, a pickle is there already."""
    sound = Kept.timed

    def trapped(kept, name, make):
        kept.folder.mkdir(parents=True, exist_ok=True)
        (kept.folder / f"{name}.pickle").write_bytes(pickle.dumps((Trap(marker), 1.0)))
        return sound(kept, name, make)

    monkeypatch.setattr(Kept, "timed", trapped)
    common = ["--env", "Steer-BBQ-v0", "--name", "s", "--runs-dir", str(tmp_path), "--seeds", "2", "--jobs", "1"]
    learn = ["--total-timesteps", "64", "--num-envs", "16", "--algo-kwargs", "n_steps=4", "--search-games", "1", "2"]
    (tmp_path / "variants.json").write_text('[{"name": "a"}]')
    if command == "sweep":
        learn = [*learn[:-3], "--variants", str(tmp_path / "variants.json")]
    assert steer([command, *common, *learn, *flags]) == 2
    assert ".pickle is of an older version" in capsys.readouterr().err
    assert not marker.exists()


def test_a_trapped_agent_of_a_small_world_is_read_without_running_it(tmp_path, marker):
    make_agents(AgentsConfig(tmp_path / "a", seeds=(1,), steps=0, hidden=(8,)))
    folder = tmp_path / "a" / "seed-1"
    model = WorldAgent.load(folder).model
    (folder / "policy.safetensors").unlink()
    save_trapped(model, folder / "agent.zip", marker, "data")
    np.testing.assert_array_equal(greedy_actions(WorldAgent.load(folder).model), greedy_actions(model))
    save_trapped(model, folder / "agent.zip", marker, "policy.pth")
    with pytest.raises(UntrustedPickleError, match=r"agent\.zip holds more than tensors"):
        WorldAgent.load(folder)
    assert not marker.exists()
