"""The same protocol at every layer: an SAE, a strength chosen on validation, agents, and the kinds of their features.

Nothing is chosen by test, and which layer is best is not chosen at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from tqdm import tqdm

from agents.analysis.feature_kinds import TaskTexts, feature_kinds, read_texts
from agents.analysis.features import diversity
from agents.analysis.token_kinds import KINDS
from agents.compare.arms import against_trained, arm_results, gain, item_oracle, play_arms, read_off
from agents.compare.bench import Bench
from agents.compare.evaluate import label_features
from agents.compare.evidence import bench_of
from agents.compare.kept import NOTHING, Kept
from agents.compare.results import Layer, Strength, UsedFeatures
from agents.runs.config import Study, Trainings
from agents.runs.loading import make_envs
from agents.runs.trainings import screened, train_all
from steer_env.envs.base import unwrap
from steer_env.envs.calibration import calibrate
from steer_env.evaluation.controls import fixed, search_best_fixed
from steer_env.evaluation.play import Played, drawn_items, play
from steer_env.lm.cards import rounded
from steer_env.lm.sae_config import SAEConfig
from steer_env.lm.sae_training import loss_recovered, sae_quality, train_sae
from steer_env.lm.text_residuals import Place, padded

COMPARED = ("unsteered", "best_fixed", "trained")
ALL_KINDS = (*KINDS, "mixed", "silent")
SAMPLE = 256  # features of the dictionary, drawn at random where there are more
ROWS = 16  # texts in one forward pass
Kinds = Mapping[int, Mapping[str, Any]]
Rows = Sequence[list[int]]


def envs_of(cfg: Trainings, split: str, settings: Mapping[str, Any]) -> Any:
    """Environments on a split, with ``settings`` beside the common ones."""
    return make_envs(cfg.training("0", cfg.seed, cfg.folder, settings).settings(), split, cfg.num_envs)


def refuse_one_saes_own(cfg: Trainings) -> None:
    """Refuse settings that mean something else with every SAE.

    Raises:
        ValueError: There is one (it is named).
    """
    for name in ("features", "labels"):
        if name in cfg.env_kwargs:
            raise ValueError(f"{name!r} is of one SAE, and every layer has its own: leave it out of env_kwargs")


def first_settings(saes: Sequence[str], layers: Sequence[int] | None) -> dict[str, Any]:
    """What makes environments before there is an SAE for every layer: the preset's own, or the first that is given."""
    if not saes:
        return {}
    layer = 0 if layers is None else layers[0]
    return {"sae": saes[0].replace("{layer}", str(layer)), "layer": layer}


def number_of_blocks(envs: Any) -> int:
    """Blocks of the model."""
    return int(unwrap(envs).lm.config.get_text_config().num_hidden_layers)


def chosen_layers(asked: Sequence[int] | None, blocks: int) -> list[int]:
    """The layers in order; None is all of them.

    Raises:
        ValueError: The model has no such block (it is named).
    """
    layers = list(range(blocks) if asked is None else asked)
    for layer in layers:
        if not 0 <= layer < blocks:
            raise ValueError(f"layers must be in [0, {blocks}), the blocks of the model, got {layer}")
    return layers


def texts_of(envs: Any, count: int, seed: int) -> TaskTexts:
    """Prompts and unsteered completions of ``count`` drawn items, at most."""
    return read_texts(envs, drawn_items(unwrap(envs).dealt, count, seed), seed)


def make_saes(
    cfg: Trainings, plain: Any, layers: Sequence[int], sae: SAEConfig, items: int
) -> dict[int, dict[str, Any]]:
    """Train an SAE for each layer, into the folder, and say what each is worth.

    Args:
        cfg: Names the folder and the seed.
        plain: Environments on train.
        layers: Blocks.
        sae: The SAE and its schedule.
        items: Number of items of train, and of validation, on whose texts it is trained and measured.
    """
    parts = unwrap(plain)
    texts = {"train": texts_of(plain, items, cfg.seed).rows}
    texts["validation"] = texts_of(envs_of(cfg, "validation", {}), items, cfg.seed).rows
    return {
        layer: make_layer_sae(parts.lm, texts, (layer, parts.site), sae, cfg.folder / f"sae-{layer}", cfg.seed)
        for layer in tqdm(layers, desc="SAEs", disable=None)
    }


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
        seed: Seed of the weights and the order of the residuals.

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


def tune(cfg: Study, settings: Mapping[str, Any], coefficients: Sequence[float], items: int) -> list[Strength]:
    """Every strength at one layer, with the best fixed feature on train and its score on validation.

    The unit is measured alike at all layers, though a preset may know its own at one of them.

    Args:
        cfg: The trainings.
        settings: Arguments of the environment at this layer.
        coefficients: Strengths to try, in medians of the residual norm.
        items: Number of items of validation at most.
    """
    unit = calibrate(unwrap(envs_of(cfg, "train", {**settings, "action": "choice"})).episode.scene).residual_norm
    found = []
    for coefficient in coefficients:
        strength = Strength(coefficient, coefficient * unit, feature=-1, validation_score=0.0)
        train, validation = (
            envs_of(cfg, split, {**settings, **strength.env_kwargs}) for split in ("train", "validation")
        )
        search = search_best_fixed(train, cfg.seed, cfg.search_games, candidates=cfg.search_candidates)
        drawn = drawn_items(unwrap(validation).dealt, items, cfg.seed)
        score = play(validation, fixed(search.best), drawn, cfg.seed, tokens=False).score
        feature = next(row["feature"] for row in search.table if row["push"] == search.best)
        found.append(replace(strength, feature=feature, validation_score=score))
    return found


def best_strength(tuning: Sequence[Strength]) -> Strength:
    """The strength that is best on validation; of equals the weaker one."""
    return max(tuning, key=lambda row: (row.validation_score, -row.coefficient))


def train_layers(
    cfg: Study, chosen: Mapping[int, Mapping[str, Any]], items: int | None, kept: Kept = NOTHING
) -> dict[int, Bench]:
    """Train all agents of all layers; returns where those of a layer play.

    Args:
        cfg: The trainings.
        chosen: Arguments of the environment at each layer.
        items: Number of items of test at most, drawn; None is all.
        kept: What an earlier process screened, and where it is put.
    """
    own = {
        layer: cfg.choosing_among(kept.get(f"screened-{layer}", partial(screened, cfg, settings)))
        for layer, settings in chosen.items()
    }
    trainings = {
        layer: [
            own[layer].training(f"layer-{layer}-seed-{seed}", seed, cfg.folder, settings) for seed in range(cfg.seeds)
        ]
        for layer, settings in chosen.items()
    }
    train_all([training for several in trainings.values() for training in several], cfg.jobs, cfg.on)
    return {
        layer: bench_of(cfg, [training.folder for training in several], items=items, **cfg.search)
        for layer, several in trainings.items()
    }


def layer_result(
    layer: int, sae: dict[str, Any], tuning: list[Strength], bench: Bench, texts: TaskTexts, oracle_items: int
) -> Layer:
    """What the agents of a layer are worth on test, and what they use.

    Args:
        layer: Block.
        sae: What is said of its SAE.
        tuning: The strengths that were tried.
        bench: Where the agents play.
        texts: Texts on which the features' kinds are read.
        oracle_items: Number of items of the item oracle.
    """
    arms = play_arms(bench, COMPARED)
    return Layer(
        layer=layer,
        sae=sae,
        tuning=tuning,
        chosen=best_strength(tuning),
        arms=arm_results(bench, arms),
        tests=against_trained(arms, bench.seed),
        gain=gain(arms["trained"], arms["unsteered"], bench.seed),
        item_oracle=item_oracle(bench, oracle_items),
        read_off=read_off(bench),
        features=used_features(bench.envs("train"), arms["trained"].played, texts, bench.seed),
    )


def used_features(envs: Any, played: Sequence[Played], texts: TaskTexts, seed: int) -> UsedFeatures:
    """What agents steered with, beside a sample of the whole dictionary.

    Args:
        envs: Environments at the layer.
        played: The agents' episodes, one entry a training seed.
        texts: Texts on which the features' kinds are read.
        seed: Seed of what is drawn.
    """
    parts, chosen = unwrap(envs), [each.tokens["feature"] for each in played]
    counts = Counter(np.concatenate(chosen)[np.concatenate(chosen) >= 0].tolist())
    sample = sorted(np.random.default_rng(seed).permutation(parts.sae.width)[:SAMPLE].tolist())
    known = feature_kinds(envs, texts, sorted({*counts, *sample}), seed)
    spread = [vars(diversity(features, len(parts.features))) for features in chosen]
    order = [feature for feature, _ in counts.most_common()]
    labels = label_features(parts, order)
    return UsedFeatures(
        diversity={name: float(np.mean([each[name] for each in spread])) for name in spread[0]},
        used=[
            {
                "feature": feature,
                "label": labels[feature],
                "tokens": counts[feature],
                "seeds": sum(bool((features == feature).any()) for features in chosen),
                **known[feature],
            }
            for feature in order
        ],
        kinds={
            "used": kind_shares(known, dict.fromkeys(order, 1)),
            "tokens": kind_shares(known, counts),
            "dictionary": kind_shares(known, dict.fromkeys(sample, 1)),
        },
        information={"used": mean_bits(known, order), "dictionary": mean_bits(known, sample)},
    )


def kind_shares(known: Kinds, weights: Mapping[int, float]) -> dict[str, float] | None:
    """The share of each kind among features by their weights; None where there are none."""
    total = sum(weights.values())
    if not total:
        return None
    return {
        kind: sum(weight for feature, weight in weights.items() if known[feature]["kind"] == kind) / total
        for kind in ALL_KINDS
    }


def mean_bits(known: Kinds, features: Sequence[int]) -> dict[str, float] | None:
    """Mean information of features that are ever active, by what it is about; None where there are none."""
    live = [known[feature]["information"] for feature in features if known[feature]["kind"] != "silent"]
    if not live:
        return None
    return {name: float(np.mean([each[name]["bits"] for each in live])) for name in live[0]}
