"""What a steering policy sees and computes in games of tic-tac-toe, each state once, beside what is true there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.inside.probes_data import OBSERVATION, layers_of, record_levels
from agents.inside.recording import PREDICATE, Recording, RolloutConfig, recompute
from agents.inside.worlds.tictactoe_facts import board_after, fact_table, value_to_mover
from agents.vec_env import SB3VecEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.masks import carries_mask
from steer_env.tasks.tictactoe.rules import legal_moves, optimal_moves

Rows = npt.NDArray[np.int64]
MOVES = PREDICATE + "moves"


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
    """``moves``: ``[B]`` digits of each lane's game, as ``agents.inside.recording`` asks for predicates."""
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


def columns_of(recording: Recording, layer: str, rows: Rows) -> Tensor:
    """``[n, D]`` of a layer, or of what the networks read."""
    if layer != OBSERVATION:
        return recording.activations[layer][rows].flatten(start_dim=1)
    kinds = [np.asarray(values[rows]).reshape(len(rows), -1) for values in recording.observations.values()]
    return torch.from_numpy(np.concatenate(kinds, axis=1).astype(np.float32))


def canonical(board: Sequence[int]) -> tuple[int, ...]:
    """The smallest of a position's eight mirror images and turns."""
    square = np.array(board).reshape(3, 3)
    turned = [np.rot90(side, turns) for side in (square, square.T) for turns in range(4)]
    return min(tuple(int(cell) for cell in one.ravel()) for one in turned)


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
