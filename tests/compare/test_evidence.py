"""The evidence protocol: what is chosen where, who plays what, and whether the numbers are those of the episodes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.compare import bench as bench_module
from agents.compare import evidence
from agents.compare.answers import ANSWERED
from agents.compare.arms import ARMS, against_trained, best_fixed, trained
from agents.compare.bench import Arm, Bench
from agents.compare.evidence import bench_of, markdown
from agents.compare.results import Evidence
from experiments.__main__ import load, parse
from experiments.evidence import EvidenceConfig, main
from experiments.summary import SummaryConfig
from experiments.summary import main as summarise
from steer_env.envs.base import unwrap
from steer_env.evaluation.play import Played, play
from steer_env.evaluation.screening import screen_features
from steer_env.evaluation.statistics import mcnemar, wilson

FEATURES = list(range(8))
MANY = list(range(40, 80))


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> EvidenceConfig:
    folder = tmp_path_factory.mktemp("evidence")
    grid = folder / "grid.json"
    grid.write_text('[{"coefficient": 0.5}, {"coefficient": 1.5}]')
    return EvidenceConfig(
        env="Steer-MMLU-v0",
        name="mmlu",
        seeds=2,
        train_items=40,
        total_timesteps=64,
        mask="off",
        tuning_timesteps=64,
        grid=grid,
        env_kwargs={"features": FEATURES},
        algo_kwargs={"n_steps": 4},
        lora_steps=5,
        items=30,
        oracle_items=6,
        num_envs=16,
        jobs=1,
        runs_dir=folder,
    )


@pytest.fixture(scope="module")
def result(cfg) -> Evidence:
    return main(cfg)


@pytest.fixture
def bench(cfg, result) -> Bench:
    runs = [cfg.runs_dir / "mmlu" / f"seed-{seed}" for seed in range(2)]
    return bench_of(cfg, runs, items=30)


def test_every_arm_plays_the_same_items(result):
    # Of all arms there are, those that are for strengths or for free decoding do not fit.
    missing = {"random_strengths", "constrained_only"}
    assert set(ARMS) - set(result.arms) - {"corrsteer, same strength"} == missing
    assert {row.n for row in result.arms.values()} == {30}
    learners = ("best_fixed", "linear_read_off", "best_constant", "trained", "lora")
    seeds = {name: len(result.arms[name].scores) for name in ("unsteered", *learners)}
    assert seeds == {"unsteered": 1, **dict.fromkeys(learners, 2)}
    assert result.arms["trained"].train_n == result.train_items == 40


def test_agents_see_as_they_saw_where_the_model_is_free_to_write(bench):
    """By itself a task of many tokens would be seen in another scale than one of one token."""
    recorded = bench.configs[0]["steering"]["observation"]
    free = unwrap(bench.envs(decode="free"))
    assert free.task.max_new_tokens > 1
    np.testing.assert_array_equal(free.statistics.mean, np.float32(recorded["mean"]))
    np.testing.assert_array_equal(free.statistics.deviation, np.float32(recorded["deviation"]))


def test_the_setting_is_the_one_that_is_best_on_validation(cfg, result):
    assert [row.settings for row in result.tuning] == json.loads(cfg.grid.read_text())
    scores = [row.validation_score for row in result.tuning]
    assert result.chosen == result.tuning[int(np.argmax(scores))].settings
    for seed in range(2):
        config = json.loads((cfg.runs_dir / "mmlu" / f"seed-{seed}" / "config.json").read_text())
        assert config["env_kwargs"] == {**result.chosen, "features": FEATURES, "limit": 40, "limit_seed": seed}
        assert config["seed"] == seed


def test_the_rows_are_those_of_the_episodes(result):
    unsteered = result.arms["unsteered"]
    assert unsteered.ci95 == wilson(round(unsteered.score * 30), 30)
    assert unsteered.p_holm is None
    for name, row in result.arms.items():
        gained = row.corrected - row.broken
        assert gained / 30 == pytest.approx(row.score - unsteered.score), name
        assert row.tokens == 0 if name in ANSWERED else row.tokens >= 30 * len(row.scores)
    assert result.item_oracle.items == 6
    assert result.read_off.topic == "target"
    assert result.arms["linear_read_off"].scores[0] == result.read_off.accuracy
    assert 0.2 < result.read_off.accuracy <= 1, "forty items are enough to read some answers"
    assert f"names the target: {result.read_off.accuracy:.3f}" in markdown(result)


def test_the_features_of_the_best_fixed_arm_are_those_that_it_played(bench):
    arm = best_fixed(bench)
    played = [np.unique(played.tokens["feature"]).tolist() for played in arm.played]
    assert played == [[feature] for feature in arm.about["features"]]
    assert len(played) == 2, "each seed has items of its own"


def test_every_seed_learns_from_items_of_its_own(bench):
    items = [set(bench.dealt_in_train(seed)) for seed in range(2)]
    assert [len(some) for some in items] == [40, 40]
    assert items[0] != items[1]


def test_what_is_written_is_what_came_out(cfg, result):
    folder = cfg.runs_dir / "mmlu"
    assert Evidence.read(folder / "evidence.json") == result
    table = (folder / "evidence.md").read_text()
    for name, row in result.arms.items():
        assert f"| {name} | {row.score:.3f} |" in table
    assert (folder / "evidence.png").stat().st_size > 5_000


def test_nothing_is_overwritten(cfg, result):
    with pytest.raises(FileExistsError, match="mmlu"):
        main(cfg)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"oracle_items": -1}, "oracle_items must be at least 0, got -1"),
        ({"lora_steps": -1}, "lora_steps must be at least 0, got -1"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_made(cfg, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        main(replace(cfg, runs_dir=tmp_path / "new", **wrong))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "[3]"])
def test_a_grid_that_is_none_is_named(cfg, tmp_path, content):
    grid = tmp_path / "grid.json"
    grid.write_text(content)
    with pytest.raises(ValueError, match=r"grid\.json must hold a JSON list of settings"):
        main(replace(cfg, grid=grid, runs_dir=tmp_path / "new"))


def without_seconds(result: Evidence) -> dict:
    arms = {name: replace(row, wall_s=0.0, about={**row.about, "fit_s": 0.0}) for name, row in result.arms.items()}
    return {**vars(result), "arms": arms, "wall_s": 0.0}


def test_a_killed_study_goes_on_and_nothing_is_done_twice(cfg, result, tmp_path, monkeypatch):
    """Oracle: the same study without interruption."""
    again = replace(cfg, runs_dir=tmp_path)
    played, stop = [], 9

    def counted(envs, policy, items, *args, **kwargs):
        if len(played) == stop:
            raise KeyboardInterrupt("killed")
        played.append(list(items))
        return play(envs, policy, items, *args, **kwargs)

    monkeypatch.setattr(bench_module, "play", counted)
    with pytest.raises(KeyboardInterrupt):
        main(again)
    trained = (again.folder / "seed-1" / "policy.safetensors").stat().st_mtime_ns
    assert not (again.folder / "evidence.json").exists()
    with pytest.raises(FileExistsError, match="--resume"):
        main(again)
    with pytest.raises(ValueError, match=r"items was 30 when .* was begun, got 31"):
        main(replace(again, resume=True, items=31))
    stop = -1
    resumed = main(replace(again, resume=True))
    assert without_seconds(resumed) == without_seconds(result)
    assert (again.folder / "seed-1" / "policy.safetensors").stat().st_mtime_ns == trained
    arms = [name for name in result.arms if name not in ANSWERED]
    assert len(played) == sum(len(result.arms[name].scores) for name in arms), "each arm and seed once"


def test_a_study_goes_on_with_the_settings_it_was_begun_with(cfg, result):
    flags = ["--name", cfg.name, "--runs-dir", str(cfg.runs_dir), "--resume"]
    found = parse("evidence", load("evidence"), [*flags, "--env", cfg.env])
    assert found == replace(cfg, resume=True, jobs=found.jobs)
    with pytest.raises(FileNotFoundError, match=r"no study to go on with: .*settings\.json is missing"):
        parse("evidence", load("evidence"), ["--env", cfg.env, "--name", "nothing", "--resume"])


def test_every_seed_chooses_among_what_was_screened_on_its_own_items(cfg, tmp_path):
    small = {"train_items": 6, "env_kwargs": {"features": MANY}, "screen": 5, "runs_dir": tmp_path}
    own = replace(cfg, **small)
    bench = bench_of(own, evidence.train_seeds(evidence.own_settings(own, own.train_items), {}), items=4)
    kept = [config["env_kwargs"]["features"] for config in bench.configs]
    assert kept[0] != kept[1]
    for seed in range(2):
        everything = bench.envs("train", seed, features=MANY)
        assert kept[seed] == screen_features(everything, 5, bench.dealt_in_train(seed), 0)
        assert bench.envs("test", seed).single_action_space.n == 6
        assert bench.envs("test", seed, **bench.every).single_action_space.n == 257
    for seed, played in enumerate(trained(replace(bench, train_items=0)).played):
        used = played.tokens["feature"]
        assert set(used[used >= 0]) <= set(kept[seed])


def test_what_learns_from_all_chooses_among_the_same(cfg, tmp_path):
    plain = replace(cfg, env_kwargs={"features": [3, 5, 9]}, screen=2, runs_dir=tmp_path)
    first, second = evidence.own_settings(plain, None)
    assert first == second
    kept = first.env_kwargs["features"]
    assert len(kept) == 2
    assert set(kept) < {3, 5, 9}


def test_a_grid_of_one_point_trains_nothing(cfg):
    (row,) = evidence.tune(cfg, [{"coefficient": 2.0}], 64)
    assert (row.settings, row.validation_score) == ({"coefficient": 2.0}, None)


def test_the_trained_arm_is_compared_seed_by_seed():
    def played(scores: list[float]) -> Played:
        return Played([{"score": score} for score in scores], {})

    arms = {
        "unsteered": Arm([played([0, 0, 0, 0, 1])], 0.0),
        "lora": Arm([played([1, 1, 1, 1, 1]), played([0, 0, 0, 0, 0])], 0.0),
        "trained": Arm([played([1, 1, 1, 1, 1]), played([1, 1, 1, 1, 0])], 0.0),
    }
    tests = against_trained(arms, seed=0)
    unsteered, lora = tests["trained_vs_unsteered"], tests["trained_vs_lora"]
    assert unsteered.difference == pytest.approx(0.9 - 0.2)
    assert (unsteered.corrected, unsteered.broken) == (4.0, 0.5)
    assert unsteered.p_mcnemar == mcnemar(corrected=4, broken=1)
    assert lora.p_mcnemar == 1.0, "seed 0 against seed 0 is a draw"
    assert unsteered.p_holm >= unsteered.p_mcnemar


def test_the_summary_repeats_the_numbers_of_its_runs(cfg, result, capsys):
    table = summarise(SummaryConfig((cfg.runs_dir / "mmlu",)))
    assert table in capsys.readouterr().out
    header, _, row = (line.strip("| ").split(" | ") for line in table.splitlines())
    cells, arms = dict(zip(header, row, strict=True)), result.arms
    assert cells["environment"] == "`Steer-MMLU-v0`"
    assert cells["**trained**"].startswith(f"**{arms['trained'].score:.3f}** (")
    assert cells["best fixed"] == f"{arms['best_fixed'].score:.3f}"
    assert cells["LoRA"] == f"{arms['lora'].score:.3f}"
    others = [test.p_holm for name, test in result.tests.items() if name != "trained_vs_lora"]
    assert float(cells["p"]) == pytest.approx(max(others), rel=0.5)
    with pytest.raises(FileNotFoundError, match=r"nowhere/evidence\.json is missing: steer evidence"):
        summarise(SummaryConfig((cfg.runs_dir / "mmlu", Path("nowhere"))))
