"""What an SAE costs: activations for masks and observations, and residuals to train one on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench.models import load, prompts
from experiments.bench.timing import Row, Sizes, compare
from steer_env.lazy import torch
from steer_env.lm.sae_training import residuals

FEATURES, K = 4_096, 32


def measure(sizes: Sizes) -> Iterator[Row]:
    """Residuals a second to half depth beside the whole pass; activations a second of ours beside SAELens's."""
    lm = load(sizes)
    text = lm.config.get_text_config()
    layer = text.num_hidden_layers // 2
    length = 4 * sizes.prompt_tokens
    for batch in sizes.batches:
        ids = torch.tensor(prompts(lm, batch, length), device=sizes.device)

        runs = {"whole pass": partial(_whole, lm, ids), "to half depth": partial(_half, lm, ids, layer)}
        yield compare(f"batch {batch} of {length} tokens", "residuals/s", "whole pass", runs, sizes)
    yield _encoding(text.hidden_size, max(sizes.batches), sizes)


def _whole(lm: Any, ids: torch.Tensor) -> int:
    with torch.no_grad():
        lm(input_ids=ids, use_cache=False)
    return ids.numel()


def _half(lm: Any, ids: torch.Tensor, layer: int) -> int:
    residuals(lm, ids, layer)
    return ids.numel()


def _encoding(width: int, batch: int, sizes: Sizes) -> Row:
    from sae_lens import TopKSAE, TopKSAEConfig

    from steer_env.lm.sae_sources import open_sae

    with tempfile.TemporaryDirectory() as folder:
        theirs = TopKSAE(TopKSAEConfig(d_in=width, d_sae=FEATURES, k=K, device="cpu"))
        theirs.save_model(Path(folder))
        ours = open_sae(folder)
    inputs = torch.randn(batch, width)

    def encode(encoder: Callable[[torch.Tensor], torch.Tensor]) -> int:
        with torch.no_grad():
            for _ in range(50):
                encoder(inputs)
        return 50 * batch

    runs = {"SAELens": partial(encode, theirs.encode), "ours": partial(encode, ours.encode)}
    return compare(f"{FEATURES:,} features, batch {batch}", "encodings/s", "SAELens", runs, sizes)
