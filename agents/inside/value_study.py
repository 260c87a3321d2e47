"""The study of value probes on one agent: probed values on held-out trajectories, and what planning with them earns.

Judged against exact values, returns and the critic, beside an untrained network and shuffled rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.inside.probes import FitConfig, LossWeights, Scale, ValueProbe, fit_probes
from agents.inside.recordings import Activations, Recording, RolloutConfig, recompute
from agents.inside.transitions import (
    OBSERVATION,
    Bools,
    draw_rows,
    known_returns,
    layer_rows,
    layers_of,
    opposite_views,
    record_levels,
    shuffle_rewards,
    split_trajectories,
    transitions,
)
from agents.inside.worlds.agents import WorldAgent
from agents.inside.worlds.tabular import ExactWorld, action_chances, exact_world, policy_values
from agents.inside.worlds.tictactoe import other_view, solved, states_of

Floats = npt.NDArray[np.float64]
_LONGEST = 1_000
_DUEL = "TicTacToeDuel-v0"


@dataclass(frozen=True)
class Truth:
    """What is known exactly of a small world.

    Attributes:
        values: ``[S]`` of the policy; in a game of two, minimax values for the player to move.
        states: ``[N]`` state of each recorded row.
        observations: ``[S, ...]`` how each state looks.
        world: its table, for planning; None where there is none.
    """

    values: Floats
    states: npt.NDArray[np.int64]
    observations: npt.NDArray[np.float32]
    world: ExactWorld | None = None

    @property
    def visited(self) -> npt.NDArray[np.int64]:
        """States that were recorded, each once."""
        return np.unique(self.states)


@dataclass(frozen=True)
class Study:
    """A recording and how it is used.

    Attributes:
        recording: the policy's trajectories and noisier ones.
        gamma: discount.
        learn: ``[N]`` rows learnt from; the others are tested on.
        known: ``[N]`` rows whose return is the policy's.
        losses: weighted sums by name.
        fit: how probes are fitted.
        rows: at most this many are fitted to.
        folds: into which states are dealt, so that each is judged by a probe that has not seen it.
        truth: of a world with exact values.
        opposite: row by row the same positions as the opponent sees them, in a game of two.
    """

    recording: Recording
    gamma: float
    learn: Bools
    known: Bools
    losses: Mapping[str, LossWeights]
    fit: FitConfig
    rows: int
    folds: int
    truth: Truth | None
    opposite: Recording | None = None

    @classmethod
    def of(
        cls, recording: Recording, gamma: float, losses: Mapping[str, LossWeights], fit: FitConfig, **settings: Any
    ) -> Study:
        """Split by trajectory with the seed of ``fit``."""
        learn = split_trajectories(recording, fit.seed)
        return cls(recording, gamma, learn, known_returns(recording, gamma), losses, fit, **settings)

    def probes(self, layer: str, held_out: Bools | None = None, taught: Recording | None = None) -> dict[str, Probed]:
        """Probes of a layer, fitted to the rows learnt from less those held out.

        Args:
            layer: recorded module, or the observations.
            held_out: ``[N]`` rows that are not learnt from either.
            taught: the same steps with other rewards.
        """
        lesson = self.recording if taught is None else taught
        allowed = self.learn if held_out is None else self.learn & ~held_out
        own = allowed & self.known
        scale = Scale.of(torch.from_numpy(lesson.steps["return"][own]))
        rows = draw_rows(lesson, allowed, self.rows, self.fit.seed)
        data = transitions(lesson, layer, self.gamma, allowed, rows)
        if self.opposite is not None:
            data = replace(data, opposite=layer_rows(self.opposite, layer)[rows])
        probes = fit_probes(data, self.losses, self.gamma, scale, self.fit)
        acts = layer_rows(self.recording, layer)
        returns = self.recording.steps["return"]
        found = {}
        for name, probe in probes.items():
            values = probe(acts).double().numpy()
            found[name] = Probed(probe, values, Line.fit(values[own], returns[own]))
        return found

    def shown(self) -> dict[str, Any]:
        """How much there is to learn from and to test on, and how many tested states were learnt from."""
        number = self.recording.steps["trajectory"]
        sizes: dict[str, Any] = {
            "rows": len(number),
            "train_trajectories": len(np.unique(number[self.learn])),
            "test_trajectories": len(np.unique(number[~self.learn])),
            "test_rows": int((~self.learn).sum()),
            "test_rows_with_return": int((~self.learn & self.known).sum()),
        }
        if self.truth is not None:
            tested, learnt = (np.unique(self.truth.states[half]) for half in (~self.learn, self.learn))
            sizes |= {"test_states": len(tested), "test_states_seen_in_train": len(np.intersect1d(tested, learnt))}
        return sizes


@dataclass(frozen=True)
class Line:
    """Scale and offset fitted to the returns of the policy's training trajectories; never turned upside down.

    A probe that was taught without rewards has no unit; this gives it one, and the same is done to every other.
    """

    slope: float
    offset: float

    @classmethod
    def fit(cls, values: Floats, returns: Floats) -> Line:
        """Least squares, the slope at least 0."""
        spread = values.var()
        slope = (
            0.0 if spread < 1e-12 else float(np.mean((values - values.mean()) * (returns - returns.mean())) / spread)
        )
        return cls(max(slope, 0.0), float(returns.mean() - max(slope, 0.0) * values.mean()))

    def __call__(self, values: Floats) -> Floats:
        """Values in units of reward."""
        return self.slope * values + self.offset


@dataclass(frozen=True)
class Probed:
    """A probe, what it says of every recorded row ``[N]``, and the line that gives that a unit."""

    probe: ValueProbe
    values: Floats
    line: Line


def judge(study: Study, values: Floats, line: Line) -> dict[str, float]:
    """Values ``[N]`` against all that is known of the held-out trajectories.

    Returns:
        ``<truth>_r2`` after the line, ``<truth>_raw_r2`` before it and ``<truth>_spearman``, for ``exact`` (where there
        are exact values), ``returns`` (the policy's trajectories only) and ``critic``.
    """
    steps, test = study.recording.steps, ~study.learn
    truths = {"returns": (steps["return"], test & study.known), "critic": (steps["value"].astype(np.float64), test)}
    if study.truth is not None:
        truths["exact"] = (study.truth.values[study.truth.states], test)
    found: dict[str, float] = {}
    for name, (truth, rows) in truths.items():
        found[f"{name}_r2"] = r2(line(values[rows]), truth[rows])
        found[f"{name}_raw_r2"] = r2(values[rows], truth[rows])
        found[f"{name}_spearman"] = spearman(values[rows], truth[rows])
    return found


def score_layer(
    study: Study, layer: str, of_states: Tensor | None = None, taught: Recording | None = None
) -> dict[str, dict[str, float]]:
    """Everything about the probes of one layer.

    Args:
        study: what is used.
        layer: recorded module, or the observations.
        of_states: ``[S, D]`` the layer's activations in every state, where there are exact values.
        taught: the same steps with other rewards.

    Returns:
        By loss: the scores of :func:`judge`; with a table ``planned``, what planning one step ahead with the probe
        earns; and with exact values and the true rewards ``unseen_r2``, ``unseen_spearman`` over visited states, each
        judged by a probe that learnt from no visit to it.
    """
    probed = study.probes(layer, taught=taught)
    found = {name: {**judge(study, one.values, one.line), "loss": one.probe.loss} for name, one in probed.items()}
    if study.truth is None or of_states is None:
        return found
    truth = study.truth
    for name, one in probed.items():
        if truth.world is None:
            break
        found[name]["planned"] = truth.world.planned(one.line(one.probe(of_states).double().numpy()))
    if taught is not None:
        return found
    for name, values in _unseen(study, truth, layer, of_states).items():
        exact = truth.values[truth.visited]
        found[name] |= {"unseen_r2": r2(values, exact), "unseen_spearman": spearman(values, exact)}
    return found


def references(study: Study, chances: Floats | None) -> dict[str, dict[str, float]]:
    """The critic and (where known) the exact value, judged as a probe is, and what policies earn.

    Args:
        study: what is used.
        chances: ``[S, A]`` of the policy, where there are exact values.
    """
    returns, own = study.recording.steps["return"], study.learn & study.known
    critic = study.recording.steps["value"].astype(np.float64)
    found = {"critic": judge(study, critic, Line.fit(critic[own], returns[own]))}
    if study.truth is None:
        return found
    truth, world = study.truth, study.truth.world
    found["exact value"] = judge(study, truth.values[truth.states], Line(1.0, 0.0))
    if world is None or chances is None:
        return found
    found["exact value"]["planned"] = world.planned(truth.values)
    # A constant avoids every end that gives less: what a value adds to planning is what it earns beyond this.
    found["constant value"] = {"planned": world.planned(np.full(len(truth.values), returns[own].mean()))}
    found["policy"] = {"planned": world.earned(chances)}
    found["greedy policy"] = {"planned": world.earned(chances.argmax(axis=1))}
    found["optimal policy"] = {"planned": world.planned(world.mdp.optimal_values(world.gamma))}
    found["uniform policy"] = {"planned": world.earned(np.full_like(chances, 1.0 / chances.shape[1]))}
    return found


def r2(predicted: Floats, truth: Floats) -> float:
    """Share of the truth's variance that is explained; NaN where it has none."""
    spread = truth.var()
    return float(1 - np.mean((predicted - truth) ** 2) / spread) if spread > 1e-12 else float("nan")


def spearman(predicted: Floats, truth: Floats) -> float:
    """Rank correlation; 0 where the prediction says nothing, NaN where the truth has no variance."""
    if np.ptp(truth) < 1e-9:
        return float("nan")
    return float(stats.spearmanr(predicted, truth).statistic) if np.ptp(predicted) > 1e-9 else 0.0


def study_agent(
    agent: WorldAgent,
    losses: Mapping[str, LossWeights],
    fit: FitConfig,
    episodes: int,
    noises: Sequence[float],
    rows: int,
    folds: int,
) -> dict[str, Any]:
    """One agent: recorded, probed and judged, with its controls.

    Args:
        agent: The agent; its seed is also that of recording, split and fits.
        losses: Weighted sums by name.
        fit: How probes are fitted.
        episodes: Episodes recorded of the policy and of each noisier version.
        noises: Chances of a random action in the noisier versions.
        rows: At most this many steps are fitted to.
        folds: Parts into which the states of a small world are dealt, so that each is judged by a probe that was not
            fitted to it.

    Returns:
        ``data`` (sizes), ``references``, and ``probes`` by source (``trained``, ``untrained``, ``shuffled``), layer
        and loss.
    """
    layers = layers_of(agent.model.policy)
    gamma = float(agent.model.gamma)  # type: ignore[attr-defined]  # every algorithm has one
    rollout = RolloutConfig(episodes, agent.seed, deterministic=False, gamma=gamma)
    recording = record_levels(agent.model, agent.lanes(**_world_kwargs(agent, gamma)), layers, rollout, noises)
    truth = _truth(agent, recording, gamma)
    fit = replace(fit, seed=agent.seed)
    opposite = _opposite(agent.env, agent.model, recording, layers)
    study = Study.of(recording, gamma, losses, fit, rows=rows, folds=folds, truth=truth, opposite=opposite)
    fresh = agent.untrained()
    twin = recompute(fresh.policy, recording, layers)
    twin.steps["value"] = recording.steps["value"]  # the critic to compare with stays the trained one
    other = replace(study, recording=twin, opposite=_opposite(agent.env, fresh, recording, layers))
    shuffled = shuffle_rewards(recording, agent.seed, gamma)
    seen, unseen = (_of_states(one, layers, truth) for one in (agent.model, fresh))
    return {
        "seed": agent.seed,
        "steps": agent.model.num_timesteps,
        "gamma": gamma,
        "data": study.shown(),
        "references": references(study, _chances(agent, truth)),
        "probes": {
            "trained": {name: score_layer(study, name, seen.get(name)) for name in (*layers, OBSERVATION)},
            "untrained": {name: score_layer(other, name, unseen.get(name)) for name in layers},
            "shuffled": {name: score_layer(study, name, seen.get(name), shuffled) for name in (*layers, OBSERVATION)},
        },
    }


def _unseen(study: Study, truth: Truth, layer: str, of_states: Tensor) -> dict[str, Floats]:
    """By loss ``[visited]`` values of states by probes that did not see them."""
    visited = truth.visited
    fold = np.random.default_rng(study.fit.seed).permutation(len(visited)) % study.folds
    values = {name: np.zeros(len(visited)) for name in study.losses}
    for number in range(study.folds):
        held = fold == number
        probed = study.probes(layer, np.isin(truth.states, visited[held]))
        for name, one in probed.items():
            values[name][held] = one.line(one.probe(of_states[visited[held]]).double().numpy())
    return values


def _world_kwargs(agent: WorldAgent, gamma: float) -> dict[str, Any]:
    """How the world is recorded otherwise than in training."""
    if agent.env == _DUEL:  # a state is the player's who is to move, its opposite that of the one who waits
        return {"waiting": False}
    if exact_world(agent.env, gamma, **agent.env_kwargs) is not None:  # exact values know of no time limit
        return {"max_episode_steps": _LONGEST}
    return {}


def _truth(agent: WorldAgent, recording: Recording, gamma: float) -> Truth | None:
    seen = recording.observations["obs"]
    if agent.env == _DUEL:
        views, values = solved()
        return Truth(values, states_of(seen), views)
    world = exact_world(agent.env, gamma, **agent.env_kwargs)
    if world is None:
        return None
    every = np.eye(len(world.starts), dtype=np.float32)
    return Truth(policy_values(world, agent.model), seen.argmax(axis=1), every, world)


def _chances(agent: WorldAgent, truth: Truth | None) -> Any:
    """``[S, A]`` of the policy, where one can plan with them."""
    if truth is None or truth.world is None:
        return None
    return action_chances(agent.model.policy, len(truth.values))


def _opposite(env: str, model: BaseAlgorithm, recording: Recording, layers: tuple[str, ...]) -> Recording | None:
    """The opponent's view of the recorded positions, in a game of two."""
    return opposite_views(model.policy, recording, layers, other_view) if env == _DUEL else None


def _of_states(model: BaseAlgorithm, layers: tuple[str, ...], truth: Truth | None) -> dict[str, Tensor]:
    """``[S, D]`` by layer, the observations themselves among them."""
    if truth is None:
        return {}
    every = {"obs": truth.observations}
    acts, _ = Activations(model.policy, layers)(every)
    plain = Recording(acts, every, {})
    return {name: layer_rows(plain, name) for name in (*layers, OBSERVATION)}
