"""From logits to tokens, and between tokens and text."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def next_tokens(logits: Tensor, temperature: float, chances: np.ndarray) -> list[int]:
    """One token a lane: the most likely one, or the one that ``chances`` draws at ``temperature``.

    Args:
        logits: ``[B, V]`` float32.
        temperature: 0 is greedy.
        chances: ``[B]`` in ``[0, 1)``; the same number and logits always give the same token. Not read when greedy.
    """
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    below_best = logits.double() - logits.max(dim=-1, keepdim=True).values  # else a small temperature overflows
    weights = torch.softmax(below_best / temperature, dim=-1).cumsum(dim=-1)
    # Scaled by the last sum, which rounding may leave a little off one.
    marks = torch.as_tensor(chances, device=logits.device)[:, None] * weights[:, -1:]
    return torch.searchsorted(weights, marks, right=True).squeeze(1).tolist()


class Words:
    """A tokenizer with a memory: short texts come again and again.

    Args:
        tokenizer: A Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.prompt = lru_cache(4096)(self._prompt)
        self.encode = lru_cache(4096)(self._encode)
        self.decode = lru_cache(65536)(self._decode)

    def _prompt(self, text: str) -> tuple[int, ...]:
        """Tokens of a prompt, with the tokenizer's own beginning; at least one token."""
        tokens = self.tokenizer(text)["input_ids"]
        if not tokens and self.tokenizer.bos_token_id is None:
            raise ValueError("the prompt is empty and the tokenizer has no beginning-of-sequence token")
        return tuple(tokens or [self.tokenizer.bos_token_id])

    def _encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a continuation, without special ones."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, *tokens: int) -> str:
        """Text of the tokens, special ones left out."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


def end_tokens(lm: Any, words: Words) -> frozenset[int]:
    """Tokens that end the model's turn: the tokenizer's, and those at which ``generate`` would stop."""
    stops = lm.generation_config.eos_token_id if lm.generation_config is not None else None
    listed = stops if isinstance(stops, list) else [stops]
    return frozenset(token for token in (*listed, words.tokenizer.eos_token_id) if token is not None)
