"""Lanes whose replies differ in length, as those to GSM8K do: what waiting and refilling cost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from itertools import cycle

from experiments.bench.models import load, prompts
from experiments.bench.timing import Row, Sizes, compare
from steer_env.lazy import torch
from steer_env.lm.model import SteeredModel
from steer_env.lm.prompts import PIECE, PromptStore

SHORTEST = 8


def measure(sizes: Sizes) -> Iterator[Row]:
    """Steered tokens a second where lanes end at different times, over those where all end together.

    Lengths are drawn between ``SHORTEST`` and twice ``new_tokens`` less that, uniformly; the even lanes have the mean
    length. A lane that ends is refilled with the next prompt in the same step: its prompt is read by itself, where even
    lanes have theirs read together, or is known, as it is in every epoch but the first.
    """
    lm = load(sizes)
    blocks, width = lm.config.get_text_config().num_hidden_layers, lm.config.get_text_config().hidden_size
    mean = sizes.new_tokens
    for batch in sizes.batches:
        heads = prompts(lm, 4 * batch, sizes.prompt_tokens)
        zero = torch.zeros(batch, width, device=sizes.device)
        draw = random.Random(0)
        lengths = [draw.randint(SHORTEST, 2 * mean - SHORTEST) for _ in range(1_000)]
        for known in (False, True):
            stores = [PromptStore(4 << 30, PIECE, alone=True) if known else None for _ in range(2)]
            even, ragged = (SteeredModel(lm, blocks // 2, batch, prompts=store) for store in stores)
            runs = {
                "even": partial(_play, even, heads, [mean], zero, 3 * mean),
                "ragged": partial(_play, ragged, heads, lengths, zero, 3 * mean),
            }
            case = f"batch {batch}, {SHORTEST} to {2 * mean - SHORTEST} tokens, prompts {'known' if known else 'read'}"
            yield compare(case, "tokens/s", "even", runs, sizes)


def _play(engine: SteeredModel, heads: list[list[int]], lengths: list[int], zero: torch.Tensor, steps: int) -> int:
    prompt, length = cycle(heads), cycle(lengths)
    left = [next(length) for _ in range(engine.lanes)]
    for lane in range(engine.lanes):
        engine.restart(lane, next(prompt))
    for _ in range(steps):
        engine.observe()
        tokens = engine.advance(zero).argmax(dim=-1).tolist()
        for lane, token in enumerate(tokens):
            left[lane] -= 1
            if left[lane]:
                engine.write(lane, [token])
            else:
                left[lane] = next(length)
                engine.restart(lane, next(prompt))
    return steps * engine.lanes
