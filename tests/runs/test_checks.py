"""The self-check of runs: a sound run passes, and each planted fault fails the check that is for it, and no other."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

import steer_env  # noqa: F401
from agents.algos import ALGOS
from agents.masked_policy import LinearHead, MaskedPolicy
from agents.runs import loading
from agents.runs.agent_files import fill, save_agent
from agents.runs.checks import CHECKS, Checks, check_run
from agents.runs.folder import RunFolder, write_json
from agents.runs.loading import fresh_agent, load_run, make_envs
from agents.runs.replay import tolerated
from agents.runs.residual_probe import measure_pushes
from agents.runs.training import TrainConfig
from agents.runs.training import main as train
from agents.trial import part_of
from agents.vec_env import SB3VecEnv
from experiments.__main__ import main as steer
from experiments.evaluate import EvaluateConfig
from experiments.evaluate import main as evaluate
from steer_env.envs.actions import FeatureChoice
from steer_env.lm.loading import load_language_model
from steer_env.lm.model import SteeredModel
from steer_env.tasks.gsm8k import GSM8K

STEERING, SAME, LOG, GRADIENT, POLICY, REWARDS, WEIGHTS = CHECKS


def make_run(tiny, folder, algo="ppo", mask="off", **kwargs):
    env_kwargs = {**tiny, "opponent": "random", "illegal": "random_move", "coefficient": 2, **kwargs}
    on_policy = "n_epochs" in ALGOS[algo].known_settings
    return train(
        TrainConfig(
            name=algo,
            env="Steer-TicTacToe-v0" if "discrete" in ALGOS[algo].actions else "AutoSteer-TicTacToe-v0",
            algo=algo,
            total_timesteps=256,
            num_envs=8,
            mask=mask,
            env_kwargs=env_kwargs,
            algo_kwargs={"n_steps": 8, "policy_kwargs": {}}
            if on_policy
            else {"learning_starts": 16, "gradient_steps": 1},
            wandb="disabled",
            runs_dir=folder,
        )
    )


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return make_run(tiny, tmp_path_factory.mktemp("runs"), mask="adaptive", shaping=0.25)


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluated") / "ppo"
    shutil.copytree(trained, run)
    evaluate(EvaluateConfig(run=run, items=20, num_envs=8, search_games=(2, 4), compare=False))
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A trained run that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "ppo")


@pytest.fixture
def run_with_log(evaluated, tmp_path):
    """An evaluated run that a test may spoil."""
    return shutil.copytree(evaluated, tmp_path / "ppo")


def verdicts(run, items=4):
    return {name: result.verdict for name, result in check_run(run, items).checks.items()}


def failure(run, name):
    """The line of the one check that failed."""
    results = check_run(run, 4).checks
    assert [other for other, result in results.items() if result.verdict == "FAILED"] == [name]
    return results[name].line


def edit(run, change):
    """Change the table of the intervention log."""
    path = run / "interventions.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def rewrite(run, change):
    """Change the rows of the episode log; those for which ``change`` gives None are dropped."""
    rows = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    kept = [row for row in map(change, rows) if row is not None]
    (run / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def test_a_sound_run_passes_every_check(evaluated, capsys):
    found = check_run(evaluated, 4)
    results = found.checks
    assert Checks.read(evaluated / "check.json") == found
    assert {result.verdict for result in results.values()} == {"passed"}
    printed = capsys.readouterr().out.splitlines()
    assert [line[13:].split("  ")[0] for line in printed] == list(CHECKS)
    logged = pd.read_parquet(evaluated / "interventions.parquet")
    tokens = int((logged["episode"] < 4).sum())
    assert f"{tokens} logged tokens in 24 episodes of all arms" in results[LOG].line
    episodes = len((evaluated / "episodes.jsonl").read_text().splitlines())
    assert f"{episodes} logged returns" in results[REWARDS].line
    assert "it chooses as logged in 4 episodes" in results[POLICY].line


def test_a_run_in_16_bits_passes(tiny, tmp_path):
    run = make_run(tiny, tmp_path, dtype="bfloat16")
    evaluate(EvaluateConfig(run=run, items=20, num_envs=4, search_games=(1, 2), compare=False))
    assert set(verdicts(run).values()) == {"passed"}


def test_strengths_are_played_again(tiny, tmp_path):
    run = make_run(tiny, tmp_path, "td3", k=3)
    evaluate(EvaluateConfig(run=run, items=8, num_envs=4, search_games=(1, 2), compare=False, temperature=1.0))
    assert set(verdicts(run).values()) == {"passed"}
    tokens = pd.read_parquet(run / "interventions-1-test.parquet")
    tokens["strengths"] = [row[::-1] for row in tokens["strengths"]]
    tokens.to_parquet(run / "interventions-1-test.parquet")
    assert verdicts(run)[LOG] == "FAILED"


def test_what_is_not_there_is_not_checked(run):
    (run / "policy.safetensors").unlink()
    (run / "episodes.jsonl").unlink()
    config = RunFolder.open(run).config
    del config["steering"]
    write_json(run / "config.json", config)
    found = check_run(run, 4).checks
    assert {name for name, result in found.items() if result.verdict == "passed"} == {STEERING, WEIGHTS}
    assert {name: result.line for name, result in found.items() if result.verdict == "not checked"} == {
        SAME: f"{run / 'config.json'} has no record of what the run's actions mean",
        LOG: f"no evaluation yet (steer evaluate --run {run})",
        GRADIENT: f"{run / 'policy.safetensors'} is missing: training has not finished",
        POLICY: f"{run / 'policy.safetensors'} is missing: training has not finished",
        REWARDS: f"{run / 'episodes.jsonl'} has no rows: no episode has ended",
    }


def test_the_command_fails_when_a_check_does(run):
    flags = ["check", "--run", str(run), "--items", "2"]
    assert steer(flags) == 0
    rewrite(run, lambda row: {**row, "return": 0.0})
    assert steer(flags) == 1
    with pytest.raises(ValueError, match="at least 1, got 0"):
        check_run(run, 0)


@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0])
def test_steering_that_does_not_fire_as_it_says_is_caught(factor, run, monkeypatch):
    sound = FeatureChoice.delta
    monkeypatch.setattr(FeatureChoice, "delta", lambda self, actions: factor * sound(self, actions))
    assert failure(run, STEERING).startswith("0 of ")


def test_a_no_op_that_steers_is_caught(run, monkeypatch):
    sound = FeatureChoice.delta
    monkeypatch.setattr(FeatureChoice, "delta", lambda self, actions: sound(self, np.minimum(actions, 23)))
    assert "; 0 of " in failure(run, STEERING)


def test_an_observation_of_something_else_is_caught(run, monkeypatch):
    sound = SteeredModel.observe
    monkeypatch.setattr(SteeredModel, "observe", lambda self: sound(self) * 1.001)
    assert "the observed residual is the model's at 0 of" in failure(run, STEERING)


@pytest.mark.filterwarnings("ignore:SAE .* was trained at")
@pytest.mark.parametrize("where", [{"layer": 2}, {"layer": 0, "site": "pre"}, {"layer": 2, "site": "pre"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_push_is_measured_wherever_it_is(where, dtype, tiny):
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=4, **{**tiny, **where}, dtype=dtype)
    pushes = measure_pushes(envs, episodes=4)
    assert pushes.right.all()
    assert pushes.seen.all()
    assert 0 < pushes.steered.sum() < len(pushes.steered)
    lost = gym.make_vec("Steer-TicTacToe-v0", num_envs=4, **{**tiny, **where}, dtype=dtype, coefficient=1e-9)
    pushes = measure_pushes(lost, episodes=4)
    assert not pushes.right[pushes.steered].any()


def test_one_short_episode_shows_both_steering_and_no_steering(tiny):
    """Episodes of one token, as of multiple choice: one of them alone may have no action but the no-op."""
    for seed in range(8):
        envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=1, **tiny, features=[3], illegal="loss")
        pushes = measure_pushes(envs, episodes=1, seed=seed)
        assert 0 < pushes.steered.sum() < len(pushes.steered)


@pytest.mark.parametrize(("dtype", "few", "many"), [("float32", 0, 10), ("bfloat16", 1, 100)])
def test_rounding_is_tolerated_in_a_share_of_the_episodes(dtype, few, many, tiny):
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=1, **tiny, dtype=dtype)
    assert (tolerated(6, envs), tolerated(1_000, envs)) == (few, many)


def test_an_evaluation_of_an_earlier_version_is_no_fault(run_with_log):
    result = json.loads((run_with_log / "evaluation.json").read_text())
    del result["version"]
    write_json(run_with_log / "evaluation.json", result)
    found = check_run(run_with_log, 4).checks
    assert {name for name, each in found.items() if each.verdict != "passed"} == {LOG, POLICY, WEIGHTS}
    assert all(
        "evaluation.json is of version None, this is 1: steer evaluate" in found[name].line for name in (LOG, WEIGHTS)
    )


def test_actions_of_another_meaning_are_caught(run):
    config = RunFolder.open(run).config
    config["steering"]["coefficient"] *= 1.01
    write_json(run / "config.json", config)
    assert "coefficient was" in failure(run, SAME)


def another_feature(tokens):
    wrong = (tokens["feature"] + 1) % 24
    return tokens.assign(feature=wrong.where(tokens["arm"] == "random_feature", tokens["feature"]))


def another_token(tokens):
    wrong = (tokens["arm"] == "unsteered") & (tokens["episode"] == 2)
    return tokens.assign(token=tokens["token"].mask(wrong, 11))


def another_score(tokens):
    return tokens.assign(score=tokens["score"].mask(tokens["arm"] == "most_active", 1 - tokens["score"]))


def another_coefficient(tokens):
    wrong = tokens["arm"] == "best_fixed"
    return tokens.assign(coefficient=tokens["coefficient"].mask(wrong, 2 * tokens["coefficient"]))


def fewer_tokens(tokens):
    return tokens[(tokens["arm"] != "random_in_mask") | (tokens["step"] == 0)]


@pytest.mark.parametrize(
    ("change", "arm"),
    [
        (another_feature, "random_feature"),
        (another_token, "unsteered"),
        (another_score, "most_active"),
        (another_coefficient, "best_fixed"),
        (fewer_tokens, "random_in_mask"),
    ],
)
def test_a_log_that_does_not_match_what_was_applied_is_caught(change, arm, run_with_log):
    edit(run_with_log, change)
    assert f"first arm {arm}, item " in failure(run_with_log, LOG)


def underflow(monkeypatch):
    """The published fault: the ratio of probabilities of two kinds is zero."""
    sound = MaskedPolicy.evaluate_actions

    def scored(self, obs, actions):
        values, log_prob, entropy = sound(self, obs, actions)
        return values, log_prob - 1e3, entropy

    monkeypatch.setattr(MaskedPolicy, "evaluate_actions", scored)


def detach(monkeypatch):
    sound = LinearHead.forward
    monkeypatch.setattr(LinearHead, "forward", lambda self, latent: sound(self, latent).detach())


@pytest.mark.parametrize("plant", [underflow, detach])
def test_a_policy_without_gradient_is_caught(plant, run, monkeypatch):
    plant(monkeypatch)
    assert failure(run, GRADIENT).endswith(", policy 0")


def test_a_policy_that_is_certain_is_no_fault(run):
    """Its gradient is zero, but training began with one: that is how a learned policy should end."""
    saved = load_run(run).model
    with torch.no_grad():
        saved.policy.action_net.bias[24] = 1e4  # the no-op, which every mask allows
    save_agent(saved, run)
    result = check_run(run, 4).checks[GRADIENT]
    assert result.verdict == "passed"
    assert "policy 0; the untrained agent has" in result.line


def test_a_policy_that_is_not_loaded_is_caught(run, monkeypatch):
    def filled(model, saved):
        fill(model, saved)
        with torch.no_grad():
            next(model.policy.parameters()).add_(1e-3)

    monkeypatch.setattr(loading, "fill", filled)
    assert "does not hold the parameters" in failure(run, POLICY)


@pytest.mark.parametrize("part", ["policy", "critic"])
def test_a_policy_that_training_did_not_change_is_caught(part, run):
    folder = RunFolder.open(run)
    envs = make_envs(folder.config, "train", 4)
    saved = load_run(run).model
    fresh = fresh_agent(folder.config, envs, SB3VecEnv(envs, load_run(run).mask))
    values = dict(fresh.policy.named_parameters())
    with torch.no_grad():
        for name, parameter in saved.policy.named_parameters():
            if part_of(name) == part:
                parameter.copy_(values[name])
    save_agent(saved, run)
    assert failure(run, POLICY).startswith(f"the {part} in ")


def test_an_evaluation_of_another_policy_is_caught(run_with_log):
    """Its log is true, but of a policy that is not the saved one."""
    other = {"trained": "random_feature", "random_feature": "trained"}
    edit(run_with_log, lambda tokens: tokens.assign(arm=tokens["arm"].replace(other)))
    assert "of 4 trained episodes of interventions.parquet, by policy.safetensors, differ when played again" in failure(
        run_with_log, POLICY
    )


def test_a_reward_that_does_not_reach_the_agent_is_caught(run, monkeypatch):
    sound = SB3VecEnv.step_wait

    def lossy(self):
        obs, rewards, ended, infos = sound(self)
        return obs, np.where(ended, 0, rewards).astype(np.float32), ended, infos

    monkeypatch.setattr(SB3VecEnv, "step_wait", lossy)
    assert " earned " in failure(run, REWARDS)


def test_returns_that_are_not_the_tasks_are_caught(run):
    rewrite(run, lambda row: {**row, "return": 0.0 if row["episode"] == 7 else row["return"]})
    assert failure(run, REWARDS).startswith("1 of ")


def test_the_task_says_what_an_episode_is_paid(tiny, tmp_path):
    """GSM8K can pay the steps of a wrong answer: the check computes that again from the logged replies."""
    kwargs = {**tiny, "reward": "steps", "max_new_tokens": 4, "coefficient_unit": "residual", "coefficient": 1.0}
    config = {"total_timesteps": 64, "num_envs": 8, "mask": "off", "wandb": "disabled", "runs_dir": tmp_path}
    short = {"n_steps": 8, "policy_kwargs": {}}
    run = train(
        TrainConfig(name="steps", env="Steer-GSM8K-v0", algo="ppo", env_kwargs=kwargs, algo_kwargs=short, **config)
    )
    task = GSM8K(reward="steps")

    def half_right(row):
        steps, _, _ = task.reference(row["item"]).partition("####")
        changed = {"completion": f"{steps}#### 123456", "score": 0.0, "return": 0.5}
        return {**row, **changed} if row["episode"] % 2 else row

    rewrite(run, half_right)
    assert check_run(run, 4).checks[REWARDS].verdict == "passed"
    rewrite(run, lambda row: {**row, "return": row["score"]})
    assert "are not what gsm8k pays" in check_run(run, 4).checks[REWARDS].line


def test_returns_that_are_all_the_same_are_caught(run):
    rewrite(run, lambda row: row if row["outcome"] == "loss" and row["optimal_moves"] == 0 else None)
    log = run / "episodes.jsonl"
    log.write_text(log.read_text() * 10)
    assert failure(run, REWARDS).endswith("episodes of episodes.jsonl returned -1.0 (expected different ones)")
    rows = iter(range(10_000))
    rewrite(run, lambda row: row if next(rows) < 9 else None)
    few = check_run(run, 4).checks[REWARDS]
    assert few.verdict == "not checked", "nine games may all be lost"
    assert few.line.startswith("all 9 episodes")


def test_changed_weights_are_caught(run_with_log, tiny):
    result = json.loads((run_with_log / "evaluation.json").read_text())
    write_json(run_with_log / "evaluation.json", {**result, "weights_sha256_after": "0" * 64})
    assert failure(run_with_log, WEIGHTS).endswith("another in evaluation.json, after")
    write_json(run_with_log / "evaluation.json", result)
    weight = next(load_language_model(tiny["model"]).parameters())
    before = weight.detach().clone()
    try:
        weight[0, 0] += 1e-6
        line = failure(run_with_log, WEIGHTS)
    finally:
        weight.copy_(before)
    assert "another in config.json; evaluation.json, before; evaluation.json, after" in line
