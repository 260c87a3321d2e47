"""An SAE for every layer that is compared: given by name, or trained alike on the residuals of the task's own texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from steer_env.lm.cards import rounded
from steer_env.lm.sae_training import SAEConfig, loss_recovered, sae_quality, train_sae
from steer_env.lm.text_residuals import Place, padded

ROWS = 16
Rows = Sequence[list[int]]


def given_saes(saes: Sequence[str], layers: Sequence[int]) -> dict[int, str]:
    """The SAE of each layer, by name.

    Args:
        saes: One name with ``{layer}`` in it, or one for each layer.
        layers: In the same order.

    Raises:
        ValueError: They are neither.
    """
    if len(saes) == 1 and "{layer}" in saes[0]:
        return {layer: saes[0].replace("{layer}", str(layer)) for layer in layers}
    if len(saes) != len(layers):
        raise ValueError(
            f"saes must be one name with {{layer}} in it or one for each of the {len(layers)} layers, got {list(saes)}"
        )
    return dict(zip(layers, saes, strict=True))


def make_layer_sae(
    lm: Any, texts: Mapping[str, Rows], place: tuple[int, str], cfg: SAEConfig, out: Path, seed: int
) -> dict[str, Any]:
    """Train an SAE on the residuals of texts, and save it as SAELens does.

    Args:
        lm: The frozen model.
        texts: Tokens of texts to ``"train"`` on, and of others, ``"validation"``, on which it is measured. The first
            position of each is left out, an attention sink.
        place: Block and site.
        cfg: The SAE and its schedule; all residuals are held in memory.
        out: Folder to write.
        seed: Of the weights and the order of the residuals.

    Returns:
        ``name`` (the folder), ``residuals`` trained on, their ``median_norm``, and on the other texts what
        :func:`steer_env.lm.sae_training.sae_quality` and :func:`steer_env.lm.sae_training.loss_recovered` say.
    """
    layer, site = place
    where = Place(lm, layer, site, ROWS)
    acts = torch.cat(list(where.read(*padded(texts["train"], skip_first=True)))).cpu()
    hook = {"model_name": lm.name_or_path, "hook_name": f"blocks.{layer}.hook_resid_{site}", "hook_layer": layer}
    sae = train_sae(acts, cfg, hook, seed)
    sae.fold_W_dec_norm()
    sae.save_inference_model(out)
    tokens, read = (part.to(lm.device) for part in padded(texts["validation"], skip_first=True))
    saved = SAE.load_from_disk(out, device=str(lm.device)).eval().requires_grad_(False)
    quality = sae_quality(saved, where.read(tokens, read)) | loss_recovered(lm, saved, tokens, layer, site, read, ROWS)
    norms = acts.norm(dim=-1)
    return {"name": str(out), "residuals": len(acts), "median_norm": float(norms.median()), **rounded(quality)}
