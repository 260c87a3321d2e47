"""Which item a lane plays next, and with which randomness."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from steer_env.errors import SteeringError


@dataclass(frozen=True)
class Draw:
    """One episode to play.

    Attributes:
        item: Item of the task's split.
        index: Place in the pinned running order; ``-1`` when items are shuffled.
        seed: Seed of the episode's own randomness.
    """

    item: int
    index: int
    seed: tuple[int, ...]

    @cached_property
    def rng(self) -> np.random.Generator:
        """The episode's own randomness (sampled decoding), made when first asked for."""
        return np.random.default_rng(self.seed)


def limited_items(count: int, limit: int | None, seed: int) -> np.ndarray:
    """The items ``[limit]`` that are dealt of a split of ``count``; all of them without a limit.

    They are the first of a shuffle that the seed alone decides, so a larger limit holds all items of a smaller one.

    Raises:
        SteeringError: The split has fewer items, the limit is below 1, or the seed below 0.
    """
    if limit is None:
        return np.arange(count, dtype=np.int32)
    if not 1 <= limit <= count:
        raise SteeringError(f"limit must be in [1, {count}], the items of the split; got {limit}")
    if seed < 0:
        raise SteeringError(f"limit_seed must be at least 0, got {seed}")
    return np.random.default_rng(seed).permutation(count)[:limit].astype(np.int32)


class ItemOrder:
    """Deals items to lanes: each lane a seeded shuffle of them, or all lanes one pinned list.

    A pinned item's randomness depends on the seed and the item alone, so any lane plays it the same way.

    Args:
        count: Items of the split, any of which may be pinned.
        lanes: Lanes.
        items: Those that are shuffled; None is all.
    """

    def __init__(self, count: int, lanes: int, items: np.ndarray | None = None):
        self.count = count
        self.items = limited_items(count, None, 0) if items is None else items
        self._rngs = [np.random.default_rng() for _ in range(lanes)]
        self._orders: list[Iterator[int]] = [iter(()) for _ in range(lanes)]
        self._pinned: Sequence[int] = ()
        self._pinned_seed = 0
        self._dealt = 0

    def seed(self, rngs: Sequence[np.random.Generator]) -> None:
        """Give each lane its generator and a fresh shuffle."""
        self._rngs = list(rngs)
        self._orders = [iter(()) for _ in rngs]

    def pin(self, items: Sequence[int], seed: int | None) -> None:
        """Deal ``items`` in this order, again from the start when all are dealt; ``()`` goes back to shuffling.

        Without a seed, one is drawn from the first lane's generator.

        Raises:
            ValueError: An item is not in the split (it is named).
        """
        for item in items:
            if not 0 <= item < self.count:
                raise ValueError(f"item must be in [0, {self.count}), got {item}")
        if items and seed is None:
            seed = int(self._rngs[0].integers(2**32))
        self._pinned, self._pinned_seed, self._dealt = tuple(items), seed or 0, 0

    def deal(self, lane: int) -> Draw:
        """The lane's next episode."""
        if self._pinned:
            index = self._dealt
            item = self._pinned[index % len(self._pinned)]
            self._dealt += 1
            return Draw(item, index, (self._pinned_seed, item))
        rng = self._rngs[lane]
        following = next(self._orders[lane], None)
        if following is None:
            self._orders[lane] = iter(self.items[rng.permutation(len(self.items))])
            following = next(self._orders[lane])
        item = int(following)
        return Draw(item, -1, (int(rng.integers(2**32)), item))
