"""What SB3VecEnv costs beside the environment that it wraps."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.bench.timing import Row, Sizes, compare

LANES, STEPS = 256, 200


def measure(sizes: Sizes) -> Iterator[Row]:
    """Lane steps a second, of episodes of 64 steps; the adapter's own cost is what it takes more."""
    import numpy as np

    from agents.vec_env import SB3VecEnv
    from experiments.bench.worlds import BlankVectorEnv

    actions = np.zeros(LANES, dtype=np.int64)
    bare = BlankVectorEnv(LANES, 257, 256, length=64)
    wrapped = SB3VecEnv(BlankVectorEnv(LANES, 257, 256, length=64))
    bare.reset()
    wrapped.reset()

    def alone() -> int:
        for _ in range(STEPS):
            bare.step(actions)
        return LANES * STEPS

    def through() -> int:
        for _ in range(STEPS):
            wrapped.step(actions)
        return LANES * STEPS

    yield compare(f"{LANES} lanes", "lane steps/s", "environment", {"environment": alone, "SB3VecEnv": through}, sizes)
