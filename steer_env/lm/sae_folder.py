"""SAEs in SAELens's folder format, read without SAELens, whose import takes longer than PyTorch's.

Only what is known to be computed as SAELens computes it is read here (``tests/lm/test_sae.py`` compares both); of
anything else :func:`read_sae` knows nothing, and SAELens itself reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from steer_env.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "Mapping[str, Tensor]"
_SETTINGS = {
    *("architecture", "d_in", "d_sae", "device", "dtype", "metadata"),
    *("apply_b_dec_to_input", "normalize_activations", "reshape_activations"),
}


@dataclass(frozen=True)
class _Architecture:
    """How an architecture gets from ``[n, M]`` prepared inputs to ``[n, F]`` activations.

    Attributes:
        encode: From the inputs, the weights and the configuration.
        rows: Its tensors of shape ``[F]``; ``W_enc``, ``W_dec`` and ``b_dec`` have all.
        settings: What its configuration says beside what all say.
    """

    encode: Callable[[Tensor, Weights, Mapping[str, Any]], Tensor]
    rows: frozenset[str]
    settings: frozenset[str] = frozenset()


def _standard(inputs: Tensor, weights: Weights, config: Mapping[str, Any]) -> Tensor:
    return (inputs @ weights["W_enc"] + weights["b_enc"]).relu()


def _jumprelu(inputs: Tensor, weights: Weights, config: Mapping[str, Any]) -> Tensor:
    before = inputs @ weights["W_enc"] + weights["b_enc"]
    return before.relu() * (before > weights["threshold"])


def _gated(inputs: Tensor, weights: Weights, config: Mapping[str, Any]) -> Tensor:
    opened = inputs @ weights["W_enc"] + weights["b_gate"] > 0
    return opened * (inputs @ (weights["W_enc"] * weights["r_mag"].exp()) + weights["b_mag"]).relu()


def _topk(inputs: Tensor, weights: Weights, config: Mapping[str, Any]) -> Tensor:
    before = inputs @ weights["W_enc"] + weights["b_enc"]
    if config["rescale_acts_by_decoder_norm"]:
        before = before * weights["W_dec"].norm(dim=-1)
    largest = before.topk(config["k"], dim=-1, sorted=False)
    return torch.zeros_like(before).scatter_(-1, largest.indices, largest.values.relu())


_ARCHITECTURES = {
    "standard": _Architecture(_standard, frozenset({"b_enc"})),
    "jumprelu": _Architecture(_jumprelu, frozenset({"b_enc", "threshold"})),
    "gated": _Architecture(_gated, frozenset({"b_gate", "b_mag", "r_mag"})),
    "topk": _Architecture(_topk, frozenset({"b_enc"}), frozenset({"k", "rescale_acts_by_decoder_norm"})),
}


def _scaled_to_width(inputs: Tensor) -> Tensor:
    return inputs * (inputs.shape[-1] ** 0.5 / inputs.norm(dim=-1, keepdim=True))


def _normalized(inputs: Tensor) -> Tensor:
    centred = inputs - inputs.mean(dim=-1, keepdim=True)
    return centred / (centred.std(dim=-1, keepdim=True) + 1e-5)


_NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda inputs: inputs,
    "constant_norm_rescale": _scaled_to_width,
    "layer_norm": _normalized,
}


@dataclass(frozen=True)
class FolderSAE:
    """An SAE of a folder.

    Attributes:
        config: Its ``cfg.json``.
        weights: Its tensors, in float32.
    """

    config: Mapping[str, Any]
    weights: Weights

    @property
    def hook_name(self) -> str:
        """Where it was trained, such as ``"blocks.14.hook_resid_post"``, or nothing."""
        return str(self.config["metadata"].get("hook_name") or "")

    def encode(self, residual: Tensor) -> Tensor:
        """Activations ``[n, F]`` of residuals ``[n, M]``."""
        inputs = _NORMALISATIONS[self.config["normalize_activations"]](residual)
        if self.config["apply_b_dec_to_input"]:
            inputs = inputs - self.weights["b_dec"]
        return _ARCHITECTURES[self.config["architecture"]].encode(inputs, self.weights, self.config)


def read_sae(folder: Path, device: str) -> FolderSAE | None:
    """The SAE in a folder that SAELens 6 wrote, or None where anything about it is not known here."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "cfg.json").read_text())
        if not _known(config):
            return None
        weights = load_file(folder / "sae_weights.safetensors", device=device)
    except (OSError, ValueError, SafetensorError):
        return None
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != _shapes(config):
        return None
    return FolderSAE(config, {name: tensor.float() for name, tensor in weights.items()})


def _known(config: Any) -> bool:
    if not isinstance(config, dict) or config.get("architecture") not in _ARCHITECTURES:
        return False
    own = _ARCHITECTURES[config["architecture"]].settings
    metadata = config.get("metadata")
    return (
        set(config) == _SETTINGS | own
        and isinstance(metadata, dict)
        and str(metadata.get("sae_lens_version") or "").startswith("6.")
        and config["normalize_activations"] in _NORMALISATIONS
        and config["reshape_activations"] == "none"
        and isinstance(config["apply_b_dec_to_input"], bool)
        and isinstance(config["d_in"], int)
        and isinstance(config["d_sae"], int)
    )


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, features = config["d_in"], config["d_sae"]
    matrices = {"W_enc": (width, features), "W_dec": (features, width), "b_dec": (width,)}
    return matrices | dict.fromkeys(_ARCHITECTURES[config["architecture"]].rows, (features,))
