"""The same protocol layer by layer: ``python -m experiments.layers --env Steer-MMLU-v0 --name layers-mmlu``.

At each layer an SAE, a strength chosen on validation by the best fixed feature (in medians of the residual norm there),
and agents trained with several seeds; all play the same test items. Beside the scores stands what kind the features are
that the agents use, as :mod:`agents.analysis.feature_kinds` computes it. Nothing is chosen by test; which layer is best
is not chosen at all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import torch
import tyro

from agents.analysis.feature_kinds import TEXTS, TaskTexts, read_texts
from agents.compare.arms import Arm, Bench, best_fixed, item_oracle, read_off, trained
from agents.compare.layer_features import features_record
from agents.compare.layer_saes import given_saes, make_layer_sae
from agents.compare.layers_table import draw, markdown
from agents.compare.rows import against_trained, rows
from agents.runs.config import Trainings
from agents.runs.folder import refuse_existing, write_json
from agents.runs.loading import drawn_items, make_envs, model_sha256, provenance
from agents.runs.trainings import screened, train_all
from steer_env.envs.base import unwrap
from steer_env.envs.calibration import calibrate
from steer_env.evaluation.controls import CONTROLS, Setting, fixed, search_best_fixed
from steer_env.evaluation.play import play
from steer_env.evaluation.statistics import runs_interval
from steer_env.lm import sae_training
from steer_env.lm.sae_training import SAEConfig


@dataclass(frozen=True, kw_only=True)
class LayersConfig(Trainings):
    """Compare the layers of a model."""

    layers: tuple[int, ...] | None = None
    """Blocks to compare; by default all."""
    saes: tuple[str, ...] = ()
    """SAEs to take: one name with {layer} in it, such as runs/layers-mmlu/sae-{layer}, or one for each layer."""
    sae: SAEConfig = field(default_factory=lambda: SAEConfig(samples=500_000, scaled=True))
    """Otherwise how each is trained: on the residuals of train prompts and what the model writes behind them."""
    sae_texts: int = 2_000
    """Items whose residuals these are, at most."""
    coefficients: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Strengths to choose from at each layer, in medians of the norm of the residuals that are steered there."""
    tuning_items: int = 500
    """Items of validation by which strengths are chosen, at most."""
    seeds: int = 3
    """Training seeds at each layer."""
    total_timesteps: int = 30_000
    """Tokens of each training."""
    test_items: int | None = None
    """Items of test at most, drawn; by default all."""
    oracle_items: int = 100
    """Test items on which the item oracle tries every feature; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sae_texts", "tuning_items", "test_items"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.oracle_items < 0:
            raise ValueError(f"oracle_items must be at least 0, got {self.oracle_items}")
        if not self.coefficients or not all(isfinite(each) and each > 0 for each in self.coefficients):
            raise ValueError(f"coefficients must be finite and above 0, at least one, got {self.coefficients}")
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers must be different blocks, at least one, got {self.layers}")
        if self.saes and self.layers is not None:
            given_saes(self.saes, self.layers)
        sae_training.check(self.sae)

    def record(self) -> dict[str, Any]:
        """All settings that are not of this machine."""
        return super().record() | {"sae": asdict(self.sae)}

    def envs(self, split: str, settings: Mapping[str, Any]) -> Any:
        """Environments with ``settings`` beside the common ones."""
        return make_envs(self.training("0", self.seed, self.folder, settings).settings(), split, self.num_envs)


def main(cfg: LayersConfig) -> dict[str, Any]:
    """Train and play at every layer, and write ``layers.json``, ``.md`` and ``.png``; returns the first's content.

    Raises:
        FileExistsError: The folder is there already.
        ValueError: A setting is out of range, or there is no such layer.
        RuntimeError: The language model's weights changed.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    refuse_existing(cfg.folder)
    _refuse_one_saes_own(cfg)
    first = _first_settings(cfg)
    plain = cfg.envs("train", first)
    layers = chosen_layers(cfg, plain)
    saes, before = given_saes(cfg.saes, layers) if cfg.saes else None, model_sha256(plain)
    cfg.folder.mkdir(parents=True)
    places = make_places(cfg, plain, first, layers) if saes is None else {n: {"name": saes[n]} for n in layers}
    texts = read_texts(plain, drawn_items(_dealt(plain), TEXTS, cfg.seed), cfg.seed)
    found = compare(cfg, plain, places, texts)
    if model_sha256(plain) != before:
        raise RuntimeError(f"the language model's weights changed: sha256 was {before}")
    result = {
        "env": cfg.env,
        "settings": cfg.record(),
        "blocks": _blocks(plain),
        "data": unwrap(cfg.envs("test", first)).task.data_record(),
        "texts": {"items": len(texts.rows), "token_shares": texts.token_shares()},
        "layers": found,
        "weights_sha256": before,
        "wall_s": time.perf_counter() - start,
        **provenance(),
    }
    write_json(cfg.folder / "layers.json", result)
    (cfg.folder / "layers.md").write_text(markdown(result))
    draw(result, cfg.folder / "layers.png")
    print(markdown(result))
    return result


def chosen_layers(cfg: LayersConfig, envs: Any) -> list[int]:
    """The layers in order.

    Raises:
        ValueError: The model has no such block (it is named).
    """
    blocks = _blocks(envs)
    layers = list(range(blocks) if cfg.layers is None else cfg.layers)
    for layer in layers:
        if not 0 <= layer < blocks:
            raise ValueError(f"layers must be in [0, {blocks}), the blocks of the model, got {layer}")
    return layers


def make_places(
    cfg: LayersConfig, plain: Any, settings: Mapping[str, Any], layers: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Train an SAE for each layer, into the folder, and say what it is worth."""
    splits = {"train": plain, "validation": cfg.envs("validation", settings)}
    texts = {
        name: read_texts(envs, drawn_items(_dealt(envs), cfg.sae_texts, cfg.seed), cfg.seed).rows
        for name, envs in splits.items()
    }
    lm, site = unwrap(plain).lm, unwrap(plain).site
    return {
        layer: make_layer_sae(lm, texts, (layer, site), cfg.sae, cfg.folder / f"sae-{layer}", cfg.seed)
        for layer in layers
    }


def compare(
    cfg: LayersConfig, plain: Any, places: Mapping[int, Mapping[str, Any]], texts: TaskTexts
) -> list[dict[str, Any]]:
    """For each layer its SAE, the strengths tried, the one chosen, and what agents make of it."""
    settings = {layer: _settings(plain, layer, sae["name"]) for layer, sae in places.items()}
    tuning = {layer: tune(cfg, one) for layer, one in settings.items()}
    best = {layer: _best(rows) for layer, rows in tuning.items()}
    benches = train_layers(cfg, {layer: one | _strength(best[layer]) for layer, one in settings.items()})
    return [
        {"layer": layer, "sae": sae, "tuning": tuning[layer], "chosen": best[layer]}
        | layer_record(benches[layer], texts, cfg.seed)
        for layer, sae in places.items()
    ]


def tune(cfg: LayersConfig, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every strength at one layer: the best fixed ``feature`` on train and its ``validation_score``.

    The unit is measured alike at all layers, though a preset may know its own at one of them.
    """
    unit = calibrate(unwrap(cfg.envs("train", {**settings, "action": "choice"})).episode.scene).residual_norm
    found = []
    for coefficient in cfg.coefficients:
        row = {"coefficient": coefficient, "residual_units": coefficient * unit}
        train, validation = (cfg.envs(split, {**settings, **_strength(row)}) for split in ("train", "validation"))
        search = search_best_fixed(train, cfg.seed)
        items = drawn_items(_dealt(validation), cfg.tuning_items, cfg.seed)
        played = play(validation, fixed(search.best), items, cfg.seed, tokens=False)
        found.append(
            row
            | {
                "feature": next(row["feature"] for row in search.table if row["push"] == search.best),
                "validation_score": float(played.scores.mean()),
            }
        )
    return found


def train_layers(cfg: LayersConfig, chosen: Mapping[int, Mapping[str, Any]]) -> dict[int, Bench]:
    """Train all agents of all layers; returns where those of a layer play."""
    own = {layer: cfg.choosing_among(screened(cfg, settings)) for layer, settings in chosen.items()}
    trainings = {
        layer: [
            own[layer].training(f"layer-{layer}-seed-{seed}", seed, cfg.folder, settings) for seed in range(cfg.seeds)
        ]
        for layer, settings in chosen.items()
    }
    train_all([training for several in trainings.values() for training in several], cfg.jobs)
    return {
        layer: Bench(
            runs=[cfg.folder / training.name for training in several],
            folder=cfg.folder,
            test_items=cfg.test_items,
            oracle_items=cfg.oracle_items,
            num_envs=cfg.num_envs,
            seed=cfg.seed,
            lora=None,
            every={} if cfg.screen is None else {"features": None},
        )
        for layer, several in trainings.items()
    }


def layer_record(bench: Bench, texts: TaskTexts, seed: int) -> dict[str, Any]:
    """What the agents of a layer are worth on test, and what they use."""
    arms = {
        "unsteered": Arm([bench.play(CONTROLS["unsteered"](Setting()))], 0.0),
        "best_fixed": best_fixed(bench),
        "trained": trained(bench),
    }
    return {
        "arms": rows(bench, arms),
        "tests": against_trained(arms),
        "gain": gain(arms, seed),
        "item_oracle": item_oracle(bench),
        "readable": read_off(bench),
        "features": features_record(bench.envs("train"), arms["trained"].played, texts, seed),
    }


def gain(arms: Mapping[str, Arm], seed: int) -> dict[str, Any]:
    """The trained arm less the unsteered one on the same items: ``by_seed``, their ``mean`` and its ``ci95``.

    The interval is that of :func:`steer_env.evaluation.statistics.runs_interval`.
    """
    alone = arms["unsteered"].played[0].scores
    differences = [(played.scores - alone).tolist() for played in arms["trained"].played]
    by_seed = [float(np.mean(each)) for each in differences]
    return {"by_seed": by_seed, "mean": float(np.mean(by_seed)), "ci95": runs_interval(differences, seed)}


def _refuse_one_saes_own(cfg: LayersConfig) -> None:
    """Refuse settings that mean something else with every SAE."""
    for name in ("features", "labels"):
        if name in cfg.env_kwargs:
            raise ValueError(f"{name!r} is of one SAE, and every layer has its own: leave it out of env_kwargs")


def _first_settings(cfg: LayersConfig) -> dict[str, Any]:
    """What makes environments before there is an SAE for every layer: the preset's own, or the first that is given."""
    if not cfg.saes:
        return {}
    layer = 0 if cfg.layers is None else cfg.layers[0]
    return {"sae": cfg.saes[0].replace("{layer}", str(layer)), "layer": layer}


def _settings(plain: Any, layer: int, sae: str) -> dict[str, Any]:
    return {"sae": sae, "layer": layer, "site": unwrap(plain).site}


def _strength(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"coefficient": row["residual_units"], "coefficient_unit": "residual"}


def _best(tuning: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The strength that is best on validation; of equals the weaker one."""
    return max(tuning, key=lambda row: (row["validation_score"], -row["coefficient"]))


def _blocks(envs: Any) -> int:
    return int(unwrap(envs).lm.config.get_text_config().num_hidden_layers)


def _dealt(envs: Any) -> list[int]:
    items: list[int] = unwrap(envs).dealt
    return items


if __name__ == "__main__":
    main(tyro.cli(LayersConfig))
