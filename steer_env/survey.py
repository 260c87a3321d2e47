"""What unsteered episodes show at the tokens an agent would steer: how large residuals are, which features fire."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from steer_env.episode import Episode, Scene

SURVEY_LANES = 16
_EPISODES = 64
_STRONGEST = 5


@dataclass(frozen=True)
class Survey:
    """Result of :func:`survey`.

    Attributes:
        residual_norm: Median norm of the observed residuals.
        frequent: All ``F`` features, those most often among a token's strongest five first (AutoSteer's choice of
            its action's features).
    """

    residual_norm: float
    frequent: tuple[int, ...]


def survey(scene: Scene) -> Survey:
    """Play the first items unsteered and look at the residuals.

    Args:
        scene: A scene whose actions choose features (its last action is the no-op).
    """
    episode = Episode(scene)
    episode.order.pin(range(min(_EPISODES, len(scene.task))), 0)
    idle = np.full(episode.lanes, len(scene.actuator.features))
    norms: list[float] = []
    counts: Counter[int] = Counter()
    for lane in range(episode.lanes):
        episode.start(lane)
    finished = 0
    while finished < _EPISODES:
        episode.observe()
        norms += episode.hidden.norm(dim=1).tolist()
        strongest = torch.topk(episode.encode(), min(_STRONGEST, scene.dictionary.width), dim=1)
        counts.update(strongest.indices[strongest.values > 0].tolist())
        for lane in episode.step(idle).finals:
            episode.start(lane)
            finished += 1
    frequent = sorted(range(scene.dictionary.width), key=lambda feature: (-counts[feature], feature))
    return Survey(float(np.median(norms)), tuple(frequent))
