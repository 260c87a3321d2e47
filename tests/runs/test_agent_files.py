"""An agent goes to disk and comes back whole, for every algorithm, and what is not that agent is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file

from agents.algos import ALGOS, make_algo
from agents.runs.agent_files import COUNTERS, fill, read_agent, save_agent, space_of, space_record
from agents.runs.checkpoints import load_replay_buffer, restore, save_replay_buffer, save_state
from agents.runs.folder import read_json, write_json
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import make_mask
from tests.agents.test_every_algorithm import KINDS, MASKED, small
from tests.toys import AimVectorEnv, CueVectorEnv

_MADE_ANEW = ("start_time", "_last_obs")


def lanes(kind, mask=None):
    return SB3VecEnv(AimVectorEnv() if kind == "box" else CueVectorEnv(horizon=3), mask)


def made(algo, kind, seed=0, **settings):
    return make_algo(
        algo, lanes(kind), seed, device="cpu", **{**small(algo), "learning_rate": (1e-2, 1e-3), **settings}
    )


def learned(algo, kind, steps=128):
    return made(algo, kind).learn(steps, log_interval=None)


def go_on(model):
    """Parameters after the same further steps in new lanes."""
    model.env.seed(5)
    model._last_obs = None
    model.learn(64, log_interval=None, reset_num_timesteps=False)
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@pytest.mark.parametrize(("algo", "kind"), KINDS)
def test_training_goes_on_as_if_the_agent_had_never_been_on_disk(algo, kind, tmp_path):
    """Oracle: the agent in memory, with optimizers, counters, schedules, replay buffer and random states."""
    model = learned(algo, kind)
    save_state(tmp_path, model, None)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".npz"}
    expected = go_on(model)
    model = restore(tmp_path, made(algo, kind, seed=1), None)
    found = go_on(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("algo", "kind"), KINDS)
def test_every_number_that_training_changes_is_a_counter(algo, kind, tmp_path):
    fresh, model = made(algo, kind), learned(algo, kind)
    changed = {
        name
        for name, value in vars(model).items()
        if isinstance(value, (int, float)) and value != vars(fresh).get(name) and name not in _MADE_ANEW
    }
    assert {"num_timesteps", "_n_updates"} <= changed <= set(COUNTERS)
    save_agent(model, tmp_path)
    fill(fresh, read_agent(tmp_path))
    assert {name: vars(fresh)[name] for name in changed} == {name: vars(model)[name] for name in changed}


@pytest.mark.parametrize("algo", MASKED)
def test_a_masked_agent_with_a_tied_head_comes_back(algo, tmp_path):
    head = {"head": "tied", "directions": np.eye(12, 5)} if ALGOS[algo].own_policy else {}
    first, second = (
        make_algo(algo, lanes("discrete", make_mask("current", 13)), seed, device="cpu", **small(algo), **head)
        for seed in (0, 1)
    )
    save_agent(first, tmp_path)
    fill(second, read_agent(tmp_path))
    for name, value in first.policy.state_dict().items():
        assert torch.equal(second.policy.state_dict()[name], value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(7, start=2),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(5),
        spaces.Box(-np.inf, np.inf, (3, 2), np.float32),
        spaces.Box(np.array([0.1, -1], np.float32), np.array([0.3, np.inf], np.float32)),
        spaces.Box(0, 255, (4,), np.uint8),
        spaces.Dict({"obs": spaces.Box(-1, 1, (2,)), "mask": spaces.Dict({"a": spaces.Discrete(2)})}),
    ],
    ids=str,
)
def test_a_space_comes_back_from_json(space):
    assert space_of(json.loads(json.dumps(space_record(space)))) == space


def test_a_space_without_a_record_is_refused_by_name():
    with pytest.raises(ValueError, match="no record of a space like Text"):
        space_record(spaces.Text(3))
    for wrong in ({}, {"kind": "box"}, {"kind": "dict", "spaces": 3}, {"kind": "discrete", "n": "x", "start": 0}):
        with pytest.raises(ValueError, match=re.escape(f"no space is described by {wrong}")):
            space_of(wrong)


def edited(folder: Path, tensors=None, record=None):
    """The agent in a folder, its files changed."""
    if tensors:
        found = load_file(folder / "policy.safetensors")
        tensors(found)
        save_file(found, folder / "policy.safetensors")
    if record:
        found = read_json(folder / "policy.json")
        record(found)
        write_json(folder / "policy.json", found)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": lambda r: r.update(algorithm="A2C")}, "it is of A2C, expected PPO"),
        ({"record": lambda r: r["action_space"].update(n=9)}, r"it is for .*Discrete\(9\).*, expected"),
        ({"record": lambda r: r.update(version=9)}, "is of version 9, this is 1"),
        ({"record": lambda r: r["counters"].update(num_timesteps="many")}, "counters.num_timesteps"),
        ({"record": lambda r: r["optimizers"].clear()}, "belongs to no part of an agent|it has policy, expected"),
        ({"tensors": lambda t: t.pop("policy/action_net.bias")}, "it has no action_net.bias"),
        ({"tensors": lambda t: t.update({"policy/more": torch.ones(1)})}, "more is no part of that agent"),
        ({"tensors": lambda t: t.update({"policy/a/b/c": torch.ones(1)})}, "'policy/a/b/c', which belongs to no part"),
        ({"tensors": lambda t: t.update({"env/x": torch.ones(1)})}, "it has env, policy, policy.optimizer, expected"),
        (
            {"tensors": lambda t: t.update({"policy/action_net.bias": torch.ones(3)})},
            r"action_net.bias is torch.float32 \[3\], expected torch.float32 \[13\]",
        ),
        (
            {"tensors": lambda t: t.update({"policy/action_net.bias": torch.ones(13, dtype=torch.float64)})},
            r"action_net.bias is torch.float64 \[13\], expected torch.float32 \[13\]",
        ),
        (
            {"tensors": lambda t: t.update({"policy.optimizer/0/exp_avg": torch.ones(9)})},
            "keeps of parameter 0 is of another shape",
        ),
        (
            {"tensors": lambda t: t.update({"policy.optimizer/99/step": torch.ones(())})},
            "keeps of parameter 99 is of another shape",
        ),
        (
            {"record": lambda r: r["optimizers"]["policy.optimizer"]["groups"][0].update(params=[0])},
            "an optimizer is of other parameters",
        ),
        (
            {"record": lambda r: r["optimizers"]["policy.optimizer"]["groups"][0].update(more=1)},
            "an optimizer has no setting 'more'",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(change, message, tmp_path):
    save_agent(learned("ppo", "discrete"), tmp_path)
    fresh = made("ppo", "discrete")
    with pytest.raises(ValueError, match=message) as refused:
        fill(fresh, read_agent(edited(tmp_path, **change)))
    assert "\n" not in str(refused.value)
    assert "policy." in str(refused.value), "the file is named"


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    save_agent(made("a2c", "discrete"), tmp_path)
    (tmp_path / "policy.safetensors").write_bytes(b"PK\x03\x04 a zip, say")
    with pytest.raises(ValueError, match=r"policy\.safetensors is no safetensors file"):
        read_agent(tmp_path)


def test_a_counter_that_no_agent_has_is_not_set(tmp_path):
    save_agent(made("a2c", "discrete"), edited(tmp_path))
    edited(tmp_path, record=lambda r: r["counters"].update(policy_class=3, num_timesteps=8))
    fresh = made("a2c", "discrete")
    fill(fresh, read_agent(tmp_path))
    assert fresh.num_timesteps == 8
    assert fresh.policy_class != 3


@pytest.mark.parametrize("steps", [96, 4096])
def test_a_replay_buffer_comes_back_not_yet_full_and_full(steps, tmp_path):
    model, fresh = learned("dqn", "discrete", steps), made("dqn", "discrete")
    save_replay_buffer(model.replay_buffer, tmp_path)
    load_replay_buffer(fresh.replay_buffer, tmp_path)
    assert (fresh.replay_buffer.pos, fresh.replay_buffer.full) == (model.replay_buffer.pos, steps == 4096)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(fresh.replay_buffer, name), getattr(model.replay_buffer, name))
    with pytest.raises(ValueError, match=r"replay_buffer\.npz.*(another buffer|expected)"):
        load_replay_buffer(made("dqn", "discrete", buffer_size=40).replay_buffer, tmp_path)
    with pytest.raises(ValueError, match=r"replay_buffer\.npz"):
        load_replay_buffer(made("sac", "box").replay_buffer, tmp_path)
