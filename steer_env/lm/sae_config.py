"""What an SAE that is to be trained looks like; apart from its trainer, so that commands show their flags at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

ARCHITECTURES = ("topk", "batchtopk", "jumprelu", "standard")


@dataclass(frozen=True)
class SAEConfig:
    """An SAE and how it is trained.

    Attributes:
        features: Dictionary size F.
        k: Active features per token: exactly (topk), on average (batchtopk), the aim of the penalty (jumprelu);
            standard has none.
        samples: Residuals seen in training.
        batch: Residuals per step.
        lr: Learning rate, decayed over the last fifth.
        architecture: One of ``ARCHITECTURES``.
        sparsity: Weight of the sparsity penalty (standard: L1, jumprelu: L0), 1 being a good start on scaled
            residuals; the others have none.
        scaled: Train on residuals scaled to a mean norm of sqrt(M), the scale folded into the weights at the end.
            Learning rate and penalty then mean the same in every model.
        dead_after: Steps without firing after which a feature counts as dead and is trained to come back.
    """

    features: int = 256
    k: int = 8
    samples: int = 2_000_000
    batch: int = 1_024
    lr: float = 1e-3
    architecture: str = "topk"
    sparsity: float = 1.0
    scaled: bool = False
    dead_after: int = 200


def check(cfg: SAEConfig) -> None:
    """Refuse settings that no SAE can have.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """
    if cfg.architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {list(ARCHITECTURES)}, got {cfg.architecture!r}")
    if cfg.features < 1:
        raise ValueError(f"the number of features must be at least 1, got {cfg.features}")
    if not 1 <= cfg.k <= cfg.features:
        raise ValueError(f"k must be in [1, {cfg.features}], the number of features, got {cfg.k}")
    if not 1 <= cfg.batch <= cfg.samples:
        raise ValueError(f"the batch must be in [1, {cfg.samples}], the samples of the training, got {cfg.batch}")
    for name in ("lr", "sparsity"):
        if not 0 < getattr(cfg, name) < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {getattr(cfg, name)}")
