"""What each lane says: its likeliest token or, where the task offers options, the likeliest of those as a whole.

Options are compared by the sum of their tokens' log-probabilities over the whole vocabulary, without regard to length,
as lm-evaluation-harness does. The steered pass judges their first tokens, the rest is read behind it unsteered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steer_env.lazy import torch
from steer_env.lm.model import SteeredModel
from steer_env.lm.tokenizer import next_tokens

if TYPE_CHECKING:
    from torch import Tensor

Options = tuple[tuple[int, ...], ...]


class Said(NamedTuple):
    """What a lane says in one step.

    Attributes:
        token: The token, or the first of the option's.
        option: Which option, by its place; None where the lane is free to say anything.
        logprobs: Log-probability of each option, in their order.
    """

    token: int
    option: int | None = None
    logprobs: tuple[float, ...] = ()


def read_tails(model: SteeredModel, offered: Mapping[int, Options]) -> dict[int, list[float]]:
    """Log-probability of each option's tokens behind the first, one list a lane; 0 for options of one token.

    One forward pass reads a head (all of an option but its last token) in every lane, for all options that share it.
    The model stays as it is.

    Args:
        model: As it stands after a pass to judge the steered model, before one to judge the unsteered.
        offered: The options of some lanes.
    """
    tails = {lane: [0.0] * len(options) for lane, options in offered.items()}
    heads = {lane: sorted({tokens[:-1] for tokens in options} - {()}) for lane, options in offered.items()}
    for turn in range(max(map(len, heads.values()), default=0)):
        read = {lane: waiting[turn] for lane, waiting in heads.items() if turn < len(waiting)}
        for lane, logprobs in model.foresee(read).items():
            for place, tokens in enumerate(offered[lane]):
                if tokens[:-1] == read[lane]:
                    tail = torch.tensor(tokens[1:], device=logprobs.device)[:, None]
                    tails[lane][place] = float(logprobs.gather(1, tail).sum())
    return tails


def decide(
    logits: Tensor,
    offered: Mapping[int, Options],
    tails: Mapping[int, list[float]],
    temperature: float,
    chances: np.ndarray,
) -> list[Said]:
    """What each lane says: greedily, or as ``chances`` draws it at ``temperature``.

    Args:
        logits: ``[B, V]`` float32 of the next token.
        offered: The options of the lanes that are not free.
        tails: :func:`read_tails` of them.
        temperature: 0 is greedy; options are drawn by the softmax of their log-probabilities over it.
        chances: ``[B]`` in ``[0, 1)``.
    """
    free = len(offered) < len(logits)
    said = [Said(token) for token in next_tokens(logits, temperature, chances)] if free else [Said(0)] * len(logits)
    if not offered:
        return said
    lanes = sorted(offered)
    table = _logprobs(logits[lanes], [offered[lane] for lane in lanes], [tails[lane] for lane in lanes])
    places = next_tokens(table, temperature, chances[lanes])
    for lane, place, row in zip(lanes, places, table.tolist(), strict=True):
        options = offered[lane]
        said[lane] = Said(options[place][0], place, tuple(row[: len(options)]))
    return said


def _logprobs(logits: Tensor, options: list[Options], tails: list[list[float]]) -> Tensor:
    """``[b, O]`` float64 log-probabilities of whole options, minus infinity behind the last of a lane."""
    width = max(map(len, options))
    first = torch.tensor([[tokens[0] for tokens in row] + [0] * (width - len(row)) for row in options])
    rest = torch.tensor([row + [-torch.inf] * (width - len(row)) for row in tails], dtype=torch.float64)
    return logits.log_softmax(dim=-1).gather(1, first.to(logits.device)).double().cpu() + rest
