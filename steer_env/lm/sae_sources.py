"""Where sparse autoencoders come from: a folder in SAELens's format, or a release in SAELens's table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_env.errors import SteeringError, first_line
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.sae_folder import FolderSAE, read_sae

if TYPE_CHECKING:
    from torch import Tensor

_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_CAPITAL = re.compile(r"^w_")
_ELSEWHERE = re.compile(r"hook_(z|q|k|v|mlp_in|mlp_out|attn_in|attn_out|result|normalized)\b")


def open_sae(name: str, device: str = "cpu") -> FeatureDictionary:
    """Load an SAE by name.

    Args:
        name: A folder written by SAELens, or ``"release:sae_id"`` of its table
            (``"gemma-scope-2b-pt-res-canonical:layer_12/width_16k/canonical"``).
        device: Where its tensors live.

    Raises:
        SteeringError: No source knows the name, or the SAE cannot be used as it is.
    """
    for knows, load in SOURCES.values():
        if knows(name):
            sae = load(name, device)
            return _of_folder(name, sae) if isinstance(sae, FolderSAE) else _of_saelens(name, sae)
    raise SteeringError(
        f"no SAE called {name!r}: give a folder written by SAELens, or 'release:sae_id' of a SAELens release"
    )


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _from_folder(name: str, device: str) -> Any:
    if not (Path(name) / "cfg.json").is_file():
        raise SteeringError(f"{name!r} holds no cfg.json: it is not a folder written by SAELens")
    known = read_sae(Path(name), device)
    if known is not None:
        return known
    from sae_lens import SAE  # takes seconds to import, and brings wandb: only where nothing else reads it
    from safetensors import SafetensorError

    try:
        return SAE.load_from_disk(name, device=device, dtype="float32")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise SteeringError(f"cannot read the SAE in {name!r} ({first_line(error)})") from error


def _is_release(name: str) -> bool:
    return ":" in name


def _from_release(name: str, device: str) -> Any:
    from sae_lens import SAE  # as above
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release, _, sae_id = name.partition(":")
    table = get_pretrained_saes_directory()
    if release not in table:
        raise SteeringError(f"SAELens knows no release {release!r}")
    if sae_id not in table[release].saes_map:
        some = ", ".join(sorted(table[release].saes_map)[:5])
        raise SteeringError(f"release {release!r} has no SAE {sae_id!r}; it has {some}, ...")
    converter = CONVERTERS.get(table[release].conversion_func or "")
    try:
        return SAE.from_pretrained(release, sae_id, device=device, dtype="float32", converter=converter)
    except OSError as error:  # the hub's refusals are all OSErrors: gated, missing, offline
        raise SteeringError(
            f'cannot fetch SAE {name!r} ({error}): where there is a network, run "hf download '
            f"{table[release].repo_id} --include '{table[release].saes_map[sae_id]}*'\", then set HF_HUB_OFFLINE=1; "
            "or give sae= a local SAELens folder"
        ) from error


def _gemma_scope_2(
    repo_id: str, folder_name: str, device: str, force_download: bool, cfg_overrides: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], None]:
    """SAELens's loader of Gemma Scope 2 but for one thing: that one asks the network how large the tensors are.

    Even when all is in the hub's cache; these are the residual SAEs only, which are all that can steer.
    """
    from huggingface_hub import hf_hub_download  # as above
    from safetensors.torch import load_file

    place = re.search(r"resid_post.*layer_(\d+)", folder_name)
    if place is None:
        raise SteeringError(f"{repo_id}/{folder_name} is no SAE of the residual stream")
    path = hf_hub_download(repo_id, f"{folder_name}/params.safetensors", force_download=force_download)
    weights = load_file(path, device=device)
    width, features = weights["w_enc"].shape
    config = {
        "architecture": "jumprelu",
        "d_in": width,
        "d_sae": features,
        "hook_name": f"blocks.{place.group(1)}.hook_resid_post",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        **cfg_overrides,
    }
    return config, {_CAPITAL.sub("W_", name): tensor for name, tensor in weights.items()}, None


# By SAELens's name of its own loader.
CONVERTERS: dict[str, Callable[..., Any]] = {"gemma_3": _gemma_scope_2}

SOURCES: dict[str, tuple[Callable[[str], bool], Callable[[str, str], Any]]] = {
    "folder": (_is_folder, _from_folder),
    "release": (_is_release, _from_release),
}


def _of_folder(name: str, sae: FolderSAE) -> FeatureDictionary:
    return _dictionary(name, sae.hook_name, sae.weights["W_dec"], sae.encode)


def _of_saelens(name: str, sae: Any) -> FeatureDictionary:
    if sae.cfg.normalize_activations == "expected_average_only_in":
        raise SteeringError(
            f"SAE {name!r} expects scaled activations and the scale is not folded into its weights; "
            "fold it with SAELens's fold_activation_norm_scaling_factor and save it again"
        )
    sae.eval().requires_grad_(False)
    hook_name = str(sae.cfg.metadata.hook_name or "")
    return _dictionary(name, hook_name, sae.W_dec.detach().float(), lambda x: sae.encode(x).to_dense().float())


def _dictionary(
    name: str, hook_name: str, directions: Tensor, encoder: Callable[[Tensor], Tensor]
) -> FeatureDictionary:
    if _ELSEWHERE.search(hook_name):
        raise SteeringError(f"SAE {name!r} was trained on {hook_name!r}, which is no residual stream")
    hook = _HOOK.search(hook_name)
    return FeatureDictionary(
        name=name,
        directions=directions,
        encoder=encoder,
        layer=int(hook.group(1)) if hook else None,
        site=hook.group(2) if hook else None,
    )
