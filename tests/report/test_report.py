"""The report of made-up runs: what its data say, and the page in a real browser, where no text of a model may act."""

import base64
import gzip
import json
import re
import time
from html import escape

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from agents.analysis.results import BranchPoints, Critic, Features
from agents.compare.results import Evaluation, Layers, Sweep
from agents.report.page import data_block
from agents.runs.folder import RunFolder, write_json
from experiments.report import ReportConfig, main
from steer_env.evaluation.play import Played
from steer_env.evaluation.token_log import write_interventions
from steer_env.tasks.tictactoe.task import TicTacToe
from tests.chromium import chromium

EVIL = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'></script><!--"
VIEWS = ("summary", "episodes", "points", "features")
N = 33  # episodes: two pages


def played(score, feature, texts=(EVIL, ""), episodes=N):
    n = episodes * len(texts)
    tokens = {
        "episode": np.repeat(np.arange(episodes), len(texts)),
        "item": np.repeat(np.arange(episodes) + 100, len(texts)),
        "step": np.tile(np.arange(len(texts)), episodes),
        "token": np.full(n, 5),
        "token_text": np.array(list(texts) * episodes, dtype=object),
        "feature": np.full(n, feature),
        "coefficient": np.full(n, 1.5),
        "log_prob": np.full(n, -0.25),
        "value": np.linspace(0, 1, n),
        "entropy": np.full(n, np.nan),
        "kl": np.linspace(0, 1, n),
        "unsteered_token": np.full(n, 4),
        "unsteered_token_text": np.full(n, "<four>", dtype=object),
        "changed": np.tile([feature >= 0] + [False] * (len(texts) - 1), episodes),
        "top_features": np.tile([7, 3], (n, 1)),
        "top_activations": np.tile(np.float32([2.5, 1.25]), (n, 1)),
    }
    return Played([{"score": score}] * episodes, tokens)


VERSIONED = {"version": 1}
HEAD = {
    **VERSIONED,
    **{"run": "r", "evaluation": "evaluation.json", "env": "Steer-GSM8K-v0", "algo": "ppo", "split": "test", "seed": 0},
    **{"temperature": 0.0, "benchmark": False, "episodes_analysed": N},
}
ORIGIN = {"wall_s": 1.0, "git_commit": None, "versions": {}}


def an_arm(score=0.5, ci95=(0.4, 0.6), **more):
    tested = {"corrected": 3, "broken": 1, "p_mcnemar": None, "p_holm": None}
    used = {"distinct_features": 2, "distinct_completions": 5, "idle": 0.0, "tokens": 9, "wall_s": 1.0, "summary": {}}
    return {"n": 12, "score": score, "scores": [score], "ci95": list(ci95), **tested, "coherence": None, **used, **more}


def evaluation():
    arms = dict.fromkeys(("unsteered", "best_fixed"), an_arm())
    arms["trained"] = an_arm(train_score=0.75, train_n=11, seen_in_train=0.25)
    test = {"difference": 0.0, "corrected": 3, "broken": 1, "p_mcnemar": 1e-7, "p_holm": 1e-7}
    tests = {f"trained_vs_{name}": test for name in ("unsteered", "best_fixed")}
    shared = {"run": "r", "env": "Steer-GSM8K-v0", "env_kwargs": {}, "algo": "ppo", "mask": "off", "benchmark": False}
    asked = {"seeds": {}, "split": "test", "temperature": 0.0, "episodes": 12, "seed": 0, "num_envs": 8}
    asked |= {"compare": True, "search_games": [2, 4], "coefficient": 1.5, "labels": "mine", "data": {}}
    weights = {"weights_sha256_before": "abc", "weights_sha256_after": "abc"}
    best = {"best_fixed": {}, "best_fixed_finalists": []}
    origin = {"git_commit": None, "versions": {}}
    return {**VERSIONED, **shared, **asked, **weights, **best, **origin, "arms": arms, "tests": tests}


def branch_points(points=2, episodes=N):
    """At the first tokens of the first episodes: the no-op breaks, the next best breaks every other one."""
    choices = {"arm": "no_op", "feature": -1, "label": None}, {"arm": "next_best", "feature": 9, "label": EVIL}
    row = {
        "score": 1.0,
        "completion": f"one two {EVIL}",
        "tokens": 2,
        "tried": 2,
        "info": {"answer": EVIL, "moves": "5", "outcome": ""},
    }
    lost = {"moves": "519", "outcome": "loss"}
    found = []
    for place in range(points):
        flips = [True, place % 2 == 1]
        ends = [{"score": 0.0, "flips": True, "completion": "one 2", "info": lost} if f else
                {"score": 1.0, "flips": False} for f in flips]  # fmt: skip
        own = {"episode": place % episodes, "step": place // episodes, "token_text": EVIL, "feature": 7, "label": EVIL}
        found.append({**own, "alternatives": [{**a, **b} for a, b in zip(choices, ends, strict=True)]})
    counts = {"tried": 9, "alternatives": 9, "flips": 9, "corrected": 0, "broken": 9, "branch_points": 9}
    rate = {"mean": 0.25, "ci95": [0.125, 0.5]}
    return {
        **HEAD,
        **{"settings": {}, "cost": {}},
        "arms": {"no_op": counts, "next_best": counts},
        "random": {"episodes": 3, "draws": 9, "flip_rate": rate, "advantage": rate},
        "episodes": [{"episode": i, "item": i + 100, "branch_points": 1, **row} for i in range(episodes)],
        "branch_points": found,
        "not_reproduced": [],
    }


def critic():
    course = [{"at": at, "n": 4, "mean": at / 2, "p10": 0.0, "p90": 1.0} for at in (0.0, 1.0)]
    empty = {"n": 0, "mean_return": None, "by_step": [], "by_position": []}
    group = {"n": 4, "mean_return": 0.5, "by_step": [], "by_position": course}
    groups = dict.fromkeys(("correct", "corrected", "misguided"), group)
    table = [{"low": 0, "high": 1, "n": 4, "value": v, "target": v / 2} for v in (0.0, 1.0)]
    search = {"searched": 4, "policy": 3, "critic": 0, "both": 0, "neither": 1}
    bins = {"n": 8, "bias": 0.125, "mae": 0.5, "r2": None, "correlation": None, "table": table}
    return {
        **HEAD,
        "target": "return",
        "groups": {**groups, "incorrect": empty},
        "calibration": {"all_tokens": bins},
        "separation": {"last": {"right_from_wrong": 0.75}},
        "failures": {"definitions": {"policy": EVIL}, "wrong": 4, "gap": 0.5, "searches": {"one_token": search}},
    }


def features(n=3):
    seen = {"activation": 2.5, "episode": 0, "item": 100, "step": 1, "prompt": EVIL, "before": "a", "token_text": EVIL}
    impact = {"effect": 0.5, "where_used": 0.5, "ci95": [0.25, 0.75], "broken": 0, "corrected": 2, "p": 0.5}
    row = {
        "label_source": EVIL,
        "promoted": [EVIL, " b"],
        "suppressed": None,
        "score_where_used": 1.0,
        "correlation": None,
    }
    row |= {"kind": "content", "kind_shares": {"content": 0.75, "function": 0.25, "digits": 0.0}, "activity": 0.5}
    row |= {"information": {EVIL: {"bits": 0.5, "entropy": 1.0, "p": 0.01}}}
    row |= {"gain_where_used": 0.5, "reach": None, "reach_rank": None, "impact": {"no_op": impact}, "examples": [seen]}
    rows = [
        {"feature": 7 + i, "label": f"label {i} {EVIL}", "tokens": 9 - i, "episodes": 5, "effect": (i * 2 % 3) / 10}
        | {"causal_rank": i + 1, "correlation_rank": None, **row}
        for i in range(n)
    ]
    spread = {"tokens": 24, "no_op": 0.5, "choices": 8, "distinct": 3, "entropy": 1.0, "effective": 2.5, "gini": 0.5}
    ranks = {"n": 0, "spearman": None, "p": None, "disagreements": []}
    return {**HEAD, "diversity": spread, "features": rows, "ranks": ranks, "alone": None, "planted": None}


def test_made_up_files_are_those_of_the_product():
    kinds = {Evaluation: evaluation, BranchPoints: branch_points, Critic: critic, Features: features}
    for kind, made_up in {**kinds, Sweep: swept, Layers: compared_layers}.items():
        kind.from_dict({name: value for name, value in made_up().items() if name != "version"})


def make_run(path, tokens, settings=None, **records):
    run = RunFolder.create(path, {"env": "Steer-GSM8K-v0", "algo": "ppo", "seed": 1, **(settings or {})})
    log = run.log("metrics")
    for step, score in ((64, 0.25), (128, 0.5), (192, None)):
        log.write({"num_timesteps": step, "score": score})
    log.close()
    write_interventions(path / "interventions.parquet", path.name, tokens, {7: f"label {EVIL}"})
    for name, record in {"evaluation": evaluation(), **records}.items():
        write_json(path / f"{name}.json", record)
    return run


def full_run(path, **settings):
    tokens = {"unsteered": played(0.0, -1), "trained": played(1.0, 7)}
    return make_run(path, tokens, settings, branch_points=branch_points(), critic=critic(), features=features())


@pytest.fixture
def run(tmp_path):
    return full_run(tmp_path / "a<b>")


def blocks(text):
    found = re.findall(r'<script type="application/json" id="data-([^"]*)">(.*?)</script>', text, re.DOTALL)
    contents = {name: json.loads(content) for name, content in found}
    return {
        name: json.loads(gzip.decompress(base64.b64decode(content["gzip"])))
        if isinstance(content, dict) and set(content) == {"gzip"}
        else content
        for name, content in contents.items()
    }


def test_the_summary_has_the_table_the_sentence_and_the_plots(run):
    text = main(ReportConfig(run.path)).read_text()
    names = {path.name for path in (run.path / "figures").iterdir()}
    assert names == {"learning_curve.png", "scores.png", "critic_values.png", "calibration.png"}
    assert all((run.path / "figures" / name).read_bytes()[:4] == b"\x89PNG" for name in names)
    assert text.count("<picture>") == 4
    assert "1e-07" in text
    assert "0.400 to 0.600" in text
    assert "<strong>0.500 with the agent</strong>" in text
    assert "On 11 items of train the agent scores 0.750, on these 0.500; 25% of its episodes here are word" in text
    assert "The push that is best on the train split" not in text, "of an arm that is not in the log"
    assert "“label &lt;script&gt;" in text


def test_the_data_are_the_log(run):
    found = blocks(main(ReportConfig(run.path)).read_text())
    index = found["episodes"]
    assert index["item"] == list(range(100, 100 + N))
    assert index["score"] == [1.0] * N
    assert index["unsteered_score"] == [0.0] * N
    assert index["changed"] == [1] * N
    assert index["features"] == [[7]] * N
    assert [len(found[f"tokens-{k}"]) for k in (0, 1)] == [30, 3]
    last = found["tokens-1"][-1]
    assert [index["texts"][code] for code in last["text"]] == [EVIL, ""]
    assert [index["texts"][code] for code in last["other"]] == ["<four>", "<four>"]
    assert last["value"] == [round((2 * N - 2) / (2 * N - 1), 3), 1.0]
    assert last["entropy"] == [None, None]
    assert last["top"] == [[7, 3], [7, 3]]
    assert last["unsteered"] == EVIL
    assert last["boards"] is None
    assert found["points"]["flips"] == [[["no_op", "broken"]], [["next_best", "broken"], ["no_op", "broken"]]]
    assert found["features"]["features"][0]["label"] == f"label 0 {EVIL}"
    assert found["missing"] == {}


def test_games_are_played_again_by_their_rules(tmp_path):
    games = []
    for item in range(100, 103):
        game = TicTacToe(split="test").start(item)
        said, drawn = [], []
        while not game.outcome:
            said.append(f" {next(c for c in '123456789' if c not in game.moves)}" if len(said) < 2 else "pass")
            before = game.board
            game.respond(said[-1])
            drawn.append(
                {
                    "columns": 3,
                    "cells": [" XO"[mark].strip() for mark in game.board],
                    "caption": game.outcome,
                    "own": {cell for cell, mark in enumerate(game.board) if mark == 2},
                    "recent": {cell for cell in range(9) if game.board[cell] != before[cell]},
                    "text": ", ".join(f"{'XO'[ply % 2]} {move}" for ply, move in enumerate(game.moves)),
                }
            )
        games.append((said, drawn))
    lengths = [len(said) for said, _ in games]
    arms = {"trained": played(0.0, 7, ("x",) * sum(lengths), 1)}
    tokens = arms["trained"].tokens
    tokens["episode"] = np.repeat(np.arange(3), lengths)
    tokens["item"] = tokens["episode"] + 100
    tokens["step"] = np.concatenate([np.arange(n) for n in lengths])
    tokens["token_text"] = np.array([text for said, _ in games for text in said], dtype=object)
    arms["trained"] = Played([{"score": 0.0}] * 3, tokens)
    run = make_run(tmp_path / "game", arms)
    write_json(run.path / "config.json", {"env": "Steer-TicTacToe-v0", "algo": "ppo", "seed": 1, "env_kwargs": {}})
    found = blocks(main(ReportConfig(run.path)).read_text())["tokens-0"]
    for row in found:
        for board in row["boards"]:
            board |= {name: set(board[name]) for name in ("own", "recent")}
    assert [row["boards"] for row in found] == [drawn for _, drawn in games]


def test_no_text_of_a_model_becomes_html_and_nothing_is_fetched(run):
    text = main(ReportConfig(run.path)).read_text()
    scripts = re.findall(r"<script([^>]*)>", text)
    assert [attributes for attributes in scripts if "application/json" not in attributes] == [""]
    assert "window.ran = 1</" not in text
    assert "<img src=x" not in text
    assert "<title>a&lt;b&gt;</title>" in text
    assert not re.search(r"(src|href)=.?https?:", text)
    assert "default-src 'none'" in text


def test_a_block_cannot_be_left():
    text = data_block("x", {"a": "</script><!--<script>"})
    assert text.count("<") == 2
    assert blocks(text) == {"x": {"a": "</script><!--<script>"}}
    assert len(data_block("x", ["a" * 100_000])) < 2_000


def test_what_is_missing_says_how_to_make_it(tmp_path):
    run = RunFolder.create(tmp_path / "bare", {"env": "Steer-GSM8K-v0", "algo": "ppo", "seed": 1})
    text = main(ReportConfig(run.path)).read_text()
    assert f"steer evaluate --run {run.path}" in text
    assert "steer train --name bare --resume" in text
    found = blocks(text)
    assert set(found["missing"]) == {"metrics", "evaluation", "interventions", "branch_points", "critic", "features"}
    other = main(ReportConfig(run.path, evaluation="evaluation-1-test.json"))
    assert other.name == "report-1-test.html"
    command = f"steer analyze --run {run.path} --evaluation evaluation-1-test.json"
    assert blocks(other.read_text())["missing"]["critic"] == command
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        main(ReportConfig(tmp_path))


def swept():
    rows = {f"layer ${k}": an_arm(k / 4, (0, 1), scores=[0, k / 2], flags={}, steps_per_second=1.0) for k in (1, 2)}
    return {**VERSIONED, **ORIGIN, "env": "x", "settings": {"split": "validation"}, "variants": rows}


def test_a_sweep_is_drawn(run, tmp_path):
    write_json(tmp_path / "sweep.json", swept())
    text = main(ReportConfig(run.path, sweep=tmp_path / "sweep.json")).read_text()
    assert text.count("<picture>") == 5
    assert (run.path / "figures" / "variants.png").is_file()


def test_a_file_of_another_version_says_what_makes_it_anew(run):
    write_json(run.path / "critic.json", critic() | {"version": 0})
    with pytest.raises(
        ValueError, match=r"critic.json is of version 0, this is 1: steer analyze --run RUN makes it anew"
    ):
        main(ReportConfig(run.path))


def compared_layers():
    scores = (("unsteered", 0.125), ("best_fixed", 0.25), ("trained", 0.625))
    arms = {name: an_arm(score, (score - 0.1, score + 0.1), train_score=0.75) for name, score in scores}
    kinds = {"content": 0.75, "function": 0.25}
    bits = {"position": 0.125, "subject": 0.5}
    features = {
        "diversity": {"distinct": 3.0, "effective": 2.5},
        "used": [],
        "kinds": {"used": kinds, "dictionary": kinds},
        "information": {"used": bits, "dictionary": bits},
    }
    row = {
        **{"sae": {}, "tuning": [], "arms": arms, "tests": {}, "features": features},
        "chosen": {"coefficient": 1.5, "residual_units": 3.0, "feature": 1, "validation_score": 0.5},
        "gain": {"by_seed": [0.5], "mean": 0.5, "ci95": [0.25, 0.75]},
        **{"item_oracle": None, "read_off": None},
    }
    about = {"env": EVIL, "settings": {}, "blocks": 3, "data": {}, "texts": {}, "weights_sha256": "abc"}
    return {**VERSIONED, **ORIGIN, **about, "layers": [row | {"layer": 2}, row | {"layer": 0}]}


def test_layers_are_shown_where_the_run_is_one_of_them(tmp_path):
    run = full_run(tmp_path / "layers" / "layer-2-seed-0")
    alone = main(ReportConfig(run.path)).read_text()
    assert ">Layers</h2>" not in alone
    write_json(tmp_path / "layers" / "layers.json", compared_layers())
    text = main(ReportConfig(run.path)).read_text()
    assert text.count("<picture>") == alone.count("<picture>") + 2
    assert '<td data-column="gain">+0.500 (+0.250 to +0.750)</td>' in text
    assert '<td data-column="content">75% (75%)</td>' in text
    assert escape(EVIL) in text
    assert EVIL not in text
    assert all((run.path / "figures" / name).is_file() for name in ("layers.png", "layer_kinds.png"))
    given = tmp_path / "elsewhere.json"
    (tmp_path / "layers" / "layers.json").rename(given)
    assert main(ReportConfig(run.path, layers=given)).read_text() == text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(ReportConfig(run.path, layers=tmp_path / "nowhere.json"))


def test_the_same_run_makes_the_same_page(run):
    assert main(ReportConfig(run.path)).read_bytes() == main(ReportConfig(run.path)).read_bytes()


# The page in Chromium.


@pytest.fixture(scope="module")
def browser():
    with chromium("performance", "browser") as page:
        yield page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    game = {"env": "Steer-TicTacToe-v0", "env_kwargs": {"max_new_tokens": 2}}
    return main(ReportConfig(full_run(tmp_path_factory.mktemp("report") / "a<b>", **game).path))


@pytest.fixture
def opened(browser, page):
    resize(browser, 1280)
    return go(browser, page)


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def go(browser, page):
    browser.get(page.as_uri())
    wait(browser, "document.documentElement.dataset.ready === 'yes'")
    return browser


def wait(browser, condition):
    WebDriverWait(browser, 10, 0.02).until(lambda driver: driver.execute_script(f"return {condition}"), condition)


def one(browser, selector):
    WebDriverWait(browser, 10, 0.02).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, selector), selector)
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


FILLED = {"summary": "table.arms", "episodes": ".token", "points": "mark.first", "features": ".feature"}


def open_view(browser, view):
    one(browser, f"#tab-{view}").click()
    one(browser, f"#{view} {FILLED[view]}")


def test_all_views_open_without_errors_requests_or_foreign_scripts(opened):
    opened.get_log("performance"), opened.get_log("browser")
    opened.refresh()
    for view in VIEWS:
        open_view(opened, view)
    every(opened, ".feature")[0].click()
    assert EVIL in one(opened, ".more-of").text
    assert "content 75%, function 25%" in one(opened, ".more-of").text
    one(opened, "#tab-episodes").click()
    assert EVIL in one(opened, ".token").text
    assert opened.execute_script("return window.ran") is None
    assert every(opened, "main img[src=x]") == []
    assert opened.get_log("browser") == []
    events = [json.loads(row["message"])["message"] for row in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [url for url in asked if url.startswith("file:") and not url.endswith("report.html")] == []


def test_even_a_script_that_got_in_would_not_run(opened):
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    )
    assert opened.execute_script("return window.ran") is None


def test_a_token_tells_all_by_clicks(opened):
    open_view(opened, "episodes")
    assert len(every(opened, ".episode")) == 30
    token = every(opened, ".token")[0]
    ActionChains(opened).move_to_element(token).perform()
    wait(opened, "!document.getElementById('hint').hidden")
    assert one(opened, "#hint").text == f"feature 7 “label {EVIL}”"
    token.click()
    wait(opened, "document.querySelector('.detail').textContent.includes('Compare the completions')")
    detail = one(opened, ".detail").text
    for told in ("strength\n1.5", "log-prob\n-0.25 (78%)", "unsteered\n<four> (changed)", "no op → score 0, turns"):
        assert told in detail, told
    assert "changed" in token.get_attribute("class")
    assert "kept" in every(opened, ".token")[1].get_attribute("class")
    colors = [every(opened, ".token")[place].value_of_css_property("background-color") for place in (0, 40)]
    alphas = [float(color.rstrip(")").split(",")[-1]) for color in colors]
    assert alphas[0] < alphas[1], "a larger KL divergence is a stronger colour"
    one(opened, ".bar [aria-label='next page']").click()
    wait(opened, "document.querySelectorAll('.episode').length === 3")
    assert "33 of 33 episodes, page 2 of 2" in one(opened, "#episode-count").text


def test_branch_points_by_clicks(opened):
    open_view(opened, "points")
    assert len(every(opened, ".rows > button")) == 2
    first = every(opened, "mark.first")
    assert [mark.text for mark in first] == ["two", "2"]
    boards = [each.get_attribute("aria-label") for each in every(opened, ".pair .board")]
    assert boards == ["board: X 5", "board: X 5, O 1, X 9"]
    one(opened, "#points select option[value=next_best]").click()
    wait(opened, "document.querySelectorAll('.rows > button').length === 1")
    assert one(opened, "#point-count").text == "1 of 2 branch points"
    assert "next best" in one(opened, ".pair").text
    every(opened, "#points select")[1].find_element(By.CSS_SELECTOR, "option[value=corrected]").click()
    wait(opened, "document.querySelectorAll('.rows > button').length === 0")


def test_features_are_searched_and_sorted(opened):
    open_view(opened, "features")
    shown = lambda: [row.text.split()[0] for row in every(opened, ".feature")]  # noqa: E731
    assert shown() == ["7", "8", "9"]
    sort_by = lambda title: next(each for each in every(opened, "th button") if each.text == title).click()  # noqa: E731
    sort_by("effect")
    assert shown() == ["8", "9", "7"]
    sort_by("effect")
    assert shown() == ["7", "9", "8"]
    one(opened, "#features input").send_keys("label 1")
    assert shown() == ["8"]
    every(opened, ".feature")[0].click()
    next(button for button in every(opened, ".more-of button") if button.text.startswith("Episodes")).click()
    wait(opened, "!document.getElementById('episodes').hidden && document.getElementById('episode-count') !== null")
    wait(opened, "document.getElementById('episode-count').textContent.startsWith('0 of 33')")


def test_everything_works_by_keys(opened):
    active = "document.activeElement"
    press(opened, "2")
    one(opened, ".token")
    press(opened, "n")
    wait(opened, "document.querySelectorAll('.episode').length === 3")
    press(opened, Keys.ARROW_DOWN)
    wait(opened, f"{active}.at.place === 31 && {active}.at.step === 0")
    press(opened, Keys.ARROW_RIGHT)
    wait(opened, f"{active}.at.place === 31 && {active}.at.step === 1")
    press(opened, Keys.ENTER)
    wait(opened, "document.querySelector('.detail').textContent.includes('token 2 of 2, item 131')")
    press(opened, Keys.ESCAPE)
    wait(opened, "!document.querySelector('.detail').classList.contains('filled')")
    press(opened, "3")
    one(opened, "mark.first")
    press(opened, Keys.ARROW_DOWN)
    wait(opened, "document.querySelectorAll('.rows > button')[1].getAttribute('aria-current') === 'true'")
    press(opened, "4")
    one(opened, ".feature")
    press(opened, "/", "label 2", Keys.ESCAPE)
    wait(opened, "document.querySelectorAll('.feature').length === 1")
    press(opened, Keys.ARROW_DOWN, Keys.ENTER)
    one(opened, ".more-of")
    press(opened, "1")
    wait(opened, "!document.getElementById('summary').hidden")


@pytest.mark.parametrize("width", [1280, 390])
def test_no_view_is_wider_than_the_screen(opened, width):
    resize(opened, width)
    for view in VIEWS:
        open_view(opened, view)
        for place in every(opened, f"#{view} .token, #{view} .feature")[:1]:
            place.click()
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width, view


def test_views_of_missing_files_say_the_command(browser, tmp_path):
    run = RunFolder.create(tmp_path / "bare", {"env": "Steer-GSM8K-v0", "algo": "ppo", "seed": 1})
    go(browser, main(ReportConfig(run.path)))
    browser.get_log("browser")
    for view, script in {"episodes": "evaluate", "points": "analyze", "features": "analyze"}.items():
        one(browser, f"#tab-{view}").click()
        assert f"steer {script} --run {run.path}" in one(browser, f"#{view} .missing").text
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_five_thousand_episodes_of_a_hundred_tokens_open_within_three_seconds(browser, tmp_path):
    rng = np.random.default_rng(0)
    episodes, length = 5_000, 100
    words = np.array([f" word{k}" for k in range(5_000)], dtype=object)
    arms = {}
    for arm, feature in (("unsteered", -1), ("trained", 7)):
        arms[arm] = played(float(feature > 0), feature, ("x",) * length, episodes)
        tokens, n = arms[arm].tokens, episodes * length
        for name in ("token_text", "unsteered_token_text"):
            tokens[name] = words[rng.integers(len(words), size=n)]
        for name in ("value", "log_prob", "entropy", "kl"):
            tokens[name] = rng.exponential(size=n)
        if arm == "trained":
            tokens["feature"] = rng.integers(2_000, size=n)
        tokens["top_features"] = rng.integers(16_000, size=(n, 5))
        tokens["top_activations"] = rng.exponential(size=(n, 5)).astype(np.float32)
    points = branch_points(20_000, episodes)
    run = make_run(tmp_path / "large", arms, branch_points=points, critic=critic(), features=features(2_000))
    page = main(ReportConfig(run.path))
    resize(browser, 1280)
    took = {}
    start = time.perf_counter()
    go(browser, page)
    took["page"] = time.perf_counter() - start
    for view in VIEWS[1:]:
        start = time.perf_counter()
        open_view(browser, view)
        took[view] = time.perf_counter() - start
    print({name: round(seconds, 2) for name, seconds in took.items()}, f"{page.stat().st_size / 1e6:.1f} MB")
    assert len(every(browser, ".episode")) == 30
    assert max(took.values()) < 3
