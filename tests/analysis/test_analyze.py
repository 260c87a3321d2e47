"""The analysis of a small run against its token log, its parts against hand-made cases, and what it refuses."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agents.analysis.critic import GROUPS, Search, critic_record, failure_record, returns_to_go
from agents.analysis.evaluated_run import EvaluatedRun
from agents.analysis.feature_meanings import Meanings, examples, logged_meanings
from agents.analysis.features import Effects, diversity, feature_record, planted_conditions, planted_record
from agents.analysis.results import BranchPoints, Critic, Example, Features, Impact
from agents.runs.config import parse_settings
from agents.runs.folder import RunFolder, write_json
from agents.runs.loading import load_trained, make_envs
from agents.runs.training import TrainConfig
from agents.runs.training import main as train
from experiments.analyze import AnalyzeConfig, main
from experiments.evaluate import EvaluateConfig
from experiments.evaluate import main as evaluate

GAME = ("opponent=random", "illegal=random_move", "coefficient=2")
EPISODES = 40


def make_run(tiny, folder, algo="ppo", env="Steer-TicTacToe-v0", mask="off", extra=()):
    run = train(
        TrainConfig(
            name=algo,
            env=env,
            algo=algo,
            mask=mask,
            total_timesteps=256,
            num_envs=8,
            env_kwargs=tiny | parse_settings([*GAME, *extra]),
            algo_kwargs={"n_steps": 16} if "ppo" in algo else {"learning_starts": 16, "gradient_steps": 1},
            wandb="disabled",
            runs_dir=folder,
        )
    )
    evaluate(EvaluateConfig(run=run, items=EPISODES, num_envs=8, search_games=(2, 4)))
    return run


@pytest.fixture(scope="module")
def evaluated(tiny, tmp_path_factory):
    return make_run(tiny, tmp_path_factory.mktemp("runs"), mask="generation", extra=("shaping=0.25",))


def plain(found):
    """The contents of the files by name."""
    return {name: record.to_dict() for name, record in found.files.items()}


@pytest.fixture(scope="module")
def config(evaluated):
    return AnalyzeConfig(run=evaluated, num_envs=32, search_plays=480)


@pytest.fixture(scope="module")
def records(config):
    return plain(main(config))


@pytest.fixture(scope="module")
def tokens(evaluated):
    return pd.read_parquet(evaluated / "interventions.parquet", filters=[("arm", "==", "trained")])


@pytest.fixture
def copy(evaluated, tmp_path):
    """The evaluated run, not analysed, that a test may spoil."""
    run = shutil.copytree(evaluated, tmp_path / "ppo")
    for path in run.glob("branch_points*.json"):
        path.unlink()
    return run


def test_the_files_hold_what_is_returned_and_say_what_they_are_of(records, evaluated):
    kinds = {"critic": Critic, "features": Features, "branch_points": BranchPoints}
    assert list(records) == list(kinds)
    for name, record in records.items():
        on_disk = json.loads((evaluated / f"{name}.json").read_text())
        assert list(on_disk) == ["version", *record]
        read = kinds[name].read(evaluated / f"{name}.json").to_dict()
        assert json.loads(json.dumps(read)) == json.loads(json.dumps(record))
        assert (on_disk["run"], on_disk["evaluation"], on_disk["episodes_analysed"]) == (
            "ppo",
            "evaluation.json",
            EPISODES,
        )
        assert on_disk["benchmark"] is False


def test_branch_points_add_up_and_are_told_with_their_episodes(records, tokens):
    record = records["branch_points"]
    log = tokens.set_index(["episode", "step"])
    flips = dict.fromkeys(record["arms"], 0)
    for point in record["branch_points"]:
        row = log.loc[(point["episode"], point["step"])]
        assert (point["feature"], point["token_text"]) == (row["feature"], row["token_text"])
        assert any(each["flips"] for each in point["alternatives"])
        own = record["episodes"][point["episode"]]
        for each in point["alternatives"]:
            flips[each["arm"]] += each["flips"]
            assert each["flips"] == ((each["score"] > 0.5) != (row["score"] > 0.5))
            assert each["feature"] != point["feature"]
            assert (each["label"] is None) == (each["feature"] < 0)
            if each["flips"]:
                assert each["completion"] != own["completion"]
                before = "\n".join(log.loc[point["episode"]]["token_text"].iloc[: point["step"]])
                assert each["completion"].startswith(before), "all before the branch is as it was"
                assert each["info"]["moves"] != own["info"]["moves"]
    assert sum(flips.values()) > 0
    assert flips == {arm: row["flips"] for arm, row in record["arms"].items()}
    for row in record["arms"].values():
        assert row["corrected"] + row["broken"] == row["flips"] >= row["branch_points"]
    for place, episode in enumerate(record["episodes"]):
        assert episode["item"] == log.loc[(place, 0)]["item"]
        assert episode["score"] == log.loc[(place, 0)]["score"]
        assert episode["tokens"] == len(log.loc[place])
        assert episode["branch_points"] == sum(point["episode"] == place for point in record["branch_points"])
    assert sum(episode["branch_points"] for episode in record["episodes"]) == len(record["branch_points"])
    assert record["not_reproduced"] == []
    low, high = record["random"]["flip_rate"]["ci95"]
    assert low <= record["random"]["flip_rate"]["mean"] <= high
    parts = {name: part for name, part in record["cost"].items() if name != "all"}
    assert set(parts) == {"factual", "branches", "removals_next_best", "removals_no_op", "search"}
    assert 0 < parts["branches"]["prefix_tokens"] < parts["branches"]["tokens"]
    for name in ("episodes_played", "forward_passes", "seconds"):
        assert record["cost"]["all"][name] == pytest.approx(sum(part[name] for part in parts.values()))


def test_next_best_features_are_the_policys_own(records, evaluated, tokens):
    """Oracle: logits of the loaded agent at the first token, worked out by its networks alone."""
    run = RunFolder.open(evaluated)
    envs = make_envs(run.config, "test", 1)
    model, _ = load_trained(run, envs)
    points = [point for point in records["branch_points"]["branch_points"] if point["step"] == 0]
    assert points
    for point in points[:5]:
        item = int(tokens[tokens["episode"] == point["episode"]]["item"].iloc[0])
        obs, _ = envs.reset(seed=0, options={"items": [item]})
        policy = model.policy
        logits = policy.action_net(policy.mlp_extractor.forward_actor(policy.obs_to_tensor({"obs": obs})[0]["obs"]))
        legal = envs.unwrapped.action_masks()[0]
        order = [f for f in np.argsort(-logits.detach().numpy()[0]) if legal[f] and f < 24]
        liked = [each["feature"] for each in point["alternatives"] if each["arm"] == "next_best"]
        assert liked == [f for f in order if f != point["feature"]][:3]


def test_usage_and_gain_follow_from_the_log(records, tokens, evaluated):
    alone = pd.read_parquet(evaluated / "interventions.parquet", filters=[("arm", "==", "unsteered")])
    scores = tokens.groupby("episode")["score"].first()
    unsteered = alone.groupby("episode")["score"].first()
    rows = records["features"]["features"]
    assert {row["feature"] for row in rows} == set(tokens["feature"]) - {-1}
    assert [row["tokens"] for row in rows] == sorted((row["tokens"] for row in rows), reverse=True)
    for row in rows:
        own = tokens[tokens["feature"] == row["feature"]]
        used = scores.index.isin(own["episode"])
        assert (row["tokens"], row["episodes"]) == (len(own), used.sum())
        assert row["score_where_used"] == pytest.approx(scores[used].mean())
        assert row["gain_where_used"] == pytest.approx((scores - unsteered)[used].mean())
        assert row["label"] == own["label"].iloc[0]
        if row["correlation"] is not None:
            assert row["correlation"] == pytest.approx(stats.pearsonr(used, scores).statistic)
        assert len(row["promoted"]) == len(row["suppressed"]) == 8
        assert row["label"].split() == [text.strip() for text in row["promoted"][:5]]
        assert set(row["impact"]) == {"next_best", "no_op"}
        assert (row["kind"] == "silent") == (row["kind_shares"] is None) == (row["activity"] == 0)
        assert row["kind"] in ("digits", "silent"), "a game is all moves"
        assert set(row["information"]) == {"position"}
        assert 0 <= row["reach"] <= 1
        for impact in row["impact"].values():
            assert impact["effect"] == pytest.approx(impact["where_used"] * row["episodes"] / EPISODES)
            assert impact["broken"] - impact["corrected"] == pytest.approx(impact["effect"] * EPISODES)
    spread = records["features"]["diversity"]
    assert (spread["tokens"], spread["choices"], spread["distinct"]) == (len(tokens), 24, len(rows))
    assert spread["no_op"] == pytest.approx((tokens["feature"] < 0).mean())
    assert records["features"]["alone"]["episodes"] == 10
    assert records["features"]["planted"] is None, "nothing is planted in another model"


def test_values_are_held_against_what_the_episodes_paid(records, tokens):
    record = records["critic"]
    assert (record["target"], record["gamma"]) == ("return", 1.0)
    target = [
        tokens[(tokens["episode"] == row.episode) & (tokens["step"] >= row.step)]["reward"].sum()
        for row in tokens.itertuples()
    ]
    error = tokens["value"] - target
    found = record["calibration"]["all_tokens"]
    assert (found["n"], found["bias"]) == (len(tokens), pytest.approx(error.mean()))
    assert found["r2"] == pytest.approx(1 - (error**2).sum() / ((target - np.mean(target)) ** 2).sum())
    assert found["correlation"] == pytest.approx(np.corrcoef(tokens["value"], target)[0, 1])
    assert sum(row["n"] for row in found["table"]) == len(tokens)
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["table"])
    assert sum(group["n"] for group in record["groups"].values()) == EPISODES
    for name, group in record["groups"].items():
        assert sum(row["n"] for row in group["by_step"]) == sum(row["n"] for row in group["by_position"])
        assert all(row["p10"] <= row["p90"] for row in group["by_step"]), name
    wrong = sum(record["groups"][name]["n"] for name in ("misguided", "incorrect"))
    failures = record["failures"]
    assert failures["wrong"] == failures["searches"]["one_token"]["searched"] == wrong > 0
    for search in failures["searches"].values():
        assert search["policy"] + search["critic"] - search["both"] + search["neither"] == search["searched"]
    mended = {
        point["episode"]
        for point in records["branch_points"]["branch_points"]
        if any(each["flips"] and each["score"] > 0.5 for each in point["alternatives"])
    }
    assert failures["searches"]["one_token"]["policy"] == len(mended)


def test_logs_alone_are_enough_for_all_but_the_counterfactuals(copy, config, records):
    settings = RunFolder.open(copy).config
    write_json(copy / "config.json", {**settings, "env_kwargs": {**settings["env_kwargs"], "model": "/gone"}})
    (copy / "policy.safetensors").unlink()
    found = plain(main(replace(config, run=copy, counterfactuals=False)))
    assert list(found) == ["critic", "features"]
    assert not (copy / "branch_points.json").exists()
    assert json.loads(json.dumps(found["critic"])) == {**json.loads(json.dumps(records["critic"])), "failures": None}
    assert found["features"]["diversity"] == records["features"]["diversity"]
    for row, full in zip(found["features"]["features"], records["features"]["features"], strict=True):
        for name in ("feature", "label", "tokens", "episodes", "correlation", "correlation_rank"):
            assert row[name] == full[name]
        assert row["impact"] is row["causal_rank"] is row["promoted"] is None
        assert row["kind"] is row["kind_shares"] is row["activity"] is row["information"] is None
    with pytest.raises(FileExistsError, match=r"branch_points\.json is of an analysis with counterfactuals"):
        main(replace(config, counterfactuals=False))


def test_a_log_from_before_rewards_is_held_against_scores(copy, config):
    tokens = pd.read_parquet(copy / "interventions.parquet").drop(columns=["reward", "kl"])
    tokens.to_parquet(copy / "interventions.parquet")
    found = plain(main(replace(config, run=copy, counterfactuals=False)))["critic"]
    assert found["target"] == "score"
    assert found["calibration"]["first_tokens"]["n"] == EPISODES


def test_only_the_first_episodes(copy, config, records):
    found = plain(main(replace(config, run=copy, items=7)))
    assert found["features"]["episodes_analysed"] == len(found["branch_points"]["episodes"]) == 7
    first = [point for point in records["branch_points"]["branch_points"] if point["episode"] < 7]
    assert found["branch_points"]["branch_points"] == first


@pytest.mark.parametrize(("algo", "env"), [("ppo", "AutoSteer-TicTacToe-v0"), ("recurrent_ppo", "Steer-TicTacToe-v0")])
def test_strengths_and_policies_with_a_memory(tiny, tmp_path, algo, env):
    box = env.startswith("Auto")
    run = make_run(tiny, tmp_path, algo, env, extra=("k=3",) if box else ())
    found = plain(main(AnalyzeConfig(run=run, items=10, num_envs=16, search_plays=600)))
    if box:
        assert set(found["branch_points"]["arms"]) == {"no_op", "without_strongest", "random_strengths"}
        points = found["branch_points"]["branch_points"]
        assert all(len(each["strengths"]) == 3 for point in points for each in point["alternatives"])
        rows = found["features"]["features"]
        assert len(rows) == found["features"]["diversity"]["choices"] == 3
        assert all(list(row["impact"]) == ["no_op"] and row["reach"] is not None for row in rows)
    else:
        assert found["critic"]["target"] == "return"


def test_what_cannot_be_analysed_is_refused_by_name(copy, config, tmp_path):
    def refused(error, message, **changes):
        with pytest.raises(error, match=message):
            main(replace(config, run=copy, **changes))

    with pytest.raises(FileNotFoundError, match="is no run folder"):
        main(AnalyzeConfig(run=tmp_path / "nowhere"))
    refused(
        FileNotFoundError,
        r"evaluation-1-test\.json is missing \(.*evaluation\.json\): steer evaluate",
        evaluation="evaluation-1-test.json",
    )
    refused(ValueError, r"--items must be in \[1, 40\].* got 41", items=41)
    for name, value in (("tokens", 0), ("search_plays", -1), ("num_envs", 0), ("next_best", -1)):
        refused(ValueError, f"{name} must be at least .*, got {value}", **{name: value})
    policy = (copy / "policy.safetensors").rename(tmp_path / "policy.safetensors")
    refused(FileNotFoundError, "training has not finished")
    policy.rename(copy / "policy.safetensors")
    log = copy / "interventions.parquet"
    tokens = pd.read_parquet(log)
    tokens.assign(token=tokens["token"].to_numpy()[::-1]).to_parquet(log)
    refused(RuntimeError, r"of 40 episodes of .* differ when played again, first arm trained, item \d+")
    tokens[tokens["arm"] != "unsteered"].to_parquet(log)
    refused(ValueError, "no rows of the unsteered arm")
    log.unlink()
    refused(FileNotFoundError, "the token log of evaluation.json, is missing")
    (copy / "evaluation.json").unlink()
    refused(FileNotFoundError, r"\(evaluations of this run: none\): steer evaluate")


def made_up(scores, unsteered, features, **columns):
    """An evaluation of ``features[episode][step]``."""
    rows = [
        {"episode": e, "item": e + 100, "step": s, "feature": f, "score": scores[e], "reward": 0.0, "value": 0.0}
        for e, own in enumerate(features)
        for s, f in enumerate(own)
    ]
    steered = pd.DataFrame(rows).assign(arm="trained", label="x", token_text="t", **columns)
    steered["top_features"] = [[f, f + 1] for f in steered["feature"]]
    steered["top_activations"] = [[1.0 + i, 0.5] for i in range(len(steered))]
    alone = steered[steered["step"] == 0].assign(arm="unsteered", score=unsteered)
    run = SimpleNamespace(config={"algo": "ppo", "algo_kwargs": {}}, path=Path("run"))
    result = SimpleNamespace(env="x", algo="ppo", split="test", seed=0, temperature=0.0, benchmark=False)
    return EvaluatedRun(run, Path("run/evaluation.json"), result, pd.concat([steered, alone], ignore_index=True))


def test_correlation_and_cause_are_ranked_apart():
    """Feature 1 goes with success and does nothing; feature 2 is in every episode and does everything."""
    evaluated = made_up([1.0, 1.0, 0.0, 0.0], [0.0] * 4, [[1, 2], [1, 2], [2, 3], [2, 3]])
    kept = {1: {0: 1.0, 1: 1.0}, 2: {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}, 3: {2: 1.0, 3: 0.0}}
    effects = Effects([1, 2, 3], {"next_best": kept, "no_op": kept}, np.array([[1, 0], [1, 1], [0, 0]]))
    found = asdict(feature_record(evaluated, 3, logged_meanings(evaluated.steered, "mine"), None, effects))
    rows = {row["feature"]: row for row in found["features"]}
    assert [rows[f]["correlation"] for f in (1, 3)] == pytest.approx([1.0, -1.0])
    assert rows[2]["correlation"] is None, "it is always there"
    assert [rows[f]["effect"] for f in (1, 2, 3)] == pytest.approx([0.0, 0.5, -0.25])
    assert [rows[f]["causal_rank"] for f in (1, 2, 3)] == [2, 1, 3]
    assert [rows[f]["correlation_rank"] for f in (1, 2, 3)] == [1, None, 2]
    impact = rows[2]["impact"]["next_best"]
    assert (impact["broken"], impact["corrected"], impact["p"]) == (2, 0, 0.5)
    assert rows[3]["impact"]["next_best"]["corrected"] == 1
    assert found["ranks"]["n"] == 2
    assert [rows[f]["reach_rank"] for f in (1, 2, 3)] == [2, 1, 3]
    assert found["alone"] == {
        **{"episodes": 2, "unsteered": 0.0, "trained": 1.0, "oracle": 1.0},
        "solvers": pytest.approx({"p10": 1.1, "median": 1.5, "p90": 1.9}),
    }
    assert rows[1]["label_source"] == "mine"


def test_ranks_agree_where_they_do():
    evaluated = made_up([1.0, 1.0, 0.0, 0.0], [0.0] * 4, [[1, 2], [1, 4], [2, 3], [3, 4]])
    kept = {1: {0: 0.0, 1: 0.0}, 2: {0: 1.0, 2: 0.0}, 3: {2: 1.0, 3: 1.0}, 4: {1: 1.0, 3: 0.0}}
    found = asdict(
        feature_record(evaluated, 4, Meanings({}, {}), None, Effects([1], {"next_best": kept}, np.zeros((1, 0))))
    )
    assert found["ranks"]["spearman"] == pytest.approx(1.0)
    assert found["alone"] is None


def test_diversity_has_its_closed_forms():
    even = vars(diversity(np.array([3, 1, 0, 2, -1, -1, -1, -1]), 4))
    assert even == {
        **{"tokens": 8, "no_op": 0.5, "choices": 4, "distinct": 4},
        **{"entropy": pytest.approx(np.log(4)), "effective": pytest.approx(4), "gini": pytest.approx(0)},
    }
    one = vars(diversity(np.array([7, 7, 7]), 10))
    assert (one["distinct"], one["entropy"], one["effective"]) == (1, 0.0, 1.0)
    assert one["gini"] == pytest.approx(0.9)
    assert diversity(np.array([0, 0, 0, 1]), 2).gini == pytest.approx(0.25)
    nothing = vars(diversity(np.array([-1]), 5))
    assert (nothing["distinct"], nothing["effective"], nothing["gini"]) == (0, 0.0, 0.0)


def test_examples_are_the_strongest_token_of_each_episode():
    tokens = pd.DataFrame(
        {
            "episode": [0, 0, 0, 1],
            "item": [5, 5, 5, 6],
            "step": [0, 1, 2, 0],
            "token_text": ["a", "b", "c", "d"],
            "top_features": [[1, 2], [1, 2], [2, 1], [1, 9]],
            "top_activations": [[3.0, 1.0], [4.0, 1.0], [5.0, 0.0], [2.0, 1.0]],
        }
    )
    assert examples(tokens, [1, 2, 8], {6: "asked"}) == {
        1: [Example(4.0, 0, 5, 1, "a", "b", None), Example(2.0, 1, 6, 0, "", "d", "asked")],
        2: [Example(5.0, 0, 5, 2, "ab", "c", None)],
    }
    assert len(examples(tokens, [1], {}, count=1)[1]) == 1


def test_rewards_are_summed_within_their_episode():
    rows = pd.DataFrame({"episode": [0, 0, 0, 1, 1], "reward": [1.0, 0.0, 2.0, 4.0, 8.0]})
    np.testing.assert_allclose(returns_to_go(rows, 1.0), [3, 2, 2, 12, 8])
    np.testing.assert_allclose(returns_to_go(rows, 0.5), [1.5, 1, 2, 8, 8])


def test_episodes_are_grouped_by_what_steering_did_to_them():
    scores, alone = [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]
    evaluated = made_up(scores, alone, [[1], [1, 1], [1], [1, 1, 1]])
    evaluated.steered["value"] = [0.9, 0.2, 0.8, 0.3, 0.1, 0.0, 0.0]
    evaluated.steered["reward"] = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    record = asdict(critic_record(evaluated))
    assert list(record["groups"]) == list(GROUPS) == ["correct", "corrected", "misguided", "incorrect"]
    courses = {
        name: [(row["at"], row["mean"]) for row in group["by_position"]] for name, group in record["groups"].items()
    }
    assert courses["correct"] == [(0.0, pytest.approx(0.9))]
    assert courses["corrected"] == [(0.0, pytest.approx(0.2)), (1.0, pytest.approx(0.8))]
    assert [at for at, _ in courses["incorrect"]] == pytest.approx([0, 4 / 9, 1])
    assert record["separation"]["first"] == {"right_from_wrong": 0.75, "corrected_from_misguided": 0.0}
    assert record["separation"]["last"] == {"right_from_wrong": 1.0, "corrected_from_misguided": 1.0}
    assert record["calibration"]["first_tokens"]["mae"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.1) / 4)


def test_without_values_only_the_failures_are_left():
    evaluated = made_up([1.0, 0.0], [0.0, 0.0], [[1], [1]])
    evaluated.steered["value"] = np.nan
    record = critic_record(evaluated, {"one_token": Search([1], [1])})
    assert record.target is record.gamma is record.failures.searches["one_token"].critic is None
    assert record.groups == record.calibration == record.separation == {}
    assert record.failures.searches["one_token"].policy == 1


def test_failures_are_the_policys_the_critics_both_or_neithers():
    """Episodes 2 to 5 are wrong; a better choice is known for 2 and 3, the critic expects success in 3 and 4."""
    episodes = pd.DataFrame({"score": [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]})
    values = pd.DataFrame({"episode": range(6), "value": [1, 1, 0.4, 0.6, 0.9, 0.0], "target": [1, 1, 0, 0, 0, 0]})
    searches = {"all": Search([2, 3, 4, 5], [2, 3]), "few": Search([4, 5], []), "none": Search([], [])}
    record = asdict(failure_record(episodes, values, searches))
    assert (record["wrong"], record["gap"]) == (4, 1.0)
    assert record["searches"] == {
        "all": {"searched": 4, "policy": 2, "critic": 2, "both": 1, "neither": 1},
        "few": {"searched": 2, "policy": 0, "critic": 1, "both": 0, "neither": 1},
        "none": {"searched": 0, "policy": 0, "critic": 0, "both": 0, "neither": 0},
    }
    for unknown in (failure_record(episodes, None, searches), failure_record(episodes * 0, values, searches)):
        assert unknown.gap is unknown.searches["all"].critic is None
        assert unknown.searches["all"].policy == 2


def test_precision_and_recall_of_planted_features():
    def row(feature, rank, effect, broken, corrected, p):
        impact = {"next_best": Impact(effect, effect, (0.0, 1.0), broken, corrected, p)}
        return {"feature": feature, "tokens": 9, "causal_rank": rank, "effect": effect, "impact": impact}

    rows = [
        row(1, 1, 0.3, 9, 1, 0.02),
        row(2, 2, 0.2, 9, 4, 0.3),
        row(3, 4, -0.1, 0, 9, 0.001),
        row(4, 3, 0.1, 8, 0, 0.01),
    ]
    conditions = [{"cue": "@a", "feature": 1}, {"cue": "@b", "feature": 7}, {"cue": "@c", "feature": 2}]
    record = planted_record(rows, conditions, {7: {"reach": 0.5, "reach_rank": 2}})
    assert record["used"] == {"n": 4, "precision": 0.5, "recall": pytest.approx(2 / 3), "features": [1, 2, 3, 4]}
    assert record["relied_next_best"] == {
        **{"n": 2, "precision": 0.5, "recall": pytest.approx(1 / 3), "features": [1, 4]},
    }
    assert record["first"]["features"] == [1, 2, 4]
    assert record["conditions"][1] == {
        **{"cue": "@b", "feature": 7, "tokens": 0, "causal_rank": None, "reach": 0.5, "reach_rank": 2},
    }
    assert planted_record([], conditions, {})["used"] == {"n": 0, "precision": None, "recall": 0.0, "features": []}


def test_conditions_are_read_from_the_embedded_models_card():
    config = {"env": "Steer-MMLU-v0", "env_kwargs": {"temperature": 1.0}}
    rows = planted_conditions(config)
    assert rows
    assert all("mmlu" in row["tasks"] and row["cue"] for row in rows)
    for other in ({"sae": "x"}, {"model": "x"}, {"preset": "gpt2"}):
        assert planted_conditions({**config, "env_kwargs": other}) is None
    assert planted_conditions({"env": "Steer-TicTacToe-v0", "env_kwargs": {}}) is None, "nothing is planted there"
