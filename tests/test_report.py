"""The report of a made-up evaluation: the figure is there, and no text of a model becomes HTML."""

import re

import numpy as np
import pytest

from agents.evaluation import Played
from experiments.interventions import write_interventions
from experiments.report import ReportConfig, main
from experiments.run_folder import RunFolder, write_json

EVIL = "<script>alert('&')</script>"


def played(score, feature):
    n = 24
    tokens = {
        "episode": np.repeat(np.arange(12), 2),
        "item": np.repeat(np.arange(12) + 100, 2),
        "step": np.tile([0, 1], 12),
        "token": np.full(n, 5),
        "token_text": np.array([EVIL, ""] * 12, dtype=object),
        "feature": np.full(n, feature),
        "coefficient": np.full(n, 1.5),
        "log_prob": np.full(n, np.nan),
        "value": np.full(n, np.nan),
        "entropy": np.full(n, np.nan),
        "unsteered_token": np.full(n, 4),
        "unsteered_token_text": np.full(n, "<four>", dtype=object),
        "changed": np.full(n, feature >= 0),
        "top_features": np.zeros((n, 5), dtype=np.int64),
        "top_activations": np.zeros((n, 5), dtype=np.float32),
    }
    return Played([{"score": score}] * 12, tokens)


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "a<b>", {"algo": "ppo", "seed": 1})
    log = run.log("metrics")
    for step in (64, 128):
        log.write({"num_timesteps": step, "score": step / 256})
    log.write({"num_timesteps": 192, "score": None})
    log.close()
    arm = {"score": 0.5, "ci95": [0.4, 0.6], "corrected": 3, "broken": 1, "distinct_features": 2}
    arms = dict.fromkeys(("unsteered", "best_fixed"), arm)
    arms["trained"] = {
        **arm,
        "n": 12,
        "distinct_completions": 5,
        "train_score": 0.75,
        "train_n": 11,
        "seen_in_train": 0.25,
    }
    tests = {f"trained_vs_{name}": {"p_holm": 1e-7} for name in ("unsteered", "best_fixed")}
    shared = {"env": "Steer-TicTacToe-v0", "episodes": 12, "split": "test", "benchmark": False}
    write_json(run.path / "evaluation.json", {**shared, "weights_sha256_after": "abc", "arms": arms, "tests": tests})
    tokens = {"unsteered": played(0.0, -1), "trained": played(1.0, 7)}
    write_interventions(run.path / "interventions.parquet", "a<b>", tokens, {7: f"label {EVIL}"})
    return run


def test_the_report_is_one_page_with_table_curve_and_steered_tokens(run):
    page = main(ReportConfig(run.path))
    text = page.read_text()
    assert (run.path / "figures" / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "data:image/png;base64,iVBOR" in text
    assert "1e-07" in text
    assert "0.400 to 0.600" in text
    assert "0.750 on 11 items of train, 0.500 on 12 of test (5 distinct completions); 25% of the latter" in text
    assert text.count("<h3") == 10
    assert "Item 100: score 1, unsteered 0" in text
    assert "feature 7 at 1.50" in text
    assert "unsteered: &lt;four&gt;" in text


def test_no_text_of_a_model_becomes_html_and_nothing_is_fetched(run):
    text = main(ReportConfig(run.path)).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in text
    assert "<title>a&lt;b&gt;</title>" in text
    assert not re.search(r"(src|href)=.?https?:", text)


def test_a_run_that_is_not_evaluated_is_refused(run):
    (run.path / "evaluation.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"experiments\.evaluate --run"):
        main(ReportConfig(run.path))
