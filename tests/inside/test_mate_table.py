"""The solved game against plain minimax, the Bellman equation on coordinates and play; predicates by hand."""

from __future__ import annotations

from functools import cache

import gymnasium as gym
import numpy as np
import pytest

from agents.inside.worlds.king_rook_rules import LEGAL, OUTCOME, POSITIONS, Outcome, to_position, to_squares
from agents.inside.worlds.mate_table import mate_table, mating, predicate_table, predicates, prospects
from tests.plain_chess import plain_escapes, plain_replies, plain_white_moves

TABLE = mate_table()
SAMPLE = np.random.default_rng(0).choice(np.flatnonzero(LEGAL), 250, replace=False).tolist()


def board(text: str) -> int:
    cells = "".join(text.split())
    return to_position(cells.index("R"), cells.index("K"), cells.index("k"))


@cache
def mates_within(moves: int, rook: int, king: int, black: int) -> bool:
    """Plain minimax: white mates in at most ``moves`` whatever black does."""
    for outcome, after in plain_white_moves(rook, king, black) if moves else []:
        if outcome == "MATE":
            return True
        if outcome == "ONGOING" and after is not None:
            replies = plain_escapes(*after)
            if all(mates_within(moves - 1, *after[:2], square) for square in replies):
                return True
    return False


def test_the_best_defence_is_plain_minimax() -> None:
    near = [p for p in SAMPLE if TABLE.distance[p] <= 3]
    assert len(near) >= 50
    for position in near:
        distance = int(TABLE.distance[position])
        assert mates_within(distance, *to_squares(position))
        assert not mates_within(distance - 1, *to_squares(position))


@pytest.mark.parametrize("opponent", ["distance", "worst", "expected"])
def test_values_solve_the_bellman_equation_on_coordinates(opponent: str) -> None:
    """With mates worth 1 and all others more, its finite solution is the only one."""
    values = getattr(TABLE, opponent)
    replies = plain_escapes if opponent == "distance" else plain_replies
    join = np.mean if opponent == "expected" else max
    best = {"distance": TABLE.best, "expected": TABLE.best_against_runner}.get(opponent)
    for position in SAMPLE:
        moves = np.full(24, np.inf)
        for action, (outcome, after) in enumerate(plain_white_moves(*to_squares(position))):
            if outcome == "MATE":
                moves[action] = 1
            elif outcome == "ONGOING" and after is not None:
                later = [values[to_position(*after[:2], square)] for square in replies(*after)]
                moves[action] = 1 + join(later)
        assert values[position] == pytest.approx(moves.min(), abs=1e-9)
        if best is not None:
            assert best[position].tolist() == (moves <= moves.min() + 1e-9).tolist()


def test_the_runner_is_no_better_than_the_best_defence() -> None:
    legal = np.flatnonzero(LEGAL)
    assert TABLE.won.tolist() == legal.tolist()  # every position with white to move is won
    assert (TABLE.worst <= TABLE.distance)[legal].all()
    assert (TABLE.expected <= TABLE.worst + 1e-9)[legal].all()
    assert np.isinf(TABLE.distance[~LEGAL]).all()
    assert (TABLE.distance[legal].max(), TABLE.worst[legal].max()) == (10, 7)


def test_the_optimal_policy_plays_as_the_table_says() -> None:
    """Simulated games of the environment against the table's expectation, and against ``prospects``."""
    actions = TABLE.best_against_runner.argmax(axis=1)
    start = int(next(p for p in TABLE.won if 0.2 < TABLE.expected[p] % 1 < 0.8))  # draws of lots decide
    env = gym.make("KingRookKing-v0")
    lengths = []
    for seed in range(400):
        _, info = env.reset(seed=seed, options={"position": start})
        ended, length = False, 0
        while not ended:
            _, _, ended, _, info = env.step(actions[info["position"]])  # numpy integers too
            length += 1
        assert info["outcome"] == "mate"
        lengths.append(length)
    error = np.std(lengths) / np.sqrt(len(lengths))
    assert error > 0
    assert abs(np.mean(lengths) - TABLE.expected[start]) < 4 * error
    fate = prospects(actions)
    assert fate.mates[LEGAL] == pytest.approx(1.0)
    assert fate.moves[LEGAL] == pytest.approx(TABLE.expected[LEGAL])
    assert fate.returns[LEGAL] == pytest.approx(101 - TABLE.expected[LEGAL])
    whole = mating(actions)
    assert whole["mated"] == whole["surely"] == whole["optimal"] == 1.0
    assert whole["moves"] == pytest.approx(whole["optimal_moves"]) == pytest.approx(TABLE.expected[LEGAL].mean())
    assert whole["return"] == pytest.approx(101 - whole["moves"])


def test_prospects_of_a_policy_that_errs() -> None:
    """By hand: mate at once, the same cut short, and a policy that moves illegally everywhere."""
    actions = TABLE.best_against_runner.argmax(axis=1)
    cut = prospects(actions, limit=1)
    assert (cut.mates == (TABLE.expected == 1)).all()
    assert np.isnan(cut.moves[TABLE.expected != 1]).all()
    assert (cut.moves[TABLE.expected == 1] == 1).all()
    illegal = (OUTCOME == Outcome.ILLEGAL).argmax(axis=1)
    assert not prospects(illegal).mates.any()
    assert (prospects(illegal).returns[LEGAL] == -100).all()
    assert mating(illegal)["mated"] == mating(illegal)["moves"] == mating(illegal)["optimal"] == 0.0
    in_one = np.where(TABLE.expected == 1, actions, illegal)
    assert mating(in_one)["mated"] == (TABLE.expected == 1).sum() / LEGAL.sum()
    assert mating(in_one)["moves"] == mating(in_one)["optimal_moves"] == pytest.approx(1.0)
    half = prospects(actions, limit=3)
    assert (half.mates[TABLE.worst <= 3] == 1).all()
    assert (half.mates < 1).sum() > 0
    with pytest.raises(ValueError, match="limit of at least 1"):
        prospects(actions, limit=0)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        prospects([1, 2, 3])


@pytest.mark.parametrize(
    ("drawing", "true", "false"),
    [
        (
            "k.... ..... .K... ..... ....R",
            {"mate_in_one", "black_cornered", "black_on_edge", "kings_knight_apart", "safe_check", "rook_on_edge"},
            {"rook_attacked", "rook_defended", "opposition", "mate_in_two", "white_king_on_edge", "mate_is_far"},
        ),
        ("..k.. ..... ..K.. ..... R....", {"opposition", "mate_in_one"}, {"black_cornered", "kings_knight_apart"}),
        (
            "..... .k... ..R.. ..... ....K",
            {"rook_attacked", "rook_hanging", "rook_cuts_off", "blunder_danger", "white_king_on_edge"},
            {"rook_defended", "black_on_edge", "mate_in_one", "rook_on_edge"},
        ),
        ("..... .k... ..R.. ...K. .....", {"rook_attacked", "rook_defended"}, {"rook_hanging"}),
        ("k.... ....R .K... ..... .....", {"stalemate_danger", "mate_in_one"}, {"black_would_be_stuck"}),
        ("k.... .R... .K... ..... .....", {"black_would_be_stuck", "black_short_of_squares"}, {"mate_in_one"}),
    ],
)
def test_predicates_by_hand(drawing: str, true: set[str], false: set[str]) -> None:
    found = predicates(board(drawing))
    assert {name for name in true if not found[name]} == set()
    assert {name for name in false if found[name]} == set()


def test_predicates_that_look_ahead_match_plain_chess() -> None:
    for position in SAMPLE:
        outcomes = {outcome for outcome, _ in plain_white_moves(*to_squares(position))}
        found = predicates(position)
        assert found["mate_in_one"] == ("MATE" in outcomes)
        assert found["stalemate_danger"] == ("STALEMATE" in outcomes)
        assert found["blunder_danger"] == ("ROOK_LOST" in outcomes)
        assert found["black_would_be_stuck"] == (not plain_escapes(*to_squares(position)))


def test_predicates_split_the_positions() -> None:
    table = predicate_table()
    assert len(table) >= 10
    for name, values in table.items():
        assert 0 < values.sum() < LEGAL.sum(), name
        assert not values[~LEGAL].any(), name
    with pytest.raises(ValueError, match="position 0 is not legal"):
        predicates(0)
    with pytest.raises(ValueError, match=f"position {POSITIONS}"):
        predicates(POSITIONS)
