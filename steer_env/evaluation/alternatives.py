"""What else a policy could have done at a token: the arms of counterfactuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from steer_env.evaluation.play import Array

NO_OP, NEXT_BEST, RANDOM_ACTIVE = "no_op", "next_best", "random_active"
WITHOUT_STRONGEST, RANDOM_STRENGTHS = "without_strongest", "random_strengths"
RANDOM_ARMS = (RANDOM_ACTIVE, RANDOM_STRENGTHS)
Alternative = tuple[str, Any]


@dataclass(frozen=True)
class Alternatives:
    """What is tried in place of an action.

    Choices of one feature have three arms: ``no_op``; ``next_best``, the features that the policy likes best after the
    chosen one; ``random_active``, other features active at the token, drawn without replacement. Strengths have
    ``no_op``; ``without_strongest``, the largest one set to zero; ``random_strengths``, uniform within the bounds.

    Attributes:
        next_best: Features in that arm, at most.
        draws: Actions of the random arm, at most.
        seed: Of the draws.
    """

    next_best: int = 3
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("next_best", "draws", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def to_choice(self, action: int, preferences: Array, active: Array, place: tuple[int, int]) -> list[Alternative]:
        """Pairs of arm and action in place of a choice.

        Args:
            action: What was chosen, the last number of all for the no-op.
            preferences: ``[A]``, minus infinity where illegal.
            active: Numbers of the features active at the token.
            place: Episode and step, on which draws depend.
        """
        no_op = len(preferences) - 1
        liked = np.argsort(-preferences[:no_op], kind="stable")
        liked = liked[np.isfinite(preferences[liked]) & (liked != action)]
        drawn = self._rng(place).permutation(active[active != action])
        found: list[Alternative] = [] if action == no_op else [(NO_OP, no_op)]
        found += [(NEXT_BEST, int(other)) for other in liked[: self.next_best]]
        return found + [(RANDOM_ACTIVE, int(other)) for other in drawn[: self.draws]]

    def to_strengths(self, action: Array, space: spaces.Box, place: tuple[int, int]) -> list[Alternative]:
        """Pairs of arm and action in place of strengths ``[k]``; ``place`` as above."""
        weaker = np.array(action)
        weaker[np.abs(weaker).argmax()] = 0.0
        drawn = self._rng(place).uniform(space.low, space.high, (self.draws, *space.shape)).astype(np.float32)
        steered = [(NO_OP, np.zeros_like(weaker)), (WITHOUT_STRONGEST, weaker)] if np.any(action) else []
        return steered + [(RANDOM_STRENGTHS, strengths) for strengths in drawn]

    def _rng(self, place: tuple[int, int]) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])
