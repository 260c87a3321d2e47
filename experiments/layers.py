"""The same protocol layer by layer: ``steer layers --env Steer-MMLU-v0 --name layers-mmlu``.

At each layer an SAE, a strength chosen on validation by the best fixed feature (in medians of the residual norm there),
and agents trained with several seeds; all play the same test items. Beside the scores stands what kind the features are
that the agents use, as :mod:`agents.analysis.feature_kinds` computes it. Nothing is chosen by test; which layer is best
is not chosen at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isfinite
from typing import Any

from agents.compare.results import Layers, publish
from agents.runs.config import Study
from agents.runs.folder import provenance, refuse_existing
from steer_env.lm.sae_config import SAEConfig, check


@dataclass(frozen=True, kw_only=True)
class LayersConfig(Study):
    """Compare the layers of a model."""

    layers: tuple[int, ...] | None = None
    """Blocks to compare; by default all."""
    saes: tuple[str, ...] = ()
    """SAEs to take: one name with {layer} in it, such as runs/layers-mmlu/sae-{layer}, or one for each layer."""
    sae: SAEConfig = field(default_factory=lambda: SAEConfig(samples=500_000, scaled=True))
    """Otherwise how each is trained: on the residuals of train prompts and what the model writes after them."""
    sae_items: int = 2_000
    """Number of items whose residuals these are, at most."""
    coefficients: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Strengths to choose from at each layer, in medians of the norm of the residuals that are steered there."""
    tuning_items: int = 500
    """Number of items of validation by which strengths are chosen, at most."""
    seeds: int = 3
    """Training seeds at each layer."""
    total_timesteps: int = 30_000
    """Tokens of each training."""
    items: int | None = None
    """Number of items of test at most, drawn; by default all."""
    oracle_items: int = 100
    """Number of these on which the item oracle tries every feature; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("sae_items", 1), ("tuning_items", 1), ("items", 1), ("oracle_items", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not self.coefficients or not all(isfinite(each) and each > 0 for each in self.coefficients):
            raise ValueError(f"coefficients must be finite and above 0, at least one, got {self.coefficients}")
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers must be different blocks, at least one, got {self.layers}")
        if self.saes and self.layers is not None:
            given_saes(self.saes, self.layers)
        check(self.sae)

    def record(self) -> dict[str, Any]:
        """All settings that do not depend on this machine."""
        return super().record() | {"sae": asdict(self.sae)}


def main(cfg: LayersConfig) -> Layers:
    """Train and play at every layer, and write ``layers.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already, and ``resume`` is off.
        ValueError: A setting is out of range or not the one a resumed study was begun with, or there is no such layer.
        RuntimeError: The language model's weights changed.
    """
    import torch
    from tqdm import tqdm

    from agents.analysis.feature_kinds import TEXTS
    from agents.compare import layers as library
    from agents.compare.evaluate import require_same_weights
    from agents.compare.kept import begin
    from agents.compare.layers_table import draw, markdown
    from agents.runs.loading import model_sha256
    from steer_env.envs.base import unwrap

    torch.set_num_threads(1)
    start = time.perf_counter()
    if not cfg.resume:
        refuse_existing(cfg.folder)
    library.refuse_one_saes_own(cfg)
    first = library.first_settings(cfg.saes, cfg.layers)
    plain = library.envs_of(cfg, "train", first)
    blocks, weights = library.number_of_blocks(plain), model_sha256(plain)
    layers = library.chosen_layers(cfg.layers, blocks)
    given = {layer: {"name": name} for layer, name in given_saes(cfg.saes, layers).items()} if cfg.saes else None
    kept = begin(cfg.folder, cfg.begun_with(), cfg.resume)
    saes = given or kept.get("saes", partial(library.make_saes, cfg, plain, layers, cfg.sae, cfg.sae_items))
    settings = {n: {"sae": sae["name"], "layer": n, "site": unwrap(plain).site} for n, sae in saes.items()}
    tuning = {
        layer: kept.get(f"strengths-{layer}", partial(library.tune, cfg, own, cfg.coefficients, cfg.tuning_items))
        for layer, own in tqdm(settings.items(), desc="strengths", disable=None)
    }
    chosen = {layer: own | library.best_strength(tuning[layer]).env_kwargs for layer, own in settings.items()}
    benches = library.train_layers(cfg, chosen, cfg.items, kept)
    texts = library.texts_of(plain, TEXTS, cfg.seed)
    found = [
        kept.get(
            f"layer-{layer}",
            partial(library.layer_result, layer, saes[layer], tuning[layer], bench, texts, cfg.oracle_items),
        )
        for layer, bench in benches.items()
    ]
    result = Layers(
        env=cfg.env,
        settings=cfg.record(),
        blocks=blocks,
        data=next(iter(benches.values())).parts.task.data_record(),
        texts={"items": len(texts.rows), "token_shares": texts.token_shares()},
        layers=found,
        weights_sha256=require_same_weights(next(iter(benches.values())), weights),
        wall_s=time.perf_counter() - start,
        **provenance(),
    )
    publish(result, cfg.folder / "layers", markdown(result), lambda path: draw(result, path))
    return result


def given_saes(saes: Sequence[str], layers: Sequence[int]) -> dict[int, str]:
    """The SAE of each layer, by name.

    Args:
        saes: One name with ``{layer}`` in it, or one for each layer.
        layers: Blocks, in the same order.

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
