"""Measures whether the tic-tac-toe model is a good instrument: weak alone, steerable, readable.

Games are played by policies in ``Steer-TicTacToe-v0``; positions that no game need reach are put to the environment's
steered model by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

import steer_env  # noqa: F401  # registers the environment
from experiments.make.tictactoe.config import MakeTicTacToeConfig
from steer_env.envs.base import SteerBase, unwrap
from steer_env.evaluation.controls import Setting, fixed, idle, pushes, score_pushes, unsteered
from steer_env.evaluation.play import Array, Details, Envs, Lanes, Played, Policy, play
from steer_env.lm.model import SteeredModel
from steer_env.lm.sae_training import residuals
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks.tictactoe.rules import EMPTY, Board, O, legal_moves, optimal_moves, to_move, value
from steer_env.tasks.tictactoe.rules import play as play_move

LANES = 256
FEW = 200
"""Games at most where every feature is tried: by the search for the best fixed one, and by the oracle."""

Position = tuple[Board, str]
"""A board, and the moves that led to it."""


def measure(kwargs: Mapping[str, Any], cfg: MakeTicTacToeConfig) -> dict[str, Any]:
    """What makes it a good instrument: weak alone, strong under an oracle, no single feature enough.

    Args:
        kwargs: Model, SAE and how to steer, as ``gym.make_vec`` takes them.
        cfg: How many games, positions and steps of the probes, and the seed of all.
    """
    train, validation, sampled = (
        gym.make_vec("Steer-TicTacToe-v0", LANES, **kwargs, **own)
        for own in ({"split": "train"}, {"split": "validation"}, {"split": "validation", "temperature": 1.0})
    )
    games, few, alone = range(cfg.episodes), range(min(FEW, cfg.episodes)), unsteered(Setting())
    best = int(score_pushes(train, pushes(train), few, cfg.seed).mean(axis=1).argmax())

    def rates(envs: Envs, policy: Policy, items: range) -> dict[str, float]:
        return shares(play(envs, policy, items, cfg.seed, tokens=False))

    env, everything = unwrap(validation), open_positions()
    picked = np.random.default_rng(cfg.seed).permutation(len(everything))[: cfg.positions or None]
    return {
        "unsteered_greedy": rates(validation, alone, games),
        "unsteered_sampled": rates(sampled, alone, games),
        "best_fixed": {"feature": best, "draw_rate": rates(validation, fixed(best), games)["draw_rate"]},
        "oracle": {"draw_rate": rates(validation, oracle(env), few)["draw_rate"]},
        "control": {"positions": len(picked), **controllability(env, [everything[i] for i in picked])},
        "readability": {"positions": len(everything), **readability(env, everything, cfg.probe_steps, cfg.seed)},
    }


def shares(played: Played) -> dict[str, float]:
    """``draw_rate``: share of games that O did not lose; ``legal_rate``: share of its moves that were legal."""
    legal = sum(len(final["moves"]) // 2 for final in played.episodes)  # O's: the teacher opened
    illegal = sum(final["illegal_moves"] for final in played.episodes)
    return {"draw_rate": float(played.scores.mean()), "legal_rate": float(legal / (legal + illegal))}


def moves_by_feature(env: SteerBase, moves: str, pushed: Sequence[int] = ()) -> Array:
    """``[F]`` cell (0 to 8, below 0 no digit) that the model names greedily under each feature.

    Args:
        env: The environment, whose every feature is an action.
        moves: Digits of the game so far, O to move.
        pushed: The actions that steered O's earlier moves; none of them was steered where it is empty.
    """
    deltas = torch.cat([env.directions * env.coefficient, torch.zeros_like(env.directions[:1])])  # the no-op is last
    model = SteeredModel(env.lm, env.layer, len(deltas) - 1, env.site)
    ids = token_ids(env.tokenizer, [moves])[0].tolist()
    ends = [2 + 2 * turn for turn in range(len(pushed))] + [len(ids)]
    for lane in range(model.lanes):
        model.restart(lane, ids[: ends[0]])
    for push, start, end in zip(pushed, ends, ends[1:], strict=False):
        model.observe()
        model.advance(deltas[push].expand(model.lanes, -1))
        for lane in range(model.lanes):
            model.write(lane, ids[start:end])
    model.observe()
    said = env.tokenizer.hf.batch_decode(model.advance(deltas[:-1]).argmax(dim=-1)[:, None])
    return np.array([int(text) - 1 if text.strip() in set("123456789") else -1 for text in said])


def oracle(env: SteerBase) -> Policy:
    """The policy that tries every feature at every move and takes the first under which that move is optimal."""
    found = cache(lambda moves, pushed: moves_by_feature(env, moves, pushed))
    pushed: dict[int, tuple[int, ...]] = {}

    def act(obs: Any, lanes: Lanes) -> tuple[Array, Details]:
        actions = idle(lanes.envs)
        for lane, place, step in lanes.under_way():
            game: Any = lanes.envs.episode.conversations[lane]
            past = pushed[place] if step else ()
            good = np.isin(found(game.moves, past), optimal_moves(game.board))
            if good.any():
                actions[lane] = good.argmax()
            pushed[place] = (*past, int(actions[lane]))
        return actions, {}

    return act


def open_positions() -> list[Position]:
    """Every position with O to move and not yet lost.

    X plays any optimal move and O any move that keeps the draw; each order of moves is one position.
    """
    found: list[Position] = []

    def visit(board: Board, moves: str) -> None:
        if value(board) or not legal_moves(board):
            return
        if to_move(board) == O:
            found.append((board, moves))
        for cell in optimal_moves(board):
            visit(play_move(board, cell), f"{moves}{cell + 1}")

    visit(EMPTY, "")
    return found


def controllability(env: SteerBase, positions: Sequence[Position]) -> dict[str, float]:
    """What one feature at the last token can do, over positions with an unsteered past.

    Returns:
        ``controllable``: share of positions where some feature makes the greedy token an optimal
        move; ``reachable``: mean share of the legal moves that some feature selects; ``legal``:
        share of (position, feature) pairs whose token is legal.
    """
    best, reach, legal = [], [], []
    for board, moves in positions:
        cells, free = moves_by_feature(env, moves), legal_moves(board)
        best.append(np.isin(cells, optimal_moves(board)).any())
        reach.append(np.isin(free, cells).mean())
        legal.append(np.isin(cells, free).mean())
    names = ("controllable", "reachable", "legal")
    return {name: float(np.mean(share)) for name, share in zip(names, (best, reach, legal), strict=True)}


def readability(env: SteerBase, positions: Sequence[Position], steps: int, seed: int) -> dict[str, float]:
    """Accuracy of probes from the last residual (divided by its RMS) to 'a move that is optimal'.

    A fifth of the positions is held out. ``linear`` is a linear probe, ``mlp`` has 64 hidden units.
    """
    last = _last_residuals(env, [moves for _, moves in positions])
    x = last / last.pow(2).mean(-1, keepdim=True).sqrt()
    y = torch.tensor([[cell in optimal_moves(board) for cell in range(9)] for board, _ in positions])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(positions)))
    test, train = order.split([len(order) // 5, len(order) - len(order) // 5])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch layers take no generator
        linear = nn.Linear(x.shape[1], 9)
        mlp = nn.Sequential(nn.Linear(x.shape[1], 64), nn.Tanh(), nn.Linear(64, 9))
    accuracy = {}
    for name, probe in {"linear": linear, "mlp": mlp}.items():
        _fit_probe(probe, x[train], y[train], steps)
        hits = y[test].gather(1, probe(x[test]).argmax(-1, keepdim=True))
        accuracy[name] = float(hits.float().mean())
    return accuracy


def token_ids(tokenizer: Tokenizer, sequences: Sequence[str]) -> Tensor:
    """``[B, 1 + moves]`` ids of equally long sequences of digits, the beginning of a text first."""
    return torch.tensor(tokenizer.hf([" ".join(moves) for moves in sequences])["input_ids"])


def _last_residuals(env: SteerBase, sequences: Sequence[str]) -> Tensor:
    """``[N, M]`` residuals at the last move of each sequence, computed one length at a time."""
    lengths = np.array([len(moves) for moves in sequences])
    rows = torch.empty(len(sequences), env.lm.config.hidden_size)
    for length in np.unique(lengths):
        where = np.flatnonzero(lengths == length)
        ids = token_ids(env.tokenizer, [sequences[i] for i in where.tolist()])
        rows[where] = residuals(env.lm, ids, env.layer)[:, -1]
    return rows


def _fit_probe(probe: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Maximise the probability of the set of optimal moves: ``x`` ``[N, M]``, ``y`` ``[N, 9]`` bool."""
    optimizer = torch.optim.Adam(probe.parameters(), lr=3e-3, weight_decay=1e-5)
    for _ in range(steps):
        chosen = probe(x).log_softmax(-1).masked_fill(~y, float("-inf")).logsumexp(-1)
        optimizer.zero_grad()
        (-chosen.mean()).backward()
        optimizer.step()
