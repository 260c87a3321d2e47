"""A sparse autoencoder as the environment uses it: activations to read, directions to write."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_env.errors import SteeringError
from steer_env.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FeatureDictionary:
    """``F`` features of a residual stream of width ``M``.

    Attributes:
        name: Where it came from, for records.
        directions: ``[F, M]`` float32 decoder rows ``W_dec``, not normalised.
        encoder: ``[n, M]`` float32 residuals to ``[n, F]`` activations, at or above zero.
        layer: Block the dictionary was trained on, when its record says so.
        site: ``"post"`` or ``"pre"`` of that block, when its record says so.
    """

    name: str
    directions: Tensor
    encoder: Callable[[Tensor], Tensor]
    layer: int | None = None
    site: str | None = None

    @property
    def width(self) -> int:
        """Number of features ``F``."""
        return self.directions.shape[0]

    def sha256(self) -> str:
        """Hash of the directions and of what the encoder makes of the first of them, small and large."""
        probes = torch.cat([self.directions[:32] * scale for scale in (1, 10, 100)])
        digest = hashlib.sha256()
        for tensor in (self.directions, self.encode(probes)):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, residual: Tensor) -> Tensor:
        """Activations ``[..., F]`` float32 of residuals ``[..., M]``; more than zero means active."""
        flat = residual.reshape(-1, residual.shape[-1]).to(self.directions)
        with torch.no_grad():
            return self.encoder(flat).reshape(*residual.shape[:-1], self.width)

    def warn_if_elsewhere(self, layer: int, site: str) -> None:
        """Warn when the SAE's record says another place than ``site`` of block ``layer``."""
        if self.layer is None or self.site is None:
            return
        # The output of a block is the input of the next.
        if self.layer + (self.site == "post") != layer + (site == "post"):
            trained, used = f"{self.site} of block {self.layer}", f"{site} of block {layer}"
            warnings.warn(f"SAE {self.name!r} was trained at {trained}, but steers {used}", stacklevel=2)

    def check_fits(self, residual_width: int) -> None:
        """Refuse a model of another width.

        Raises:
            SteeringError: ``residual_width`` is not the dictionary's ``M``.
        """
        if self.directions.shape[1] != residual_width:
            raise SteeringError(
                f"SAE {self.name!r} reads a residual of width {self.directions.shape[1]}, "
                f"but the model's is {residual_width}"
            )
