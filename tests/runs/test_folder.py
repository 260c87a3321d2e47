"""The run folder: nothing is overwritten, and logs and checkpoints agree to the byte."""

import json

import numpy as np
import pytest

from agents.runs.folder import LOGS, RunFolder, to_json


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "runs" / "a", {"seed": 3})


@pytest.fixture
def logs(run):
    opened = {name: run.log(name) for name in LOGS}
    yield opened
    for log in opened.values():
        log.close()


def checkpoint(run, logs, at):
    return run.save_checkpoint({"num_timesteps": at}, logs, lambda folder: (folder / "model.zip").write_text(str(at)))


def test_an_existing_folder_is_refused_by_name_with_the_way_out(run):
    with pytest.raises(FileExistsError, match=r"runs/a exists.*--resume"):
        RunFolder.create(run.path, {})
    assert RunFolder.open(run.path).config == {"seed": 3}


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        RunFolder.open(tmp_path)


def test_rows_reach_the_file_before_write_returns(run):
    log = run.log("metrics")
    log.write({"a": np.float32(0.5), "b": np.array([1, 2]), "c": float("nan"), "d": np.int64(4)})
    assert list(run.rows("metrics")) == [{"a": 0.5, "b": [1, 2], "c": None, "d": 4}]
    assert log.length == run.log_path("metrics").stat().st_size
    log.close()


def test_what_json_cannot_hold_raises_instead_of_being_lost():
    with pytest.raises(TypeError):
        to_json({"a": object()})


def test_rewind_cuts_the_logs_to_the_newest_checkpoint_half_lines_included(run, logs):
    for step in range(4):
        logs["episodes"].write({"episode": step})
        logs["metrics"].write({"num_timesteps": step})
        if step < 3:
            checkpoint(run, logs, step)
    for log in logs.values():
        log.close()
    with run.log_path("episodes").open("a") as file:
        file.write('{"episode": 4, "sco')  # killed in the middle of a line
    newest = run.rewind()
    assert newest is not None
    assert newest.counters == {"num_timesteps": 2}
    assert (newest.path / "model.zip").read_text() == "2"
    assert [row["episode"] for row in run.rows("episodes")] == [0, 1, 2]
    assert [row["num_timesteps"] for row in run.rows("metrics")] == [0, 1, 2]
    log = run.log("episodes")
    log.write({"episode": 3})
    log.close()
    assert [row["episode"] for row in run.rows("episodes")] == [0, 1, 2, 3]


def test_the_newest_two_checkpoints_are_kept(run, logs):
    for step in (5, 40, 300, 2000):
        checkpoint(run, logs, step)
    assert [int(path.name) for path in run.checkpoints()] == [300, 2000]


def test_a_checkpoint_that_was_not_finished_does_not_count(run, logs):
    checkpoint(run, logs, 1)

    def die(folder):
        (folder / "model.zip").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.save_checkpoint({"num_timesteps": 2}, logs, die)
    assert run.rewind().counters == {"num_timesteps": 1}
    checkpoint(run, logs, 2)
    assert run.rewind().counters == {"num_timesteps": 2}


def test_without_a_checkpoint_a_run_starts_over_with_empty_logs(run):
    log = run.log("metrics")
    log.write({"num_timesteps": 1})
    log.close()
    assert run.rewind() is None
    assert list(run.rows("metrics")) == []


def test_a_log_shorter_than_its_checkpoint_is_refused(run, logs):
    logs["metrics"].write({"num_timesteps": 1})
    checkpoint(run, logs, 1)
    run.log_path("metrics").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl has 0 bytes"):
        run.rewind()


def test_config_is_plain_json(run):
    assert json.loads((run.path / "config.json").read_text()) == {"seed": 3}
