"""Training: a killed run goes on without losing or doubling a row, and the language model never changes."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import agents.runs.training as train
import experiments.train
from agents.algos import ALGOS, make_algo
from agents.runs.checkpoints import lane_seed, random_states, restore, save_state, set_random_states
from agents.runs.config import parse_settings
from agents.runs.folder import RunFolder, write_json
from agents.runs.loading import load_trained, make_envs
from agents.runs.training import TrainConfig, main
from agents.vec_env import SB3VecEnv
from experiments.__main__ import parse
from tests.toys import CueVectorEnv

# Kills itself in the middle of writing the row of an episode, between two checkpoints.
SUICIDAL = """
import os, signal, sys
from agents.runs import folder
from experiments.__main__ import run
write = folder.JsonLines.write
def half(log, row):
    if row.get("episode") == int(os.environ["DIES_AT_EPISODE"]):
        log._file.write(folder.to_json(row).encode()[:20])
        log._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(log, row)
folder.JsonLines.write = half
run("train", sys.argv[1:])
"""


@pytest.fixture
def config(tiny, tmp_path):
    return TrainConfig(
        name="a",
        total_timesteps=960,
        num_envs=4,
        seed=2,
        mask="off",
        env_kwargs=tiny,
        algo_kwargs={"n_steps": 16, "n_epochs": 1, "net_arch": [8]},
        checkpoint_every=128,
        wandb="disabled",
        runs_dir=tmp_path / "runs",
    )


def flags(cfg):
    listed = []
    for name, value in vars(cfg).items():
        if name != "resume" and value != {}:
            listed.append(f"--{name.replace('_', '-')}")
            listed += [f"{k}={json.dumps(v)}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
    return listed


def from_flags(args):
    return parse("train", experiments.train, args)


def rows(path, name):
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


def assert_every_row_once(path, total, every):
    assert [row["num_timesteps"] for row in rows(path, "metrics")] == list(range(every, total + 1, every))
    episodes = rows(path, "episodes")
    assert [row["episode"] for row in episodes] == list(range(1, len(episodes) + 1))
    steps = [row["num_timesteps"] for row in episodes]
    assert steps == sorted(steps)
    assert total - 64 < steps[-1] <= total


def assert_results_are_means_of_the_last_episodes(path, window):
    episodes = rows(path, "episodes")
    for row in rows(path, "metrics"):
        last = [each for each in episodes if each["num_timesteps"] <= row["num_timesteps"]][-window:]
        for name, logged in (("score", "score"), ("return", "return"), ("episode_length", "steps")):
            assert row[name] == pytest.approx(np.mean([each[logged] for each in last])), (name, row["num_timesteps"])


def test_a_killed_run_is_finished_by_resume_with_every_row_once(config, tmp_path):
    command = [sys.executable, "-c", SUICIDAL, *flags(config)]
    killed = subprocess.run(command, env={**os.environ, "DIES_AT_EPISODE": "250"}, capture_output=True, check=False)
    path = config.runs_dir / "a"
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (path / "policy.safetensors").exists()
    with pytest.raises(json.JSONDecodeError):
        rows(path, "episodes")
    before = RunFolder.open(path).checkpoints()[-1]
    counted = json.loads((before / "state.json").read_text())
    assert 0 < counted["counters"]["num_timesteps"] < 960
    assert counted["counters"]["num_timesteps"] % 64 == 0  # between two updates
    assert counted["counters"]["episodes"] < 249  # some rows were written after the checkpoint

    assert main(replace(config, resume=True)) == path
    assert_every_row_once(path, 960, 64)
    assert_results_are_means_of_the_last_episodes(path, 200)
    assert (path / "policy.safetensors").is_file()
    items = [row["item"] for row in rows(path, "episodes")]
    at = counted["counters"]["episodes"]
    assert len(set(items[:at]) & set(items[at:])) < 10  # other items, not the first ones again


def test_one_run_leaves_what_its_folder_promises(config, tiny):
    path = main(config)
    assert_every_row_once(path, 960, 64)
    saved = json.loads((path / "config.json").read_text())
    assert saved["env_kwargs"] == tiny
    assert saved["algo_kwargs"] == {"n_steps": 16, "n_epochs": 1, "net_arch": [8]}
    assert saved["benchmark"] is False
    assert len(saved["weights_sha256"]) == 64
    assert saved["seeds"] == {"train": 2, "lanes": lane_seed(2, 0)}
    assert saved["versions"]["torch"] == torch.__version__
    assert saved["versions"]["stable-baselines3"]
    assert {"git_commit", "wandb_id", "total_timesteps", "mask", "head"} <= set(saved)
    assert len(list((path / "checkpoints").iterdir())) == 2
    scored = rows(path, "episodes")[0]
    assert {"score", "return", "steps", "item", "completion", "transcript", "outcome"} <= set(scored)
    with pytest.raises(FileExistsError, match="--resume"):
        main(config)
    again = main(replace(config, resume=True))  # nothing left to do, nothing doubled
    assert_every_row_once(again, 960, 64)


@pytest.mark.parametrize(
    ("algo", "env", "extra"),
    [
        ("ppo", "Steer-TicTacToe-v0", {"mask": "adaptive", "head": "tied", "algo_kwargs": {"n_steps": 16}}),
        (
            "dqn",
            "Steer-TicTacToe-v0",
            {"algo_kwargs": {"learning_starts": 32, "buffer_size": 2000, "gradient_steps": 1}},
        ),
        (
            "sac",
            "AutoSteer-TicTacToe-v0",
            {"algo_kwargs": {"learning_starts": 32, "buffer_size": 2000, "gradient_steps": 1, "net_arch": [8]}},
        ),
    ],
)
def test_ctrl_c_leaves_a_checkpoint_that_goes_on(config, monkeypatch, algo, env, extra):
    extra_env = {"k": 4} if env.startswith("Auto") else {}
    cfg = replace(
        config,
        algo=algo,
        env=env,
        total_timesteps=256,
        **extra,
        env_kwargs=config.env_kwargs | extra_env,
    )
    write, seen = train.EpisodeLog._on_step, []

    def interrupt(log):
        seen.append(log.num_timesteps)
        if len(seen) == 34:  # after 136 of 256 steps, within a roll-out
            os.kill(os.getpid(), signal.SIGINT)
        return write(log)

    monkeypatch.setattr(train.EpisodeLog, "_on_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="136 of 256 steps"):
        main(cfg)
    assert signal.getsignal(signal.SIGINT) is handler
    path = config.runs_dir / "a"
    newest = RunFolder.open(path).checkpoints()[-1]
    assert newest.name.endswith("136")
    assert (newest / "replay_buffer.npz").exists() == (algo != "ppo")
    assert (newest / "mask.npz").exists() == (algo == "ppo")
    monkeypatch.undo()
    main(replace(cfg, resume=True))
    episodes = rows(path, "episodes")
    assert [row["episode"] for row in episodes] == list(range(1, len(episodes) + 1))
    steps = [row["num_timesteps"] for row in rows(path, "metrics")]
    assert steps == sorted(set(steps))
    run = RunFolder.open(path)
    model, mask = load_trained(run, make_envs(run.config, "train", 2))
    assert type(model) is ALGOS[algo].cls
    assert model.num_timesteps >= 256
    assert (mask is not None) == (algo == "ppo")
    if algo != "ppo":
        with np.load(run.checkpoints()[-1] / "replay_buffer.npz") as buffer:
            # All of both processes but the step at which SB3 was told to stop.
            assert buffer["pos"] * 4 == model.num_timesteps - 4


def test_a_checkpoint_puts_back_parameters_and_random_states(config, monkeypatch):
    path = main(replace(config, total_timesteps=128))
    newest = RunFolder.open(path).checkpoints()[-1]
    states = json.loads((newest / "random.json").read_text())
    random.setstate((states["python"][0], tuple(states["python"][1]), states["python"][2]))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    run = RunFolder.open(path)
    training = train.Training.begin(config.settings(), run, path)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    saved = load_file(newest / "policy.safetensors")
    for name, value in training.model.policy.state_dict().items():
        assert torch.equal(value, saved[f"policy/{name}"])
    assert training.envs.unwrapped is training.model.env.envs.unwrapped


def test_a_changed_language_model_stops_the_run(config, monkeypatch):
    learn = ALGOS["ppo"].cls.learn
    touched = []

    def cheat(model, *args, **kwargs):
        weight = next(model.env.envs.unwrapped.episode.scene.model.lm.parameters())
        touched.append((weight, weight.detach().clone()))  # adding and subtracting would leave a rounding behind
        with torch.no_grad():
            weight[0, 0] += 1
        return learn(model, *args, **kwargs)

    monkeypatch.setattr(ALGOS["ppo"].cls, "learn", cheat)
    try:
        with pytest.raises(RuntimeError, match="weights changed"):
            main(replace(config, total_timesteps=64))
    finally:
        ((weight, before),) = touched
        with torch.no_grad():
            weight.copy_(before)
    assert not (config.runs_dir / "a" / "policy.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "pppo"}, "'pppo'"),
        ({"mask": "some"}, "'some'"),
        ({"head": "round"}, "'round'"),
        ({"env_kwargs": {"opponent": ""}}, "opponent must be"),
        ({"env_kwargs": {"no_such": 1}}, "'no_such'"),
        ({"env_kwargs": {"mask": "all"}}, "'mask' is not for env_kwargs"),
        ({"algo_kwargs": {"no_such": 1}}, "'no_such'"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"total_timesteps": 0}, "total_timesteps must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"threads": -1}, "threads must be at least 1, got -1"),
        ({"name": ""}, "plain folder name, got ''"),
        ({"name": ".."}, r"plain folder name, got '\.\.'"),
        ({"name": "../a"}, r"plain folder name, got '\.\./a'"),
        ({"name": "/a"}, "plain folder name, got '/a'"),
        ({"mask_kwargs": {"width": 3}}, "mask 'off' takes no settings, got width"),
        ({"mask": "current", "mask_kwargs": {"width": 3}}, "mask 'current' takes no settings, got width"),
        ({"mask": "adaptive", "mask_kwargs": {"wdth": 3}}, "mask 'adaptive' takes only width, beta, .*, got wdth"),
        ({"mask": "adaptive", "mask_kwargs": {"seed": 3}}, "mask 'adaptive' takes .*, got seed"),
        ({"algo_kwargs": {"n_steps": 257}, "num_envs": 1}, "no minibatch of 32 to 256"),
    ],
)
def test_a_wrong_setting_is_named_and_leaves_no_folder(config, change, message):
    if "env_kwargs" in change:
        change = {"env_kwargs": config.env_kwargs | change["env_kwargs"]}
    with pytest.raises(ValueError, match=message):
        main(replace(config, **change))
    assert not config.runs_dir.exists()


@pytest.mark.parametrize("change", [{"threads": 0}, {"total_timesteps": 0}, {"mask_kwargs": {"width": 3}}])
def test_what_needs_no_model_is_refused_before_one_is_loaded(config, monkeypatch, change):
    monkeypatch.setattr(train, "make_envs", None)
    with pytest.raises(ValueError, match=r"must be at least 1|no settings"):
        main(replace(config, **change))


def test_resuming_takes_what_is_left_out_from_the_run_and_refuses_what_differs(config):
    """Also where the flag gives what would be the default of a new run."""
    path = RunFolder.create(config.runs_dir / "a", config.settings()).path
    again = ["--name", "a", "--runs-dir", str(path.parent), "--resume"]
    assert from_flags(again).settings() == config.settings()
    saved = RunFolder.open(path).config
    for flags_given, message in (
        (["--total-timesteps", "100000"], "total_timesteps was 960 .* got 100000"),
        (["--seed", "0"], "seed was 2 .* got 0"),
        (["--algo-kwargs", "n_steps=8"], "algo_kwargs was"),
        (["--wandb", "offline"], "wandb was 'disabled' .* got 'offline'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_flags([*again, *flags_given]).require_recorded(saved)
    same = from_flags([*again, "--seed", "2", "--total-timesteps", "960"])
    assert same == replace(from_flags(again), resume=True)
    same.require_recorded(saved)
    assert from_flags(["--name", "b", "--seed", "2"]) == TrainConfig(name="b", seed=2)


def test_the_record_says_what_actions_mean_and_a_resumed_run_must_mean_the_same(config, tiny):
    extra = {"coefficient": 3.0, "coefficient_unit": "residual", "features": [4, 1]}
    cfg = replace(config, total_timesteps=64, env_kwargs=config.env_kwargs | extra)
    path = main(cfg)
    run = RunFolder.open(path)
    saved = run.config["steering"]
    assert (saved["layer"], saved["site"], saved["coefficient"], saved["features"]) == (
        tiny["layer"],
        "post",
        3.0,
        [4, 1],
    )
    assert len(saved["features_sha256"]) == len(saved["sae_sha256"]) == 64
    write_json(path / "config.json", {**run.config, "steering": {**saved, "coefficient": 2.5}})
    before = (path / "episodes.jsonl").read_bytes()
    with pytest.raises(RuntimeError, match=r"meant in training: coefficient was 2\.5, is 3\.0"):
        main(replace(cfg, resume=True))
    assert (path / "episodes.jsonl").read_bytes() == before
    assert main(replace(config, name="b", total_timesteps=64)).name == "b"
    assert RunFolder.open(config.runs_dir / "b").config["steering"]["features"] == {"all": 24}


@pytest.mark.parametrize(("algo", "env"), [("dqn", "Steer-TicTacToe-v0"), ("sac", "AutoSteer-TicTacToe-v0")])
def test_the_warm_up_of_off_policy_algorithms_goes_on_and_does_not_repeat(config, tmp_path, algo, env):
    cfg = replace(config, algo=algo, env=env, env_kwargs=config.env_kwargs | ({"k": 4} if algo == "sac" else {}))
    vec_env = SB3VecEnv(make_envs(cfg.settings(), "train", 4))
    model = make_algo(algo, vec_env, seed=0, device="cpu", buffer_size=100, learning_starts=1000, net_arch=[8])
    first = np.array([model.action_space.sample() for _ in range(8)])
    model.set_random_seed(0)
    model.learn(32)  # 8 draws in each of 4 lanes
    save_state(tmp_path, model, None)
    expected = np.array([model.action_space.sample() for _ in range(8)])
    fresh = make_algo(algo, vec_env, seed=1, device="cpu", buffer_size=100, learning_starts=1000, net_arch=[8])
    restored = restore(tmp_path, fresh, None)
    drawn = np.array([restored.action_space.sample() for _ in range(8)])
    np.testing.assert_array_equal(drawn, expected)
    assert not np.array_equal(drawn, first)


def test_the_states_of_the_devices_that_are_here_are_put_back(monkeypatch):
    """With two pretended devices at saving and one at restoring."""
    model = make_algo("ppo", SB3VecEnv(CueVectorEnv()), 0, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor([1]), torch.tensor([2])])
    states = random_states(model)
    put = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.update({device: state.tolist()}))
    set_random_states(model, states)
    assert put == {0: [1]}


def test_resuming_what_is_not_there_is_refused(config):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        main(replace(config, resume=True))


def test_settings_are_json_where_they_can_be():
    given = ("a=1", "b=[1, 2]", "c=true", "d=O", "e=1e-3", 'f="x=y"', "g=p=q", "h=null")
    assert parse_settings(given) == {
        "a": 1,
        "b": [1, 2],
        "c": True,
        "d": "O",
        "e": 0.001,
        "f": "x=y",
        "g": "p=q",
        "h": None,
    }


def test_runs_with_neighbouring_seeds_and_resumed_runs_have_other_lanes():
    starts = [lane_seed(seed, step) for seed in range(5) for step in (0, 64, 128)]
    lanes = {start + lane for start in starts for lane in range(1024)}
    assert len(lanes) == 15 * 1024


def test_looking_for_effects_counts_as_training(config):
    path = main(replace(config, mask="effects", total_timesteps=400))
    with np.load(path / "mask.npz") as state:
        spent, listed = int(state["tokens"]), state["listed"]
    assert 2 * len(listed) < spent < 400
    assert 0 < listed.sum() < len(listed)
    trained = sum(row["steps"] for row in rows(path, "episodes"))
    assert trained <= 400 - spent + 64, "a roll-out may go past the end"
    assert rows(path, "metrics")[0]["num_timesteps"] == spent + 64
    listed_and_idle = {*np.flatnonzero(listed).tolist(), len(listed)}
    envs = make_envs(RunFolder.open(path).config, "train", 4)
    _, mask = load_trained(RunFolder.open(path), envs)
    assert set(np.flatnonzero(mask.legal(envs.unwrapped.action_masks())[0]).tolist()) == listed_and_idle


def test_too_few_tokens_to_look_for_effects_are_refused(config):
    with pytest.raises(ValueError, match="which leaves none of total_timesteps=40 to learn from: give more, or mask"):
        main(replace(config, mask="effects", total_timesteps=40))
    assert not config.folder.exists()
