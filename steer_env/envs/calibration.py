"""What unsteered episodes of train show at the tokens an agent would steer: residuals, and features that fire."""

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

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


def kept_calibration(scene: Scene, identity: Mapping[str, Any], folder: Path) -> Calibration:
    """The result of :func:`calibrate`, from the file that an earlier process left of it, or measured and left there.

    Args:
        scene: As for :func:`calibrate`.
        identity: All that the result depends on beside the prompts that are read; values are JSON or
            text.
        folder: Where the files are, made when there is none. Where it cannot be written, nothing is left.

    Raises:
        SteeringError: As :func:`calibrate` does.
    """
    tokens = [scene.tokenizer.prompt(scene.task.start(item).opening) for item in _some_items(scene)]
    record = {"version": 2, **identity, "prompts": tokens}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()
    path = folder / f"{digest[:40]}.json"
    try:
        kept = json.loads(path.read_text())
        seen = Statistics(*(np.array(kept[name], dtype=np.float32) for name in Statistics._fields))
        return Calibration(float(kept["residual_norm"]), tuple(map(int, kept["frequent"])), seen)
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or none of ours: it is written anew
        measured = calibrate(scene)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        beside.write_text(json.dumps(_plain(measured)))
        beside.replace(path)
    return measured


def _plain(measured: Calibration) -> dict[str, Any]:
    rows = {name: values.tolist() for name, values in measured.statistics._asdict().items()}
    return {"residual_norm": measured.residual_norm, "frequent": measured.frequent, **rows}


def calibrate(scene: Scene) -> Calibration:
    """Play some items that the model has room for unsteered and look at the residuals.

    Args:
        scene: A scene whose actions choose features (its last action is the no-op).

    Raises:
        SteeringError: The model's context is too short for all that are looked at.
    """
    episode = Episode(scene)
    episode.order.pin(_some_items(scene), 0)
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


def _some_items(scene: Scene) -> list[int]:
    """Items with room in the model's context, from all over the split: data sets come in an order, often by subject."""
    looked_at = np.random.default_rng(0).permutation(len(scene.task))[:_LOOKED_AT].tolist()
    fitting = (item for item in looked_at if fits_context(scene.task, scene.tokenizer, scene.model.context, item))
    found = list(islice(fitting, _EPISODES))
    if not found:
        raise SteeringError(
            f"none of {len(looked_at)} items has room in the model's context of {scene.model.context} tokens"
        )
    return found
