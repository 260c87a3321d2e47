"""An evaluation from a run folder to its files, checked against the token log it writes and against tampering."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sae_lens import SAE

from agents.compare import arms, bench
from agents.compare.arms import beside_train
from agents.compare.results import Evaluation
from agents.compare.summary import over_seeds
from agents.policies import policy_of
from agents.runs import loading
from agents.runs.config import parse_settings
from agents.runs.folder import RunFolder, write_json
from agents.runs.loading import load_run, load_trained, make_envs
from agents.runs.steering import require_same_steering
from agents.runs.training import TrainConfig
from agents.runs.training import main as train
from experiments.evaluate import EvaluateConfig, main
from experiments.summary import SummaryConfig
from experiments.summary import main as summarise
from steer_env.evaluation import controls
from steer_env.evaluation.play import Played, play
from steer_env.evaluation.statistics import mcnemar, over_runs, wilson
from steer_env.evaluation.token_log import COLUMNS

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
            env_kwargs=tiny | parse_settings(GAME),
            algo_kwargs={"n_steps": 16, "net_arch": [8]},
            wandb="disabled",
            runs_dir=tmp_path_factory.mktemp("runs"),
        )
    )


@pytest.fixture
def config(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    return EvaluateConfig(run=tmp_path / "a", items=60, num_envs=8, search_games=(4, 8))


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluated") / "a"
    shutil.copytree(trained, run)
    main(EvaluateConfig(run=run, items=60, num_envs=8, search_games=(4, 8)))
    return run


def steered_coefficient(tokens):
    (coefficient,) = set(tokens.loc[tokens["feature"] >= 0, "coefficient"])
    return coefficient


def test_train_and_test_stand_side_by_side(evaluated):
    """Oracle: the single environment plays the same train items with the same agent."""
    result = json.loads((evaluated / "evaluation.json").read_text())
    arm = result["arms"]["trained"]
    run = RunFolder.open(evaluated)
    envs = make_envs(run.config, "train", 1)
    model, mask = load_trained(run, envs)
    mask.frozen = True
    scores, courses = [], set()
    for item in np.random.default_rng(0).permutation(100_000)[:60].tolist():
        obs, _ = envs.reset(seed=0, options={"items": [item]})
        ended = False
        while not ended:
            seen = {"obs": obs, "mask": np.packbits(mask.legal(envs.unwrapped.action_masks()), axis=1)}
            obs, _, (ended,), _, infos = envs.step(model.predict(seen, deterministic=True)[0])
        scores.append(infos["final_info"]["score"][0])
        courses.add(infos["final_info"]["moves"][0])
    assert (arm["train_score"], arm["train_n"]) == (pytest.approx(np.mean(scores)), 60)
    tokens = pd.read_parquet(evaluated / "interventions.parquet", filters=[("arm", "==", "trained")])
    played = play(make_envs(run.config, "test", 1), policy_of(model, mask), tokens["item"].unique().tolist(), 0)
    assert arm["seen_in_train"] == pytest.approx(np.mean([each["moves"] in courses for each in played.episodes]))
    said = load_run(evaluated).evaluation().train_and_test()
    assert f"{arm['train_score']:.3f} on 60 items of train, {arm['score']:.3f} on 60 of test" in said


def test_what_was_seen_in_train_goes_by_moves_or_else_by_transcripts():
    def played(*episodes):
        return Played([{"score": 1.0, **episode} for episode in episodes], {})

    on_train = played({"transcript": "a"}, {"transcript": "b"}, {"transcript": "a"})
    arm = played({"transcript": "a"}, {"transcript": "c"}, {"transcript": "a"}, {"transcript": "d"})
    assert beside_train(arm, on_train) == {"train_score": 1.0, "train_n": 3, "seen_in_train": 0.5}
    moves = played({"transcript": "[5] 1", "moves": "51"}), played({"transcript": "5 [1]", "moves": "51"})
    assert beside_train(*moves)["seen_in_train"] == 1.0


def test_the_search_and_the_evaluation_on_train_play_other_items(config, monkeypatch):
    searched, evaluated = [], []

    def spy(seen):
        def watched(envs, policy, items, *args, **kwargs):
            seen.append(list(items))
            return play(envs, policy, items, *args, **kwargs)

        return watched

    monkeypatch.setattr(controls, "play", spy(searched))
    monkeypatch.setattr(arms, "play", spy(evaluated))
    monkeypatch.setattr(bench, "play", spy(evaluated))
    main(replace(config, split="train", compare=False))
    assert len({tuple(items) for items in evaluated}) == 1, "every arm plays the same"
    assert not set(searched[-1]) & set(evaluated[0])
    result = json.loads((config.run / "evaluation-0-train.json").read_text())
    assert result["arms"]["trained"]["train_score"] == result["arms"]["trained"]["score"]
    assert result["arms"]["trained"]["seen_in_train"] == 1.0


def test_a_run_trained_with_sampled_decoding_is_evaluated_with_it(config):
    saved = RunFolder.open(config.run).config
    write_json(config.run / "config.json", {**saved, "env_kwargs": {**saved["env_kwargs"], "temperature": 1}})
    assert main(replace(config, compare=False)).temperature == 1.0
    own = json.loads((config.run / "evaluation.json").read_text())
    greedy = main(replace(config, temperature=0.0, compare=False))
    assert json.loads((config.run / "evaluation.json").read_text()) == own
    assert json.loads((config.run / "evaluation-0-test.json").read_text())["temperature"] == 0.0
    assert greedy.arms["unsteered"].distinct_completions <= own["arms"]["unsteered"]["distinct_completions"]


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
        # One token is one turn, and a completion its turns a line.
        assert arm["distinct_completions"] == own.groupby("episode")["token_text"].agg("\n".join).nunique()
        assert arm["wall_s"] > 0
        assert arm["summary"]["win"] + arm["summary"]["draw"] == pytest.approx(arm["score"])
        assert sum(arm["summary"].values()) == pytest.approx(1)
        assert not own.duplicated(["episode", "step"]).any()
    for name in ARMS[:-1]:
        test = result["tests"][f"trained_vs_{name}"]
        gained = int(((scores["trained"] == 1) & (scores[name] == 0)).sum())
        lost = int(((scores["trained"] == 0) & (scores[name] == 1)).sum())
        assert (test["corrected"], test["broken"]) == (gained, lost)
        assert test["p_mcnemar"] == pytest.approx(mcnemar(gained, lost))
        assert test["p_holm"] >= test["p_mcnemar"]
    assert len(result["tests"]) == 5
    assert result["data"] == {"data": "generated", "split": "test", "items": 10_000}
    assert result["weights_sha256_before"] == result["weights_sha256_after"]
    assert result["seeds"] == {"train": 0, "evaluation": 0, "search": 0}
    assert (result["benchmark"], result["split"], result["temperature"]) == (False, "test", 0.0)
    saved = json.loads((evaluated / "config.json").read_text())
    assert {name: result[name] for name in ("env_kwargs", "mask", "algo")} == {
        name: saved[name] for name in ("env_kwargs", "mask", "algo")
    }
    assert result["coefficient"] == saved["steering"]["coefficient"]
    assert result["coefficient"] == pytest.approx(steered_coefficient(tokens))
    assert result["best_fixed"]["feature"] in set(tokens[tokens["arm"] == "best_fixed"]["feature"])


def test_the_log_has_every_column_and_shows_that_steering_was_applied(evaluated):
    tokens = pd.read_parquet(evaluated / "interventions.parquet")
    assert list(tokens.columns) == list(COLUMNS)
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
    assert tokens["strengths"].isna().all()
    assert (tokens.loc[tokens["changed"], "kl"] > 0).all()
    np.testing.assert_allclose(unsteered["kl"], 0, atol=1e-5)


def test_the_log_describes_its_columns_and_its_rewards_are_the_returns(evaluated):
    schema = pq.read_schema(evaluated / "interventions.parquet")
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == {
        name: text for name, (_, text) in COLUMNS.items()
    }
    tokens = pd.read_parquet(evaluated / "interventions.parquet")
    returns = tokens.groupby(["arm", "episode"])["reward"].sum()
    scores = tokens.groupby(["arm", "episode"])["score"].first()
    assert returns.nunique() > 1
    assert ((returns > 0) == (scores > 0.5)).all(), "a draw pays, a loss does not"


def test_duckdb_reads_the_log(evaluated):
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(
        f"select arm, avg(kl), max(top_activations[1]) from '{evaluated}/interventions.parquet' group by 1"
    )
    assert {arm for arm, *_ in rows.fetchall()} == set(ARMS)


def test_the_same_evaluation_again_gives_the_same_and_another_is_kept_apart(evaluated):
    cfg = EvaluateConfig(run=evaluated, items=60, num_envs=8, search_games=(4, 8))
    before = json.loads((evaluated / "evaluation.json").read_text())
    again = main(cfg)
    for name, arm in before["arms"].items():
        assert again.arms[name].score == arm["score"]
    with pytest.raises(FileExistsError, match="episodes 60, not 61"):
        main(replace(cfg, items=61))
    main(replace(cfg, items=20, temperature=0.5, split="validation", compare=False))
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
            mask="off",
            num_envs=4,
            env_kwargs=tiny | parse_settings([*GAME, "k=3"]),
            algo_kwargs={"n_steps": 16},
            wandb="disabled",
            runs_dir=tmp_path,
        )
    )
    result = main(EvaluateConfig(run=run, items=12, num_envs=4, search_games=(2, 4)))
    assert list(result.arms) == [*ARMS[:-1], "random_strengths", "trained"]
    tokens = pd.read_parquet(run / "interventions.parquet")
    assert list(tokens.columns) == list(COLUMNS)
    assert tokens["strengths"].map(len).eq(3).all()
    assert not np.stack(tokens.loc[tokens["arm"] == "unsteered", "strengths"]).any()
    assert np.stack(tokens.loc[tokens["arm"] == "trained", "strengths"]).all()


def test_an_agent_that_was_not_really_loaded_is_caught(config, monkeypatch):
    run = RunFolder.open(config.run)
    envs = make_envs(run.config, "test", 2)
    load_trained(run, envs)  # the real one passes
    monkeypatch.setattr(loading, "fill", lambda model, saved: None)
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


def saes(folder, tiny):
    """An SAE with other directions, and one with the same directions that reads them with twice the gain."""
    sae = SAE.load_from_disk(tiny["sae"], device="cpu")
    with torch.no_grad():
        sae.W_enc.mul_(2)
        sae.save_model(folder / "encoder")
        sae.W_enc.div_(2)
        sae.W_dec.neg_()
        sae.save_model(folder / "directions")


@pytest.mark.filterwarnings("ignore:SAE .* was trained at")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficient": 2.1}, r"coefficient was \S+, is \S+"),
        ({"layer": 0}, "layer was 1, is 0"),
        ({"site": "pre"}, "site was post, is pre"),
        ({"features": list(range(23, -1, -1))}, "features_sha256 was"),
        ({"sae": "directions"}, "sae_sha256 was"),
        ({"sae": "encoder"}, "encoder_means was"),
    ],
)
def test_actions_that_mean_something_else_than_in_training_are_refused(config, tiny, tmp_path, change, message):
    saved = RunFolder.open(config.run).config
    kwargs = {**saved["env_kwargs"], **change}
    if "sae" in change:
        saes(tmp_path, tiny)
        kwargs["sae"] = str(tmp_path / change["sae"])
    if {"layer", "site"} & set(change):  # the residual norm is another there: keep the coefficient
        kwargs |= {"coefficient": saved["steering"]["coefficient"], "coefficient_unit": "residual"}
    write_json(config.run / "config.json", {**saved, "env_kwargs": kwargs})
    with pytest.raises(RuntimeError, match=f"not mean what they meant in training: {message}"):
        main(config)
    assert not (config.run / "evaluation.json").exists()


def test_the_coefficient_may_differ_by_the_noise_of_a_device(config):
    run = RunFolder.open(config.run)
    envs = make_envs(run.config, "test", 2)
    steering = run.config["steering"]
    for factor, fits in ((1 + 5e-5, True), (1 + 5e-4, False)):
        other = {**run.config, "steering": {**steering, "coefficient": steering["coefficient"] * factor}}
        with nullcontext() if fits else pytest.raises(RuntimeError, match="coefficient was"):
            require_same_steering(other, envs, "a")


def test_a_run_without_a_record_of_its_actions_is_said_to_be_unchecked(config):
    run = RunFolder.open(config.run)
    old = {name: value for name, value in run.config.items() if name != "steering"}
    with pytest.warns(UserWarning, match="no record of what its actions mean"):
        require_same_steering(old, make_envs(run.config, "test", 2), "a")


@pytest.mark.parametrize("items", [0, 10_001])
def test_more_items_than_there_are_is_refused(config, items):
    with pytest.raises(ValueError, match=rf"\[1, 10000\].*got {items}"):
        main(replace(config, items=items))


def test_an_unfinished_run_is_refused(config):
    (config.run / "policy.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="training has not finished"):
        main(config)


def test_the_summary_over_runs(evaluated, tmp_path, capsys):
    first = json.loads((evaluated / "evaluation.json").read_text())
    second = json.loads(json.dumps(first))
    second["arms"]["trained"]["score"] = first["arms"]["trained"]["score"] / 2
    second["tests"]["trained_vs_unsteered"]["p_holm"] = 0.9
    for name, content in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "evaluation.json", content)
    runs = tmp_path / "a", tmp_path / "b"
    arms = over_seeds([Evaluation.read(run / "evaluation.json") for run in runs])
    score = first["arms"]["trained"]["score"]
    assert arms["trained"].mean == pytest.approx(0.75 * score)
    assert arms["trained"].scores == [score, score / 2]
    assert arms["trained"].ci95 == over_runs([score, score / 2], 60)
    assert arms["unsteered"].worst_p_holm == max(0.9, first["tests"]["trained_vs_unsteered"]["p_holm"])
    table = summarise(SummaryConfig(runs))
    assert f"| trained | {0.75 * score:.3f} | {score / 2:.3f} | {score:.3f} |" in table
    assert table in capsys.readouterr().out
    for change, message in (
        ({"temperature": 1.0}, r"temperature is 0\.0 and 1\.0"),
        ({"seed": 1}, "seed is 0 and 1"),
        ({"env_kwargs": {"side": "X"}}, r"env_kwargs is .* and \{'side': 'X'\}"),
        ({"mask": "off"}, "mask is adaptive and off"),
        ({"algo": "a2c"}, "algo is ppo and a2c"),
        ({"data": {**first["data"], "sha256": "0"}}, "data is"),
        ({"coefficient": first["coefficient"] * 1.001}, "coefficient is"),
    ):
        write_json(tmp_path / "b" / "evaluation.json", {**second, **change})
        with pytest.raises(ValueError, match=f"cannot be summarised together: {message}"):
            summarise(SummaryConfig(runs))
    write_json(tmp_path / "b" / "evaluation.json", {**second, "coefficient": first["coefficient"] * 1.00001})
    summarise(SummaryConfig(runs))
    del second["coefficient"]
    write_json(tmp_path / "b" / "evaluation.json", second)
    with pytest.raises(ValueError, match="coefficient: Field required"):
        summarise(SummaryConfig(runs))
    with pytest.raises(FileNotFoundError, match="steer evaluate --run"):
        summarise(SummaryConfig((tmp_path / "c",)))
