"""Everything an episode is made of."""

from dataclasses import dataclass

import numpy as np

from steer_env.envs.actions import Actuator
from steer_env.envs.observations import Observation
from steer_env.lm.model import SteeredModel
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks.base import Task

OPENING = 3
"""Tokens of a turn that mask ``"opening"`` leaves to the agent."""
MASKS = {
    "off": "every feature",
    "current": "features that are active at the token",
    "generation": "features that are active at this choice, or were at an earlier one of the episode",
    "all": "features that were active at any token, of the prompt too",
    "opening": f"every feature at the first {OPENING} tokens of a turn, none at later ones",
}
"""Scopes of a mask, and what is legal in each beside the no-op."""


@dataclass(frozen=True)
class Scene:
    """Everything an episode is made of, assembled by the registry.

    Attributes:
        model: ``B`` lanes of the frozen language model.
        tokenizer: Its tokenizer.
        ends: Tokens that end a turn of the model.
        dictionary: The SAE at its steering site.
        task: Items, replies and scores.
        actuator: What the agent may do.
        observation: What the agent sees.
        mask: Scope of the features that count as active: one of ``MASKS``.
        temperature: 0 is greedy decoding.
        compare: Also ask the unsteered model for its token, at one more pass a token.
        benchmark: Whether scores may carry the name of the benchmark that the task is.
        labels: Where the features' labels are, as :func:`steer_env.lm.labels.feature_labels` takes it.
        items: The items that are dealt when none are pinned; None is all of the split.
    """

    model: SteeredModel
    tokenizer: Tokenizer
    ends: frozenset[int]
    dictionary: FeatureDictionary
    task: Task
    actuator: Actuator
    observation: Observation
    mask: str = "off"
    temperature: float = 0.0
    compare: bool = False
    benchmark: bool = False
    labels: str | None = None
    items: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise ValueError(f"mask must be one of {tuple(MASKS)}, got {self.mask!r}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and at least 0, got {self.temperature}")
        if len(self.task) == 0:
            raise ValueError(f"task {self.task.name!r} has no items in this split")
