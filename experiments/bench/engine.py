"""The closed loop without an environment: observe, choose, steer and decode, beside plain generation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from experiments.bench.models import generate, load, prompts
from experiments.bench.timing import Row, Sizes, compare
from steer_env.lazy import torch
from steer_env.lm.model import SteeredModel

FEATURES = 16_384


def measure(sizes: Sizes) -> Iterator[Row]:
    """Tokens a second: every lane pushes a direction of its own a token, all lanes one, or nobody any."""
    lm = load(sizes)
    directions = torch.randn(FEATURES, lm.config.get_text_config().hidden_size, device=sizes.device)
    for batch in sizes.batches:
        heads = prompts(lm, batch, sizes.prompt_tokens)
        engine = SteeredModel(lm, layer=lm.config.get_text_config().num_hidden_layers // 2, lanes=batch)
        runs = {
            "generate": partial(generate, lm, heads, sizes.new_tokens),
            "closed loop": partial(play, engine, heads, directions, sizes.new_tokens),
            "closed loop, one feature": partial(play, engine, heads, directions[:1], sizes.new_tokens),
        }
        yield compare(f"batch {batch}", "tokens/s", "generate", runs, sizes)


def play(engine: SteeredModel, heads: list[list[int]], directions: Any, new_tokens: int) -> int:
    """Every lane writes ``new_tokens`` behind its prompt; the direction is chosen by the residual."""
    for lane, head in enumerate(heads):
        engine.restart(lane, head)
    for _ in range(new_tokens):
        hidden = engine.observe()
        chosen = (hidden[:, 0] * 1e4).long().abs() % len(directions)
        tokens = engine.advance(directions[chosen]).argmax(dim=-1).tolist()
        for lane, token in enumerate(tokens):
            engine.write(lane, [token])
    return new_tokens * len(heads)
