"""Agents where the prompt is worded otherwise: the same items, the same actions, another read-out."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from agents.compare import transfer as library
from agents.compare.bench import Bench
from agents.compare.results import Transfer
from agents.compare.transfer import CHANGES, changes_of
from agents.runs.config import Trainings
from agents.runs.trainings import train_all
from experiments.transfer import TransferConfig, main
from steer_env.evaluation.play import play
from steer_env.tasks import TASKS

FEW = {"features": list(range(0, 256, 8)), "coefficient": 1.0, "coefficient_unit": "norm"}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    trainings = Trainings(
        env="Steer-BBQ-v0",
        name="bbq",
        seeds=2,
        total_timesteps=64,
        mask="off",
        env_kwargs=FEW,
        algo_kwargs={"n_steps": 2},
        num_envs=16,
        runs_dir=folder,
    )
    runs = train_all([trainings.training(f"seed-{seed}", seed, trainings.folder) for seed in range(2)], jobs=1)
    changes = ("123", "reordered", "words")
    return TransferConfig(run=tuple(runs), name="moved", changes=changes, items=24, num_envs=16, runs_dir=folder)


@pytest.fixture(scope="module")
def result(cfg):
    return main(cfg)


def test_every_arm_plays_the_same_items_under_every_change(cfg, result):
    assert list(result.changes) == ["home", "123", "reordered", "words"]
    for name, change in result.changes.items():
        assert change.env_kwargs == CHANGES.get(name, {})
        assert list(change.arms) == ["unsteered", "best_fixed", "corrsteer", "trained"]
        assert list(change.gains) == ["best_fixed", "corrsteer", "trained"]
        assert {arm.n for arm in change.arms.values()} == {24}
        for arm, gain in change.gains.items():
            row = change.arms[arm]
            assert gain.mean == pytest.approx(row.score - change.arms["unsteered"].score)
            assert (row.corrected - row.broken) / 24 == pytest.approx(gain.mean)
        assert len(change.gains["trained"].by_seed) == 2
    assert result.runs == ["seed-0", "seed-1"]


def test_the_unsteered_model_is_asked_otherwise(cfg, result):
    """Oracle: the environment made with the change by hand."""
    drawn = Bench(runs=cfg.run, items=24, num_envs=16).drawn
    for name, change in result.changes.items():
        envs = gym.make_vec("Steer-BBQ-v0", num_envs=16, split="test", **CHANGES.get(name, {}))
        idle = np.full(16, envs.single_action_space.n - 1)
        played = play(envs, lambda obs, lanes, idle=idle: idle, drawn, seed=0)
        assert change.arms["unsteered"].score == played.score
        assert change.arms["unsteered"].summary == TASKS["bbq"](split="test").summary(played.episodes)


def test_agents_see_and_do_what_they_did(cfg):
    """In words the prompt is the same, so that the agent chooses the same features; only what is compared differs."""
    bench = Bench(runs=cfg.run, items=24, num_envs=16)
    strengths = set()
    chosen = {}
    for name in ("home", "words", "123"):
        change = {**library.same_actions(bench, 0), **CHANGES.get(name, {})}
        strengths.add(bench.envs(compare=True, **change).unwrapped.coefficient)
        played, _ = bench.play(name, bench.agents[0], 0, **change)
        chosen[name] = played.tokens["feature"].tolist()
    assert strengths == {bench.configs[0]["steering"]["coefficient"]}
    assert chosen["words"] == chosen["home"]


def test_another_strength_than_in_training_is_refused(cfg, monkeypatch):
    bench = Bench(runs=cfg.run, items=4, num_envs=4)
    monkeypatch.setattr(library, "same_actions", lambda bench, seed: {"coefficient": 3.0, "coefficient_unit": "norm"})
    with pytest.raises(RuntimeError, match="actions do not mean what they meant in training: coefficient"):
        library.play_change(bench, "home", {})


def test_what_is_written_is_what_came_out_and_is_not_done_twice(cfg, result, capsys, monkeypatch):
    assert Transfer.read(cfg.folder / "transfer.json") == result
    table = (cfg.folder / "transfer.md").read_text()
    gain = result.changes["words"].gains["trained"]
    assert f"{gain.mean:+.3f}" in table.split("| trained |")[1].splitlines()[0]
    assert (cfg.folder / "transfer.png").stat().st_size > 5_000
    with pytest.raises(FileExistsError, match="moved"):
        main(cfg)
    with pytest.raises(ValueError, match=r"items was 24 when .* was begun, got 25"):
        main(replace(cfg, resume=True, items=25))
    monkeypatch.setattr("agents.compare.bench.play", None)  # nothing plays again
    again = main(replace(cfg, resume=True))
    assert again.changes == result.changes
    assert json.loads((cfg.folder / "settings.json").read_text())["items"] == 24


def test_the_changes_are_those_that_the_task_knows_and_that_are_news():
    bbq = TASKS["bbq"](split="test")
    assert list(changes_of(bbq, {})) == ["123", "PQR", "reordered", "words", "free"]
    home = {"letters": "mixed", "decode": "free"}
    assert list(changes_of(bbq, home)) == ["ABC", "123", "PQR", "reordered", "words"]
    with pytest.raises(ValueError, match=r"changes must be among ABC, .*, got 'roman'"):
        changes_of(bbq, {}, ("123", "roman"))
    with pytest.raises(ValueError, match="task 'xstest' has none of the changes"):
        changes_of(TASKS["xstest"](split="test"), {})
