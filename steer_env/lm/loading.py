"""Models, tokenizers and SAEs by name; loaded once a process and shared by every environment that asks."""

from __future__ import annotations

import hashlib
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from steer_env.errors import SteeringError, first_line
from steer_env.lazy import torch
from steer_env.lm.presets import ungated_alternative
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.sae_sources import open_sae
from steer_env.lm.tokenizer import Tokenizer

_ONE_AT_A_TIME = threading.Lock()
DTYPES = ("float32", "bfloat16", "float16")


def load_language_model(name: str, dtype: str = "float32", device: str = "cpu") -> Any:
    """A frozen causal LM from a hub id or a local folder: eval mode, no gradients.

    Raises:
        SteeringError: The dtype is unknown, or the model is gated, missing or unreachable (with the way out).
    """
    with _ONE_AT_A_TIME:  # two threads that ask at once share one model
        return _language_model(name, dtype, device)


@lru_cache(maxsize=8)
def _language_model(name: str, dtype: str, device: str) -> Any:
    if dtype not in DTYPES:
        raise SteeringError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    from safetensors import SafetensorError  # these two take seconds to import: only where a model is loaded
    from transformers import AutoModelForCausalLM

    try:
        lm: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreachable("model", name, error) from error
    return lm.to(device).eval().requires_grad_(False)


@lru_cache(maxsize=8)
def load_tokenizer(name: str, chat: bool = False) -> Tokenizer:
    """The tokenizer of a hub id or local folder; with ``chat``, prompts are put into its chat template.

    Raises:
        SteeringError: It is gated, missing or unreachable, or has no chat template.
    """
    from transformers import AutoTokenizer  # as above

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreachable("tokenizer", name, error) from error
    return Tokenizer(tokenizer, chat)


@lru_cache(maxsize=8)
def load_sae(name: str, device: str = "cpu") -> FeatureDictionary:
    """An SAE from a folder written by SAELens or from a SAELens release, loaded once a process.

    Args:
        name: The folder, or ``"release:sae_id"`` of SAELens's table
            (``"gemma-scope-2b-pt-res-canonical:layer_12/width_16k/canonical"``).
        device: The device that holds its tensors.

    Raises:
        SteeringError: No source knows the name, or the SAE cannot be used as it is.
    """
    return open_sae(name, device)


def weights_sha256(lm: Any) -> str:
    """Hash of every weight of a model, by name: equal before and after, or something was trained."""
    digest = hashlib.sha256()
    for name, tensor in sorted(lm.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resolve_device(device: str) -> str:
    """``"auto"`` is the GPU where there is one.

    Raises:
        SteeringError: The device does not exist or cannot be used.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise SteeringError(f"device {device!r} cannot be used here ({first_line(error)})") from error
    return device


def _unreachable(what: str, name: str, error: Exception) -> SteeringError:
    if Path(name).is_dir():
        return SteeringError(f"cannot load the {what} in folder {name!r} ({first_line(error)})")
    alternative = ungated_alternative(name)
    another = f"preset={alternative!r}, which is not gated, or " if alternative else ""
    return SteeringError(
        f"cannot load {what} {name!r} ({first_line(error)}). If it is gated, accept its licence on the hub and run "
        f"'hf auth login'; where there is no network, run 'hf download {name}' elsewhere and set HF_HUB_OFFLINE=1, "
        f"or give a local folder, or use {another}preset='embedded', which needs no network"
    )
