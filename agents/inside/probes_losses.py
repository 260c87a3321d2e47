"""What a value probe can be taught by: losses of probed values, with rewards or without.

Each loss takes the values of K probes side by side, ``[n, K]``, and gives ``[K]``, so that many are fitted at once.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor


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
