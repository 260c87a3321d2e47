"""Turns of one token by the blocks above the site alone: the same answers, fewer blocks, or the whole model."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig

from steer_env.envs.base import unwrap
from steer_env.errors import SteeringError
from steer_env.lm.loading import load_language_model
from steer_env.lm.model import SteeredModel, proven_upper_half
from steer_env.lm.prompts import PIECE, PromptStore
from steer_env.lm.upper_half import UpperHalf
from tests.conftest import LAYER

TEXTS = [[0, *([4, 8, 6, 3, 9] * 8)], [0, 5, 7, 1, 2, 2, 9, 4, 4, 3], [3] * 20]
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def lm(tiny):
    return load_language_model(tiny["model"])


def store() -> PromptStore:
    return PromptStore(1 << 24, PIECE, alone=True)


def answers(engine, texts=TEXTS, once=True, strength=0.3):
    for lane, text in enumerate(texts):
        engine.restart(lane, text, once)
    residual = engine.observe()
    return residual, engine.advance(strength * residual.roll(1, dims=1))


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("layer", [0, 1])
def test_it_answers_as_the_whole_model_does(lm, site, layer):
    half, prompts = proven_upper_half(lm, layer, site), store()
    assert half is not None
    whole = answers(SteeredModel(lm, layer, 3, site, store()), once=False)
    for _ in range(2):  # not known yet, and known
        engine = SteeredModel(lm, layer, 3, site, prompts, upper=half)
        for mine, theirs in zip(answers(engine), whole, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


def test_known_prompts_cost_the_blocks_above_alone(lm):
    engine = SteeredModel(lm, LAYER, 3, prompts=store(), upper=proven_upper_half(lm, LAYER, "post"))
    ran = []
    blocks = [block for block in lm.modules() if type(block).__name__.endswith("DecoderLayer")]
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number)) for number, block in enumerate(blocks)
    ]
    try:
        answers(engine)
        ran.clear()
        answers(engine)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == list(range(LAYER + 1, len(blocks)))


def test_peeking_is_the_unsteered_answer_and_changes_nothing(lm):
    engine = SteeredModel(lm, LAYER, 3, prompts=store(), upper=proven_upper_half(lm, LAYER, "post"))
    plain = answers(SteeredModel(lm, LAYER, 3), once=False, strength=0.0)[1]
    steered = answers(SteeredModel(lm, LAYER, 3), once=False)[1]
    for _ in range(2):
        for lane, text in enumerate(TEXTS):
            engine.restart(lane, text, once=True)
        torch.testing.assert_close(engine.peek(), plain, rtol=0, atol=1e-4)
        residual = engine.observe()
        torch.testing.assert_close(engine.advance(0.3 * residual.roll(1, dims=1)), steered, rtol=0, atol=1e-4)


def test_beside_a_lane_that_goes_on_all_are_read_whole(lm):
    """Also one whose prompt was recalled above the site only."""
    half, prompts = proven_upper_half(lm, LAYER, "post"), store()
    answers(SteeredModel(lm, LAYER, 3, prompts=prompts, upper=half))
    engine, whole = SteeredModel(lm, LAYER, 3, prompts=prompts, upper=half), SteeredModel(lm, LAYER, 3)
    for lane, text in enumerate(TEXTS):
        engine.restart(lane, text, once=True)
        whole.restart(lane, text)
    engine.observe()
    engine.restart(1, TEXTS[1])
    one, other = engine.observe(), whole.observe()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    torch.testing.assert_close(engine.advance(0.2 * one), whole.advance(0.2 * other), rtol=0, atol=1e-4)


def test_nothing_is_written_or_foreseen_behind_one_token(lm):
    engine = SteeredModel(lm, LAYER, 3, prompts=store(), upper=proven_upper_half(lm, LAYER, "post"))
    answers(engine)
    with pytest.raises(SteeringError, match="lane 1 was restarted for one token: nothing can be written"):
        engine.write(1, [3])
    with pytest.raises(SteeringError, match="nothing can be foreseen"):
        engine.foresee({1: [3]})
    with pytest.raises(SteeringError, match="lane 0 has no token to read"):
        engine.observe()


@pytest.mark.parametrize(
    ("config", "proven"),
    [
        (LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=3, **HEADS), True),
        (MistralConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=3, **HEADS), True),
        # It adds its positions to embeddings, which a residual has in it already.
        (GPT2Config(n_embd=32, n_layer=3, n_head=4), False),
    ],
)
def test_a_model_that_does_more_with_embeddings_is_run_whole(config, proven):
    config.vocab_size = 64
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    assert (proven_upper_half(model, 1, "post") is not None) == proven


def test_it_shares_the_models_parameters(lm):
    half = UpperHalf(lm, LAYER, "post")
    before = {id(parameter) for parameter in lm.parameters()}
    assert {id(parameter) for parameter in half._lm.parameters()} <= before
    assert len(list(half._lm.parameters())) < len(before)


def test_environments_answer_alike_with_it_and_without(tmp_path):
    played = []
    for where in (str(tmp_path), None):  # a folder makes the embedded model's prompts shared, as a large model's are
        envs = gym.make_vec("Steer-BBQ-v0", num_envs=4, compare=True, prompt_store=where)
        assert (unwrap(envs).episode.scene.model._upper is None) == (where is None)
        observations, _ = envs.reset(seed=0, options={"items": list(range(12))})
        rows = []
        for step in range(3):
            following, rewards, _, _, infos = envs.step(np.array([step, 7, 256, 90]))
            rows.append((observations, rewards, infos["token"], infos["unsteered_token"]))
            observations = following
        played.append(rows)
    for mine, theirs in zip(*played, strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], atol=2e-4)
        for one, other in zip(mine[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(one, other)
