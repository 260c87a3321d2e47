"""The algorithm table and the callbacks: every row trains, misfits are refused, logs add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.algos import ALGOS, make_algo
from agents.callbacks import EpisodeLog, UpdateLog
from agents.masked_policy import MaskedPolicy
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import ScopeMask
from tests.toys import AimVectorEnv, CueVectorEnv

REPLAY, ROLLOUT = {"learning_starts": 32, "buffer_size": 200, "batch_size": 16}, {"n_steps": 8, "batch_size": 16}
SMALL: dict[str, dict[str, Any]] = {
    name: {
        key: value
        for key, value in (REPLAY if "buffer_size" in row.known_settings else ROLLOUT).items()
        if key in row.known_settings
    }
    for name, row in ALGOS.items()
}
PAIRS = [(name, kind) for name, row in ALGOS.items() for kind in sorted(row.actions)]


def env_of(kind: str, num_envs: int = 4) -> SB3VecEnv:
    return SB3VecEnv(CueVectorEnv(num_envs) if kind == "discrete" else AimVectorEnv(num_envs))


def masked_env(num_envs: int = 4) -> SB3VecEnv:
    return SB3VecEnv(CueVectorEnv(num_envs), ScopeMask(13))


def score(model: BaseAlgorithm, vec_env: VecEnv, steps: int = 40) -> float:
    """Mean reward a step, actions as in evaluation."""
    obs, total = vec_env.reset(), 0.0
    for _ in range(steps):
        obs, rewards, _, _ = vec_env.step(model.predict(obs, deterministic=True)[0])
        total += float(rewards.mean())
    return total / steps


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_row_trains_saves_and_repeats_itself(name: str, kind: str, tmp_path: Path) -> None:
    models = [
        make_algo(name, env_of(kind), seed=1, device="cpu", net_arch=[8], **SMALL[name]).learn(96) for _ in range(2)
    ]
    assert models[0].gamma == 1.0
    weights = [model.policy.state_dict() for model in models]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    models[0].save(tmp_path / "model.zip")
    loaded = ALGOS[name].cls.load(tmp_path / "model.zip", device="cpu")
    obs = env_of(kind).reset()
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], models[0].predict(obs, deterministic=True)[0]
    )


@pytest.mark.parametrize("name", [name for name, row in ALGOS.items() if row.own_policy])
@pytest.mark.parametrize("head", ["linear", "tied"])
def test_masked_rows_take_mask_and_head(name: str, head: str) -> None:
    vec_env = masked_env()
    directions = vec_env.envs.directions if head == "tied" else None
    model = make_algo(
        name, vec_env, 0, head, directions, device="cpu", policy_kwargs={"key_dim": 3} if head == "tied" else None
    )
    assert type(model.policy) is MaskedPolicy
    if head == "tied":
        assert model.policy.action_net.keys.shape == (12, 3)
        assert model.policy_kwargs["directions"].shape == (12, 3), "the projected keys, not M wide"
    model.learn(64)


def test_nested_observations_take_sb3s_own_policy() -> None:
    model = make_algo("ppo", SB3VecEnv(AimVectorEnv(nested=True)), 0, device="cpu", n_steps=8)
    assert type(model.policy).__name__ == "MultiInputActorCriticPolicy"
    model.learn(32)


@pytest.mark.parametrize(
    ("num_envs", "steps", "batch"), [(1, 512, 256), (3, 170, 255), (64, 8, 256), (256, 8, 256), (509, 32, 32)]
)
def test_ppo_never_cuts_a_minibatch_short(num_envs: int, steps: int, batch: int) -> None:
    """SB3 warns, and warnings are errors here, when the minibatch does not divide the roll-out."""
    model = make_algo("ppo", masked_env(num_envs), 0, device="cpu")
    assert (model.n_steps, model.batch_size) == (steps, batch)
    assert steps * num_envs % batch == 0


def test_defaults_give_way_to_overrides() -> None:
    model = make_algo("ppo", masked_env(), 0, device="cpu", net_arch={"pi": [], "vf": [4]}, gamma=0.5, batch_size=8)
    assert (model.gamma, model.batch_size) == (0.5, 8)
    assert model.policy.action_net.in_features == 6, "no hidden layer: straight from the observation"


@pytest.mark.parametrize("given", [{"net_arch": []}, {"policy_kwargs": {"net_arch": []}}])
def test_no_hidden_layer_means_none(given: dict[str, Any]) -> None:
    policy = make_algo("ppo", masked_env(), 0, device="cpu", **given).policy
    assert policy.action_net.in_features == policy.value_net.in_features == 6, "straight from the observation"


def test_a_roll_out_without_even_minibatches_is_refused() -> None:
    """257 is prime: its transitions could only be learned from one by one."""
    with pytest.raises(ValueError, match="no minibatch of 32 to 256 divides the roll-out of 257"):
        make_algo("ppo", masked_env(1), 0, device="cpu", n_steps=257)
    assert make_algo("ppo", masked_env(1), 0, device="cpu", n_steps=257, batch_size=257).batch_size == 257


def test_a_small_roll_out_is_one_minibatch() -> None:
    assert make_algo("ppo", masked_env(1), 0, device="cpu", n_steps=7).batch_size == 7


@pytest.mark.parametrize(
    ("name", "make", "kwargs", "message"),
    [
        ("alphago", masked_env, {}, f"'alphago'; known algorithms: {', '.join(ALGOS)}"),
        (
            "sac",
            masked_env,
            {},
            r"'sac' is not for discrete actions \(Discrete\(13\)\); use ppo, a2c, trpo, recurrent_",
        ),
        ("dqn", lambda: env_of("box"), {}, "'dqn' is not for box actions .*; use ppo, trpo, sac, td3, ddpg, tqc or"),
        ("dqn", masked_env, {}, "'dqn' cannot take an action mask; use ppo, a2c, trpo or maskable_ppo, or mask 'off'"),
        ("dqn", lambda: env_of("discrete"), {"head": "tied"}, "head 'tied' needs ppo, a2c or trpo with discrete"),
        ("ppo", lambda: env_of("box"), {"head": "tied"}, "head 'tied' needs ppo, a2c or trpo with discrete"),
        ("ppo", masked_env, {"head": "tied"}, "needs directions="),
        ("ppo", masked_env, {"head": "round"}, "'round'; known heads: linear, tied"),
        ("ppo", masked_env, {"lerning_rate": 1.0}, "ppo has no setting 'lerning_rate'"),
    ],
)
def test_misfits_are_refused_with_what_would_work(name: str, make: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_algo(name, make(), 0, **kwargs)


def test_defaults_learn_the_cue() -> None:
    """64 lanes, two-step episodes, rewards paid per episode. Chance 0.2 a cue, ceiling 1.0 (0.5 a step)."""
    vec_env = masked_env(64)
    model = make_algo("ppo", vec_env, seed=0, device="cpu")
    assert 2 * score(model, vec_env) < 0.5
    model.learn(30_000)
    assert 2 * score(model, vec_env) > 0.9


@pytest.mark.parametrize("half_width", [0.25, 3.0])
def test_ppos_first_actions_fit_the_box(half_width: float) -> None:
    """A deviation of half the half-width: 4.6 % of the draws lie outside, not most of them."""
    envs = AimVectorEnv(64)
    envs.single_action_space = spaces.Box(-half_width, half_width, (2,), np.float32)
    policy = make_algo("ppo", SB3VecEnv(envs), 0, device="cpu").policy
    draws = torch.stack([policy(torch.zeros(64, 2))[0] for _ in range(50)])
    assert 0.03 < float((draws.abs() > half_width).float().mean()) < 0.06


@pytest.mark.parametrize(
    ("name", "steps", "settings"),
    [
        ("ppo", 12_000, {}),
        ("sac", 1_200, {"learning_starts": 200, "batch_size": 64, "learning_rate": 3e-3}),
        ("td3", 1_200, {"learning_starts": 200, "batch_size": 64, "learning_rate": 3e-3}),
    ],
)
def test_box_rows_learn_to_aim(name: str, steps: int, settings: dict[str, Any]) -> None:
    """Standing still gives 1 - 0.4 = 0.6, a uniformly random action 0.45; ceiling 1.0; asked for 0.85."""
    vec_env = env_of("box", 16)
    model = make_algo(name, vec_env, seed=0, device="cpu", net_arch=[32], **settings)
    model.learn(steps)
    assert score(model, vec_env) > 0.85


def test_episode_log_has_each_episode_once() -> None:
    """Oracle: one lane in lock-step, two steps an episode."""
    rows: list[dict[str, Any]] = []
    model = make_algo("ppo", masked_env(3), 0, device="cpu", n_steps=8)
    model.learn(24, callback=EpisodeLog(rows.append, episodes=100))
    assert [row["episode"] for row in rows] == list(range(101, 113))
    assert [row["num_timesteps"] for row in rows] == [6] * 3 + [12] * 3 + [18] * 3 + [24] * 3
    assert [row["lane"] for row in rows] == [0, 1, 2] * 4
    for row in rows:
        assert row["completion"] == f"lane {row['lane']}"
        assert row["steps"] == 2
        assert row["return"] == pytest.approx(row["score"])
    json.dumps(rows)  # plain values only


def test_update_log_has_each_update_once_and_adds_up() -> None:
    updates: list[dict[str, Any]] = []
    episodes: list[dict[str, Any]] = []
    vec_env = masked_env(3)
    model = make_algo("ppo", vec_env, 0, device="cpu", n_steps=8, n_epochs=4)
    model.learn(72, callback=[UpdateLog(updates.append, window=10_000), EpisodeLog(episodes.append)])
    assert [row["num_timesteps"] for row in updates] == [24, 48, 72]
    assert [row["train/n_updates"] for row in updates] == [4, 8, 12], "each row holds its own update"
    last = updates[-1]
    assert last["score"] == pytest.approx(np.mean([row["score"] for row in episodes]))
    assert last["return"] == last["score"]
    assert last["episode_length"] == 2.0
    assert 1 <= last["distinct_features"] <= 12
    assert 0.0 <= last["noop_share"] <= 1.0
    assert last["steps_per_second"] > 0
    json.dumps(updates)


def test_update_log_goes_on_with_the_episodes_logged_before() -> None:
    """Oracle: one log over both halves, against two logs of which the second is given the first half's episodes."""
    rows: dict[str, list[dict[str, Any]]] = {"whole": [], "first": [], "second": [], "episodes": []}
    model = make_algo("ppo", masked_env(3), 0, device="cpu", n_steps=8)
    whole = UpdateLog(rows["whole"].append, window=20)
    model.learn(24, callback=[whole, UpdateLog(rows["first"].append, window=20), EpisodeLog(rows["episodes"].append)])
    later = UpdateLog(rows["second"].append, window=20, earlier=json.loads(json.dumps(rows["episodes"])))
    model.learn(24, callback=[whole, later], reset_num_timesteps=False)
    assert len(rows["episodes"]) == 12, "fewer than the window: the second half alone would give another mean"
    for name in ("score", "return", "episode_length"):
        assert rows["second"][-1][name] == pytest.approx(rows["whole"][-1][name])


def test_update_log_counts_features_and_noops_of_its_own_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a script. Eight steps of no-ops only, then eight of features 0 and 1 and a no-op."""
    script = iter([np.array([-1, -1, -1])] * 8 + [np.array([0, 1, -1])] * 8)
    vec_env = SB3VecEnv(CueVectorEnv(3, horizon=50), ScopeMask(13))
    step = vec_env.envs.step

    def scripted(actions: np.ndarray) -> Any:
        *result, infos = step(actions)
        return *result, {**infos, "feature": next(script)}

    monkeypatch.setattr(vec_env.envs, "step", scripted)
    rows: list[dict[str, Any]] = []
    make_algo("ppo", vec_env, 0, device="cpu", n_steps=8).learn(48, callback=UpdateLog(rows.append))
    assert [row["noop_share"] for row in rows] == [1.0, pytest.approx(1 / 3)]
    assert [row["distinct_features"] for row in rows] == [0, 2]
    assert rows[0]["score"] is rows[0]["return"] is None, "no episode ended yet"


def test_update_log_of_off_policy_keeps_its_distance() -> None:
    rows: list[dict[str, Any]] = []
    model = make_algo("sac", env_of("box"), 0, device="cpu", net_arch=[8], **SMALL["sac"])
    model.learn(200, callback=UpdateLog(rows.append, every=50))
    steps = [row["num_timesteps"] for row in rows]
    assert steps[-1] == 200
    assert len(steps) == 4
    assert min(np.diff(steps)) >= 44
    assert "train/actor_loss" in rows[-1]
    assert rows[-1]["noop_share"] is None, "the environment does not name features"
