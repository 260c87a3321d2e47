"""wandb for real, offline: what was logged is read back from the files it wrote."""

import base64
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from wandb.proto import wandb_internal_pb2 as pb

from agents.analysis import analyze
from agents.analysis.evaluated_run import EvaluatedRun
from agents.analysis.results import BranchPoints, Critic, Features
from agents.runs import training as train
from agents.runs.config import TrainConfig
from agents.runs.tracking import Tracker, usable_mode
from experiments.report import ReportConfig
from experiments.report import main as report
from tests.report.test_report import branch_points, critic, features, full_run

ANALYSES = {"critic": Critic, "features": Features, "branch_points": BranchPoints}


def records(path):
    """Records of a ``.wandb`` file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768  # the rest of a block too short for a header
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            return  # still being written
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = pb.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def finished_records(path, seconds=30):
    """All records; wandb's service may still be writing when ``finish`` returns."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = list(records(path))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} has no exit record after {seconds} s")


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def test_an_offline_run_holds_metrics_config_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    folder = tmp_path / "first"
    folder.mkdir()
    tracker = Tracker("offline", folder, {"algo": "ppo", "env_kwargs": {"side": "O"}}, "first-1")
    tracker.write({"num_timesteps": 64, "score": 0.25, "return": None}, step=64)
    tracker.write({"num_timesteps": 128, "score": 0.75}, step=128)
    tracker.table("evaluation", [{"arm": "trained", "score": 0.75}, {"arm": "unsteered", "ci95": [0, 1]}])
    tracker.finish()
    tracker.finish()

    assert not (tmp_path / "elsewhere").exists()
    (log,) = folder.glob("wandb/offline-run-*-first-1/*.wandb")
    found = finished_records(log)
    (run,) = (record.run for record in found if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["algo"] == "ppo"
    assert config["env_kwargs"] == {"side": "O"}
    assert (run.run_id, run.display_name, run.project) == ("first-1", "first", "steer")
    rows = logged(log)
    scores = [(row["_step"], row["score"]) for row in rows if "score" in row]
    assert scores == [(64, 0.25), (128, 0.75)]
    assert "return" not in rows[0]
    (table,) = log.parent.glob("files/media/table/evaluation_*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["arm", "score", "ci95"]
    assert content["data"] == [["trained", 0.75, None], ["unsteered", None, "[0, 1]"]]


def logged(path):
    """Steps and values of every history row of a ``.wandb`` file."""
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in finished_records(path)
        if record.HasField("history")
    ]


def test_training_that_is_stopped_and_resumed_is_mirrored_row_by_row(tiny, tmp_path, monkeypatch):
    config = TrainConfig(
        name="a",
        total_timesteps=256,
        num_envs=4,
        mask="off",
        env_kwargs=tiny,
        algo_kwargs={"n_steps": 16, "n_epochs": 1, "net_arch": [8]},
        wandb="offline",
        runs_dir=tmp_path,
    )
    write, seen = train.EpisodeLog._on_step, []

    def interrupt(log):
        seen.append(log.num_timesteps)
        if len(seen) == 34:
            os.kill(os.getpid(), signal.SIGINT)
        return write(log)

    monkeypatch.setattr(train.EpisodeLog, "_on_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.main(config)
    path = train.main(replace(config, resume=True))
    files = sorted(path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "both are the same run"
    mirrored = [row for file in files for row in logged(file) if "score" in row]
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["_step"] for row in mirrored] == [row["num_timesteps"] for row in metrics]
    assert metrics[-1]["num_timesteps"] >= 256
    for mirror, row in zip(mirrored, metrics, strict=True):
        assert mirror["score"] == pytest.approx(row["score"])
    assert any(name.startswith("last_episodes") for row in logged(files[-1]) for name in row)


def test_an_analysis_is_mirrored_as_tables_images_and_one_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    run = full_run(tmp_path / "told", wandb="offline", wandb_id="told-1")
    records = {"branch_points": branch_points(), "critic": critic(), "features": features()}
    found = (kind.read(run.path / f"{name}.json") for name, kind in ANALYSES.items())
    analyze._mirror(EvaluatedRun.open(run.path), analyze.Analyses(*found))
    page = report(ReportConfig(run.path))
    logs = sorted(run.path.glob("wandb/offline-run-*-told-1/*.wandb"))
    names = {name for log in logs for row in logged(log) for name in row}

    tables = {}
    for path in run.path.glob("wandb/offline-run-*/files/media/table/*.table.json"):
        content = json.loads(path.read_text())
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        tables[path.name.rsplit("_", 2)[0]] = rows
    assert set(tables) == {
        "features",
        "branch_points",
        "critic_groups",
        "critic_values",
        "critic_calibration",
        "critic_failures",
    }
    assert [row["feature"] for row in tables["features"]] == [7, 8, 9]
    assert tables["features"][0]["label"] == records["features"]["features"][0]["label"]
    counts = records["branch_points"]["arms"]["no_op"]
    assert tables["branch_points"] == [{"arm": arm, **counts} for arm in ("no_op", "next_best")]
    assert [row["group"] for row in tables["critic_groups"]] == ["correct", "corrected", "misguided", "incorrect"]
    assert tables["critic_values"][1] == {
        "group": "correct",
        **records["critic"]["groups"]["correct"]["by_position"][1],
    }
    assert [row["target"] for row in tables["critic_calibration"]] == [0.0, 0.5]
    assert tables["critic_failures"] == [
        {"search": "one_token", "searched": 4, "policy": 3, "critic": 0, "both": 0, "neither": 1}
    ]

    figures = {path.stem: path.read_bytes() for path in (run.path / "figures").iterdir()}
    assert set(figures) == {"learning_curve", "scores", "critic_values", "calibration"}
    for name, content in figures.items():
        (image,) = run.path.glob(f"wandb/offline-run-*/files/media/images/figures/{name}_*.png")
        assert image.read_bytes() == content
        assert any(shown.startswith(f"figures/{name}") for shown in names)

    # wandb makes an artifact of each table too.
    logged_ones = [record.artifact for log in logs for record in finished_records(log) if record.HasField("artifact")]
    (artifact,) = (found for found in logged_ones if found.type == "analysis")
    assert artifact.name == "analysis-told-1"
    kept = {entry.path: entry for entry in artifact.manifest.contents}
    files = [page, *(run.path / f"{name}.json" for name in ("evaluation", *records))]
    assert set(kept) == {path.name for path in files}
    for path in files:
        digest = base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()
        assert (kept[path.name].digest, kept[path.name].size) == (digest, path.stat().st_size)


def test_disabled_writes_nothing(tmp_path):
    tracker = Tracker("disabled", tmp_path, {}, "x")
    tracker.write({"score": 1.0})
    tracker.table("t", [{"a": 1}])
    tracker.image("i", tmp_path / "no.png")
    tracker.artifact("a", "analysis", [tmp_path / "no.json"])
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_online_without_a_key_falls_back_to_offline_and_says_so(no_key):
    with pytest.warns(UserWarning, match="no wandb key"):
        assert usable_mode("online") == "offline"


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="'sometimes'"):
        usable_mode("sometimes")


def test_importing_starts_no_run_and_no_service(tmp_path):
    code = "import wandb, agents.runs.tracking; assert wandb.run is None; import sys; print(wandb.run)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
