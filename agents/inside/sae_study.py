"""The study of SAEs on one agent: recorded, decomposed, played through, and scored against predicates of the state.

Columns of numbers (features, neurons, components) are all scored by the same rule of :mod:`agents.inside.saes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from agents.inside.recordings import Activations, Predicates, Recording, RolloutConfig, join, recompute, record
from agents.inside.saes import (
    Bools,
    Floats,
    Rows,
    auroc,
    auroc_gain,
    best_matches,
    distinct_rows,
    faithful_features,
    playing_through,
    principal_components,
    split_rows,
    without_feature,
)
from agents.inside.transitions import OBSERVATION, layer_rows
from agents.inside.worlds import arcade, cartpole, mate_table
from agents.inside.worlds.agents import PLACES, WorldAgent, unit_of
from steer_env.evaluation.linear_probe import linear_probe
from steer_env.evaluation.statistics import holm
from steer_env.lm.sae_training import SAEConfig, sae_quality, train_sae

GOOD = 0.9
FEWEST = 20


@dataclass(frozen=True)
class World:
    """How a world is looked at.

    Attributes:
        predicates: Predicates of its states.
        episodes: Episodes to record, some tens of thousands of states.
    """

    predicates: Predicates
    episodes: int


WORLDS = {
    "KingRookKing-v0": World(mate_table.lane_predicates, 4_000),
    "CartPole-v1": World(cartpole.lane_predicates, 80),
    "MinAtarBreakout-v0": World(arcade.lane_predicates, 400),
}


def world_of(env: str) -> World:
    """How a world is looked at.

    Raises:
        ValueError: There are no predicates for it.
    """
    if env not in WORLDS:
        raise ValueError(f"no predicates for {env!r}; there are for: {', '.join(WORLDS)}")
    return WORLDS[env]


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
        test; ``mean_auroc`` over them; ``detected``, how many reach 0.9 there; ``features``, how many columns have an
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
        "detected": sum(value >= GOOD for value in values),
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
    "detected",
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
    seen = layer_rows(states.recording, OBSERVATION).double().numpy()
    bars = {
        "outputs": (_said(states.said(states.train)), _said(states.said(states.test))),
        "layer": (states.acts(states.train).double().numpy(), states.acts(states.test).double().numpy()),
        "observation": (seen[states.train], seen[states.test]),
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


@dataclass(frozen=True)
class Study:
    """One agent whose activations are decomposed.

    Attributes:
        agent: The agent.
        states: The states that it visited, with the activations of the module that is decomposed.
        seed: Seed of the tests.
        shuffles: Shuffles of the permutation tests and resamples of the bootstrap.
        games: Episodes of an evaluation, where the world is not evaluated exactly.
    """

    agent: WorldAgent
    states: States
    seed: int
    shuffles: int
    games: int

    @classmethod
    def begin(cls, agent: WorldAgent, module: str | None, rollout: RolloutConfig, shuffles: int, games: int) -> Study:
        """Record an agent.

        Args:
            agent: The agent.
            module: Module to decompose; by default the last hidden layer before its non-linearity.
            rollout: What is played; its seed is also that of the split and the tests.
            shuffles: As in the attributes.
            games: As in the attributes.

        Raises:
            ValueError: There are no predicates for its world; too little is recorded to score any; or what is
                decomposed does not matter to what the agent does, as a critic does not.
        """
        last_hidden, outputs = PLACES[agent.algorithm]
        module = module or last_hidden
        recorded = record(agent.model, agent.lanes(), [module, outputs], rollout, world_of(agent.env).predicates)
        states = split_states(join(list(recorded)), module, outputs, rollout.seed, unit_of(agent.env))
        study = cls(agent, states, rollout.seed, shuffles, games)
        if torch.equal(study.said_through(torch.zeros_like), study.said_through(lambda acts: acts)):
            raise ValueError(f"{module!r} does not matter to what the agent does: nothing can be seen by replacing it")
        if not states.truths(states.test):
            raise ValueError(f"no predicate holds and fails in {FEWEST} units of either half: record more episodes")
        return study

    def sizes(self) -> dict[str, Any]:
        """How many states there are, and what was kept together in splitting them."""
        states = self.states
        counts = {"visited": len(states.visited), "train": len(states.train), "test": len(states.test)}
        return {**counts, "kept_together": states.unit}

    @torch.no_grad()
    def measured(self, sae: Any) -> dict[str, Any]:
        """Quality on held-out states, play through the reconstruction, and what the features stand for."""
        states = self.states
        quality = sae_quality(sae, states.acts(states.test))
        quality["dead_share"] = quality.pop("dead_features") / sae.cfg.d_sae
        train, test = (sae.encode(states.acts(rows)) for rows in (states.train, states.test))
        return {**quality, "play": self.earned_through(sae), **self.scored(train, test)}

    @torch.no_grad()
    def substitutions(self, counts: Sequence[int]) -> dict[str, dict[str, float]]:
        """What cruder stand-ins for the activations earn: their mean, and ``counts`` of their principal components."""
        acts = self.states.acts(self.states.visited)
        mean = acts.mean(dim=0)
        axes = torch.linalg.eigh(torch.cov(acts.T.double())).eigenvectors.flip(1).T.to(mean)
        found = {"mean": self.earned_through(lambda acts: mean.expand_as(acts))}
        for k in counts:
            kept = axes[:k].T @ axes[:k]
            found[f"pca-{k}"] = self.earned_through(partial(_projected, mean, kept))
        return found

    @torch.no_grad()
    def columns(self, chosen: str, setting: SAEConfig, sae_seed: int) -> dict[str, Any]:
        """What other columns of numbers stand for: neurons, components, outputs, an untrained network and its SAE.

        Args:
            chosen: Name of the SAE that the untrained network gets too.
            setting: That SAE and its schedule.
            sae_seed: Seed of its weights and batches.
        """
        states, module = self.states, self.states.module
        untrained = recompute(self.agent.untrained().policy, states.recording, [module]).activations[module]
        with torch.enable_grad():
            sae = train_sae(untrained[states.visited], setting, {}, sae_seed)
        halves = [states.acts(rows) for rows in (states.train, states.test)]
        random = [untrained[rows] for rows in (states.train, states.test)]
        passed_on: type[nn.Module] = self.agent.model.policy.activation_fn  # type: ignore[assignment]  # of all of SB3's
        found = {
            "neurons": halves,
            f"neurons after {passed_on.__name__}": [passed_on()(acts) for acts in halves],
            "principal components": principal_components(*halves),
            "outputs": [torch.from_numpy(states.said(rows)) for rows in (states.train, states.test)],
            "untrained neurons": random,
            f"untrained {chosen}": [sae.encode(acts) for acts in random],
        }
        return {name: self.scored(one, two) for name, (one, two) in found.items()}

    def scored(self, train: Tensor, test: Tensor) -> dict[str, Any]:
        """What columns of numbers in both halves stand for."""
        return score_columns(train, test, self.states, self.seed, self.shuffles)

    def closely(self, sae: Any, scored: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """:func:`look_closely` at one SAE."""
        acting = Acting(self.earned_through, self.said_through)
        return look_closely(sae, self.states, scored, acting, self.seed, self.shuffles)

    def earned_through(self, replace: Replace) -> dict[str, float]:
        """What the agent earns with a substitute in the activation's place."""
        with playing_through(self.agent.model.policy, self.states.module, replace):
            return self.agent.earned(self.games)

    def said_through(self, replace: Replace) -> Tensor:
        """``[n, A]`` what the network puts out in the tested states, with a substitute in the activation's place."""
        seen = {name: rows[self.states.test] for name, rows in self.states.recording.observations.items()}
        with playing_through(self.agent.model.policy, self.states.module, replace):
            return Activations(self.agent.model.policy, [self.states.outputs])(seen)[0][self.states.outputs]


def choose(saes: Mapping[str, dict[str, Any]], plain: float, kept: float) -> str:
    """The sparsest SAE that keeps the return, both by the mean over seeds; if none does, the one that earns most.

    Args:
        saes: Rows of :func:`over_seeds` by name. ``return_kept``, the share of the return, is written into each; it is
            None where the agent earns nothing that could be kept.
        plain: What the agent earns by itself.
        kept: Share of it that must be kept.
    """
    mean = {name: {column: cell["mean"] for column, cell in row["over_seeds"].items()} for name, row in saes.items()}
    for name, row in saes.items():
        row["return_kept"] = mean[name]["return"] / plain if plain > 0 else None
    good = [name for name, row in saes.items() if row["return_kept"] is not None and row["return_kept"] >= kept]
    return min(good, key=lambda name: mean[name]["l0"]) if good else max(saes, key=lambda name: mean[name]["return"])


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


def _projected(mean: Tensor, kept: Tensor, acts: Tensor) -> Tensor:
    """Activations ``[n, D]`` projected by ``kept`` ``[D, D]``, around their ``mean`` ``[D]``."""
    return (acts - mean) @ kept + mean
