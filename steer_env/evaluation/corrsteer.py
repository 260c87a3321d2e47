"""CorrSteer (Cho, Wu, Koshiyama 2025, arXiv 2508.12535): one feature that goes with right answers, always pushed.

Its plain variant, the single best feature of one layer: of what fires while the unsteered model writes, that which
correlates most with the answer being right, as strong as it is in right answers. Nothing is learned from steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import Setting, fixed, idle, unsteered
from steer_env.evaluation.play import Array, Lanes, Policy, play

Envs = VectorEnv[Any, Any, Any]
Floats = npt.NDArray[np.float64]
_RIGHT = 0.5


@dataclass(frozen=True)
class CorrSteer:
    """What was found.

    Attributes:
        feature: SAE index; None where nothing correlates.
        push: Its number among the actions; None where there is no feature.
        coefficient: The published strength: the feature's mean peak over right answers, in units of its activation, so
            that ``coefficient * W_dec[feature]`` is what the SAE itself writes there; 0 where there is no feature.
        correlation: Pearson's, between peak and rightness; 0 where there is no feature.
        n: Episodes.
        correct: Those that were right.
        temperature: At which the model wrote them.
        reason: Why there is no feature; empty where there is one.
    """

    feature: int | None
    push: int | None
    coefficient: float
    correlation: float
    n: int
    correct: int
    temperature: float
    reason: str = ""

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """What to give ``gym.make_vec`` to steer at the published strength.

        Without it :meth:`policy` pushes the same feature at the environment's own coefficient: the comparison at
        equal strength.
        """
        return {"coefficient": self.coefficient, "coefficient_unit": "residual"}

    def policy(self) -> Policy:
        """The feature at every token, or nothing where none was found; for the same ``features=`` as were seen."""
        return unsteered(Setting()) if self.push is None else fixed(self.push)


def fit_corrsteer(envs: Envs, items: Sequence[int], seed: int, sampled: Envs | None = None) -> CorrSteer:
    """Play ``items`` unsteered and correlate each feature's peak with rightness (a score above one half).

    A feature's peak is its largest activation over the states from which the model wrote its tokens, which are those
    that an agent steers. Memory grows with episodes times features.

    Args:
        envs: On the train split, with actions that choose features; only those features are considered.
        items: What to play.
        seed: Of sampled decoding.
        sampled: The same at a temperature above 0, for models that are always right or always wrong at ``envs``' own:
            then their episodes count, as nothing correlates with a constant.

    Raises:
        ValueError: Actions are strengths, or there are no items.
    """
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise ValueError(f"CorrSteer pushes one feature, so actions must be choices, got {envs.single_action_space}")
    peaks, right = peak_activations(envs, items, seed)
    if sampled is not None and (right.all() or not right.any()):
        envs = sampled
        peaks, right = peak_activations(envs, items, seed)
    none = CorrSteer(None, None, 0.0, 0.0, len(right), int(right.sum()), unwrap(envs).temperature)
    if right.all() or not right.any():
        return replace(none, reason=f"{'all' if right.any() else 'none'} of {len(right)} answers are right")
    correlations = pearson(peaks, right)
    push = int(correlations.argmax())
    if correlations[push] <= 0:
        return replace(none, reason="no feature correlates positively with right answers")
    return replace(
        none,
        feature=int(unwrap(envs).features[push]),
        push=push,
        coefficient=float(peaks[right, push].mean(dtype=np.float64)),
        correlation=float(correlations[push]),
    )


def peak_activations(envs: Envs, items: Sequence[int], seed: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Each feature's largest activation in each unsteered episode, and whether it was right.

    Returns:
        ``[n, A-1]`` float32 of the features behind the actions, and ``[n]`` bool.
    """
    peaks = np.zeros((len(items), len(unwrap(envs).features)), dtype=np.float32)

    def act(obs: Any, lanes: Lanes) -> Array:
        live, place = lanes.live, lanes.place
        active = lanes.envs.encode().cpu().numpy()[:, lanes.envs.features]
        peaks[place[live]] = np.maximum(peaks[place[live]], active[live])
        return idle(lanes.envs)

    played = play(envs, act, items, seed, tokens=False)
    return peaks, played.scores > _RIGHT


def pearson(values: Array, labels: Array) -> Floats:
    """Pearson's correlation ``[k]`` of columns of ``values`` ``[n, k]`` with ``labels`` ``[n]``; 0 of a constant."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    sign = labels - labels.mean(dtype=np.float64)
    scale = np.sqrt((centred**2).sum(axis=0) * (sign**2).sum())
    # Rounding leaves a constant column a tiny spread, against which anything would correlate.
    moving = (values != values[:1]).any(axis=0)
    return np.divide(sign @ centred, scale, out=np.zeros(values.shape[1]), where=moving & (scale > 0))
