"""Several trainings at once: each as asked for, in the order asked for, and none that outlives who asked."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from agents.runs.config import Trainings
from agents.runs.folder import RunFolder
from agents.runs.trainings import train_all

TINY = {"env": "Steer-TicTacToe-v0", "name": "tiny", "num_envs": 4, "algo_kwargs": {"n_steps": 4}}

# Starts two trainings that would take hours, tells the processes, and waits to be killed.
ENDLESS = """
import multiprocessing, sys, threading, time
from pathlib import Path
from agents.runs.config import Trainings
from agents.runs.trainings import train_all
cfg = Trainings(env="Steer-TicTacToe-v0", name="endless", total_timesteps=10**9, runs_dir=Path(sys.argv[1]))
two = [cfg.training(str(seed), seed, cfg.folder) for seed in range(2)]
threading.Thread(target=train_all, args=(two, 2), daemon=True).start()
while not all((cfg.folder / str(seed) / "metrics.jsonl").exists() for seed in range(2)):
    time.sleep(0.1)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


def test_a_training_has_the_common_settings_and_its_own(tmp_path):
    cfg = Trainings(
        **TINY,
        total_timesteps=96,
        mask="current",
        env_kwargs={"k": 3},
        runs_dir=tmp_path,
    )
    training = cfg.training("b", 5, cfg.folder, {"epsilon": 0.2})
    assert (training.name, training.seed, training.runs_dir) == ("b", 5, tmp_path / "tiny")
    assert (training.mask, training.num_envs, training.total_timesteps) == ("current", 4, 96)
    assert training.env_kwargs == {"k": 3, "epsilon": 0.2}
    assert training.checkpoint_every == 9, "a kill costs a tenth"


@pytest.mark.parametrize("name", ["seeds", "total_timesteps", "num_envs", "jobs"])
def test_a_number_out_of_range_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Trainings(**(TINY | {name: 0}))


def test_a_later_setting_takes_the_place_of_an_earlier_one():
    cfg = Trainings(**TINY, env_kwargs={"features": [1, 2, 3], "epsilon": 0.1})
    assert cfg.choosing_among([2]).env_kwargs == {"features": [2], "epsilon": 0.1}
    assert cfg.choosing_among(None) is cfg


def test_a_training_that_was_killed_is_finished_and_a_finished_one_is_left(tmp_path):
    cfg = Trainings(**TINY, total_timesteps=96, mask="off", runs_dir=tmp_path)
    (whole,) = train_all([cfg.training("a", 0, cfg.folder)], jobs=1)
    rows = len(list(RunFolder.open(whole).rows("metrics")))
    (whole / "policy.safetensors").unlink()
    last = RunFolder.open(whole).checkpoints()[-1]
    shutil.rmtree(last)  # as if killed before it
    assert train_all([cfg.training("a", 0, cfg.folder)], jobs=1) == [whole]
    assert len(list(RunFolder.open(whole).rows("metrics"))) == rows, "no row is lost, none doubled"
    before = (whole / "policy.safetensors").stat().st_mtime_ns
    train_all([cfg.training("a", 0, cfg.folder)], jobs=1)
    assert (whole / "policy.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="seed was 0 when run 'a' was started, got 1"):
        train_all([cfg.training("a", 1, cfg.folder)], jobs=1)
    (cfg.folder / "b").mkdir()  # killed before there was a record
    assert (train_all([cfg.training("b", 1, cfg.folder)], jobs=1)[0] / "policy.safetensors").is_file()


@pytest.mark.slow
def test_trainings_at_once_are_those_one_after_the_other(tmp_path):
    cfg = Trainings(**TINY, total_timesteps=64, mask="off", runs_dir=tmp_path)
    alone = train_all([cfg.training(f"alone-{seed}", seed, cfg.folder) for seed in range(2)], jobs=1)
    at_once = train_all([cfg.training(f"at-once-{seed}", seed, cfg.folder) for seed in range(2)], jobs=2)
    assert [path.name for path in at_once] == ["at-once-0", "at-once-1"]
    for one, other in zip(alone, at_once, strict=True):
        scores = [[row["score"] for row in RunFolder.open(path).rows("episodes")] for path in (one, other)]
        assert scores[0] == scores[1]
        assert scores[0]


@pytest.mark.slow
def test_no_training_outlives_a_killed_parent(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in workers if _runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
