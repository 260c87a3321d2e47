"""Models, tokenizers and SAEs by name; loaded once a process and shared by every environment that asks."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import threading
from contextlib import suppress
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


def user_cache() -> Path:
    """Where what can be made again is kept: ``XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def load_language_model(name: str, dtype: str = "float32", device: str = "cpu") -> Any:
    """A frozen causal LM in eval mode, without gradients, loaded once a process.

    Args:
        name: A hub id, a local folder, or a GGUF file: a local one, or ``"org/repository/file.gguf"`` on the hub. GGUF
            weights are dequantised, which needs the package gguf.
        dtype: One of ``DTYPES``.
        device: The device that holds its weights.

    Raises:
        SteeringError: The dtype is unknown, or the model is gated, missing or unreachable (with the way out).
    """
    with _ONE_AT_A_TIME:  # two threads that ask at once share one model
        return _language_model(name, dtype, device)


@lru_cache(maxsize=8)
def _language_model(name: str, dtype: str, device: str) -> Any:
    if dtype not in DTYPES:
        raise SteeringError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return new_language_model(name, getattr(torch, dtype)).to(device).eval().requires_grad_(False)


def new_language_model(name: str, dtype: torch.dtype) -> Any:
    """A model of its own, to be trained or taken apart; otherwise as :func:`load_language_model`."""
    from safetensors import SafetensorError  # these two take seconds to import: only where a model is loaded
    from transformers import AutoModelForCausalLM

    place, options = _located(name)
    try:
        lm: Any = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreachable("model", name, error) from error
    if options:
        lm = _plain(lm)
    lm.name_or_path = lm.config.name_or_path = name
    return lm


def _located(name: str) -> tuple[str, dict[str, str]]:
    """Where Transformers finds a model: the folder or hub id, and the GGUF file in it where it is one."""
    if not name.endswith(".gguf"):
        return name, {}
    if importlib.util.find_spec("gguf") is None:
        raise SteeringError(f"{name!r} is a GGUF file, which needs another package: pip install 'steer-env[gguf]'")
    folder, _, file = name.rpartition("/")
    return folder or ".", {"gguf_file": file}


def _plain(lm: Any) -> Any:
    """The same weights in a model that can be saved: one read from a GGUF file still calls itself quantised."""
    config = copy.deepcopy(lm.config)
    del config.quantization_config
    plain = type(lm)(config).to(lm.dtype)
    plain.load_state_dict(lm.state_dict())
    plain.generation_config = lm.generation_config
    return plain


@lru_cache(maxsize=8)
def load_tokenizer(name: str, chat: bool = False) -> Tokenizer:
    """The tokenizer of a model, named as :func:`load_language_model` takes it.

    With ``chat``, prompts are put into its chat template.

    Raises:
        SteeringError: It is gated, missing or unreachable, or has no chat template.
    """
    from transformers import AutoTokenizer  # as above

    place, options = _located(name)
    file, converted = Path(name), None
    if options and file.is_file():
        converted = _converted(file)
        if converted.is_dir():
            place, options = str(converted), {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise _unreachable("tokenizer", name, error) from error
    if options and converted is not None:
        _keep_tokenizer(tokenizer, converted)
    tokenizer.name_or_path = name
    return Tokenizer(tokenizer, chat)


def _converted(file: Path) -> Path:
    """Where the tokenizer of a GGUF file is kept, which takes seconds to convert, by the file's content."""
    digest = hashlib.sha256(importlib.metadata.version("transformers").encode())
    with file.open("rb") as content:
        digest.update(hashlib.file_digest(content, "sha256").digest())
    return user_cache() / "steer" / "tokenizers" / digest.hexdigest()[:40]


def _keep_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a converted tokenizer, whole or not at all; where that cannot be, it is converted again next time."""
    part = folder.with_name(f".{folder.name}-{os.getpid()}-{threading.get_ident()}")
    with suppress(OSError):
        tokenizer.save_pretrained(part)
        part.replace(folder)
    shutil.rmtree(part, ignore_errors=True)


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
    if Path(name).exists():
        return SteeringError(f"cannot load the {what} in {name!r} ({first_line(error)})")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return SteeringError(f"cannot load the {what}: there is no folder or file {name!r}")
    alternative = ungated_alternative(name)
    another = f"preset={alternative!r}, which is not gated, or " if alternative else ""
    return SteeringError(
        f"cannot load {what} {name!r} ({first_line(error)}). If it is gated, accept its licence on the hub and run "
        f"'hf auth login'; where there is no network, run 'hf download {name}' elsewhere and set HF_HUB_OFFLINE=1, "
        f"or give a local folder, or use {another}preset='embedded', which needs no network"
    )
