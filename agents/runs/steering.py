"""What a run's actions and observations mean: where it steers, how hard, along which directions, and in which scale it
sees. Kept in its record and checked.
"""

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from steer_env.envs.base import unwrap
from steer_env.lm.loading import weights_sha256

# Relative; measured numbers differ a little between devices, an activation at its threshold even by its whole size.
_TOLERANCES = {
    "coefficient": 1e-4,
    "layer": 0.0,
    "site": 0.0,
    "features_sha256": 0.0,
    "sae_sha256": 0.0,
    "encoder_means": 1e-2,
}
_PROBE_SCALES = (1.0, 10.0, 100.0)
_DEVIATIONS = 0.02
"""What statistics of one train split may differ by, measured twice, in deviations."""


def steering_record(envs: Any) -> dict[str, Any]:
    """The record of what actions and observations mean in ``envs``.

    Returns:
        ``layer``, ``site``; ``coefficient`` in residual units; ``features``, the SAE indices behind the actions
        (``{"all": F}`` where they are the whole dictionary), and their hash; ``sae_sha256`` of the decoder directions;
        ``encoder_means``, mean activations on fixed Gaussian residuals of three sizes; ``observation``, the ``mean``
        and the ``deviation`` that observations are measured against, or None.
    """
    parts = unwrap(envs)
    features = np.asarray(parts.features, dtype=np.int64)
    width = parts.sae.width
    everything = np.array_equal(features, np.arange(width))
    return {
        "layer": parts.layer,
        "site": parts.site,
        "coefficient": float(parts.coefficient),
        "features": {"all": width} if everything else features.tolist(),
        "features_sha256": hashlib.sha256(features.tobytes()).hexdigest(),
        "sae_sha256": hashlib.sha256(parts.sae.directions.cpu().contiguous().numpy().tobytes()).hexdigest(),
        "encoder_means": _encoder_means(parts.sae),
        "observation": parts.statistics and {name: rows.tolist() for name, rows in parts.statistics._asdict().items()},
    }


def require_same_steering(config: Mapping[str, Any], envs: Any, run: Any) -> None:
    """Refuse to go on with an agent whose actions would do something else than in training.

    Args:
        config: The run's ``config.json``.
        envs: Where the agent is to act now.
        run: What to call the run in messages.

    Raises:
        RuntimeError: The language model's weights or the steering are not those of the record (named).
    """
    if weights_sha256(unwrap(envs).lm) != config["weights_sha256"]:
        raise RuntimeError(f"the language model is not the one {run} was trained with (weights_sha256 differs)")
    if "steering" not in config:
        warnings.warn(f"{run} has no record of what its actions mean: only weights are checked", stacklevel=2)
        return
    require_same_actions(config["steering"], envs)


def require_same_actions(was: Mapping[str, Any], envs: Any) -> None:
    """Refuse environments where actions do, or observations show, something else than :func:`steering_record` said.

    Raises:
        RuntimeError: They do (what differs is named).
    """
    now = steering_record(envs)
    for name, tolerance in _TOLERANCES.items():
        if not _alike(was[name], now[name], tolerance):
            raise RuntimeError(
                f"the actions do not mean what they meant in training: {name} was {was[name]}, is {now[name]}"
            )
    if not _seen_alike(was.get("observation"), now["observation"]):
        raise RuntimeError("the agent does not see what it saw in training: the statistics of train differ")


def same_coefficient(first: float, second: float) -> bool:
    """Whether two coefficients are one, measured twice."""
    return _alike(first, second, _TOLERANCES["coefficient"])


def _alike(first: Any, second: Any, tolerance: float) -> bool:
    return bool(first == second or (tolerance and np.allclose(first, second, rtol=tolerance, atol=0)))


def _seen_alike(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> bool:
    """Whether observations are measured against the same statistics, or neither against any."""
    if first is None or second is None:
        return first is second
    unit = np.maximum(first["deviation"], 1e-6)
    shifts = [np.abs(np.subtract(first[name], second[name])) / unit for name in ("mean", "deviation")]
    return bool(np.max(shifts) <= _DEVIATIONS)


def _encoder_means(dictionary: Any) -> list[float]:
    draws = torch.randn(64, dictionary.directions.shape[1], generator=torch.Generator().manual_seed(0))
    return [float(dictionary.encode(size * draws).mean()) for size in _PROBE_SCALES]
