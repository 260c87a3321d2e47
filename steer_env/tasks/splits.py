"""Seeded splits for data sets that have none, and hashes that say which items a split holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from steer_env.tasks.data import Row

SPLITS = ("train", "validation", "test")
SHARES = (0.4, 0.1, 0.5)


def seeded_split(
    rows: Sequence[Row],
    split: str,
    group: Callable[[Row], str],
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> list[Row]:
    """The rows of one split, in their order.

    A row's split follows from the hash of its group alone: other rows and their order do not matter, and rows of one
    group, in whatever letter case and spacing, are never in two splits.

    Args:
        rows: all rows.
        split: one of ``SPLITS``.
        group: from a row to what must stay together.
        seed: another seed, other splits.
        shares: of train, validation and test; they sum to 1.

    Raises:
        ValueError: there is no such split, or no row falls into it.
    """
    check_split(split)
    place = SPLITS.index(split)
    low, high = sum(shares[:place]), sum(shares[: place + 1])
    chosen = [row for row in rows if low <= _place(group(row), seed) < high]
    if not chosen:
        raise ValueError(f"the seeded split {split!r} of {len(rows)} rows is empty")
    return chosen


def split_sha256(rows: Sequence[Row]) -> str:
    """Hash of the rows' values in their order: equal hashes, equal items."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def check_split(split: str) -> None:
    """Refuse a split that no task has.

    Raises:
        ValueError: ``split`` is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")


def _place(group: str, seed: int) -> float:
    name = " ".join(group.casefold().split())
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
