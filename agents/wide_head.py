"""A policy head over very many actions at the cost of those that are legal.

Where few actions are legal, their logits alone are computed: products of latents and the head's rows at given places
of a matrix, a sampled product of dense matrices. Where all are, log-probabilities and entropies are computed in blocks
of actions, and again in the backward pass, so that no matrix of all logits is kept (as Wijmans et al. 2024,
arXiv 2411.09009, do for vocabularies).
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2_048
"""Actions whose logits are computed at a time, where all are legal."""

with warnings.catch_warnings():  # PyTorch says once a process that compressed rows are in beta
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 1], [0], [0.0])


class Places:
    """``n`` entries of a matrix ``[R, C]`` in order of rows.

    Args:
        rows: ``[n]`` row of each entry, ascending.
        columns: ``[n]`` column of each.
        shape: ``(R, C)``.
    """

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        self.rows, self.columns, self.shape = rows, columns, shape

    @classmethod
    def of_bits(cls, packed: Tensor, count: int) -> Places:
        """The entries that are set in rows of ``count`` bits, as ``np.packbits`` packs them: uint8 ``[R, bytes]``."""
        # NumPy finds set bits several times as fast as PyTorch does on a CPU: words first, then the bits of those set.
        octets = packed.cpu().numpy()
        words = np.pad(octets, ((0, 0), (0, -octets.shape[1] % 8))).view(np.uint64)
        set_words = np.flatnonzero(words)
        bits = np.unpackbits(words.reshape(-1)[set_words].view(np.uint8)).view(bool)
        which, bit = np.divmod(np.flatnonzero(bits), 64)
        rows, word = np.divmod(set_words[which], words.shape[1])
        columns = word * 64 + bit
        inside = columns < count
        found = torch.from_numpy(np.stack([rows[inside], columns[inside]])).to(packed.device)
        return cls(found[0], found[1], (len(octets), count))

    @cached_property
    def counts(self) -> Tensor:
        """``[R]`` entries of each row."""
        return torch.bincount(self.rows, minlength=self.shape[0])

    @cached_property
    def starts(self) -> Tensor:
        """``[R + 1]`` first entry of each row, and at the end ``n``."""
        return F.pad(self.counts.cumsum(0), (1, 0))

    @cached_property
    def by_column(self) -> tuple[Places, Tensor]:
        """The same entries of the transposed matrix, and where each of those stands here."""
        order = self.columns.argsort(stable=True)
        return Places(self.columns[order], self.rows[order], (self.shape[1], self.shape[0])), order

    def padded(self, values: Tensor, fill: float) -> Tensor:
        """``[R, most entries of a row]`` of ``values [n]``, the rest filled."""
        place = torch.arange(len(values), device=values.device) - self.starts[self.rows]
        blank = values.new_full((self.shape[0], int(self.counts.max())), fill)
        return blank.index_put((self.rows, place), values)


def products_at(places: Places, left: Tensor, right: Tensor) -> Tensor:
    """``[n]`` inner products ``left[row] . right[column]`` of ``left [R, d]`` and ``right [C, d]`` at the places."""
    result: Tensor = _ProductsAt.apply(places, left, right)
    return result


def spread(places: Places, values: Tensor, right: Tensor) -> Tensor:
    """``[R, d]``: for each row the sum of ``values[i] right[column]`` over its entries."""
    result: Tensor = _Spread.apply(places, values, right)
    return result


class _ProductsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, places: Places, left: Tensor, right: Tensor) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(left, right)
        blank = left.new_zeros(len(places.rows))
        matrix = torch.sparse_csr_tensor(places.starts, places.columns, blank, places.shape, check_invariants=False)
        return torch.sparse.sampled_addmm(matrix, left, right.T, beta=0.0).values()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        for_left = spread(ctx.places, grads[0], right) if ctx.needs_input_grad[1] else None
        return None, for_left, _spread_by_column(ctx, grads[0], left)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, places: Places, values: Tensor, right: Tensor) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(values, right)
        # Bags of rows of ``right``: several times as fast as the product with a compressed matrix.
        columns, starts = places.columns.int(), places.starts.int()
        return F.embedding_bag(columns, right, starts, mode="sum", per_sample_weights=values, include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        values, right = ctx.saved_tensors
        for_values = products_at(ctx.places, grads[0], right) if ctx.needs_input_grad[1] else None
        return None, for_values, _spread_by_column(ctx, values, grads[0])


def _spread_by_column(ctx: Any, values: Tensor, left: Tensor) -> Tensor | None:
    """The gradient for ``right``, if it is asked for."""
    if not ctx.needs_input_grad[2]:
        return None
    transposed, order = ctx.places.by_column
    return spread(transposed, values[order], left)


def chosen_in_blocks(latent: Tensor, weight: Tensor, bias: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a softmax over logits ``latent @ weight.T + bias`` says of actions, never holding all logits.

    It is differentiated once only.

    Args:
        latent: ``[B, d]``.
        weight: ``[A, d]``.
        bias: ``[A]``.
        actions: ``[B]``, each below ``A``.

    Returns:
        ``[B]`` log-probabilities of the actions, ``[B]`` entropies in nats, and ``[B]`` the logits' ``logsumexp``.
    """
    log_prob, entropy, log_total = _ChosenInBlocks.apply(latent, weight, bias, actions)
    return log_prob, entropy, log_total


class _ChosenInBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, weight: Tensor, bias: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Running sums of exp(logit - peak) and of it times the logit, rescaled where the peak rises.
        peak = latent.new_full((len(latent), 1), -torch.inf)
        total, weighted = torch.zeros_like(peak), torch.zeros_like(peak)
        for first in range(0, len(weight), BLOCK):
            logits = torch.addmm(bias[first : first + BLOCK], latent, weight[first : first + BLOCK].T)
            risen = torch.maximum(peak, logits.amax(1, keepdim=True))
            scale = (peak - risen).exp()
            powers = (logits - risen).exp_()
            total = total * scale + powers.sum(1, keepdim=True)
            weighted = weighted * scale + torch.linalg.vecdot(powers, logits, dim=1)[:, None]
            peak = risen
        log_total = peak + total.log()
        entropy = log_total - weighted / total
        ctx.save_for_backward(latent, weight, bias, actions, log_total, entropy)
        chosen = torch.linalg.vecdot(latent, weight[actions]) + bias[actions]
        return chosen - log_total.squeeze(1), entropy.squeeze(1), log_total.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        latent, weight, bias, actions, log_total, entropy = ctx.saved_tensors
        of_log_prob, of_entropy, of_total = (grad[:, None] for grad in grads)
        for_latent = torch.zeros_like(latent)
        for_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        for first in range(0, len(weight), BLOCK):
            rows = weight[first : first + BLOCK]
            log_probs = torch.addmm(bias[first : first + BLOCK], latent, rows.T).sub_(log_total)
            powers = log_probs.exp()
            # d entropy / d logit = -p (log p + entropy), d log p(a) / d logit = [a] - p, d logsumexp / d logit = p
            slopes = log_probs.add_(entropy).mul_(-of_entropy).add_(of_total - of_log_prob).mul_(powers)
            here = (actions >= first) & (actions < first + len(rows))
            slopes[here, actions[here] - first] += of_log_prob[here, 0]
            for_latent.addmm_(slopes, rows)
            if for_weight is not None:
                torch.mm(slopes.T, latent, out=for_weight[first : first + BLOCK])
            if for_bias is not None:
                torch.sum(slopes, dim=0, out=for_bias[first : first + BLOCK])
        return for_latent, for_weight, for_bias, None
