"""Scores of columns of numbers (features, neurons, components) against the predicates of recorded states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.inside.recording import Recording
from agents.inside.saes import (
    Bools,
    Floats,
    auroc,
    auroc_gain,
    best_matches,
    distinct_rows,
    faithful_features,
    split_rows,
    without_feature,
)
from steer_env.evaluation.linear_probe import linear_probe
from steer_env.evaluation.statistics import holm

Rows = npt.NDArray[np.int64]
GOOD = 0.9
FEWEST = 20


@dataclass(frozen=True)
class States:
    """Recorded states in two halves, to learn from and to test on.

    Attributes:
        recording: all of them, with the activations of ``module`` and ``outputs``.
        module: what is decomposed.
        outputs: what puts out the Q values or logits.
        visited: rows to learn from, as often as they came.
        train: the same, each distinct observation once.
        test: the other half's rows, each distinct observation once.
        unit: what was kept together in splitting (see :func:`agents.inside.saes.split_rows`).
    """

    recording: Recording
    module: str
    outputs: str
    visited: Rows
    train: Rows
    test: Rows
    unit: str

    def acts(self, rows: Rows) -> Tensor:
        """``[n, M]`` activations of the module."""
        return self.recording.activations[self.module][rows]

    def said(self, rows: Rows) -> Floats:
        """``[n, A]`` outputs of the network."""
        return self.recording.activations[self.outputs][rows].double().numpy()

    def truths(self, rows: Rows) -> dict[str, Bools]:
        """``[n]`` each, of the predicates that there is enough to tell of.

        Those that hold in at least ``FEWEST`` units (states, or trajectories) of either half, and do not hold in as
        many: fewer make noise look sure.
        """
        return {
            name: values[rows]
            for name, values in self.recording.predicates.items()
            if all(
                self._units(half[values[half] == held]) >= FEWEST for half in (self.train, self.test) for held in (0, 1)
            )
        }

    def groups(self, rows: Rows) -> npt.NDArray[Any] | None:
        """``[n]`` trajectories that rows are resampled by; None where rows stand for themselves."""
        return self.recording.steps["trajectory"][rows] if self.unit == "trajectory" else None

    def _units(self, rows: Rows) -> int:
        groups = self.groups(rows)
        return len(rows if groups is None else np.unique(groups))


def split_states(recording: Recording, module: str, outputs: str, seed: int, unit: str) -> States:
    """Halve a recording so that no state learnt from is tested on.

    Raises:
        ValueError: a half is empty.
    """
    learn = split_rows(recording, seed, unit)
    train, test = distinct_rows(recording, learn)
    if len(train) == 0 or len(test) == 0:
        raise ValueError(f"{len(recording)} recorded states cannot be halved by {unit}: record more episodes")
    return States(recording, module, outputs, np.flatnonzero(learn), train, test, unit)


def score_columns(train: Tensor, test: Tensor, states: States, seed: int, shuffles: int) -> dict[str, Any]:
    """What columns stand for.

    Args:
        train: ``[n, F]`` at ``states.train``.
        test: ``[n', F]`` at ``states.test``.
        states: whose predicates are told.
        seed: of the permutation test.
        shuffles: of the permutation test.

    Returns:
        ``predicates``: for each the best column, chosen on train, with its AUROC, F1 and p (Holm over predicates) on
        test; ``mean_auroc`` over them; ``told``, how many reach 0.9 there; ``features``, how many columns have an
        AUROC of 0.9 for some predicate on both halves; ``live``, how many are not constant; ``shuffled_features``,
        ``features`` again after shuffling the states' predicates.
    """
    learn, later = states.truths(states.train), states.truths(states.test)
    first, second = train.double().numpy(), test.double().numpy()
    matches = best_matches(first, learn, second, later, shuffles, seed, states.groups(states.test))
    adjusted = holm({name: match.p for name, match in matches.items()})
    rng = np.random.default_rng(seed)
    mixed, other = rng.permutation(len(first)), rng.permutation(len(second))
    shuffled = faithful_features(first[mixed], learn, second[other], later, GOOD)
    values = [match.auroc for match in matches.values()]
    return {
        "live": int((first.std(axis=0) > 0).sum()),
        "features": len(faithful_features(first, learn, second, later, GOOD)),
        "shuffled_features": len(shuffled),
        "told": sum(value >= GOOD for value in values),
        "mean_auroc": float(np.mean(values)),
        "mean_f1": float(np.mean([match.f1 for match in matches.values()])),
        "predicates": {name: {**asdict(match), "p_holm": adjusted[name]} for name, match in matches.items()},
    }


SPREADS = (
    "explained_variance",
    "l0",
    "dead_share",
    "live",
    "features",
    "shuffled_features",
    "told",
    "mean_auroc",
    "mean_f1",
)


def over_seeds(rows: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of the first seed's SAE, and in ``over_seeds`` mean and standard deviation of their numbers.

    The deviation is the sample's (0 with one seed).
    """
    values = [{name: row[name] for name in SPREADS} | dict(row["play"]) for row in rows.values()]
    found = {name: np.array([row[name] for row in values], dtype=float) for name in values[0]}
    spread = {
        name: {"mean": column.mean(), "std": column.std(ddof=min(1, len(column) - 1)), "n": len(column)}
        for name, column in found.items()
    }
    return {**next(iter(rows.values())), "over_seeds": spread}


Replace = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Acting:
    """The agent with a substitute for the activations.

    Attributes:
        earns: from the substitute to what the agent earns with it.
        says: from the substitute to its outputs ``[n, A]`` in the tested states.
    """

    earns: Callable[[Replace], dict[str, float]]
    says: Callable[[Replace], Tensor]


@torch.no_grad()
def look_closely(
    sae: Any,
    states: States,
    scored: Mapping[str, Mapping[str, Any]],
    acting: Acting,
    seed: int,
    shuffles: int,
) -> dict[str, dict[str, Any]]:
    """For every predicate: does its best feature tell it better than the outputs do, and what does the feature do?

    Args:
        sae: the SAE.
        states: as recorded.
        scored: ``predicates`` of :func:`score_columns` for this SAE.
        acting: the agent.
        seed: of the bootstrap.
        shuffles: resamples of the bootstrap.

    Returns:
        By predicate the AUROCs on test of the ``feature``, of linear probes on ``outputs`` (Q values or logits, sorted
        ones and the choice among them), on the ``layer`` and on the ``observation``; ``gain`` of the feature over the
        outputs with its one-sided 95 % bound ``gain_low`` and ``p_holm``; ``played``, what is earned with the feature
        held at zero; and what :func:`_moved` tells of the outputs then.
    """
    learn, later = states.truths(states.train), states.truths(states.test)
    bars = {
        "outputs": (_said(states.said(states.train)), _said(states.said(states.test))),
        "layer": (states.acts(states.train).double().numpy(), states.acts(states.test).double().numpy()),
        "observation": (_seen(states, states.train), _seen(states, states.test)),
    }
    active = sae.encode(states.acts(states.test)).double().numpy()
    plain, together = acting.says(sae).double().numpy(), states.groups(states.test)
    found: dict[str, dict[str, Any]] = {}
    for name, match in scored.items():
        probes = {bar: linear_probe(train, learn[name], test) for bar, (train, test) in bars.items()}
        tells, without = active[:, match["feature"]], without_feature(sae, match["feature"])
        gain, low, p = auroc_gain(match["sign"] * tells, probes["outputs"], later[name], seed, shuffles, together)
        found[name] = {
            "feature": match["auroc"],
            **{bar: float(auroc(scores[:, None], later[name][:, None])[0, 0]) for bar, scores in probes.items()},
            "gain": gain,
            "gain_low": low,
            "p": p,
            "played": acting.earns(without),
            **_moved(plain, acting.says(without).double().numpy(), tells > 0),
        }
    adjusted = holm({name: row["p"] for name, row in found.items()})
    return {name: {**row, "p_holm": adjusted[name]} for name, row in found.items()}


def _moved(plain: Floats, without: Floats, fires: Bools) -> dict[str, float]:
    """What holding a feature at zero does to outputs ``[n, A]``.

    Returns:
        ``fires``, the share of states where it is active; and over those states ``outputs_moved``, the mean change of
        an output in standard deviations of the outputs, and ``choices_changed``, the share where another is highest.
    """
    if not fires.any():
        return {"fires": 0.0, "outputs_moved": 0.0, "choices_changed": 0.0}
    one, other = plain[fires], without[fires]
    return {
        "fires": float(fires.mean()),
        "outputs_moved": float(np.abs(one - other).mean() / max(plain.std(), 1e-12)),
        "choices_changed": float((one.argmax(axis=1) != other.argmax(axis=1)).mean()),
    }


def _said(outputs: Floats) -> Floats:
    """What outputs show: the numbers, the same in order, and which is the highest; ``[n, 3 A]``."""
    chosen = np.eye(outputs.shape[1])[outputs.argmax(axis=1)]
    return np.concatenate([outputs, np.sort(outputs, axis=1), chosen], axis=1)


def _seen(states: States, rows: Rows) -> Floats:
    kinds = states.recording.observations.values()
    return np.concatenate([values[rows].reshape(len(rows), -1) for values in kinds], axis=1).astype(np.float64)
