"""In lm-evaluation-harness a steered model is what the evaluator plays, item by item, and unsteered what ``hf`` is."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import agents
from steer_env import SteeredLM, SteeredModel, SteeringError, evaluate, fixed, unsteered, unwrap
from steer_env.tasks.answers import INVALID
from tests.experiments.test_readme import ROOT, blocks

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'steer-env[harness]'")
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from agents.harness import SteeredHarnessLM, steered_model

TASKS = {
    "steer_words": ("Steer-MMLU-v0", 128, {"coefficient": 0.7}),
    "steer_sums": ("Steer-GSM8K-v0", 64, {"coefficient": 0.7, "observation": "prompted", "scoring": "strict"}),
}
MASKS = {"steer_words": "current", "steer_sums": "generation"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Where the tasks' files of rows are found from."""
    monkeypatch.chdir(ROOT)


def asked(model: Any, task: str, **arguments: Any) -> list[dict[str, Any]]:
    """What the harness has of each item, in order."""
    manager = TaskManager(include_path=str(ROOT / "experiments/examples/harness"), include_defaults=False)
    found = simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0, **arguments)
    return sorted(found["samples"][task], key=lambda row: row["doc_id"])


def train(task: str, folder: Path) -> agents.Run:
    env, _, kwargs = TASKS[task]
    short = {"num_envs": 16, "total_timesteps": 512, "wandb": "disabled", "mask": MASKS[task], "runs_dir": folder}
    return agents.train(env, task, env_kwargs=kwargs, **short)


@pytest.fixture(scope="module", params=sorted(TASKS))
def run(request, tmp_path_factory) -> agents.Run:
    return train(request.param, tmp_path_factory.mktemp("runs"))


def told(episode: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[Any, Any]:
    """What was said, by the evaluator and in the harness: log-probabilities of the options, or the text."""
    if "option_logprobs" in episode:
        return episode["option_logprobs"], [logprob for logprob, _ in row["filtered_resps"]]
    return episode["completion"], row["resps"][0][0]


def compared(episodes: list[Any], rows: list[Any], metric: str) -> None:
    """Prompts, what was said and scores are the same; prints how many items there were and what differs."""
    largest = 0.0
    for episode, row in zip(episodes, rows, strict=True):
        ours, theirs = told(episode, row)
        if isinstance(ours, str):
            assert ours == theirs
            assert row["filtered_resps"] == [episode["answer"] or INVALID]
        else:
            largest = max(largest, np.abs(np.subtract(ours, theirs)).max())
        assert row[metric] == episode["score"]
    assert largest < 1e-4
    scores = [episode["score"] for episode in episodes]
    print(f"{len(rows)} items, {sum(scores):.0f} right, largest difference of log-likelihoods {largest:.1e}")


@pytest.mark.parametrize("policy", ["steered", "none"])
def test_a_run_in_the_harness_is_what_the_evaluator_plays(run, policy):
    task = run.config["name"]
    _, items, _ = TASKS[task]
    rows = asked("steer", task, model_args={"run": str(run.path), "policy": policy}, batch_size=16)
    envs = run.envs("test", num_envs=16)
    chosen = run.policy if policy == "steered" else unsteered()
    episodes = evaluate(envs, chosen, range(items)).episodes
    assert [row["arguments"][0][0] for row in rows] == [unwrap(envs).task.start(item).opening for item in range(items)]
    compared(episodes, rows, "acc" if task == "steer_words" else "exact_match")


def test_one_feature_that_helps_in_the_harness_is_what_the_evaluator_plays():
    env, items, kwargs = TASKS["steer_sums"]
    envs = gym.make_vec(env, num_envs=16, split="test", **kwargs | {"coefficient": 1.0})
    named = {"model": unwrap(envs).lm.name_or_path, "sae": unwrap(envs).sae.name}
    arguments = named | {"feature": 154, "coefficient": unwrap(envs).coefficient}
    rows = asked("steer", "steer_sums", model_args=arguments, batch_size=16)
    episodes = evaluate(envs, fixed(154), range(items)).episodes
    assert sum(episode["score"] for episode in episodes) >= 4
    compared(episodes, rows, "exact_match")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_unsteered_arm_is_the_harnesss_own_model(task):
    """To the bit in text, to rounding in log-likelihoods, whatever the batches."""
    envs = unwrap(gym.make_vec(TASKS[task][0], num_envs=1))
    plain = HFLM(pretrained=envs.lm, tokenizer=envs.tokenizer.hf, backend="causal", batch_size=8)
    theirs = asked(plain, task)
    arguments = {"model": envs.lm.name_or_path, "sae": envs.sae.name, "policy": None}
    rows = asked("steer", task, model_args=arguments, batch_size=5)
    assert len(rows) == TASKS[task][1]
    largest = 0.0
    for row, other in zip(rows, theirs, strict=True):
        if task == "steer_sums":
            assert row["resps"] == other["resps"]
            continue
        (ours, greedy), (plain, likeliest) = (zip(*each["filtered_resps"], strict=True) for each in (row, other))
        largest = max(largest, np.abs(np.subtract(ours, plain)).max())
        assert greedy == likeliest
    assert largest < 1e-5
    print(f"{len(rows)} items as hf has them, largest difference {largest:.1e}")


# ---------------- what steering means


@pytest.fixture(scope="module")
def parts():
    return unwrap(gym.make_vec("Steer-GSM8K-v0", num_envs=1))


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, place) for place, each in enumerate(arguments)]


def reader(seen: np.ndarray, step: Any) -> Any:
    """A feature for what is seen, another one at each token."""
    return (seen.argmax(axis=-1) + 7 * step) % 256


def stepped(parts: Any, head: list[int], tail: list[int], choose: Any) -> tuple[float, bool, list[int]]:
    """Log-probability of ``tail``, whether it is greedy, and the features: the engine steered one token at a time."""
    engine = SteeredModel(parts.lm, parts.layer, 1, parts.site)
    engine.restart(0, head)
    total, greedy, pushes = 0.0, True, []
    for step, token in enumerate(tail):
        pushes.append(int(choose(engine.observe()[0].numpy(), step)))
        logprobs = engine.advance(4.0 * parts.sae.directions[[pushes[-1]]]).log_softmax(dim=-1)[0]
        total, greedy = total + float(logprobs[token]), greedy and int(logprobs.argmax()) == token
        engine.write(0, [token])
    return total, greedy, pushes


def test_a_continuation_is_steered_from_the_token_before_it_on_as_one_that_is_written(parts):
    """One pass over texts of different lengths gives what the engine gives token by token."""
    own = {"tokenizer": parts.tokenizer.hf, "coefficient": 4.0}
    steered = SteeredLM(parts.lm, parts.sae, lambda seen, lanes: reader(seen, lanes.step), **own)
    model = SteeredHarnessLM(steered, batch_size=4)
    openings = [parts.task.start(item).opening for item in (3, 4, 5)]
    pairs = [(opening, said) for opening in openings for said in (" 4", " take 10, 6 = 4", " take 10, 6 = 5")]
    found = model.loglikelihood(requests("loglikelihood", *pairs))
    features = set()
    for (opening, said), (total, greedy) in zip(pairs, found, strict=True):
        wanted, likeliest, pushes = stepped(parts, *model._encode_pair(opening, said), reader)
        assert (total, greedy) == (pytest.approx(wanted, abs=1e-3), likeliest)
        features |= set(pushes)
    assert len(features) > 4


def test_whole_texts_are_steered_at_every_token(parts):
    own = {"tokenizer": parts.tokenizer.hf, "coefficient": 4.0}
    model = SteeredHarnessLM(SteeredLM(parts.lm, parts.sae, fixed(5), **own), batch_size=2, max_length=6)
    tokens = model.tok_encode(parts.task.start(3).opening)
    tokens = tokens[: len(tokens) - len(tokens) % 6]
    text = model.tokenizer.decode(tokens)
    assert model.tok_encode(text) == tokens
    before = [model.prefix_token_id, *tokens]
    windows = [([before[begin]], tokens[begin : begin + 6]) for begin in range(0, len(tokens), 6)]
    wanted = sum(stepped(parts, head, tail, lambda seen, step: 5)[0] for head, tail in windows)
    assert model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,))) == [pytest.approx(wanted, abs=1e-3)]


def test_texts_are_read_outside_of_a_with_block_and_from_a_place_in_them(parts):
    steered = SteeredLM(parts.lm, parts.sae, fixed(5), tokenizer=parts.tokenizer.hf, coefficient=4.0)
    with pytest.raises(SteeringError, match=r"begins must be in \[0, 3\), got 3"):
        steered.logits(torch.tensor([[5, 6, 7]]), [3])
    with steered, pytest.raises(SteeringError, match="outside of a with block"):
        steered.logits(torch.tensor([[5, 6, 7]]), [0])


def test_beams_are_refused(parts):
    model = SteeredHarnessLM(SteeredLM(parts.lm, parts.sae, fixed(5), tokenizer=parts.tokenizer.hf, coefficient=1.0))
    with pytest.raises(SteeringError, match="num_beams=2 does not go with steering"):
        model.generate_until(requests("generate_until", ("x", {"num_beams": 2, "max_gen_toks": 4})))


def test_prompts_without_the_template_of_the_training_are_warned_of(parts):
    hf = parts.tokenizer.hf.__class__.from_pretrained(parts.tokenizer.hf.name_or_path)
    hf.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    model = SteeredHarnessLM(SteeredLM(parts.lm, parts.sae, fixed(5), tokenizer=hf, coefficient=1.0, chat=True))
    with pytest.warns(UserWarning, match="trained on chats, these are none: give --apply_chat_template"):
        assert model.chat_template(False) is None
    assert model.chat_template(True) == hf.chat_template


# ---------------- what --model_args says


def test_a_fixed_feature_by_preset_and_by_model_and_sae(parts):
    named = {"model": parts.lm.name_or_path, "sae": parts.sae.name, "feature": 5, "coefficient": 40}
    prompt = parts.task.start(3).opening
    own = SteeredLM(parts.lm, parts.sae, fixed(5), tokenizer=parts.tokenizer.hf, coefficient=40)
    wanted = own.generate(prompt, max_new_tokens=8)
    assert steered_model(**named).generate(prompt, max_new_tokens=8) == wanted
    by_preset = steered_model(preset="embedded-locked", sae=parts.sae.name, feature=5, coefficient=40)
    assert by_preset.generate(prompt, max_new_tokens=8) == wanted
    assert steered_model(**named, policy=None).generate(prompt, max_new_tokens=8) != wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give run=, preset=, or model= and sae="),
        ({"model": "x", "policy": "none"}, "give run=, preset=, or model= and sae="),
        ({"run": "runs/x", "feature": 3}, "run=runs/x says what is steered and how: leave out feature=3"),
        ({"preset": "embedded-locked", "coefficient": 2}, "feature= is missing"),
        ({"preset": "embedded-locked", "feature": 2}, "coefficient= is missing; policy=none leaves"),
        ({"preset": "embedded-locked", "feature": 999, "coefficient": 1}, r"feature must be in \[0, 256\), got 999"),
        ({"preset": "embedded-locked", "policy": "best"}, "policy must be 'none' or left out, got 'best'"),
        ({"preset": "gpt5", "policy": "none"}, "unknown preset 'gpt5'"),
    ],
)
def test_what_says_too_little_or_too_much_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        steered_model(**arguments)


def test_the_harness_knows_the_name_and_records_how_it_was_steered(parts):
    assert get_model("steer") is SteeredHarnessLM
    arguments = {"model": parts.lm.name_or_path, "sae": parts.sae.name, "feature": 5, "coefficient": 4}
    steering = SteeredHarnessLM(**arguments).get_model_info()["steering"]
    assert steering | {"layer": parts.layer, "coefficient": 4.0, "feature": "5"} == steering


@pytest.mark.slow
def test_the_command_of_the_page_runs_as_printed(tmp_path, monkeypatch):
    """From training to the harness's table, in shells of their own."""
    page = "\n".join(blocks(ROOT / "agents" / "README.md", "sh")).replace("\\\n", " ")
    commands = [line for line in page.splitlines() if "runs/words" in line or "--name words" in line]
    assert [line.split()[0] for line in commands] == ["steer", "python", "python"]
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for line in commands:
        words = shlex.split(line.replace("steer ", "python -m experiments ", 1) if line.startswith("steer") else line)
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "steer_words" in done.stdout
