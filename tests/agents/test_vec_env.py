"""SB3VecEnv against SB3's own adapter on the same environments, and its promises one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import agents
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import ScopeMask
from tests.toys import AimVectorEnv, CueVectorEnv


def masked(**kwargs: Any) -> SB3VecEnv:
    envs = CueVectorEnv(**kwargs)
    return SB3VecEnv(envs, ScopeMask(envs.features + 1))


def unpacked(observation: dict[str, np.ndarray], actions: int = 13) -> np.ndarray:
    return np.unpackbits(observation["mask"], axis=-1, count=actions).astype(bool)


def test_agents_is_this_repository() -> None:
    # `agents` is also the import name of a popular package.
    assert agents.__file__ is not None
    assert Path(agents.__file__).parent == Path(__file__).parents[2] / "agents"


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused_by_name(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=mode)
    with pytest.raises(ValueError, match=f"SAME_STEP.*{mode.name}"):
        SB3VecEnv(envs)


def test_equals_sb3_adapter_on_the_same_environments() -> None:
    """Oracle: DummyVecEnv of Monitors. CartPole ends both ways within 12 steps."""

    def make() -> gym.Env:
        return gym.make("CartPole-v1", max_episode_steps=12)

    ours = SB3VecEnv(SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    theirs = DummyVecEnv([lambda: Monitor(make())] * 3)
    rng = np.random.default_rng(0)
    for vec_env in (ours, theirs):
        vec_env.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    seen = {True: 0, False: 0}
    for _ in range(60):
        actions = (rng.random(3) < 0.75).astype(np.int64)
        (obs, rewards, dones, infos), (obs2, rewards2, dones2, infos2) = ours.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(obs, obs2)
        np.testing.assert_array_equal(rewards, rewards2)
        np.testing.assert_array_equal(dones, dones2)
        assert rewards.dtype == rewards2.dtype
        for lane in np.flatnonzero(dones):
            mine, other = infos[lane], infos2[lane]
            np.testing.assert_array_equal(mine["terminal_observation"], other["terminal_observation"])
            assert mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert (mine["episode"]["r"], mine["episode"]["l"]) == (other["episode"]["r"], other["episode"]["l"])
            seen[mine["TimeLimit.truncated"]] += 1
        assert all(infos[lane] == {} for lane in np.flatnonzero(~dones))
    assert min(seen.values()) >= 3


def test_ended_lanes_carry_their_final_info_only() -> None:
    vec_env = SB3VecEnv(CueVectorEnv(num_envs=3, horizon=2))
    vec_env.reset()
    _, _, dones, infos = vec_env.step(np.zeros(3, np.int64))
    assert not dones.any()
    assert infos == [{}, {}, {}]
    _, rewards, dones, infos = vec_env.step(np.zeros(3, np.int64))
    assert dones.all()
    for lane, info in enumerate(infos):
        assert info["completion"] == f"lane {lane}"
        assert type(info["item"]) is int
        assert "outcome" not in info, "its validity mask says no"
        assert info["episode"]["r"] == info["score"] == pytest.approx(rewards[lane])
        assert info["episode"]["l"] == 2


def test_nothing_is_aliased() -> None:
    """The toy overwrites one buffer; what was handed out before must not move."""
    vec_env = masked(num_envs=2)
    first = vec_env.reset()
    kept = {key: value.copy() for key, value in first.items()}
    _, rewards, _, _ = vec_env.step(np.zeros(2, np.int64))
    rewards += 100.0  # SB3 bootstraps in place
    second, later, _, infos = vec_env.step(np.zeros(2, np.int64))
    assert later.max() <= 1.0
    for key, value in kept.items():
        np.testing.assert_array_equal(first[key], value)
    final = infos[0]["terminal_observation"]["obs"].copy()
    vec_env.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(infos[0]["terminal_observation"]["obs"], final)
    assert not np.array_equal(final, second["obs"][0])


def test_mask_bits_are_the_environments_masks_and_the_end_allows_the_noop() -> None:
    vec_env = masked(num_envs=5)
    assert vec_env.observation_space["mask"].shape == (2,)  # 13 actions in 2 bytes
    obs = vec_env.reset()
    for _ in range(4):
        np.testing.assert_array_equal(unpacked(obs), vec_env.envs.action_masks())
        np.testing.assert_array_equal(unpacked(obs), get_action_masks(vec_env))
        assert all(vec_env.observation_space.contains({k: v[lane] for k, v in obs.items()}) for lane in range(5))
        obs, _, _, infos = vec_env.step(np.zeros(5, np.int64))
    terminal = infos[0]["terminal_observation"]
    assert vec_env.observation_space.contains(terminal)
    assert unpacked(terminal).nonzero()[0].tolist() == [12]


def test_truncation_is_told_apart_from_the_end() -> None:
    vec_env = SB3VecEnv(CueVectorEnv(num_envs=2, horizon=9, limit=1))
    vec_env.reset()
    _, _, dones, infos = vec_env.step(np.zeros(2, np.int64))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] is True for info in infos)


def test_seed_and_options_reach_the_next_reset_only() -> None:
    vec_env = SB3VecEnv(CueVectorEnv())
    assert vec_env.seed(3) == [3, 4, 5, 6]
    vec_env.set_options({"items": [4, 2]})
    first = vec_env.reset()
    other = vec_env.reset()
    assert vec_env.envs.calls == [(3, {"items": [4, 2]}), (None, None)]
    vec_env.seed(3)
    np.testing.assert_array_equal(vec_env.reset(), first)
    assert not np.array_equal(other, first)
    assert [set(info) for info in vec_env.reset_infos] == [{"item"}] * 4
    with pytest.raises(ValueError, match="one dict"):
        vec_env.set_options([{}, {}, {}, {}])


def test_attributes_and_methods_of_a_batched_environment() -> None:
    vec_env = SB3VecEnv(CueVectorEnv(num_envs=4, horizon=2))
    vec_env.reset()
    assert vec_env.get_attr("horizon", indices=[0, 2]) == [2, 2]
    assert is_masking_supported(vec_env)
    assert not vec_env.has_attr("nothing_of_this_name")
    np.testing.assert_array_equal(vec_env.env_method("action_masks", indices=2)[0], vec_env.envs.action_masks()[2])
    vec_env.set_attr("horizon", 5)
    assert vec_env.envs.horizon == 5
    with pytest.raises(ValueError, match="'horizon' is shared"):
        vec_env.set_attr("horizon", 5, indices=[1])
    assert vec_env.env_is_wrapped(Monitor) == [True] * 4
    assert vec_env.env_is_wrapped(gym.wrappers.TimeLimit, indices=[1]) == [False]
    vec_env.close()
    assert vec_env.envs.closed


def test_layers_and_environments_below_are_found() -> None:
    vec_env = SB3VecEnv(RecordEpisodeStatistics(CueVectorEnv()), ScopeMask(13))
    np.testing.assert_array_equal(unpacked(vec_env.reset()), vec_env.envs.unwrapped.action_masks())
    singles = SB3VecEnv(
        SyncVectorEnv(
            [lambda: gym.make("CartPole-v1", max_episode_steps=7)] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        )
    )
    singles.reset()
    assert singles.get_attr("gravity") == [9.8, 9.8]
    singles.set_attr("gravity", 1.0)
    assert singles.get_attr("gravity") == [1.0, 1.0]
    assert singles.env_is_wrapped(gym.wrappers.TimeLimit) == [True, True]


def test_stacks_under_sb3_wrappers_and_evaluation() -> None:
    vec_env = VecNormalize(SB3VecEnv(CueVectorEnv()), norm_obs=True)
    model = PPO("MlpPolicy", vec_env, n_steps=4, batch_size=16, seed=0, device="cpu").learn(16)
    mean, _ = evaluate_policy(model, SB3VecEnv(CueVectorEnv()), n_eval_episodes=6)
    assert 0.0 <= mean <= 1.0


def test_nested_observations_without_a_mask() -> None:
    vec_env = SB3VecEnv(AimVectorEnv(nested=True))
    obs = vec_env.reset()
    assert set(obs) == {"left", "right"}
    _, _, _, infos = vec_env.step(np.zeros((4, 2), np.float32))
    np.testing.assert_array_equal(infos[1]["terminal_observation"]["left"], obs["left"][1])


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="Discrete actions, got Box"):
        SB3VecEnv(AimVectorEnv(), ScopeMask(3))
    unmasked = gym.make_vec("CartPole-v1", num_envs=1, vectorization_mode="vector_entry_point")
    unmasked.metadata = {**unmasked.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
    with pytest.raises(ValueError, match=r"action_masks\(\)"):
        SB3VecEnv(unmasked, ScopeMask(2))


def test_a_reward_that_is_not_finite_names_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = CueVectorEnv(horizon=1)
    vec_env = SB3VecEnv(envs)
    vec_env.reset()
    obs, rewards, *rest = envs.step(np.zeros(4, np.int64))
    rewards[2] = np.nan
    monkeypatch.setattr(envs, "step", lambda actions: (obs, rewards, *rest))
    with pytest.raises(ValueError, match="reward of lane 2 is nan"):
        vec_env.step(np.zeros(4, np.int64))
