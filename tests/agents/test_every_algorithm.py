"""Every row of the table of algorithms, from training to analysis, on the tiny model; and what the table says of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

import steer_env  # noqa: F401  # registers the environments
from agents.algos import ALGOS, make_algo, table
from agents.analysis.analyze import analyze
from agents.analysis.counterfactuals import Effort
from agents.policies import policy_of
from agents.reading import UNKNOWN, Context, family_of
from agents.report.markdown import markdown_table
from agents.runs.checks import check_run
from agents.runs.config import TrainConfig
from agents.runs.loading import load_run
from agents.runs.training import main as train
from agents.vec_env import SB3VecEnv
from experiments.evaluate import EvaluateConfig
from experiments.evaluate import main as evaluate
from steer_env.evaluation.counterfactuals import Alternatives
from steer_env.evaluation.masks import make_mask
from steer_env.evaluation.play import Lanes, play
from tests.toys import AimVectorEnv

HYPER = {"n_steps": 8, "batch_size": 16, "device": "cpu"}
GAME = {"opponent": "random", "illegal": "random_move", "coefficient": 2.0}
KINDS = [(name, kind) for name, row in ALGOS.items() for kind in sorted(row.actions)]
MASKED = [name for name, row in ALGOS.items() if row.no_mask is None]
README = Path(__file__).parents[2] / "agents" / "README.md"


def small(name: str) -> dict[str, Any]:
    """Settings of a short training: a few updates of a small network."""
    wanted = {"learning_starts": 64, "buffer_size": 512, "batch_size": 32, "gradient_steps": 1}
    if "buffer_size" not in ALGOS[name].known_settings:
        wanted = {"n_steps": 8, "batch_size": 16}
    known = {key: value for key, value in wanted.items() if key in ALGOS[name].known_settings}
    if ALGOS[name].family.memory:
        known["policy_kwargs"] = {"lstm_hidden_size": 16}
    return known | {"net_arch": [16]}


def trained(tiny: dict[str, Any], folder: Path, algo: str, kind: str, mask: str = "off") -> Path:
    env = {"discrete": "Steer-TicTacToe-v0", "box": "AutoSteer-TicTacToe-v0"}[kind]
    extra = {"k": 3, "bound": 0.5} if kind == "box" else {}
    cfg = TrainConfig(
        name=algo,
        env=env,
        algo=algo,
        total_timesteps=256,
        num_envs=8,
        mask=mask,
        env_kwargs={**tiny, **GAME, **extra},
        algo_kwargs=small(algo),
        wandb="disabled",
        runs_dir=folder,
    )
    return train(cfg)


@pytest.mark.parametrize(
    ("algo", "kind", "mask"),
    [(name, kind, "off") for name, kind in KINDS] + [(name, "discrete", "adaptive") for name in MASKED],
)
def test_every_row_trains_evaluates_checks_and_analyses(algo, kind, mask, tiny, tmp_path) -> None:
    path, row = trained(tiny, tmp_path, algo, kind, mask), ALGOS[algo]
    result = evaluate(EvaluateConfig(run=path, items=12, num_envs=12, compare=False, search_games=(1, 2)))
    assert {check.verdict for check in check_run(path, 4).checks.values()} == {"passed"}
    records = analyze(path, effort=Effort(Alternatives(1, 1), tokens=1, search_plays=64, num_envs=32))
    assert records.critic.target == "return", "values are logged"
    assert records.branch_points.episodes_analysed == 12
    run = load_run(path)
    assert type(run.model) is row.cls
    log = pd.read_parquet(path / "interventions.parquet")
    own = log[log["arm"] == "trained"].drop_duplicates("episode").sort_values("episode")
    played = play(run.envs("test", 12), run.policy, own["item"].tolist(), seed=0)
    np.testing.assert_array_equal(played.scores, own["score"])
    assert played.scores.mean() == pytest.approx(result.arms["trained"].scores[0])
    assert np.isfinite(played.tokens["value"]).all()


def reading(model, envs, mask=None):
    """Details of a first step, and actions with preferences."""
    obs, _ = envs.reset(seed=0)
    lanes = Lanes.at_reset(envs, envs.num_envs)
    return policy_of(model, mask)(obs, lanes)[1], policy_of(model, mask).rank(obs, lanes)


@pytest.mark.parametrize(("algo", "kind"), KINDS)
def test_the_table_says_what_an_agent_tells(algo, kind, tiny) -> None:
    row = ALGOS[algo]
    said = next(line for line in table() if line["algorithm"] == algo)
    box = kind == "box"
    envs = gym.make_vec(
        "AutoSteer-TicTacToe-v0" if box else "Steer-TicTacToe-v0",
        num_envs=6,
        **tiny,
        **GAME,
        **({"k": 3} if box else {}),
    )
    model = make_algo(algo, SB3VecEnv(envs), seed=0, device="cpu", **small(algo))
    assert family_of(model.policy) is row.family
    details, (actions, preferences) = reading(model, envs)
    assert np.isfinite(details["value"]).all() == (not said["values"].startswith("no"))
    assert (preferences is None) == (box or said["preferences"].startswith("no"))
    if preferences is not None:
        np.testing.assert_array_equal(preferences.argmax(axis=1), actions)
    obs, _ = envs.reset(seed=0)
    np.testing.assert_allclose(actions, model.predict(obs, deterministic=True)[0], rtol=1e-5)


@pytest.mark.parametrize("algo", MASKED)
def test_a_masked_agent_ranks_illegal_actions_last(algo, tiny) -> None:
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=6, mask="generation", **tiny, **GAME)
    mask = make_mask("generation", 25, seed=0)
    model = make_algo(algo, SB3VecEnv(envs, mask), seed=0, device="cpu", **small(algo))
    _, (actions, preferences) = reading(model, envs, mask)
    np.testing.assert_array_equal(preferences.argmax(axis=1), actions)
    np.testing.assert_array_equal(np.isfinite(preferences), envs.action_masks())


@pytest.mark.parametrize("algo", [name for name, row in ALGOS.items() if row.actions == {"box"}])
def test_values_of_strengths_are_the_critics_of_the_scaled_action(algo) -> None:
    """In a box that is not [-1, 1]: SB3's critics read actions scaled to it."""
    envs = AimVectorEnv(6)
    envs.single_action_space = spaces.Box(-0.25, 3.0, (2,), np.float32)
    model = make_algo(algo, SB3VecEnv(envs), seed=0, device="cpu", **small(algo))
    obs, _ = envs.reset(seed=0)
    model.policy.set_training_mode(False)
    inputs = torch.as_tensor(np.array(obs))
    with torch.no_grad():
        value = family_of(model.policy).read(model.policy, inputs, Context()).value
        scaled = torch.as_tensor(model.policy.scale_action(model.predict(np.array(obs), deterministic=True)[0]))
        estimates = model.policy.critic(inputs, scaled)
    several = torch.stack([net.reshape(6, -1) for net in estimates]) if isinstance(estimates, tuple) else None
    wanted = estimates.mean(dim=(1, 2)) if several is None else several.amin(dim=0).flatten()
    torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


def test_sb3_contribs_maskable_ppo_brought_by_a_user_obeys_the_environments_mask(tiny) -> None:
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=6, mask="generation", **tiny, **GAME)
    model = MaskablePPO("MlpPolicy", SB3VecEnv(envs), **HYPER).learn(48)
    obs, _ = envs.reset(seed=0)
    lanes = Lanes.at_reset(envs, 6)
    actions, preferences = policy_of(model).rank(obs, lanes)
    legal = envs.action_masks()
    assert not legal.all()
    assert legal[np.arange(6), actions].all()
    np.testing.assert_array_equal(np.isfinite(preferences), legal)
    np.testing.assert_array_equal(actions, model.predict(obs, deterministic=True, action_masks=legal)[0])


def test_maskable_ppo_of_the_table_reads_the_observation_alone(tiny) -> None:
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=6, mask="generation", **tiny, **GAME)
    model = make_algo("maskable_ppo", SB3VecEnv(envs, make_mask("generation", 25)), seed=0, **small("maskable_ppo"))
    assert model.policy.features_dim == envs.single_observation_space.shape[0]
    assert isinstance(model, MaskablePPO)


class OwnPPO(PPO):
    """An algorithm that is in no table."""


def test_an_algorithm_in_no_table_is_read_by_what_it_has(tiny) -> None:
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=6, **tiny, **GAME)
    details, (_, preferences) = reading(OwnPPO("MlpPolicy", SB3VecEnv(envs), **HYPER), envs)
    assert set(details) == {"log_prob", "value", "entropy"}
    assert preferences.shape == (6, 25)
    assert family_of(object()) is UNKNOWN


def test_the_readmes_example_runs(capsys) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(block, "agents/README.md", "exec"), {})
    assert 0.0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1.0


def test_the_readmes_table_is_made_from_the_rows() -> None:
    rows = table()
    assert all(re.fullmatch(r"(?!no$)\S.*", cell) for row in rows for cell in row.values()), "no empty cell"
    made = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    assert made in README.read_text(), f"steer list --only algorithms --markdown prints it:\n{made}"
