"""Lanes in Ray workers are the lanes of one process, and a worker that dies costs nothing."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from agents import train
from agents.runs.config import TrainConfig
from agents.runs.trainings import train_all
from agents.vec_env import SB3VecEnv
from agents.workers import WorkerLostError, WorkersVectorEnv
from steer_env.evaluation.masks import ScopeMask

ray = pytest.importorskip("ray", reason="needs Ray")
pytestmark = pytest.mark.slow
SMALL = {"env": "Steer-BBQ-v0", "num_envs": 4, "mask": "off", "wandb": "disabled", "total_timesteps": 192}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def make(lanes: int, **kwargs) -> gym.vector.VectorEnv:
    return gym.make_vec("Steer-BBQ-v0", num_envs=lanes, **kwargs)


def test_lanes_are_those_of_one_process():
    alone = make(4, mask="current")
    shared = WorkersVectorEnv(partial(make, mask="current"), 4, 2, masked=True)
    rng = np.random.default_rng(0)
    try:
        ours, theirs = shared.reset(seed=5), alone.reset(seed=5)
        for _ in range(6):
            np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
            np.testing.assert_array_equal(shared.action_masks(), alone.unwrapped.action_masks())
            infos = ours[-1]
            np.testing.assert_array_equal(infos["item"], theirs[-1]["item"])
            actions = rng.integers(alone.single_action_space.n, size=4)
            ours, theirs = shared.step(actions), alone.step(actions)
            for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
                np.testing.assert_array_equal(mine, other)
            for name in ("score", "completion", "item"):
                assert ours[-1]["final_info"][name].tolist() == theirs[-1]["final_info"][name].tolist()
    finally:
        shared.close()


def test_a_learner_is_told_of_ends_and_of_legal_actions():
    vec_env = SB3VecEnv(WorkersVectorEnv(make, 4, 2, masked=True), ScopeMask(257))
    seen = vec_env.reset()
    assert seen["mask"].shape == (4, 33)
    _, _, ended, infos = vec_env.step(np.zeros(4, dtype=np.int64))
    assert ended.all()
    assert [info["score"] for info in infos] == [info["episode"]["r"] for info in infos]
    vec_env.close()


def rows(path: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (path / f"{name}.jsonl").read_text().splitlines()]


def told(path: Path) -> list[tuple]:
    return [(row["episode"], row["lane"], row["item"], row["num_timesteps"]) for row in rows(path, "episodes")]


def test_a_training_with_workers_plays_what_it_plays_without(tmp_path):
    alone = train(name="alone", runs_dir=tmp_path, **SMALL)
    shared = train(name="shared", runs_dir=tmp_path, workers=2, **SMALL)
    assert told(shared.path) == told(alone.path)
    assert shared.play(5).scores.tolist() == alone.play(5).scores.tolist()


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost_or_doubled(tmp_path, monkeypatch):
    more = {**SMALL, "total_timesteps": 640, "checkpoint_every": 128, "workers": 2}
    plain = train(name="plain", runs_dir=tmp_path, **{**more, "workers": 1})
    steps, step = iter(range(10_000)), WorkersVectorEnv.step

    def dying(self: WorkersVectorEnv, actions: np.ndarray) -> tuple:
        if next(steps) == 90:
            ray.kill(self._workers[1])
        return step(self, actions)

    monkeypatch.setattr(WorkersVectorEnv, "step", dying)
    with pytest.warns(UserWarning, match=r"a worker died.*goes on from its newest checkpoint"):
        hit = train(name="hit", runs_dir=tmp_path, **more)
    assert told(hit.path) == told(plain.path)
    assert next(steps) > 160, "steps since the checkpoint were played again"


def test_a_worker_that_always_dies_ends_the_run(tmp_path, monkeypatch):
    def dying(self: WorkersVectorEnv, actions: np.ndarray) -> tuple:
        raise WorkerLostError("a worker died: on purpose")

    monkeypatch.setattr(WorkersVectorEnv, "step", dying)
    with pytest.warns(UserWarning, match="on purpose"), pytest.raises(WorkerLostError, match="on purpose"):
        train(name="hopeless", runs_dir=tmp_path, workers=2, **SMALL)


def test_what_workers_cannot_do_is_refused(tmp_path):
    with pytest.raises(ValueError, match="workers must divide num_envs=4, got 3"):
        train(name="odd", runs_dir=tmp_path, workers=3, **SMALL)
    assert not (tmp_path / "odd").exists()
    shared = WorkersVectorEnv(make, 2, 2, masked=False)
    with pytest.raises(ValueError, match="items cannot be pinned"):
        shared.reset(options={"items": [1]})
    with pytest.raises(ValueError, match="one seed for all lanes"):
        shared.reset(seed=[1, 2])
    for worker in shared._workers:
        ray.kill(worker)
    with pytest.raises(WorkerLostError, match="a worker died"):
        shared.reset(seed=0)


def test_trainings_on_a_cluster_are_those_of_this_process(tmp_path):
    def trainings(folder: Path) -> list[TrainConfig]:
        return [TrainConfig(name=f"seed-{seed}", seed=seed, runs_dir=folder, **SMALL) for seed in range(2)]

    here = train_all(trainings(tmp_path / "here"), jobs=1)
    there = train_all(trainings(tmp_path / "there"), jobs=1, on="ray")
    assert [path.name for path in there] == ["seed-0", "seed-1"]
    assert [told(path) for path in there] == [told(path) for path in here]
    with pytest.raises(ValueError, match="no setting 'learning_rat'"):
        train_all([TrainConfig(name="bad", runs_dir=tmp_path, algo_kwargs={"learning_rat": 1}, **SMALL)], 1, on="ray")


def test_more_workers_than_cores_share_them():
    """Each of them would otherwise wait for a core of its own, for ever."""
    workers = int(ray.cluster_resources()["CPU"]) + 1
    shared = WorkersVectorEnv(make, workers, workers, masked=False)
    try:
        seen, _ = shared.reset(seed=0)
        assert len(seen) == workers
    finally:
        shared.close()
