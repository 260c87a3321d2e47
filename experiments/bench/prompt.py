"""One-token answers behind prompts that are known, beside prompts that are read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from experiments.bench.models import load, prompts
from experiments.bench.timing import Row, Sizes, compare
from steer_env.lazy import torch
from steer_env.lm.model import SteeredModel, proven_upper_half
from steer_env.lm.prompts import PIECE, PromptStore

LONGER = 4


def measure(sizes: Sizes) -> Iterator[Row]:
    """Answers a second behind prompts of ``LONGER`` times ``prompt_tokens``, at three quarters of the blocks."""
    lm = load(sizes)
    text = lm.config.get_text_config()
    layer = 3 * text.num_hidden_layers // 4
    for batch in sizes.batches:
        heads = prompts(lm, 2 * batch, LONGER * sizes.prompt_tokens)
        zero = torch.zeros(batch, text.hidden_size, device=sizes.device)
        store = PromptStore(4 << 30, PIECE, alone=True)
        engines = {
            "read": SteeredModel(lm, layer, batch),
            "known": SteeredModel(lm, layer, batch, prompts=store),
            "known, upper half": SteeredModel(
                lm, layer, batch, prompts=store, upper=proven_upper_half(lm, layer, "post")
            ),
        }
        runs = {name: partial(_answer, engine, heads, zero) for name, engine in engines.items()}
        yield compare(f"batch {batch}, {LONGER * sizes.prompt_tokens} tokens", "answers/s", "read", runs, sizes)


def _answer(engine: SteeredModel, heads: list[list[int]], zero: torch.Tensor) -> int:
    for first in range(0, len(heads), engine.lanes):
        for lane in range(engine.lanes):
            engine.restart(lane, heads[first + lane], once=True)
        engine.observe()
        engine.advance(zero)
    return len(heads)
