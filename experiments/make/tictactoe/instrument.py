"""Measures whether the tic-tac-toe model is a good instrument: weak alone, steerable, readable.

Written on the plain Hugging Face modules, apart from the steering engine, so that the two can be
compared. Choices are made on the validation split and on exhaustive lists of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.make.tictactoe.training import SPECIAL
from steer_env.lm.sae_training import residuals
from steer_env.tasks.tictactoe.rules import EMPTY, Board, O, legal_moves, optimal_moves, play, to_move, value
from steer_env.tasks.tictactoe.task import TicTacToe, TicTacToeGame

_FIRST_DIGIT = len(SPECIAL)

Choose = Callable[[list[TicTacToeGame], Tensor], Tensor]
"""Games in progress and their steered residuals ``[B, T, M]`` -> what to add at the last, ``[B, M]``."""


@dataclass(frozen=True)
class Steered:
    """A model, the block it is steered at, and the steering vectors.

    Attributes:
        model: a LLaMA for causal language modelling.
        layer: block ``L`` whose output is steered.
        deltas: ``[F, M]`` decoder rows times the coefficient, in residual units.
    """

    model: Any
    layer: int
    deltas: Tensor

    @torch.no_grad()
    def logits(self, past: Tensor) -> Tensor:
        """``[B, V]`` next-token logits from the blocks above ``L``, given ``[B, T, M]`` at ``L``."""
        places = torch.arange(past.shape[1])[None]
        rotary = self.model.model.rotary_emb(past, places)
        for block in self.model.model.layers[self.layer + 1 :]:
            past = block(past, attention_mask=None, position_embeddings=rotary)
        return self.model.lm_head(self.model.model.norm(past[:, -1]))

    def cells_by_feature(self, past: Tensor) -> np.ndarray:
        """``[F]`` cell (0 to 8; below 0 no digit) said greedily under each feature, for ``[T, M]``."""
        lanes = past.repeat(len(self.deltas), 1, 1)
        lanes[:, -1] += self.deltas
        return self.logits(lanes).argmax(-1).numpy() - _FIRST_DIGIT


def play_games(
    steered: Steered, task: TicTacToe, items: range, choose: Choose, temperature: float = 0.0, seed: int = 0
) -> list[TicTacToeGame]:
    """Play items to their end, steering every move; steered residuals stay in the context.

    Args:
        steered: the model.
        task: student O, so that all games are equally long at each turn.
        items: which games.
        choose: the policy.
        temperature: 0 is greedy.
        seed: of the sampling.
    """
    rng = torch.Generator().manual_seed(seed)
    games = [task.start(item) for item in items]
    live, past = games, torch.empty(len(games), 0, steered.deltas.shape[1])
    while live:
        fresh = residuals(steered.model, token_ids([game.moves for game in live]), steered.layer)
        past = torch.cat([past, fresh[:, past.shape[1] :]], dim=1)
        past[:, -1] += choose(live, past)
        logits = steered.logits(past)
        if temperature:
            tokens = torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng)[:, 0]
        else:
            tokens = logits.argmax(-1)
        turns = [game.respond(_say(int(token))) for game, token in zip(live, tokens, strict=True)]
        going = [i for i, turn in enumerate(turns) if turn.score is None]
        live, past = [live[i] for i in going], past[going]
    return games


def unsteered(games: list[TicTacToeGame], past: Tensor) -> Tensor:
    """The no-op policy."""
    return torch.zeros_like(past[:, -1])


def fixed(delta: Tensor) -> Choose:
    """The policy that adds the same ``[M]`` at every move."""
    return lambda games, past: delta.expand(len(games), -1)


def oracle(steered: Steered) -> Choose:
    """The policy that tries every feature and takes the first that says an optimal move."""

    def choose(games: list[TicTacToeGame], past: Tensor) -> Tensor:
        rows = torch.zeros(len(games), past.shape[2])
        for i, game in enumerate(games):
            good = np.isin(steered.cells_by_feature(past[i]), optimal_moves(game.board))
            if good.any():
                rows[i] = steered.deltas[int(good.argmax())]
        return rows

    return choose


def draw_rate(games: list[TicTacToeGame]) -> float:
    """Share of games that did not end in a loss or an illegal move."""
    return float(np.mean([game.outcome in ("draw", "win") for game in games]))


def legal_rate(games: list[TicTacToeGame]) -> float:
    """Share of the student's moves that were legal."""
    illegal = sum(game.illegal_moves for game in games)
    played = sum(len(game.moves) // 2 for game in games)  # O's moves: the teacher opened
    return played / (played + illegal)


def best_fixed_feature(steered: Steered, items: range) -> int:
    """The feature that draws most training games when it is used at every move."""
    task = TicTacToe(split="train")
    rates = [draw_rate(play_games(steered, task, items, fixed(delta))) for delta in steered.deltas]
    return int(np.argmax(rates))


def open_positions() -> list[tuple[Board, str]]:
    """Every position with O to move and not yet lost, as board and move sequence.

    X plays any optimal move and O any move that keeps the draw; each order of moves is one position.
    """
    found: list[tuple[Board, str]] = []

    def visit(board: Board, moves: str) -> None:
        if value(board) or not legal_moves(board):
            return
        if to_move(board) == O:
            found.append((board, moves))
        for cell in optimal_moves(board):
            visit(play(board, cell), f"{moves}{cell + 1}")

    visit(EMPTY, "")
    return found


def controllability(steered: Steered, positions: list[tuple[Board, str]]) -> dict[str, float]:
    """What one feature at the last token can do, over positions with an unsteered past.

    Returns:
        ``controllable``: share of positions where some feature makes the greedy token an optimal
        move; ``reachable``: mean share of the legal moves that some feature selects; ``legal``:
        share of (position, feature) pairs whose token is legal.
    """
    best, reach, legal = [], [], []
    for board, moves in positions:
        past = residuals(steered.model, token_ids([moves]), steered.layer)[0]
        cells, free = steered.cells_by_feature(past), legal_moves(board)
        best.append(np.isin(cells, optimal_moves(board)).any())
        reach.append(np.isin(free, cells).mean())
        legal.append(np.isin(cells, free).mean())
    names = ("controllable", "reachable", "legal")
    return {name: float(np.mean(share)) for name, share in zip(names, (best, reach, legal), strict=True)}


def readability(model: Any, layer: int, positions: list[tuple[Board, str]], seed: int) -> dict[str, float]:
    """Accuracy of probes from the last residual (divided by its RMS) to 'a move that is optimal'.

    A fifth of the positions is held out. ``linear`` is a linear probe, ``mlp`` has 64 hidden units.
    """
    last = _last_residuals(model, layer, [moves for _, moves in positions])
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
        _fit_probe(probe, x[train], y[train])
        hits = y[test].gather(1, probe(x[test]).argmax(-1, keepdim=True))
        accuracy[name] = float(hits.float().mean())
    return accuracy


def _last_residuals(model: Any, layer: int, sequences: list[str]) -> Tensor:
    """``[N, M]`` residuals at the last move of each sequence, computed one length at a time."""
    lengths = np.array([len(moves) for moves in sequences])
    rows = torch.empty(len(sequences), model.config.hidden_size)
    for length in np.unique(lengths):
        where = np.flatnonzero(lengths == length)
        rows[where] = residuals(model, token_ids([sequences[i] for i in where]), layer)[:, -1]
    return rows


def _fit_probe(probe: nn.Module, x: Tensor, y: Tensor, steps: int = 300) -> None:
    """Maximise the probability of the set of optimal moves: ``x`` ``[N, M]``, ``y`` ``[N, 9]`` bool."""
    optimizer = torch.optim.Adam(probe.parameters(), lr=3e-3, weight_decay=1e-5)
    for _ in range(steps):
        chosen = probe(x).log_softmax(-1).masked_fill(~y, float("-inf")).logsumexp(-1)
        optimizer.zero_grad()
        (-chosen.mean()).backward()
        optimizer.step()


def token_ids(sequences: list[str]) -> Tensor:
    """``[B, 1 + moves]`` ids of equally long move sequences, ``<bos>`` first."""
    rows = [[0, *(int(digit) - 1 + _FIRST_DIGIT for digit in moves)] for moves in sequences]
    return torch.tensor(rows)


def _say(token: int) -> str:
    return str(token - _FIRST_DIGIT + 1) if token >= _FIRST_DIGIT else ""
