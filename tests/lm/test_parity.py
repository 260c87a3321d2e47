"""The engine against Hugging Face: unsteered it equals ``generate``, steered it equals a plain hook."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from steer_env.errors import SteeringError
from steer_env.lm.model import SteeredModel

VOCABULARY = 61
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=None
    ),
    "gpt_neox": GPTNeoXConfig(**_SHAPE),
    "llama": LlamaConfig(**_GROUPED),
    "mistral": MistralConfig(**_GROUPED, sliding_window=6),
    "gemma2": Gemma2Config(**_GROUPED, head_dim=8, sliding_window=6),
    "gemma3": Gemma3TextConfig(**_GROUPED, head_dim=8, sliding_window=6),
    "qwen2": Qwen2Config(**_GROUPED),
    "qwen3": Qwen3Config(**_GROUPED, head_dim=8),
}


BABYLLAMA = Path(__file__).parents[3] / "shared" / "models" / "babyllama"


@pytest.fixture(scope="module", params=[*sorted(CONFIGS), "babyllama"])
def lm(request):
    """Tiny random models of eight architectures, and a trained one where its folder is at hand."""
    if request.param == "babyllama":
        if not BABYLLAMA.is_dir():
            pytest.skip(f"the pretrained model is not at {BABYLLAMA}")
        return AutoModelForCausalLM.from_pretrained(BABYLLAMA, dtype=torch.float32).eval()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32).eval()
    for parameter in model.parameters():  # the default initialisation is too small to tell tokens apart
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def prompts(count: int, seed: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (count,), generator=draw).tolist()
    return [torch.randint(0, VOCABULARY, (length,), generator=draw).tolist() for length in lengths]


def generated(lm, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    output = lm.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False
    )
    return output[0, len(prompt) :].tolist()


def greedy_step(engine: SteeredModel, delta=None) -> list[int]:
    hidden = engine.observe()
    logits = engine.advance(torch.zeros_like(hidden) if delta is None else delta)
    return logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("lanes", [1, 3, 16])
@pytest.mark.parametrize("site", ["post", "pre"])
def test_the_no_op_policy_equals_generate(lm, lanes, site):
    engine = SteeredModel(lm, layer=1, lanes=lanes, site=site)
    texts = prompts(lanes, seed=lanes)
    for lane, prompt in enumerate(texts):
        engine.restart(lane, prompt)
    written: list[list[int]] = [[] for _ in range(lanes)]
    for _ in range(12):
        for lane, token in enumerate(greedy_step(engine)):
            written[lane].append(token)
            engine.write(lane, [token])
    assert written == [generated(lm, prompt, 12) for prompt in texts]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("length", [1, 4, 6])
def test_lanes_of_one_length_grow_across_the_sliding_window(lm, lanes, length):
    """Passes that need no mask of ours, up to and over the window of six tokens: compared by logits, not tokens."""
    engine = SteeredModel(lm, layer=1, lanes=lanes)
    draw = torch.Generator().manual_seed(length)
    texts = torch.randint(0, VOCABULARY, (lanes, length), generator=draw).tolist()
    for lane, prompt in enumerate(texts):
        engine.restart(lane, prompt)
    for _ in range(9):
        logits = engine.advance(torch.zeros_like(engine.observe()))
        with torch.no_grad():
            expected = lm(torch.tensor(texts), use_cache=False).logits[:, -1]
        assert torch.allclose(logits, expected, atol=2e-4, rtol=1e-4)
        for lane, token in enumerate(expected.argmax(dim=-1).tolist()):
            texts[lane].append(token)
            engine.write(lane, [token])


@pytest.mark.parametrize("name", ["gemma2", "mistral", "gpt2"])
def test_eager_attention_gives_the_same(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32, attn_implementation="eager").eval()
    texts = prompts(3, seed=5)
    engine = SteeredModel(model, layer=1, lanes=3)
    for lane, prompt in enumerate(texts):
        engine.restart(lane, prompt)
    for _ in range(8):
        logits = engine.advance(torch.zeros_like(engine.observe()))
        for lane, text in enumerate(texts):
            with torch.no_grad():
                expected = model(torch.tensor([text]), use_cache=False).logits[0, -1]
            assert torch.allclose(logits[lane], expected, atol=2e-4, rtol=1e-4)
            text.append(int(expected.argmax()))
            engine.write(lane, text[-1:])


@pytest.mark.parametrize(
    ("config", "trait"),
    [
        (
            GPTNeoConfig(vocab_size=20, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]),
            "attention_types",
        ),
        (FalconConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True), "alibi"),
    ],
)
def test_models_that_place_tokens_by_themselves_are_refused(config, trait):
    with pytest.raises(SteeringError, match=f"places its tokens by {trait}"):
        SteeredModel(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), layer=0)


def test_a_lane_reset_midway_leaves_the_others_alone(lm):
    engine = SteeredModel(lm, layer=1, lanes=3)
    texts = prompts(4, seed=7)
    for lane in range(3):
        engine.restart(lane, texts[lane])
    written: list[list[int]] = [[], [], []]
    for step in range(14):
        for lane, token in enumerate(greedy_step(engine)):
            written[lane].append(token)
            engine.write(lane, [token])
        if step == 3:
            engine.restart(1, texts[3])
            written[1] = []
    assert written[0] == generated(lm, texts[0], 14)
    assert written[1] == generated(lm, texts[3], 10)
    assert written[2] == generated(lm, texts[2], 14)
