"""Language models to measure on: real ones, or random weights of a real shape."""

from __future__ import annotations

from typing import Any

from experiments.bench.timing import Sizes
from steer_env.lazy import torch
from steer_env.lm.loading import new_language_model

_LLAMA = {"model_type": "llama", "eos_token_id": None, "tie_word_embeddings": True}
# The settings are those of Transformers' configurations; large ones are the published shapes.
SHAPES: dict[str, dict[str, Any]] = {
    "small-llama": {
        **_LLAMA,
        **{"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8},
        **{"num_attention_heads": 8, "max_position_embeddings": 1024},
    },
    "llama-100m": {
        **_LLAMA,
        **{"vocab_size": 32_000, "hidden_size": 640, "intermediate_size": 1_728, "num_hidden_layers": 16},
        **{"num_attention_heads": 10, "max_position_embeddings": 2048},
    },
    "gpt2": {"model_type": "gpt2", "eos_token_id": None},
    "gemma-2-2b": {"model_type": "gemma2", "eos_token_id": None, "num_hidden_layers": 26, "hidden_size": 2304},
    "llama-3.1-8b": {
        **{"model_type": "llama", "eos_token_id": None, "vocab_size": 128_256, "hidden_size": 4096},
        **{"intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "max_position_embeddings": 8192},
    },
}


def load(sizes: Sizes) -> Any:
    """The model of ``sizes``, frozen, on its device."""
    from transformers import AutoConfig, AutoModelForCausalLM  # slow to import: not for a help text

    torch.manual_seed(0)
    dtype = getattr(torch, sizes.dtype)
    if sizes.model in SHAPES:
        config = AutoConfig.for_model(**SHAPES[sizes.model])
        with torch.device(sizes.device):  # large shapes are drawn where they live
            lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        lm = new_language_model(sizes.model, dtype)
    return lm.to(sizes.device).eval().requires_grad_(False)


def prompts(lm: Any, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Random prompts of one length."""
    generator = torch.Generator().manual_seed(seed)
    found: list[list[int]] = torch.randint(0, lm.config.vocab_size, (count, length), generator=generator).tolist()
    return found


def generate(lm: Any, heads: list[list[int]], new_tokens: int, **settings: Any) -> int:
    """Transformers' own ``generate``, greedy, to the last token of each; returns the tokens written."""
    ids = torch.tensor(heads, device=lm.device)
    lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    lm.generate(ids, attention_mask=torch.ones_like(ids), **{**lengths, **settings})
    return len(heads) * new_tokens
