"""An evaluation from a run folder to its files, checked against the token log it writes and against tampering."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from stable_baselines3 import PPO

from experiments import summary
from experiments.assembly import load_trained, make_envs
from experiments.evaluate import EvaluateConfig, main
from experiments.run_folder import RunFolder, write_json
from experiments.statistics import mcnemar, wilson
from experiments.train import TrainConfig
from experiments.train import main as train

GAME = ("opponent=random", "illegal=random_move", "coefficient=2")
ARMS = ["unsteered", "random_feature", "random_in_mask", "most_active", "best_fixed", "trained"]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return train(
        TrainConfig(
            name="a",
            total_timesteps=512,
            num_envs=8,
            mask="adaptive",
            env_kwargs=(*(f"{name}={json.dumps(value)}" for name, value in tiny.items()), *GAME),
            algo_kwargs=("n_steps=16", "net_arch=[8]"),
            wandb="disabled",
            runs_dir=tmp_path_factory.mktemp("runs"),
        )
    )


@pytest.fixture
def config(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    return EvaluateConfig(run=tmp_path / "a", episodes=60, num_envs=8, search_games=(4, 8))


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluated") / "a"
    shutil.copytree(trained, run)
    main(EvaluateConfig(run=run, episodes=60, num_envs=8, search_games=(4, 8)))
    return run


def test_the_numbers_follow_from_the_token_log(evaluated):
    result = json.loads((evaluated / "evaluation.json").read_text())
    tokens = pd.read_parquet(evaluated / "interventions.parquet")
    assert list(result["arms"]) == ARMS
    scores = tokens.groupby(["arm", "episode"])["score"].first().unstack(0)
    items = tokens.groupby(["arm", "episode"])["item"].first().unstack(0)
    assert len(scores) == 60
    assert items["trained"].nunique() == 60
    assert 0 < scores.to_numpy().mean() < 1  # or nothing here is tested
    for name, arm in result["arms"].items():
        own = tokens[tokens["arm"] == name]
        pd.testing.assert_series_equal(items[name], items["trained"], check_names=False)
        assert arm["n"] == 60
        assert arm["score"] == pytest.approx(scores[name].mean())
        assert arm["ci95"] == pytest.approx(wilson(int(scores[name].sum()), 60))
        assert arm["corrected"] == int(((scores[name] == 1) & (scores["unsteered"] == 0)).sum())
        assert arm["broken"] == int(((scores[name] == 0) & (scores["unsteered"] == 1)).sum())
        assert arm["distinct_features"] == own.loc[own["feature"] >= 0, "feature"].nunique()
        assert arm["tokens"] == len(own)
        assert arm["wall_s"] > 0
        assert not own.duplicated(["episode", "step"]).any()
    for name in ARMS[:-1]:
        test = result["tests"][f"trained_vs_{name}"]
        gained = int(((scores["trained"] == 1) & (scores[name] == 0)).sum())
        lost = int(((scores["trained"] == 0) & (scores[name] == 1)).sum())
        assert (test["corrected"], test["broken"]) == (gained, lost)
        assert test["p_mcnemar"] == pytest.approx(mcnemar(gained, lost))
        assert test["p_holm"] >= test["p_mcnemar"]
    assert len(result["tests"]) == 5
    assert result["weights_sha256_before"] == result["weights_sha256_after"]
    assert result["seeds"] == {"train": 0, "evaluation": 0, "search": 0}
    assert (result["benchmark"], result["split"], result["temperature"]) == (False, "test", 0.0)
    assert result["best_fixed"]["feature"] in set(tokens[tokens["arm"] == "best_fixed"]["feature"])


def test_the_log_has_every_column_and_shows_that_steering_was_applied(evaluated):
    tokens = pd.read_parquet(evaluated / "interventions.parquet")
    assert list(tokens.columns) == [
        *("run", "arm", "episode", "item", "step", "token", "token_text", "feature", "coefficient"),
        *("log_prob", "value", "entropy", "label", "unsteered_token"),
        *("unsteered_token_text", "changed"),
        *("top_features", "top_activations", "score"),
    ]
    assert set(tokens["run"]) == {"a"}
    unsteered, steered = tokens[tokens["arm"] == "unsteered"], tokens[tokens["arm"] == "random_feature"]
    assert (unsteered["feature"] == -1).all()
    assert unsteered["label"].isna().all()
    assert not unsteered["changed"].any()
    assert steered["changed"].any()
    assert steered["label"].str.fullmatch("[1-9]( [1-9]){4}").all()
    own = tokens[tokens["arm"] == "trained"]
    assert (own["log_prob"] <= 0).all()
    assert own[["value", "entropy"]].notna().all(axis=None)
    assert unsteered[["log_prob", "value", "entropy"]].isna().all(axis=None)
    assert tokens["top_features"].map(len).eq(5).all()


def test_the_same_evaluation_again_gives_the_same_and_another_is_kept_apart(evaluated):
    cfg = EvaluateConfig(run=evaluated, episodes=60, num_envs=8, search_games=(4, 8))
    before = json.loads((evaluated / "evaluation.json").read_text())
    again = main(cfg)
    for name, arm in before["arms"].items():
        assert again["arms"][name]["score"] == arm["score"]
    with pytest.raises(FileExistsError, match="episodes 60, not 61"):
        main(replace(cfg, episodes=61))
    main(replace(cfg, episodes=20, temperature=0.5, split="validation", compare=False))
    assert (evaluated / "evaluation-0.5-validation.json").is_file()
    tokens = pd.read_parquet(evaluated / "interventions-0.5-validation.parquet")
    assert tokens["changed"].isna().all()
    assert json.loads((evaluated / "evaluation.json").read_text())["episodes"] == 60


def test_strengths_are_evaluated_with_their_own_controls(tiny, tmp_path):
    run = train(
        TrainConfig(
            name="auto",
            env="AutoSteer-TicTacToe-v0",
            total_timesteps=128,
            num_envs=4,
            env_kwargs=(*(f"{name}={json.dumps(value)}" for name, value in tiny.items()), *GAME, "k=3"),
            algo_kwargs=("n_steps=16",),
            wandb="disabled",
            runs_dir=tmp_path,
        )
    )
    result = main(EvaluateConfig(run=run, episodes=12, num_envs=4, search_games=(2, 4)))
    assert list(result["arms"]) == [*ARMS[:-1], "random_strengths", "trained"]
    tokens = pd.read_parquet(run / "interventions.parquet")
    assert tokens["strengths"].map(len).eq(3).all()
    assert not np.stack(tokens.loc[tokens["arm"] == "unsteered", "strengths"]).any()
    assert np.stack(tokens.loc[tokens["arm"] == "trained", "strengths"]).all()


def test_an_agent_that_was_not_really_loaded_is_caught(config, monkeypatch):
    run = RunFolder.open(config.run)
    envs = make_envs(run.config, "test", 2)
    load_trained(run, envs)  # the real one passes
    fresh = PPO.load(config.run / "policy.zip")
    with torch.no_grad():
        next(fresh.policy.parameters()).add_(1e-3)
    monkeypatch.setattr(PPO, "load", classmethod(lambda cls, path, **_: fresh))
    with pytest.raises(RuntimeError, match="does not hold the parameters"):
        load_trained(run, envs)


def test_the_mask_comes_back_as_training_left_it(config):
    run = RunFolder.open(config.run)
    _, mask = load_trained(run, make_envs(run.config, "test", 2))
    with np.load(config.run / "mask.npz") as saved:
        assert saved["clock"] == 64
        for name, value in mask.state_dict().items():
            np.testing.assert_array_equal(value, saved[name])


def test_another_language_model_is_refused(config):
    saved = RunFolder.open(config.run).config
    write_json(config.run / "config.json", {**saved, "weights_sha256": "0" * 64})
    with pytest.raises(RuntimeError, match="not the one"):
        main(config)


@pytest.mark.parametrize("episodes", [0, 10_001])
def test_more_items_than_there_are_is_refused(config, episodes):
    with pytest.raises(ValueError, match=rf"\[1, 10000\].*got {episodes}"):
        main(replace(config, episodes=episodes))


def test_an_unfinished_run_is_refused(config):
    (config.run / "policy.zip").unlink()
    with pytest.raises(FileNotFoundError, match="training has not finished"):
        main(config)


def test_the_summary_over_runs(evaluated, tmp_path):
    first = json.loads((evaluated / "evaluation.json").read_text())
    second = json.loads(json.dumps(first))
    second["arms"]["trained"]["score"] = first["arms"]["trained"]["score"] / 2
    second["tests"]["trained_vs_unsteered"]["p_holm"] = 0.9
    for name, content in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "evaluation.json", content)
    arms = summary.main(summary.SummaryConfig(runs=(tmp_path / "a", tmp_path / "b")))
    score = first["arms"]["trained"]["score"]
    assert arms["trained"]["mean"] == pytest.approx(0.75 * score)
    assert (arms["trained"]["min"], arms["trained"]["max"]) == (score / 2, score)
    assert arms["unsteered"]["worst_p_holm"] == max(0.9, first["tests"]["trained_vs_unsteered"]["p_holm"])
    write_json(tmp_path / "b" / "evaluation.json", {**second, "temperature": 1.0})
    with pytest.raises(ValueError, match=r"temperature is 0\.0 and 1\.0"):
        summary.main(summary.SummaryConfig(runs=(tmp_path / "a", tmp_path / "b")))
    with pytest.raises(FileNotFoundError, match=r"experiments\.evaluate --run"):
        summary.main(summary.SummaryConfig(runs=(tmp_path / "c",)))
