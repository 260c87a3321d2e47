"""What both environments show of themselves, typed: the way in for whoever holds a wrapped one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from steer_env.envs.episode import Episode
    from steer_env.envs.observations import Statistics
    from steer_env.lm.sae import FeatureDictionary
    from steer_env.lm.tokenizer import Tokenizer
    from steer_env.tasks import Task


class SteerBase:
    """The parts of a Steer environment, whatever its number of lanes ``B``; :func:`unwrap` finds it.

    Attributes:
        episode: The decision process itself; everything below reads it.
    """

    episode: Episode

    @property
    def lanes(self) -> int:
        """Number of lanes ``B``."""
        return self.episode.lanes

    @property
    def task(self) -> Task:
        """Items, replies and scores."""
        return self.episode.scene.task

    @property
    def lm(self) -> Any:
        """The frozen Hugging Face model (to read, or to hash its weights; never to change them)."""
        return self.episode.scene.model.lm

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.episode.scene.tokenizer

    @property
    def sae(self) -> FeatureDictionary:
        """The SAE at the steering site, all ``F`` features of it."""
        return self.episode.scene.dictionary

    @property
    def layer(self) -> int:
        """Block ``L`` that is steered."""
        return self.episode.scene.model.layer

    @property
    def site(self) -> str:
        """``"post"`` (output of the block) or ``"pre"`` (its input)."""
        return self.episode.scene.model.site

    @property
    def coefficient(self) -> float:
        """How much of a direction one action adds, in residual units."""
        return float(self.episode.scene.actuator.coefficient)

    @property
    def features(self) -> np.ndarray:
        """``[A-1]`` (or ``[k]``) SAE indices behind the actions."""
        return self.episode.scene.actuator.features

    @property
    def directions(self) -> Tensor:
        """``[A-1, M]`` decoder rows behind the actions."""
        rows = self.sae.directions
        return rows[self.features]

    @property
    def labels(self) -> str | None:
        """Where the features' labels come from (:func:`steer_env.lm.labels.feature_labels`)."""
        return self.episode.scene.labels

    @property
    def statistics(self) -> Statistics | None:
        """Mean and deviation ``[M]`` of train that observations are measured against; None where they are not."""
        return self.episode.scene.observation.statistics

    @property
    def temperature(self) -> float:
        """Of decoding; 0 is greedy."""
        return self.episode.scene.temperature

    @property
    def benchmark(self) -> bool:
        """Whether scores may carry the benchmark's name: the preset's own model and SAE on the hub's items."""
        return self.episode.scene.benchmark

    @property
    def dealt(self) -> list[int]:
        """The items that are dealt when none are pinned: all of the split, or those of ``limit``."""
        return self.episode.order.items.tolist()

    @property
    def playing(self) -> dict[str, np.ndarray]:
        """``item`` and ``index`` (place in the running order) ``[B]`` of the episodes under way."""
        return self.episode.items()

    @property
    def residual(self) -> Tensor:
        """``[B, M]`` float32 residuals of the states last returned, before steering."""
        return self.episode.hidden

    def encode(self) -> Tensor:
        """``[B, F]`` SAE activations of the states last returned."""
        return self.episode.encode()


def unwrap(envs: Any) -> SteerBase:
    """The Steer environment behind any stack of Gymnasium or Stable-Baselines3 wrappers.

    Args:
        envs: What ``gym.make`` or ``gym.make_vec`` returned, wrapped or not, or an SB3 vector environment around it.

    Raises:
        TypeError: There is no Steer environment inside.
    """
    inner = envs
    while not isinstance(inner, SteerBase):
        below = [getattr(inner, name, None) for name in ("unwrapped", "envs", "env", "venv")]
        below = [layer for layer in below if layer is not None and layer is not inner]
        if not below or isinstance(below[0], list):
            raise TypeError(f"there is no Steer environment inside {envs!r}")
        inner = below[0]
    return inner
