"""Keys and values of many lanes of different lengths.

A token at position ``p`` of a lane lives in slot ``p`` of that lane's buffers; one more slot, the last, takes what
padding writes. The attention mask is then a comparison of positions, a lane is reset by forgetting its length, and
lanes of any lengths share one forward pass.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_CAPACITY = 32


class _LaneLayer(CacheLayerMixin):
    """Buffers ``[B, heads, slots, width]`` of one transformer block, addressed by the cache's current plan."""

    is_sliding = False
    key_buffer: Tensor
    value_buffer: Tensor

    def __init__(self, cache: "LaneCache"):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        lanes, slots = self.cache.lanes, self.cache.capacity + 1
        self.key_buffer = key_states.new_zeros(lanes, key_states.shape[1], slots, key_states.shape[3])
        self.value_buffer = value_states.new_zeros(lanes, value_states.shape[1], slots, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._write(self.key_buffer, key_states), self._write(self.value_buffer, value_states)

    def _write(self, buffer: Tensor, states: Tensor) -> Tensor:
        plan = self.cache.plan
        seen = buffer[:, :, : plan.extent]
        everyone = len(plan.lanes) == len(buffer)
        if everyone and plan.level:
            seen[:, :, -states.shape[2] :] = states
        else:
            buffer[plan.lanes[:, None], :, plan.slots] = states.transpose(1, 2)
        return seen if everyone else seen[plan.lanes]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.plan.extent, 0

    def get_seq_length(self) -> int:
        return self.cache.plan.extent - self.cache.plan.slots.shape[1]

    def get_max_length(self) -> int:
        return -1


class Plan:
    """Where the tokens of one forward pass go: which lanes, which slots, and how far the lanes reach.

    Args:
        lanes: ``[b]`` lane numbers in ascending order, on the model's device.
        positions: ``[b, Q]`` position of each token, negative for padding (which stands on the left).
        extent: Slots below this are in use.
        scrap: The slot that takes what padding writes.
        level: Whether all lanes are of one length and write either one token or all they hold.
    """

    def __init__(self, lanes: Tensor, positions: Tensor, extent: int, scrap: int, level: bool):
        self.lanes = lanes
        self.real = positions >= 0
        self.slots = torch.where(self.real, positions, scrap)
        self.position_ids = positions.clamp(min=0)
        self.extent = extent
        self.level = level

    def is_plainly_causal(self, window: int | None = None) -> bool:
        """Whether no mask is needed: attention that is causal by itself sees just what it should."""
        return self.level and (window is None or self.extent < window)

    def mask(self, window: int | None = None) -> Tensor:
        """Boolean attention mask ``[b, 1, Q, extent]``: the lane's own past, at most ``window`` tokens of it.

        Padding sees the lane's first token, since attention to nothing would not be a number.
        """
        key = torch.arange(self.extent, device=self.slots.device)
        query = self.position_ids[:, None, :, None]
        return key <= query if window is None else (key <= query) & (key > query - window)


class LaneCache(Cache):
    """A key-value cache of ``lanes`` independent sequences that grow, end and restart on their own.

    Args:
        blocks: Number of transformer blocks.
        lanes: Number of sequences ``B``.
    """

    def __init__(self, blocks: int, lanes: int):
        self.lanes = lanes
        self.capacity = _FIRST_CAPACITY
        self.lengths = [0] * lanes
        self.plan = Plan(torch.empty(0, dtype=torch.long), torch.empty(0, 0, dtype=torch.long), 0, 0, False)
        self._blocks = [_LaneLayer(self) for _ in range(blocks)]
        super().__init__(layers=list(self._blocks))

    def begin(self, lanes: Sequence[int], counts: Sequence[int], device: torch.device) -> Plan:
        """Plan a pass that appends ``counts[i]`` tokens to ``lanes[i]``; the lengths change with :meth:`commit`."""
        width = max(counts)
        lengths = [self.lengths[lane] + count for lane, count in zip(lanes, counts, strict=True)]
        self._reserve(max(lengths))
        steps = torch.arange(-width, 0)
        positions = torch.tensor(lengths)[:, None] + steps
        if min(counts) < width:
            positions[steps < -torch.tensor(counts)[:, None]] = -1
        level = min(counts) == width and min(lengths) == max(lengths) and width in (1, max(lengths))
        self.plan = Plan(torch.tensor(lanes, device=device), positions.to(device), max(lengths), self.capacity, level)
        return self.plan

    def commit(self, lanes: Sequence[int], counts: Sequence[int]) -> None:
        """Count the tokens of the finished pass as part of their lanes."""
        for lane, count in zip(lanes, counts, strict=True):
            self.lengths[lane] += count

    def clear(self, lane: int) -> None:
        """Forget one lane; the others are not touched."""
        self.lengths[lane] = 0

    def scrub(self) -> None:
        """Put zeros in place of values that are not finite: even unseen ones would spread, as zero times NaN."""
        for buffer in self._buffers():
            buffer.nan_to_num_(0.0, 0.0, 0.0)

    @property
    def shaped(self) -> bool:
        """Whether a pass has shown what keys and values look like, so that :meth:`fill` knows where they belong."""
        return any(layer.is_initialized for layer in self._blocks)

    def rows(self, lane: int, start: int, end: int, block: int = 0) -> Tensor:
        """``[end - start, D]``: the keys and values of a lane's tokens, those of all blocks from ``block`` on."""
        parts = [buffer[lane, :, start:end].transpose(0, 1).flatten(1) for buffer in self._buffers(block)]
        return torch.cat(parts, dim=1)

    def fill(self, lane: int, rows: Tensor, block: int = 0) -> None:
        """Let an empty lane hold the tokens that ``rows`` of :meth:`rows` are of, in the blocks from ``block`` on."""
        count, first = len(rows), 0
        self._reserve(count)
        buffers = list(self._buffers(block))
        rows = rows.to(buffers[0].device)
        for buffer in buffers:
            heads, width = buffer.shape[1], buffer.shape[3]
            buffer[lane, :, :count] = rows[:, first : first + heads * width].view(count, heads, width).transpose(0, 1)
            first += heads * width
        self.lengths[lane] = count

    def _buffers(self, block: int = 0) -> Iterator[Tensor]:
        """The buffers of the blocks that have keys and values of their own: some models share them."""
        for layer in self._blocks[block:]:
            if layer.is_initialized:
                yield layer.key_buffer
                yield layer.value_buffer

    def _reserve(self, length: int) -> None:
        if length <= self.capacity:
            return
        while self.capacity < length:
            self.capacity *= 2
        for layer in self._blocks:
            if layer.is_initialized:
                layer.key_buffer, layer.value_buffer = self._grown(layer.key_buffer), self._grown(layer.value_buffer)

    def _grown(self, buffer: Tensor) -> Tensor:
        lanes, heads, slots, width = buffer.shape
        grown = buffer.new_zeros(lanes, heads, self.capacity + 1, width)
        grown[:, :, :slots] = buffer
        return grown
