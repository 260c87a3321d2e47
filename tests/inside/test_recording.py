"""Recordings against direct forward passes, hand-computed returns and the environment itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.inside.recordings import (
    Recording,
    RolloutConfig,
    discounted,
    join,
    lanewise,
    read_chunks,
    read_recording,
    record,
    save_recording,
)
from agents.inside.worlds.king_rook_king import positions_of
from agents.inside.worlds.mate_table import lane_predicates, predicate_table
from agents.masked_policy import MaskedPolicy
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import ScopeMask
from tests.toys import AimVectorEnv, CueVectorEnv

SMALL: dict[str, Any] = {"device": "cpu", "seed": 0}
NET = {"net_arch": [16, 8]}


def poles(lanes: int = 3, limit: int = 30) -> VecEnv:
    return DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=limit)] * lanes)


def cues(lanes: int = 3) -> SB3VecEnv:
    envs = CueVectorEnv(num_envs=lanes)
    return SB3VecEnv(envs, ScopeMask(envs.features + 1))


def dqn(envs: VecEnv) -> DQN:
    return DQN("MlpPolicy", envs, buffer_size=10, policy_kwargs=NET, **SMALL)


def ppo(envs: VecEnv) -> PPO:
    return PPO("MlpPolicy", envs, n_steps=8, batch_size=8, policy_kwargs=NET, **SMALL)


def ours(envs: VecEnv) -> PPO:
    return PPO(MaskedPolicy, envs, n_steps=8, batch_size=8, policy_kwargs=NET, **SMALL)


CASES: dict[str, tuple[Callable[[], VecEnv], Callable[[Any], BaseAlgorithm], list[str]]] = {
    "dqn": (poles, dqn, ["q_net.q_net.2", "q_net.q_net.3", "q_net.q_net"]),
    "ppo": (poles, ppo, ["mlp_extractor.policy_net.1", "mlp_extractor.value_net.2", "action_net", "value_net"]),
    "masked": (cues, ours, ["mlp_extractor.policy_net.1", "mlp_extractor.value_net.2", "features_extractor"]),
}


def played(name: str, **kwargs: Any) -> tuple[BaseAlgorithm, Recording]:
    make_envs, make_model, modules = CASES[name]
    model = make_model(make_envs())
    cfg = RolloutConfig(**{"episodes": 7, "seed": 3, **kwargs})
    return model, join(list(record(model, make_envs(), modules, cfg)))


def direct(policy: Any, name: str, visible: torch.Tensor) -> torch.Tensor:
    """The same activations, by hand: the layers up to the named one."""
    if name == "features_extractor":
        return visible
    container, _, index = name.rpartition(".")
    if name in ("action_net", "value_net"):
        latent = policy.mlp_extractor.policy_net if name == "action_net" else policy.mlp_extractor.value_net
        return policy.get_submodule(name)(latent(visible))
    if not index.isdigit():
        return policy.get_submodule(name)(visible)
    layers = policy.get_submodule(container)[: int(index) + 1]
    return layers(visible)


@pytest.mark.parametrize("name", CASES)
def test_activations_are_a_direct_forward_pass(name: str) -> None:
    model, recording = played(name, epsilon=0.3)
    visible = torch.tensor(recording.observations["obs"])
    for module in CASES[name][2]:
        expected = direct(model.policy, module, visible).detach()
        assert recording.activations[module].shape == expected.shape
        torch.testing.assert_close(recording.activations[module], expected)
    policy: Any = model.policy
    if name == "dqn":
        value = policy.q_net.q_net(visible).max(1).values
    else:
        value = policy.value_net(policy.mlp_extractor.value_net(visible)).squeeze(1)
    assert recording.steps["value"] == pytest.approx(value.detach().numpy(), abs=1e-5)
    assert not model.policy._forward_hooks
    assert not any(module._forward_hooks for module in model.policy.modules())


@pytest.mark.parametrize("name", CASES)
def test_without_epsilon_the_policy_plays(name: str) -> None:
    model, recording = played(name)
    keys = recording.observations
    obs = keys if name == "masked" else keys["obs"]
    actions, _ = model.policy.predict(obs, deterministic=True)
    np.testing.assert_array_equal(recording.steps["action"], actions)
    assert not recording.steps["explored"].any()


def test_returns_are_discounted_sums_to_the_end() -> None:
    assert discounted([1.0, 0.0, 2.0], 0.5).tolist() == [1.5, 1.0, 2.0]
    model, recording = played("ppo", gamma=0.5)
    assert (recording.steps["reward"] == 1).all()
    for trajectory in range(7):
        rows = recording.steps["trajectory"] == trajectory
        length = int(rows.sum())
        by_hand = [2 - 0.5 ** (length - 1 - step) for step in range(length)]
        assert recording.steps["return"][rows] == pytest.approx(by_hand)
    assert model.gamma == 0.99  # type: ignore[attr-defined]
    own = played("ppo")[1].steps["return"]
    assert own.max() > 5


def test_trajectories_are_whole_and_shared_out_over_lanes() -> None:
    """Every trajectory from its reset to its end, observation by observation."""
    _, recording = played("dqn", episodes=8, epsilon=0.5)
    assert sorted(set(recording.steps["trajectory"].tolist())) == list(range(8))
    quotas = np.bincount([t % 3 for t in range(8)]).tolist()
    assert quotas == [3, 3, 2]
    for trajectory in range(3):
        env = gym.make("CartPole-v1", max_episode_steps=30)
        obs, _ = env.reset(seed=3 + trajectory)
        rows = np.flatnonzero(recording.steps["trajectory"] == trajectory)
        assert recording.steps["step"][rows].tolist() == list(range(len(rows)))
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(recording.observations["obs"][row], obs)
            obs, _, over, cut, _ = env.step(recording.steps["action"][row])
            assert (over or cut) == (place == len(rows) - 1)
        assert (recording.steps["truncated"][rows] == (cut and not over)).all()


def test_short_and_cut_episodes_are_told_apart() -> None:
    model = dqn(poles())
    cut = join(list(record(model, poles(limit=4), [], RolloutConfig(3))))
    assert len(cut) == 12
    assert cut.steps["truncated"].all()
    assert not played("dqn")[1].steps["truncated"].any()  # a random pole falls within 30 steps


def test_chunks_are_bounded_and_change_nothing() -> None:
    model = dqn(poles())
    cfg = {"episodes": 12, "epsilon": 0.2, "deterministic": False}
    whole = join(list(record(model, poles(), ["q_net.q_net.2"], RolloutConfig(**cfg))))
    chunks = list(record(model, poles(), ["q_net.q_net.2"], RolloutConfig(**cfg, chunk_rows=20)))
    longest = int(np.bincount(whole.steps["trajectory"]).max())
    assert len(chunks) > 3
    assert all(20 <= len(chunk) < 20 + longest for chunk in chunks[:-1])
    homes = [set(chunk.steps["trajectory"].tolist()) for chunk in chunks]
    assert sum(map(len, homes)) == 12, "a trajectory lies in two chunks"
    again = join(chunks)
    for column, rows in whole.steps.items():
        np.testing.assert_allclose(again.steps[column], rows, rtol=1e-5)
    torch.testing.assert_close(again.activations["q_net.q_net.2"], whole.activations["q_net.q_net.2"])


def test_unfinished_steps_are_let_go() -> None:
    """What is held at once does not grow with the number of episodes: only the chunk and what is being played."""
    import gc

    from agents.inside import recordings

    model, alive = dqn(poles()), []
    for chunk in record(model, poles(), [], RolloutConfig(60, chunk_rows=50)):
        del chunk
        alive.append(sum(type(thing) is recordings._Step for thing in gc.get_objects()))
    assert len(alive) >= 8
    assert max(alive) <= 60


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_seed_decides_everything_and_global_draws_nothing(deterministic: bool) -> None:
    def play(seed: int) -> Recording:
        torch.manual_seed(int(np.random.default_rng().integers(99)))
        model = ppo(poles())
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        cfg = RolloutConfig(5, seed=seed, epsilon=0.2, deterministic=deterministic)
        recording = join(list(record(model, poles(), ["action_net"], cfg)))
        assert torch.equal(torch.random.get_rng_state(), before)
        return recording

    first, second, other = play(1), play(1), play(2)
    for column, rows in first.steps.items():
        np.testing.assert_array_equal(second.steps[column], rows)
    assert not np.array_equal(first.observations["obs"][:5], other.observations["obs"][:5])


def test_epsilon_draws_uniformly_from_the_legal_actions() -> None:
    model = ours(cues())
    recording = join(list(record(model, cues(), [], RolloutConfig(600, epsilon=0.5, deterministic=True))))
    explored = recording.steps["explored"]
    assert abs(explored.mean() - 0.5) < 0.06
    legal = np.unpackbits(recording.observations["mask"], axis=1, count=13).astype(bool)
    taken = recording.steps["action"]
    assert legal[np.arange(len(taken)), taken].all()
    share = (taken == 12)[explored].mean()  # the no-op: legal everywhere, one of five
    assert abs(share - 0.2) < 0.07
    free = join(list(record(dqn(poles()), poles(), [], RolloutConfig(60, epsilon=1.0))))
    assert free.steps["explored"].all()
    assert abs(free.steps["action"].mean() - 0.5) < 0.08


def test_predicates_are_of_the_state_observed() -> None:
    envs = SB3VecEnv(gym.make_vec("KingRookKing-v0", num_envs=4))
    model = dqn(envs)
    recording = join(list(record(model, envs, [], RolloutConfig(30, epsilon=0.5), lane_predicates)))
    where = positions_of(recording.observations["obs"])
    table = predicate_table()
    assert set(recording.predicates) == set(table)
    for name, values in recording.predicates.items():
        np.testing.assert_array_equal(values, table[name][where])


def test_predicates_of_single_environments() -> None:
    def leaning(env: Any) -> dict[str, bool]:
        return {"right": bool(env.unwrapped.state[2] > 0)}

    recording = join(list(record(dqn(poles()), poles(), [], RolloutConfig(4), lanewise(leaning))))
    np.testing.assert_array_equal(recording.predicates["right"], recording.observations["obs"][:, 2] > 0)
    with pytest.raises(TypeError, match="DummyVecEnv, got SB3VecEnv"):
        lanewise(leaning)(cues())


def test_on_disk_and_back(tmp_path: Path) -> None:
    model = ours(cues())
    modules = ["mlp_extractor.policy_net.1", "value_net"]
    cfg = RolloutConfig(9, epsilon=0.3, chunk_rows=5)
    counts = save_recording(tmp_path / "new", record(model, cues(), modules, cfg), cfg)
    whole = join(list(record(model, cues(), modules, cfg)))
    assert counts == {"rows": len(whole), "trajectories": 9, "chunks": counts["chunks"]}
    assert counts["chunks"] > 1
    back = read_recording(tmp_path / "new")
    assert list(back.steps) == list(whole.steps)
    for column, rows in whole.steps.items():
        np.testing.assert_array_equal(back.steps[column], rows)
        assert back.steps[column].dtype == rows.dtype
    for key, rows in whole.observations.items():
        np.testing.assert_array_equal(back.observations[key], rows)
    assert set(back.activations) == set(modules)
    for name, rows in whole.activations.items():
        torch.testing.assert_close(back.activations[name], rows, rtol=0, atol=0)
    assert set(next(read_chunks(tmp_path / "new", ["value_net"])).activations) == {"value_net"}
    with pytest.raises(
        ValueError, match=r"'q_net' was not recorded; these were: mlp_extractor\.policy_net\.1, value_net"
    ):
        read_recording(tmp_path / "new", ["q_net"])
    with pytest.raises(FileExistsError, match="not empty"):
        save_recording(tmp_path / "new", [whole], cfg)
    with pytest.raises(FileNotFoundError, match="no complete recording"):
        read_recording(tmp_path)


def test_an_interrupted_recording_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    cfg = RolloutConfig(9, chunk_rows=5)

    def stopped() -> Any:
        yield next(record(dqn(poles()), poles(), [], cfg))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_recording(tmp_path / "half", stopped(), cfg)
    with pytest.raises(FileNotFoundError, match="no complete recording"):
        read_recording(tmp_path / "half")


def test_continuous_actions() -> None:
    envs = SB3VecEnv(AimVectorEnv())
    model = A2C("MlpPolicy", envs, **SMALL)
    recording = join(list(record(model, envs, ["action_net"], RolloutConfig(8, deterministic=True))))
    actions = np.stack([recording.steps["action_0"], recording.steps["action_1"]], axis=1)
    assert actions == pytest.approx(recording.activations["action_net"].numpy().clip(-1, 1), abs=1e-6)
    with pytest.raises(ValueError, match=r"epsilon 0\.1 needs Discrete actions, got Box"):
        next(record(model, envs, [], RolloutConfig(1, epsilon=0.1)))


def test_errors_name_what_exists() -> None:
    model = dqn(poles())
    with pytest.raises(ValueError, match=r"no module 'fc2'; it has: .*q_net\.q_net\.2"):
        next(record(model, poles(), ["fc2"], RolloutConfig(1)))
    with pytest.raises(ValueError, match=r"q_net_target\.q_net\.2' takes no part"):
        next(record(model, poles(), ["q_net_target.q_net.2"], RolloutConfig(1)))
    with pytest.raises(ValueError, match="'mlp_extractor' takes no part"):
        next(record(ppo(poles()), poles(), ["mlp_extractor"], RolloutConfig(1)))
    with pytest.raises(TypeError, match="got SACPolicy"):
        next(record(SAC("MlpPolicy", gym.make("Pendulum-v1"), device="cpu"), poles(), [], RolloutConfig(1)))
    with pytest.raises(RuntimeError, match="did not end within 3 steps"):
        next(record(model, poles(), [], RolloutConfig(1, longest=3)))
    for name, value in {"episodes": 0, "epsilon": 1.5, "gamma": -1.0, "chunk_rows": 0, "longest": 0}.items():
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            RolloutConfig(**{"episodes": 1, name: value})
    with pytest.raises(ValueError, match="no recordings"):
        join([])


def test_spaces_of_the_toys_are_what_the_tests_take_them_for() -> None:
    assert isinstance(cues().observation_space, spaces.Dict)
    assert cues().action_space.n == 13  # type: ignore[attr-defined]
