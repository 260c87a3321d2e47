"""What unsteered episodes of train show at the tokens an agent would steer: residuals in numbers, features that fire."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from steer_env.envs.context import fits_context
from steer_env.envs.episode import Episode
from steer_env.envs.observations import Statistics, normalized
from steer_env.envs.scene import Scene
from steer_env.errors import SteeringError

CALIBRATION_LANES = 16
_EPISODES = 64
_LOOKED_AT = 1024
_STRONGEST = 5


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`calibrate`.

    Attributes:
        residual_norm: Median norm of the observed residuals.
        frequent: All ``F`` features, those most often among a token's strongest five first (AutoSteer's choice of
            its action's features).
        statistics: Mean and deviation of the observed residuals, each divided by its own root mean square.
    """

    residual_norm: float
    frequent: tuple[int, ...]
    statistics: Statistics


def calibrate(scene: Scene) -> Calibration:
    """Play the first items that the model has room for unsteered and look at the residuals.

    Args:
        scene: A scene whose actions choose features (its last action is the no-op).

    Raises:
        SteeringError: The model's context is too short for all of the first items.
    """
    episode = Episode(scene)
    episode.order.pin(_first_items(scene), 0)
    idle = np.full(episode.lanes, len(scene.actuator.features))
    norms: list[float] = []
    seen: list[torch.Tensor] = []
    counts: Counter[int] = Counter()
    for lane in range(episode.lanes):
        episode.start(lane)
    finished = 0
    while finished < _EPISODES:
        episode.observe()
        norms += episode.hidden.norm(dim=1).tolist()
        seen.append(normalized(episode.hidden).double().cpu())
        strongest = torch.topk(episode.encode(), min(_STRONGEST, scene.dictionary.width), dim=1)
        counts.update(strongest.indices[strongest.values > 0].tolist())
        for lane in episode.step(idle).finals:
            episode.start(lane)
            finished += 1
    frequent = sorted(range(scene.dictionary.width), key=lambda feature: (-counts[feature], feature))
    deviation, mean = (part.float().numpy() for part in torch.std_mean(torch.cat(seen), dim=0, correction=0))
    return Calibration(float(np.median(norms)), tuple(frequent), Statistics(mean, deviation))


def _first_items(scene: Scene) -> list[int]:
    """The first items with room in the model's context."""
    looked_at = range(min(_LOOKED_AT, len(scene.task)))
    fitting = (item for item in looked_at if fits_context(scene.task, scene.tokenizer, scene.model.context, item))
    found = list(islice(fitting, _EPISODES))
    if not found:
        raise SteeringError(
            f"none of the first {len(looked_at)} items has room in the model's context of {scene.model.context} tokens"
        )
    return found
