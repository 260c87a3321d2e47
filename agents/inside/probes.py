"""Linear probes of the value of a state: ``tanh(theta . phi + b)`` on the normalised activations ``phi`` of a layer.

Trained on any weighted sum of losses, with rewards or without. Each loss takes the values of K probes side by side,
``[n, K]``, and gives ``[K]``, so that many are fitted at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.inside.transitions import Transitions

_MARGIN = 1.1
_FIRST = 0.1


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts.

    Attributes:
        td: squared error of one step: reward and discounted value of the next state, less this value.
        returns: squared error to the return of the policy's own trajectories.
        variance: the values' variance, negated; needs no reward.
        dominance: that the policy's trajectories are worth no less than noisier ones; needs no reward.
        ccs: that a position is worth to one player what it costs the other; needs no reward.
    """

    td: float = 0.0
    returns: float = 0.0
    variance: float = 0.0
    dominance: float = 0.0
    ccs: float = 0.0

    @classmethod
    def parse(cls, text: str) -> LossWeights:
        """Read a sum such as ``td+returns`` or ``variance+10*dominance``.

        Raises:
            ValueError: a term is no loss, comes twice, or its weight is no positive number.
        """
        known = [field.name for field in fields(cls)]
        weights: dict[str, float] = {}
        for term in text.split("+"):
            factor, _, name = term.strip().rpartition("*")
            if name not in known or name in weights:
                raise ValueError(f"{name!r} in {text!r} is no loss or comes twice; losses: {', '.join(known)}")
            weights[name] = float(factor or 1.0)
            if not 0.0 < weights[name] < float("inf"):
                raise ValueError(f"the weight of {name} must be a positive number, got {factor}")
        return cls(**weights)

    @property
    def supervised(self) -> bool:
        """Whether rewards are used."""
        return self.td > 0 or self.returns > 0

    def row(self) -> tuple[float, ...]:
        """The weights in the order of the attributes."""
        return astuple(self)


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


def td_loss(values: Tensor, following: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Squared TD error (Sutton 1988), the target held fixed: a semi-gradient.

    A gradient through the target would converge to other values where transitions are random (Baird 1995).

    Args:
        values: ``[n, K]``.
        following: ``[n, K]`` of the next state, 0 after the end.
        rewards: ``[n]``.
        gamma: discount.
    """
    return (rewards[:, None] + gamma * following.detach() - values).square().mean(dim=0)


def returns_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Squared error of ``[n, K]`` values to ``[n]`` returns."""
    return (returns[:, None] - values).square().mean(dim=0)


def negative_variance(values: Tensor) -> Tensor:
    """The variance of ``[n, K]`` values over states, negated: states are to be told apart."""
    return -values.var(dim=0, correction=0)


def dominance_loss(means: Tensor, slack: Tensor) -> Tensor:
    """Squared error of "policy = noisier policy + slack", with a slack of at least 0 for each noisier one.

    With the best slack it is the squared violation of "policy >= noisier policy".

    Args:
        means: ``[1 + m, K]`` mean value along the policy's trajectories, then along those of m noisier versions.
        slack: ``[m, K]``, at least 0.
    """
    return (means[:1] - means[1:] - slack).square().mean(dim=0)


def ccs_loss(values: Tensor, opposite: Tensor) -> Tensor:
    """Contrast-consistent search (Burns et al. 2023) on values in [-1, 1], read as chances ``(1 + value) / 2``.

    The chances of the two players add up to 1 (consistency), and one of them is small (confidence).

    Args:
        values: ``[n, K]`` of positions as one player sees them.
        opposite: ``[n, K]`` as the opponent does.
    """
    consistency = ((values + opposite) / 2).square()
    confidence = ((1 + torch.minimum(values, opposite)) / 2).square()
    return (consistency + confidence).mean(dim=0)
