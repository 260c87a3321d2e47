"""Arms that answer without steering: each beside a count made by hand from the items themselves."""

import gymnasium as gym
import numpy as np
import pytest

from agents.compare import answers
from agents.compare.arms import arm_results
from agents.compare.bench import Bench
from agents.runs.config import Trainings
from agents.runs.trainings import train_all
from steer_env.evaluation.linear_probe import read_off
from steer_env.tasks import TASKS

FEW = {"features": list(range(6))}


def bench_of(env, folder, items, **settings):
    cfg = Trainings(
        env=env,
        name="answers",
        total_timesteps=32,
        env_kwargs=FEW | settings,
        algo_kwargs={"n_steps": 2},
        mask="off",
        num_envs=16,
        runs_dir=folder,
    )
    runs = train_all([cfg.training(str(seed), seed, cfg.folder) for seed in range(1)], jobs=1)
    return Bench(runs=runs, items=items, num_envs=16)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return bench_of("Steer-BBQ-v0", tmp_path_factory.mktemp("bbq"), 60)


@pytest.fixture(scope="module")
def arms(bench):
    assert answers.are_few(bench)
    return {name: arm(bench) for name, arm in answers.ANSWERED.items()}


def test_the_read_off_is_the_probe_that_is_reported_beside_it(bench, arms):
    train, test = (gym.make_vec("Steer-BBQ-v0", num_envs=16, split=split) for split in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(train.unwrapped.task))[:2_000].tolist()
    found = read_off(train, test, (order, bench.drawn), seed=0)
    assert arms["linear_read_off"].played[0].score == found.accuracy
    assert arms["linear_read_off"].about == {"ridges": [found.ridge]}


def test_the_best_constant_is_the_commonest_letter_of_train(bench, arms):
    tasks = {split: TASKS["bbq"](split=split) for split in ("train", "test")}
    train = [tasks["train"].reference(item).strip() for item in range(len(tasks["train"]))]
    letter = max(sorted(set(train)), key=train.count)
    test = [tasks["test"].reference(item).strip() for item in bench.drawn]
    (played,) = arms["best_constant"].played
    assert arms["best_constant"].about == {"answers": [letter]}
    assert played.score == np.mean([target == letter for target in test])
    assert [episode["score"] for episode in played.episodes] == [target == letter for target in test]


def test_chance_names_each_option_alike(arms):
    assert len(arms["chance"].played) == answers.GUESSES
    named = [episode["answer"] for played in arms["chance"].played for episode in played.episodes]
    assert set(named) == set("ABC")
    assert np.mean([played.score for played in arms["chance"].played]) == pytest.approx(1 / 3, abs=0.06)


def test_they_stand_in_the_table_like_any_other_arm(bench, arms):
    played = {"unsteered": bench.arm("unsteered", [lambda obs, lanes: np.full(lanes.envs.num_envs, 6)]), **arms}
    results = arm_results(bench, played)
    for name in answers.ANSWERED:
        row = results[name]
        assert row.n == 60
        assert row.p_holm is not None
        assert (row.tokens, row.distinct_features, row.idle) == (0, 0, 1.0)
        assert row.summary["accuracy"] == pytest.approx(row.score)
        assert {"ambiguous_bias", "disambiguated_accuracy"} <= set(row.summary)


def test_outcomes_that_are_called_by_the_answer_are(tmp_path):
    bench = bench_of("Steer-XSTest-v0", tmp_path, 20, max_new_tokens=4)
    assert answers.are_few(bench)
    (played,) = answers.linear_read_off(bench).played
    for episode in played.episodes:
        assert episode["outcome"] == episode["answer"]
        assert episode["score"] == (episode["answer"] == episode["target"])
        assert episode["coherence"] == 1.0
    summary = bench.parts.task.summary(played.episodes)
    assert summary["unsafe_full_refusal"] + summary["unsafe_full_compliance"] == 1


@pytest.mark.parametrize("env", ["Steer-GSM8K-v0", "Steer-TicTacToe-v0"])
def test_where_right_answers_are_many_or_none_there_are_no_such_arms(env, tmp_path):
    assert not answers.are_few(bench_of(env, tmp_path, 20))
