"""Prompts that the model cannot read are refused when the environment is made, at little cost."""

import copy
import json

import numpy as np
import pytest

from steer_env.envs.context import fits_context, require_context
from steer_env.envs.registry import make_env, make_vector_env
from steer_env.errors import SteeringError
from steer_env.lm.loading import load_tokenizer
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks import TASKS
from steer_env.tasks.tictactoe.task import TicTacToe
from tests.conftest import FEATURES
from tests.toys import Quiz

CONTEXT = 64  # the tiny model's


@pytest.fixture
def words(tiny):
    return load_tokenizer(tiny["model"])


@pytest.fixture
def facts(tmp_path):
    """A file of facts and arguments that play it whole: questions of so many words, each one token."""

    def write(*questions):
        rows = [{"question": question, "answer": "#### 1"} for question in questions]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        unmeasured = {"coefficient_unit": "residual", "observation": "normalized"}
        return {"task": "gsm8k", "data": str(tmp_path), "split": "test", **unmeasured}

    return write


def tokens(words, task, item):
    """Of the prompt alone, counted by the tokenizer itself."""
    return len(words.hf(task.start(item).opening)["input_ids"])


def test_the_longest_prompt_and_its_reply_must_fit_to_the_token(tiny, words, facts):
    given = facts("1 2 3", "1 " * 40 + "?", "4 5")
    task = TASKS["gsm8k"](split="test", data=given["data"])
    most = CONTEXT - tokens(words, task, 1) + 1  # the last token of a reply is never read
    env = make_env(max_new_tokens=most, **given, **tiny)
    env.reset(options={"item": 1})
    while not env.step(FEATURES)[2]:
        pass
    assert env.episode.scene.model.length(0) <= CONTEXT
    message = (
        rf"item 1 of this split needs 65 tokens \({CONTEXT - most + 1} for its prompt.* context is 64: lower few_shot"
    )
    with pytest.raises(SteeringError, match=message):
        make_env(max_new_tokens=most + 1, **given, **tiny)
    with pytest.raises(SteeringError, match=message):
        make_vector_env(3, max_new_tokens=most + 1, **given, **tiny)


def test_a_prompt_may_be_longest_in_tokens_and_not_in_characters(tiny, facts):
    given = facts("unpronounceable" * 100, "1 " * 60)
    with pytest.raises(SteeringError, match="item 1 of this split"):
        make_env(max_new_tokens=2, **given, **tiny)
    assert make_env(max_new_tokens=2, **facts("unpronounceable" * 100), **tiny)


@pytest.mark.parametrize("kind", ["single", "long", "free"])
@pytest.mark.parametrize("chat", [False, True])
def test_the_need_is_that_of_the_worst_item(words, kind, chat):
    task = Quiz(kind=kind)
    if chat:
        tokenizer = copy.deepcopy(words.hf)
        tokenizer.chat_template = "<s> 1 1 1 {% for m in messages %}{{ m['content'] }}{% endfor %} 2 2 2"
        words = Tokenizer(tokenizer, chat=True)
    reply = {"single": 1, "long": 3, "free": 1}[kind]
    needed = max(len(task.start(item).opening.split()) for item in range(len(task))) + 1 + 6 * chat + reply - 1
    items = range(len(task))
    require_context(task, items, words, needed)
    with pytest.raises(SteeringError, match=rf"needs {needed} tokens .* context is {needed - 1}"):
        require_context(task, items, words, needed - 1)
    roomy = [item for item in items if fits_context(task, words, needed - 1, item)]
    assert 0 < len(roomy) < len(task)
    require_context(task, roomy, words, needed - 1)
    require_context(task, items, words, None)


class Tales(Quiz):
    """Many long prompts."""

    def __len__(self):
        return 5_000

    def start(self, item):
        talk = super().start(0)
        talk.opening = "1 2 3 4 " * (100 + item % 7)
        return talk


def test_of_many_long_prompts_few_are_tokenised(words):
    counted = []
    tokenise = words.prompt
    words = copy.copy(words)
    words.prompt = lambda text: (counted.append(len(text)), tokenise(text))[1]
    require_context(Tales(), range(5_000), words, 500)
    assert 100_000 < sum(counted) < 250_000
    assert max(counted) == 8 * 106
    counted.clear()
    require_context(Tales(), range(5_000), words, 900)
    assert sum(counted) < 100, "what is shorter in bytes than the context in tokens needs no tokenizer"


def test_games_are_left_to_the_model(words):
    assert fits_context(TicTacToe(max_new_tokens=100), words, 16, 0)
    require_context(TicTacToe(max_new_tokens=100), range(10), words, 16)
    require_context(Quiz(turns=2), range(64), words, 5)


def test_what_slips_through_is_refused_when_it_comes_up(tiny, facts, monkeypatch):
    monkeypatch.setattr("steer_env.envs.registry.require_context", lambda *given: None)
    env = make_env(max_new_tokens=1, **facts("1 " * 80), **tiny)
    with pytest.raises(SteeringError, match=r"lane 0 would hold .* tokens, but the model's context is 64"):
        env.reset(seed=0)


def test_only_items_that_are_dealt_must_fit(tiny, facts):
    given = facts("1 2 3", "1 " * 80, "4 5", "6 7")
    dealt = [seed for seed in range(20) if np.random.default_rng(seed).permutation(4)[0] != 1]
    assert make_env(max_new_tokens=1, limit=1, limit_seed=dealt[0], **given, **tiny)
