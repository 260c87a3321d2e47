"""From logits to tokens, and between tokens and text."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from steer_env.errors import SteeringError
from steer_env.lazy import torch

if TYPE_CHECKING:
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


def divergence(logits: Tensor, reference: Tensor) -> np.ndarray:
    """KL divergence ``[B]`` in nats of the next-token distribution from a reference's, over the whole vocabulary.

    Args:
        logits: ``[B, V]`` float32.
        reference: ``[B, V]`` float32.
    """
    chosen, other = logits.log_softmax(dim=-1), reference.log_softmax(dim=-1)
    weights = chosen.exp()
    # A token without probability adds nothing, though its logarithm is infinite.
    terms = torch.where(weights > 0, weights * (chosen - other), 0.0)
    return terms.sum(dim=-1).clamp(min=0.0).cpu().numpy()  # rounding would leave a trace below zero


class Tokenizer:
    """A tokenizer with a memory: short texts come again and again.

    Args:
        hf: A Hugging Face tokenizer.
        chat: Put prompts into the tokenizer's chat template, as what a user said and the model is to answer.

    Raises:
        SteeringError: ``chat``, but the tokenizer has no template.
    """

    def __init__(self, hf: Any, chat: bool = False):
        if chat and not hf.chat_template:
            raise SteeringError(f"the tokenizer of {hf.name_or_path!r} has no chat template: use chat=False")
        self.hf = hf
        self.chat = chat
        self.prompt = lru_cache(4096)(self._prompt)
        self.encode = lru_cache(4096)(self._encode)
        self.decode = lru_cache(65536)(self._decode)
        self.options = lru_cache(4096)(self._options)

    def _prompt(self, text: str) -> tuple[int, ...]:
        """Tokens of a prompt, with the tokenizer's own beginning; at least one token."""
        tokens = self._tokens(self._framed(text), not self.chat)
        if not tokens and self.hf.bos_token_id is None:
            raise ValueError("the prompt is empty and the tokenizer has no beginning-of-sequence token")
        return tokens or (self.hf.bos_token_id,)

    def _encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a continuation, without special ones."""
        return self._tokens(text, False)

    def _decode(self, *tokens: int) -> str:
        """Text of the tokens, special ones left out."""
        return self.hf.decode(list(tokens), skip_special_tokens=True)

    def spoken(self, choices: tuple[str, ...], opening: bool) -> tuple[str, ...]:
        """The choices as the model would write them.

        Behind text a word brings the space in front of it along. Behind the header of a chat template it does not, if
        that ends in a line break or a token of its own, and not in text such as ``ASSISTANT:``.
        """
        return tuple(choice.removeprefix(" ") for choice in choices) if opening and self._begins_bare else choices

    @cached_property
    def _begins_bare(self) -> bool:
        """Whether replies to a prompt begin where no text stands in front of them."""
        header = self._framed("") if self.chat else ""
        return header[-1:].isspace() or header.endswith(tuple(self.hf.get_added_vocab()))

    def _options(self, before: str, options: tuple[str, ...], opening: bool) -> tuple[tuple[int, ...], ...]:
        """Tokens of each option where it follows ``before``.

        They are those of the whole text that come behind the tokens of ``before``, as lm-evaluation-harness has it:
        an option may read otherwise by itself.

        Args:
            before: The prompt (``opening``), or the last text of a conversation under way.
            options: Continuations, as :meth:`spoken` has them.
            opening: Whether ``before`` is the prompt.

        Raises:
            SteeringError: An option changes the tokens before it, has none or unknown ones, or is another's twin.
        """
        special = opening and not self.chat
        text = self._framed(before) if opening else before
        head = self.prompt(before) if opening else self.encode(before)
        found: dict[tuple[int, ...], str] = {}
        for option in options:
            whole = self._tokens(text + option, special) if text else head + self.encode(option)
            tokens = whole[len(head) :]
            name = f"option {option!r} of the tokenizer of {self.hf.name_or_path!r}"
            if whole[: len(head)] != head:
                raise SteeringError(f"{name} melts into the last token of the text before it ({text[-20:]!r})")
            if not tokens or self.hf.unk_token_id in tokens:
                raise SteeringError(f"{name} has no tokens or unknown ones ({list(tokens)}): use decode='free'")
            if tokens in found:
                raise SteeringError(f"{name} has the same tokens as option {found[tokens]!r}: {list(tokens)}")
            found[tokens] = option
        return tuple(found)

    def _framed(self, text: str) -> str:
        """The text, in the chat template where that is wanted."""
        if not self.chat:
            return text
        said = [{"role": "user", "content": text}]
        return self.hf.apply_chat_template(said, tokenize=False, add_generation_prompt=True)

    def _tokens(self, text: str, special: bool) -> tuple[int, ...]:
        return tuple(self.hf(text, add_special_tokens=special)["input_ids"])


def end_tokens(lm: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end the model's turn: the tokenizer's, and those at which ``generate`` would stop."""
    stops = lm.generation_config.eos_token_id if lm.generation_config is not None else None
    listed = stops if isinstance(stops, list) else [stops]
    return frozenset(token for token in (*listed, tokenizer.hf.eos_token_id) if token is not None)
