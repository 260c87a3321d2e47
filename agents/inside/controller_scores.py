"""How well a controller's layers tell what is true of the game, beside the residual that they read and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.inside.controller_states import ControllerStates, Rows, columns_of
from agents.inside.probes import FitConfig
from agents.inside.probes_data import OBSERVATION, known_returns
from agents.inside.probes_losses import LossWeights
from agents.inside.recording import Recording
from agents.inside.sae_scores import States, score_columns
from agents.inside.saes import Bools, Floats, auroc, auroc_gain
from agents.inside.value_probe_scores import Study, judge, r2, spearman
from steer_env.evaluation.linear_probe import linear_probe
from steer_env.evaluation.statistics import holm
from steer_env.lm.sae_training import SAEConfig, sae_quality, train_sae

BARS = (OBSERVATION, "untrained")
RIDGES = (0.01, 0.1, 1.0, 10.0)
_DEALT, _FOLDS = 20, 3


def probe_scores(
    states: ControllerStates, layers: Sequence[str], compared: Sequence[str], seed: int, shuffles: int
) -> dict[str, Any]:
    """AUROC of linear probes of every fact, learnt on one half of the positions and measured on the other.

    The ridge of each probe is chosen by :func:`best_ridge`: a bar must not be low because its probe fits too much.

    Args:
        states: as recorded.
        layers: of the policy.
        compared: layers that are tested against the bars.
        seed: of shuffling and bootstrap.
        shuffles: resamples of the bootstrap.

    Returns:
        ``trained`` and ``untrained`` by layer and fact; ``observation`` by fact; ``critic``, what the critic's own
        value tells, by fact; ``shuffled`` by compared layer and fact (see :func:`_shuffled`); and ``gains`` by compared
        layer, bar (``BARS``: the observation, the same layer untrained) and fact: ``gain``, its one-sided 95 % bound
        ``low``, ``p`` and ``p_holm`` over all facts and layers of a bar.
    """
    facts, test = states.told(), states.test
    scored = {name: _tell(states, states.recording, name, facts) for name in (*layers, OBSERVATION)}
    fresh = {name: _tell(states, states.untrained, name, facts) for name in layers}
    critic = states.recording.steps["value"].astype(np.float64)

    truths = {name: held[test] for name, held in facts.items()}

    def area(told: Mapping[str, Floats]) -> dict[str, float]:
        return {name: _area(values, truths[name]) for name, values in told.items()}

    gains: dict[str, dict[str, Any]] = {layer: {} for layer in compared}
    for bar in BARS:
        others = {layer: scored[OBSERVATION] if bar == OBSERVATION else fresh[layer] for layer in compared}
        pairs = {(layer, name): (scored[layer][name], others[layer][name]) for layer in compared for name in facts}
        found = _gains(pairs, truths, states.position[test], seed, shuffles)
        for layer in compared:
            gains[layer][bar] = {name: found[layer, name] for name in facts}
    return {
        "trained": {name: area(scored[name]) for name in layers},
        "untrained": {name: area(told) for name, told in fresh.items()},
        "shuffled": {name: _shuffled(states, name, facts, seed) for name in (*compared, OBSERVATION)},
        OBSERVATION: area(scored[OBSERVATION]),
        "critic": area(dict.fromkeys(facts, critic[test])),
        "gains": gains,
    }


def _gains(
    pairs: Mapping[tuple[str, str], tuple[Floats, Floats]],
    truths: Mapping[str, Bools],
    positions: Rows,
    seed: int,
    shuffles: int,
) -> dict[tuple[str, str], dict[str, float]]:
    """By layer and fact the gain of the first scores over the second; positions are resampled, p corrected over all."""
    found = {}
    for key, (scores, bar) in pairs.items():
        gain, low, p = auroc_gain(scores, bar, truths[key[1]], seed, shuffles, positions)
        found[key] = {"gain": gain, "low": low, "p": p}
    adjusted = holm({" ".join(key): row["p"] for key, row in found.items()})
    return {key: {**row, "p_holm": adjusted[" ".join(key)]} for key, row in found.items()}


def _shuffled(
    states: ControllerStates, layer: str, facts: Mapping[str, Bools], seed: int
) -> dict[str, dict[str, float]]:
    """By fact, what probes tell that were taught with the fact dealt anew among the positions learnt from.

    One such direction may lie along something by luck, either way: ``mean`` and 95th percentile, ``high``, of twenty.
    """
    rng = np.random.default_rng(seed)
    learn, later = _sides(states, states.recording, layer)
    positions = states.position[states.train]
    found = {}
    for name, held in facts.items():
        own = held[states.train]
        ridge = best_ridge(learn, own, positions)
        told = (linear_probe(learn, _dealt_anew(own, positions, rng), later, ridge) for _ in range(_DEALT))
        areas = [_area(scores, held[states.test]) for scores in told]
        found[name] = {"mean": float(np.mean(areas)), "high": float(np.quantile(areas, 0.95))}
    return found


def _dealt_anew(held: Bools, positions: Rows, rng: np.random.Generator) -> Bools:
    """``[n]`` what holds in each position as it does in another: all orders of moves into one stay alike."""
    _, first, which = np.unique(positions, return_index=True, return_inverse=True)
    return held[rng.permutation(first)][which.reshape(-1)]


def best_ridge(columns: Floats, truth: npt.NDArray[Any], positions: Rows) -> float:
    """The one of ``RIDGES`` that tells best in positions left out, three parts in turn.

    Args:
        columns: ``[n, D]``.
        truth: ``[n]`` booleans, told by AUROC, or numbers, by R2.
        positions: ``[n]`` of each row; one is never on both sides.
    """
    names, which = np.unique(positions, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % _FOLDS)[which.reshape(-1)]

    def score(ridge: float) -> float:
        told = np.zeros(len(truth))
        for part in range(_FOLDS):
            out = fold == part
            told[out] = linear_probe(columns[~out], truth[~out], columns[out], ridge) + truth[~out].mean()
        value = _area(told, truth) if truth.dtype == bool else r2(told, truth)
        return value if np.isfinite(value) else 0.0

    return max(RIDGES, key=score)


def number_scores(states: ControllerStates, layers: Sequence[str]) -> dict[str, Any]:
    """R2 of linear probes of numbers, by number and source: the minimax ``value``, and ``marks`` on the board."""
    train, test = states.train, states.test
    numbers = {"value": states.value.astype(np.float64), "marks": states.marks.astype(np.float64)}
    sources = {OBSERVATION: (states.recording, OBSERVATION)}
    sources |= {layer: (states.recording, layer) for layer in layers}
    sources |= {f"untrained {layer}": (states.untrained, layer) for layer in layers}
    found: dict[str, Any] = {}
    for number, truth in numbers.items():
        found[number] = {}
        for source, (recording, layer) in sources.items():
            learn, later = _sides(states, recording, layer)
            ridge = best_ridge(learn, truth[train], states.position[train])
            predicted = linear_probe(learn, truth[train], later, ridge) + truth[train].mean()
            found[number][source] = r2(predicted, truth[test])
    critic = states.recording.steps["value"].astype(np.float64)[test]
    found["critic_spearman"] = {number: spearman(critic, truth[test]) for number, truth in numbers.items()}
    return found


def value_scores(
    states: ControllerStates, layers: Sequence[str], gamma: float, losses: Sequence[str], rows: int, seed: int
) -> dict[str, Any]:
    """Value probes, by layer and loss: the scores of ``value_probe_scores.judge`` and ``minimax_spearman``.

    Split by position, as everything here: a value is judged in positions that its probe has not seen.
    """
    weights = {name: LossWeights.parse(name) for name in losses}
    recording = states.recording
    known = known_returns(recording, gamma)
    fit = FitConfig(restarts=2, seed=seed)
    study = Study(recording, gamma, states.learn, known, weights, fit, rows, folds=2, truth=None)
    test = states.test
    found: dict[str, Any] = {}
    for layer in layers:
        found[layer] = {}
        for name, one in study.probes(layer).items():
            order = spearman(one.values[test], states.value[test].astype(np.float64))
            found[layer][name] = {**judge(study, one.values, one.line), "minimax_spearman": order}
    return found


def feature_scores(states: ControllerStates, layer: str, sae: SAEConfig, seed: int, shuffles: int) -> dict[str, Any]:
    """An SAE on one layer: what single features tell, beside single neurons, those of an untrained policy, and inputs.

    Returns:
        By kind of column the scores of ``rl_sae_scores.score_columns``, and the SAE's quality in ``sae``.
    """
    visited, sides = np.flatnonzero(states.learn), (states.train, states.test)
    split = States(states.recording, layer, layer, visited, *sides, unit="position")
    trained = train_sae(states.recording.activations[layer][visited], sae, {}, seed)
    acts = [columns_of(states.recording, layer, rows) for rows in sides]
    with torch.no_grad():
        columns = {
            "SAE features": [trained.encode(rows) for rows in acts],
            "neurons": acts,
            "untrained neurons": [columns_of(states.untrained, layer, rows) for rows in sides],
            "observation": [columns_of(states.recording, OBSERVATION, rows) for rows in sides],
        }
        quality = sae_quality(trained, acts[1])
    scores = {name: score_columns(one, two, split, seed, shuffles) for name, (one, two) in columns.items()}
    return {"columns": scores, "sae": {**asdict(sae), **quality}}


def _tell(states: ControllerStates, recording: Recording, layer: str, facts: Mapping[str, Bools]) -> dict[str, Floats]:
    """By fact, a linear probe's scores of the tested states."""
    learn, later = _sides(states, recording, layer)
    train, positions = states.train, states.position[states.train]
    return {
        name: linear_probe(learn, held[train], later, best_ridge(learn, held[train], positions))
        for name, held in facts.items()
    }


def _sides(states: ControllerStates, recording: Recording, layer: str) -> tuple[Floats, Floats]:
    """A layer in the states to learn from, and in the others."""
    learn, later = (columns_of(recording, layer, rows).double().numpy() for rows in (states.train, states.test))
    return learn, later


def _area(scores: Floats, truth: Bools) -> float:
    return float(auroc(scores[:, None], truth[:, None])[0, 0])
