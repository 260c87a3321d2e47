"""How well a controller's layers tell what is true of the game, beside the residual that they read and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from agents.probes import FitConfig
from agents.probes_data import OBSERVATION, known_returns
from agents.probes_losses import LossWeights
from agents.recording import Recording
from agents.rl_sae import Bools, Floats, auroc, auroc_gain, linear_probe
from experiments.controller_states import ControllerStates, columns_of
from experiments.rl_sae_scores import States, score_columns
from experiments.sae_training import SAEConfig, sae_quality, train_sae
from experiments.statistics import holm
from experiments.value_probe_scores import Study, judge, r2, spearman

BARS = (OBSERVATION, "untrained")


def probe_scores(
    states: ControllerStates, layers: Sequence[str], compared: Sequence[str], seed: int, shuffles: int
) -> dict[str, Any]:
    """AUROC of linear probes of every fact, learnt on one half of the positions and measured on the other.

    Args:
        states: as recorded.
        layers: of the policy.
        compared: layers that are tested against the bars.
        seed: of shuffling and bootstrap.
        shuffles: resamples of the bootstrap.

    Returns:
        ``trained`` and ``untrained`` by layer, ``shuffled`` by layer (trained, with the facts of the states learnt
        from dealt anew), each by fact; ``observation`` by fact; ``critic``, what the critic's own value tells, by
        fact; and ``gains`` by compared layer, bar (``BARS``: the observation, the same layer untrained) and fact:
        ``gain``, its one-sided 95 % bound ``low``, ``p`` and ``p_holm`` over all facts and layers of a bar.
    """
    facts, test = states.told(), states.test
    scored = {name: _tell(states, states.recording, name, facts) for name in (*layers, OBSERVATION)}
    fresh = {name: _tell(states, states.untrained, name, facts) for name in layers}
    rng = np.random.default_rng(seed)
    dealt = dict(facts)
    for name, held in facts.items():
        mixed = held.copy()
        mixed[states.train] = rng.permutation(held[states.train])
        dealt[name] = mixed
    mixed_up = {name: _tell(states, states.recording, name, dealt) for name in (*compared, OBSERVATION)}
    critic = states.recording.steps["value"].astype(np.float64)
    gains: dict[str, dict[str, dict[str, Any]]] = {layer: {bar: {} for bar in BARS} for layer in compared}
    for layer in compared:
        for bar, other in zip(BARS, (scored[OBSERVATION], fresh[layer]), strict=True):
            for name, held in facts.items():
                gain, low, p = auroc_gain(scored[layer][name], other[name], held[test], seed, shuffles)
                gains[layer][bar][name] = {"gain": gain, "low": low, "p": p}
    for bar in BARS:
        adjusted = holm({f"{a} {b}": row["p"] for a in compared for b, row in gains[a][bar].items()})
        for layer in compared:
            for name, row in gains[layer][bar].items():
                row["p_holm"] = adjusted[f"{layer} {name}"]

    def area(told: Mapping[str, Floats]) -> dict[str, float]:
        return {name: _area(values, facts[name][test]) for name, values in told.items()}

    return {
        "trained": {name: area(scored[name]) for name in layers},
        "untrained": {name: area(told) for name, told in fresh.items()},
        "shuffled": {name: area(told) for name, told in mixed_up.items()},
        OBSERVATION: area(scored[OBSERVATION]),
        "critic": area(dict.fromkeys(facts, critic[test])),
        "gains": gains,
    }


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
            learn, later = (columns_of(recording, layer, rows).double().numpy() for rows in (train, test))
            predicted = linear_probe(learn, truth[train], later) + truth[train].mean()
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
    learn, later = (columns_of(recording, layer, rows).double().numpy() for rows in (states.train, states.test))
    return {name: linear_probe(learn, held[states.train], later) for name, held in facts.items()}


def _area(scores: Floats, truth: Bools) -> float:
    return float(auroc(scores[:, None], truth[:, None])[0, 0])
