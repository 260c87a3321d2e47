"""What a steering policy represents: its states in games of tic-tac-toe, and what its layers say of them.

Each state counts once. Every layer stands beside the residual that the policy reads and an untrained policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.inside.probes import FitConfig, LossWeights
from agents.inside.recordings import PREDICATE, Recording, RolloutConfig, recompute
from agents.inside.sae_study import States, score_columns
from agents.inside.saes import Bools, Floats, Rows, auroc, auroc_gain
from agents.inside.transitions import OBSERVATION, known_returns, layer_rows, layers_of, record_levels
from agents.inside.value_study import Study, judge, r2, spearman
from agents.inside.worlds.tictactoe import board_after, fact_table, value_to_mover
from agents.runs.folder import RunFolder
from agents.runs.loading import fresh_agent, load_trained, make_envs
from agents.runs.steering import require_same_steering
from agents.vec_env import SB3VecEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.linear_probe import linear_probe
from steer_env.evaluation.masks import carries_mask
from steer_env.evaluation.statistics import holm
from steer_env.lm.sae_training import SAEConfig, sae_quality, train_sae
from steer_env.tasks.tictactoe.rules import legal_moves, optimal_moves

MOVES = PREDICATE + "moves"
BARS = (OBSERVATION, "untrained")
RIDGES = (0.01, 0.1, 1.0, 10.0)
_DEALT, _FOLDS = 20, 3
_UNTRAINED = 1_000  # added to the run's seed, so that the untrained policy shares no draw with it


class Overhearing(SB3VecEnv):
    """Lanes of a Steer environment with ``compare=True``.

    Attributes:
        alone: by the moves of a game so far, what the model would have said there if it were not steered at this move.
            Earlier moves were steered and are what it read; they can differ, and the first visit counts.
    """

    alone: dict[str, str]

    def step_wait(self) -> Any:
        """Step all lanes, and keep what the unsteered model would have said."""
        before = moves_so_far(self)["moves"]
        result = super().step_wait()
        for moves, text in zip(before, self.step_info["unsteered_token_text"], strict=True):
            self.alone.setdefault(str(moves), str(text))
        return result


def overhear(envs: Any, mask: Any) -> Overhearing:
    """Lanes of ``envs`` that note what the unsteered model would have said."""
    lanes = Overhearing(envs, mask)
    lanes.alone = {}
    return lanes


def moves_so_far(envs: VecEnv) -> dict[str, npt.NDArray[Any]]:
    """``moves``: ``[B]`` digits of each lane's game, as ``agents.inside.recordings`` asks for predicates."""
    conversations: Any = unwrap(envs).episode.conversations
    return {"moves": np.array([conversation.moves for conversation in conversations], dtype=object)}


@dataclass(frozen=True)
class ControllerStates:
    """Recorded states of the controller.

    Attributes:
        recording: of the policy and of noisier versions (column ``level``), with the activations of all its layers;
            the observations are what its networks read, without a mask.
        untrained: the same steps as a fresh policy computes them.
        rows: ``[n]`` rows that hold each state (the moves of a game so far) once.
        position: ``[N]`` number of the row's position; all orders of moves that lead to one, and its mirror images and
            turns, have the same.
        learn: ``[N]`` whether the position is one to learn from.
        facts: ``[N]`` each, what is true of the state.
        value: ``[N]`` minimax value for the player to move: 1, 0 or -1.
        marks: ``[N]`` marks on the board.
    """

    recording: Recording
    untrained: Recording
    rows: Rows
    position: Rows
    learn: npt.NDArray[np.bool_]
    facts: Mapping[str, npt.NDArray[np.bool_]]
    value: npt.NDArray[np.int64]
    marks: npt.NDArray[np.int64]

    @property
    def train(self) -> Rows:
        """States to learn from, each once."""
        return self.rows[self.learn[self.rows]]

    @property
    def test(self) -> Rows:
        """The others."""
        return self.rows[~self.learn[self.rows]]

    def told(self) -> dict[str, npt.NDArray[np.bool_]]:
        """The facts that hold in some states of either side, but not in all."""
        sides = self.train, self.test
        return {
            name: held
            for name, held in self.facts.items()
            if all(held[side].any() and not held[side].all() for side in sides)
        }


def record_controller(
    models: Sequence[BaseAlgorithm], envs: Overhearing, rollout: RolloutConfig, noises: Sequence[float]
) -> ControllerStates:
    """Let the policy and noisier versions of it play.

    Args:
        models: the trained agent, and an untrained one of the same shape.
        envs: the run's own.
        rollout: what is played; its seed also splits.
        noises: chances of a random action.
    """
    trained, fresh = models
    layers = layers_of(trained.policy)
    recording = record_levels(trained, envs, layers, rollout, noises, moves_so_far)
    other = recompute(fresh.policy, recording, layers)
    if carries_mask(trained.policy.observation_space):
        seen = {"obs": recording.observations["obs"]}
        recording, other = (Recording(one.activations, seen, one.steps) for one in (recording, other))
    moves = recording.steps.pop(MOVES).astype(str)
    kinds, first, which = np.unique(moves, return_index=True, return_inverse=True)
    boards = [board_after(text) for text in kinds.tolist()]
    said = [envs.alone[text] for text in kinds.tolist()]
    which = which.reshape(-1)
    facts = {name: held[which] for name, held in (fact_table(boards) | _unsteered(boards, said)).items()}
    for name, held in facts.items():
        recording.steps[PREDICATE + name] = held
    value = np.array([value_to_mover(board) for board in boards])[which]
    marks = np.array([len(text) for text in kinds.tolist()])[which]
    position = np.unique([canonical(board) for board in boards], axis=0, return_inverse=True)[1].reshape(-1)
    learn = _half(position.max() + 1, rollout.seed)[position]
    return ControllerStates(recording, other, np.sort(first), position[which], learn[which], facts, value, marks)


def canonical(board: Sequence[int]) -> tuple[int, ...]:
    """The smallest of a position's eight mirror images and turns."""
    square = np.array(board).reshape(3, 3)
    turned = [np.rot90(side, turns) for side in (square, square.T) for turns in range(4)]
    return min(tuple(int(cell) for cell in one.ravel()) for one in turned)


def require_tictactoe(config: Mapping[str, Any]) -> None:
    """Refuse runs of other tasks, and agents without actor and critic.

    Raises:
        ValueError: The run's settings are of such a one.
    """
    if config["env"] != "Steer-TicTacToe-v0" or config["algo"] not in ("ppo", "a2c"):
        raise ValueError(
            "the controller of a Steer-TicTacToe-v0 run by ppo or a2c can be looked into, got "
            f"{config['env']} by {config['algo']}"
        )


def record_run(
    run: RunFolder, split: str, num_envs: int, rollout: RolloutConfig, noises: Sequence[float], blunder: float | None
) -> tuple[ControllerStates, BaseAlgorithm]:
    """Record the agent of a run over its own environments.

    Args:
        run: Its folder.
        split: Games that are played.
        num_envs: Lanes in one forward pass.
        rollout: What is played; actions are sampled with the run's own discount.
        noises: Chances of a random action in noisier versions of the policy.
        blunder: Chance that the teacher moves at random, instead of the run's.
    """
    envs = make_envs(run.config, split, num_envs, compare=True, **other_teacher(run.config, blunder))
    require_same_steering(run.config, envs, run.path)
    model, mask = load_trained(run, envs)
    assert isinstance(model, (PPO, A2C))
    if mask is not None:
        mask.frozen = True
    fresh = fresh_agent({**run.config, "seed": run.config["seed"] + _UNTRAINED}, envs, SB3VecEnv(envs, mask))
    return record_controller((model, fresh), overhear(envs, mask), replace(rollout, gamma=model.gamma), noises), model


def other_teacher(config: Mapping[str, Any], blunder: float | None) -> dict[str, Any]:
    """What makes the run's environments ones with a teacher who blunders, the agent's pushes as they were."""
    if blunder is None:
        return {}
    # In units of the norm a push would change with the games in which that norm is measured.
    recorded = config.get("steering", {})
    push = {"coefficient": recorded["coefficient"], "coefficient_unit": "residual"} if recorded else {}
    return {"opponent": "optimal", "epsilon": blunder, **push}


def last_hidden(layers: tuple[str, ...]) -> tuple[str, str]:
    """The last hidden layer of the actor, and of the critic.

    Raises:
        ValueError: one of them has none.
    """
    found = []
    for part in ("policy_net", "value_net"):
        hidden = [layer for layer in layers if part in layer]
        if not hidden:
            raise ValueError(f"the policy has no hidden layer in {part}; its layers: {', '.join(layers)}")
        found.append(hidden[-1])
    return found[0], found[1]


def sizes(states: ControllerStates) -> Mapping[str, Any]:
    """How many steps and states there are, and how often each fact holds where it is tested."""
    test = states.test
    return {
        "steps": len(states.recording),
        "train": len(states.train),
        "test": len(test),
        "positions": {
            side: len(np.unique(states.position[rows])) for side, rows in (("train", states.train), ("test", test))
        },
        "facts": {name: float(held[test].mean()) for name, held in states.facts.items()},
    }


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
    """Value probes, by layer and loss: the scores of ``value_study.judge`` and ``minimax_spearman``.

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
        By kind of column the scores of ``sae_study.score_columns``, and the SAE's quality in ``sae``.
    """
    visited, sides = np.flatnonzero(states.learn), (states.train, states.test)
    split = States(states.recording, layer, layer, visited, *sides, unit="position")
    trained = train_sae(states.recording.activations[layer][visited], sae, {}, seed)
    acts = [layer_rows(states.recording, layer)[rows] for rows in sides]
    with torch.no_grad():
        columns = {
            "SAE features": [trained.encode(rows) for rows in acts],
            "neurons": acts,
            "untrained neurons": [layer_rows(states.untrained, layer)[rows] for rows in sides],
            "observation": [layer_rows(states.recording, OBSERVATION)[rows] for rows in sides],
        }
        quality = sae_quality(trained, acts[1])
    scores = {name: score_columns(one, two, split, seed, shuffles) for name, (one, two) in columns.items()}
    return {"columns": scores, "sae": {**asdict(sae), **quality}}


def _half(count: int, seed: int) -> npt.NDArray[np.bool_]:
    """``[count]``, half of them True, drawn."""
    return np.isin(np.arange(count), np.random.default_rng(seed).permutation(count)[: (count + 1) // 2])


def _unsteered(boards: Sequence[Any], said: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """What the language model would do if it were not steered at this move: the risk that the controller averts."""
    cells = [int(text) - 1 if text.strip() in set("123456789") else -1 for text in said]
    pairs = list(zip(boards, cells, strict=True))
    return {
        "unsteered_illegal": np.array([cell not in legal_moves(board) for board, cell in pairs]),
        "unsteered_errs": np.array([cell not in optimal_moves(board) for board, cell in pairs]),
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
    learn, later = (layer_rows(recording, layer)[rows].double().numpy() for rows in (states.train, states.test))
    return learn, later


def _area(scores: Floats, truth: Bools) -> float:
    return float(auroc(scores[:, None], truth[:, None])[0, 0])
