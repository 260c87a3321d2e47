"""Linear probes of the value of a state: ``tanh(theta . phi + b)`` on the normalised activations ``phi`` of a layer.

Taught by any weighted sum of losses (see ``probes_losses``), with rewards or without; many are fitted side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.inside.probes_data import Transitions
from agents.inside.probes_losses import LossWeights, ccs_loss, dominance_loss, negative_variance, returns_loss, td_loss

_MARGIN = 1.1
_FIRST = 0.1


@dataclass(frozen=True)
class Scale:
    """How a probe's output in (-1, 1) becomes a value in units of reward: ``centre + half * output``.

    Attributes:
        centre: value of output 0.
        half: above 0.
    """

    centre: float = 0.0
    half: float = 1.0

    @classmethod
    def of(cls, returns: Tensor) -> Scale:
        """A range a tenth wider than returns ``[n]``, so that none needs an infinite activation.

        Raises:
            ValueError: there are none.
        """
        if len(returns) == 0:
            raise ValueError("no trajectory of the policy has a known return: record longer ones")
        low, high = returns.min().item(), returns.max().item()
        return cls((low + high) / 2, max((high - low) / 2 * _MARGIN, 1e-6))


@dataclass(frozen=True)
class FitConfig:
    """How probes are fitted: Adam on all rows at once.

    Attributes:
        steps: of Adam.
        rate: its learning rate; at 0.05 the first steps saturate tanh on wide layers, where TD then stays.
        decay: weight of ``|theta|^2``.
        restarts: first guesses of each probe; the one of the lowest loss is kept.
        seed: of the first guesses.
    """

    steps: int = 500
    rate: float = 0.005
    decay: float = 1e-3
    restarts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class ValueProbe:
    """A fitted probe.

    Attributes:
        theta: ``[D]`` direction on normalised activations.
        bias: the constant ``b``.
        mean: ``[D]`` of the activations it was fitted to.
        spread: ``[D]`` their standard deviation, 1 where they are constant.
        scale: of its values.
        loss: its own, at the end.
    """

    theta: Tensor
    bias: float
    mean: Tensor
    spread: Tensor
    scale: Scale
    loss: float

    def __call__(self, acts: Tensor) -> Tensor:
        """``[N]`` values, in units of reward, of activations ``[N, D]``."""
        output = torch.tanh((acts - self.mean) / self.spread @ self.theta + self.bias)
        return self.scale.centre + self.scale.half * output


def fit_probes(
    data: Transitions, losses: Mapping[str, LossWeights], gamma: float, scale: Scale, cfg: FitConfig
) -> dict[str, ValueProbe]:
    """Fit a probe for each weighted sum of losses.

    Errors of TD and returns are measured in units of ``scale.half``, so that weights mean the same in every world.

    Args:
        data: the lesson.
        losses: by name.
        gamma: discount.
        scale: of the values.
        cfg: how it is done.

    Returns:
        By the same names.

    Raises:
        ValueError: activations are not finite, or a loss has nothing to learn from.
    """
    for name, weights in losses.items():
        _check(data, name, weights)
    table = torch.tensor([weights.row() for weights in losses.values()]).repeat(cfg.restarts, 1)
    mean, spread = _moments(data.here)
    lesson = _Lesson(data, mean, spread, gamma, scale)
    generator = torch.Generator().manual_seed(cfg.seed)
    theta = (torch.randn(len(table), data.here.shape[1], generator=generator) * _FIRST).requires_grad_()
    bias = torch.zeros(len(table), requires_grad=True)
    slack = torch.zeros(lesson.averaging.shape[0] - 1, len(table), requires_grad=True)
    optimizer = torch.optim.Adam([theta, bias, slack], lr=cfg.rate)
    for _ in range(cfg.steps):
        optimizer.zero_grad()
        total = (table * lesson.losses(theta, bias, slack)).sum(dim=1) + cfg.decay * theta.square().sum(dim=1)
        total.sum().backward()
        optimizer.step()
    with torch.no_grad():
        total = (table * lesson.losses(theta, bias, slack)).sum(dim=1) + cfg.decay * theta.square().sum(dim=1)
        best = total.reshape(cfg.restarts, len(losses)).argmin(dim=0) * len(losses) + torch.arange(len(losses))
    return {
        name: ValueProbe(theta[k].detach(), bias[k].item(), mean, spread, scale, total[k].item())
        for name, k in zip(losses, best.tolist(), strict=True)
    }


class _Lesson:
    """Losses of K probes ``theta [K, D]``, ``bias [K]``, each independent of the others."""

    def __init__(self, data: Transitions, mean: Tensor, spread: Tensor, gamma: float, scale: Scale) -> None:
        self.data, self.gamma, self.scale = data, gamma, scale
        self.here = (data.here - mean) / spread
        self.there = ((data.there - mean) / spread)[data.taught_td]
        levels = data.level.unique()
        shares = (data.level[None, :] == levels[:, None]) * data.share
        self.averaging = shares / shares.sum(dim=1, keepdim=True)
        if data.opposite is not None:  # by itself, or who is to move would be the easiest way to be consistent
            centre, width = _moments(data.opposite)
            self.opposite = (data.opposite - centre) / width

    def losses(self, theta: Tensor, bias: Tensor, slack: Tensor) -> Tensor:
        """``[K, 5]`` in the order of ``LossWeights``."""
        data, zero = self.data, torch.zeros(len(theta))
        output = torch.tanh(self.here @ theta.T + bias)
        values = self._value(output)
        with torch.no_grad():
            following = self._value(torch.tanh(self.there @ theta.T + bias))
            following[data.over[data.taught_td]] = 0.0
        unit = self.scale.half**2
        td = td_loss(values[data.taught_td], following, data.rewards[data.taught_td], self.gamma) / unit
        returns = returns_loss(values[data.taught_returns], data.returns[data.taught_returns]) / unit
        dominance = dominance_loss(self.averaging @ output, F.softplus(slack)) if len(slack) else zero
        ccs = zero
        if data.opposite is not None:
            ccs = ccs_loss(output, torch.tanh(self.opposite @ theta.T + bias))
        columns = [td if len(following) else zero, returns if data.taught_returns.any() else zero]
        return torch.stack([*columns, negative_variance(output), dominance, ccs], dim=1)

    def _value(self, output: Tensor) -> Tensor:
        return self.scale.centre + self.scale.half * output


def _moments(acts: Tensor) -> tuple[Tensor, Tensor]:
    mean, spread = acts.mean(dim=0), acts.std(dim=0, correction=0)
    return mean, torch.where(spread > 1e-6, spread, 1.0)


def _check(data: Transitions, name: str, weights: LossWeights) -> None:
    if not torch.isfinite(data.here).all():
        raise ValueError("activations must be finite")
    lacking = {
        "td": weights.td > 0 and not data.taught_td.any(),
        "returns": weights.returns > 0 and not data.taught_returns.any(),
        "dominance": weights.dominance > 0 and len(data.level.unique()) < 2,
        "ccs": weights.ccs > 0 and data.opposite is None,
    }
    for loss, lacks in lacking.items():
        if lacks:
            raise ValueError(f"{name!r} cannot be learnt: there is nothing for {loss} in the recording")
