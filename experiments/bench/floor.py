"""Decoding beside what the memory allows: every step reads all weights and all keys and values once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from experiments.bench.engine import FEATURES, play
from experiments.bench.models import generate, load, prompts
from experiments.bench.timing import Row, Run, Sizes, compare
from steer_env.lazy import torch
from steer_env.lm.model import SteeredModel

FLOOR = "bandwidth floor"
COPIED = 256 << 20  # bytes
COPIES = 7


def measure(sizes: Sizes) -> Iterator[Row]:
    """Tokens a second of the closed loop and of generate, eager and (on a GPU) compiled, over the memory's bound.

    The bound is the measured bandwidth of a copy over the bytes of weights, and of keys and values at the mean length,
    that one step reads. Nothing that decodes one token a lane a step, in this type, is faster.
    """
    lm = load(sizes)
    text = lm.config.get_text_config()
    directions = torch.randn(FEATURES, text.hidden_size, device=sizes.device)
    bandwidth = _bandwidth(sizes)
    for batch in sizes.batches:
        heads = prompts(lm, batch, sizes.prompt_tokens)
        engine = SteeredModel(lm, layer=text.num_hidden_layers // 2, lanes=batch)
        runs: dict[str, Run] = {
            "generate": partial(generate, lm, heads, sizes.new_tokens),
            "closed loop": partial(play, engine, heads, directions, sizes.new_tokens),
        }
        if sizes.device == "cuda":
            static = {"cache_implementation": "static"}  # Transformers then compiles the pass, with CUDA graphs
            runs["generate, compiled"] = partial(generate, lm, heads, sizes.new_tokens, **static)
        row = compare(f"batch {batch}", "tokens/s", "generate", runs, sizes)
        length = sizes.prompt_tokens + sizes.new_tokens / 2
        bound = batch * bandwidth / (_weights(lm) + batch * length * _per_token(lm))
        rates = {**row.rates, FLOOR: bound}
        yield replace(row, base=FLOOR, rates=rates, ratios={name: rate / bound for name, rate in rates.items()})


def _bandwidth(sizes: Sizes) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(COPIES):
        start = time.perf_counter()
        target.copy_(source)
        if sizes.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * COPIED / statistics.median(seconds)


def _weights(lm: Any) -> int:
    """Bytes of the parameters that a step reads: of an embedding that is not the output's too, one row a token."""
    inputs, outputs = lm.get_input_embeddings().weight, lm.get_output_embeddings().weight
    unread = 0 if inputs is outputs else inputs.nbytes
    return sum(parameter.nbytes for parameter in lm.parameters()) - unread


def _per_token(lm: Any) -> int:
    """Bytes of the keys and values of one token."""
    text = lm.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * lm.dtype.itemsize
