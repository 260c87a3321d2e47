"""Keys and values of many lanes of different lengths, and of prompts worth keeping.

A token at position ``p`` of a lane lives in slot ``p`` of that lane's buffers; one more slot, the last, takes what
padding writes. The attention mask is then a comparison of positions, a lane is reset by forgetting its length, and
lanes of any lengths share one forward pass.
"""

from collections import OrderedDict
from collections.abc import Sequence

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
        prompt_tokens: How many tokens of prompts to keep for reuse (least recently used go first).
    """

    def __init__(self, blocks: int, lanes: int, prompt_tokens: int = 0):
        self.lanes = lanes
        self.capacity = _FIRST_CAPACITY
        self.lengths = [0] * lanes
        self.plan = Plan(torch.empty(0, dtype=torch.long), torch.empty(0, 0, dtype=torch.long), 0, 0, False)
        self._prompts = _PromptStore(prompt_tokens)
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
        for layer in self._blocks:
            for buffer in (layer.key_buffer, layer.value_buffer):
                buffer.nan_to_num_(0.0, 0.0, 0.0)

    def keep(self, lane: int, prompt: tuple[int, ...]) -> None:
        """Keep what the lane holds of ``prompt`` (all of it) for later :meth:`recall`."""
        if self._prompts.accepts(prompt):
            end = len(prompt)
            self._prompts.put(
                prompt,
                [
                    (layer.key_buffer[lane, :, :end].clone(), layer.value_buffer[lane, :, :end].clone())
                    for layer in self._blocks
                ],
            )

    def recall(self, lane: int, prompt: tuple[int, ...]) -> bool:
        """Fill an empty lane with a kept prompt; False when it is not kept."""
        kept = self._prompts.get(prompt)
        if kept is None:
            return False
        self._reserve(len(prompt))
        for layer, (keys, values) in zip(self._blocks, kept, strict=True):
            layer.key_buffer[lane, :, : len(prompt)] = keys
            layer.value_buffer[lane, :, : len(prompt)] = values
        self.lengths[lane] = len(prompt)
        return True

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


class _PromptStore:
    """Least-recently-used store of the keys and values of whole prompts, bounded in tokens."""

    def __init__(self, max_tokens: int):
        self.max_tokens = max_tokens
        self.tokens = 0
        self._kept: OrderedDict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = OrderedDict()

    def accepts(self, prompt: tuple[int, ...]) -> bool:
        return len(prompt) <= self.max_tokens and prompt not in self._kept

    def get(self, prompt: tuple[int, ...]) -> list[tuple[Tensor, Tensor]] | None:
        if prompt in self._kept:
            self._kept.move_to_end(prompt)
        return self._kept.get(prompt)

    def put(self, prompt: tuple[int, ...], kept: list[tuple[Tensor, Tensor]]) -> None:
        self._kept[prompt] = kept
        self.tokens += len(prompt)
        while self.tokens > self.max_tokens:
            oldest, _ = self._kept.popitem(last=False)
            self.tokens -= len(oldest)
