"""Tic-tac-toe against independent answers: known counts, closed forms, and games played by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from steer_env.tasks import TASKS
from steer_env.tasks.base import Turn
from steer_env.tasks.tictactoe.rules import EMPTY, Board, legal_moves, optimal_moves, play, to_move, value, winner
from steer_env.tasks.tictactoe.task import SPLITS, TicTacToe, TicTacToeGame

Player = Callable[[Board], int]


def finish(game: TicTacToeGame, player: Player) -> list[Turn]:
    """Play ``game`` to its end with ``player`` as the student."""
    turns = [game.respond(str(player(game.board) + 1))]
    while turns[-1].score is None:
        turns.append(game.respond(str(player(game.board) + 1)))
    return turns


def random_player(seed: int) -> Player:
    rng = np.random.default_rng(seed)
    return lambda board: int(rng.choice(legal_moves(board)))


def scores(task: TicTacToe, player: Player, games: int) -> np.ndarray:
    """``[games]`` scores of items 0, 1, 2, ..."""
    return np.array([finish(task.start(i), player)[-1].score for i in range(games)])


def expected_draw_rate(board: Board) -> float:
    """Exact draw rate of a uniform O against an X uniform among optimal moves, by recursion."""
    if not legal_moves(board):
        return float(winner(board) == 0)
    moves = optimal_moves(board) if to_move(board) == 1 else legal_moves(board)
    return float(np.mean([expected_draw_rate(play(board, cell)) for cell in moves]))


# ---------------------------------------------------------------- the rules


def test_there_are_5478_positions_and_the_game_is_a_draw() -> None:
    seen, frontier = {EMPTY}, [EMPTY]
    while frontier:
        board = frontier.pop()
        new = {play(board, cell) for cell in legal_moves(board)} - seen
        seen |= new
        frontier.extend(new)
    assert len(seen) == 5478
    assert sum(winner(board) == 1 for board in seen) == 626
    assert sum(winner(board) == 2 for board in seen) == 316
    assert value(EMPTY) == 0
    assert optimal_moves(EMPTY) == tuple(range(9))


@pytest.mark.parametrize(
    ("moves", "best"),
    [
        ("5", "1379"),  # a corner answers the centre
        ("1", "5"),  # the centre answers a corner
        ("152", "3"),  # block 1-2-3
        ("1524", "3"),  # X takes the win; blocking at 6 would give it away
        ("1592", "8"),  # O threatens 2-5-8
    ],
)
def test_optimal_moves_match_the_textbook(moves: str, best: str) -> None:
    board = EMPTY
    for digit in moves:
        board = play(board, int(digit) - 1)
    found = "".join(str(cell + 1) for cell in optimal_moves(board))
    assert found == best


# ---------------------------------------------------------------- the teacher


def test_the_teacher_never_loses_as_x_or_o() -> None:
    for side in ("O", "X"):
        task, player = TicTacToe(side=side), random_player(3)
        outcomes = {finish(task.start(i), player)[-1].info["outcome"] for i in range(500)}
        assert outcomes == {"loss", "draw"}


def test_a_random_legal_o_draws_as_rarely_as_the_closed_form_says() -> None:
    expected = expected_draw_rate(EMPTY)
    assert 0.02 < expected < 0.04
    measured = scores(TicTacToe(split="test"), random_player(0), 4000).mean()
    assert measured == pytest.approx(expected, abs=3 * np.sqrt(expected / 4000))


def test_an_optimal_student_always_draws() -> None:
    rng = np.random.default_rng(1)
    for side in ("O", "X", "both"):
        turns = [finish(TicTacToe(side=side).start(i), lambda b: int(rng.choice(optimal_moves(b)))) for i in range(300)]
        assert {t[-1].info["outcome"] for t in turns} == {"draw"}
        assert {t[-1].score for t in turns} == {1.0}


def test_a_weaker_teacher_can_be_beaten_and_epsilon_lies_between() -> None:
    best: Player = lambda board: optimal_moves(board)[0]  # noqa: E731 - a one-line player
    wins = {
        name: np.mean([finish(task.start(i), best)[-1].info["outcome"] == "win" for i in range(400)])
        for name, task in {
            "optimal": TicTacToe(),
            "mixed": TicTacToe(epsilon=0.3),
            "random": TicTacToe(opponent="random"),
        }.items()
    }
    assert wins["optimal"] == 0.0
    assert 0.05 < wins["mixed"] < wins["random"] - 0.1


# ---------------------------------------------------------------- items and sides


def test_an_item_is_always_the_same_game_and_splits_differ() -> None:
    player: Player = lambda board: legal_moves(board)[0]  # noqa: E731 - a one-line player
    games = {
        split: [finish(TicTacToe(split=split).start(i), player)[-1].info["moves"] for i in range(60)]
        for split in SPLITS
    }
    again = [finish(TicTacToe(split="test").start(i), player)[-1].info["moves"] for i in range(60)]
    assert games["test"] == again
    streams = {tuple(TicTacToe(split=split).start(i)._uniform[0]) for split in SPLITS for i in range(60)}
    assert len(streams) == 3 * 60
    assert len({*map(tuple, games.values())}) == 3
    assert [len(TicTacToe(split=split)) for split in SPLITS] == [100_000, 1_000, 10_000]


def test_the_teacher_opens_against_o_and_waits_for_x() -> None:
    game = TicTacToe(side="O").start(0)
    assert game.opening in "123456789"
    assert len(game.opening) == 1
    assert game.state().sum() == 1
    assert TicTacToe(side="X").start(0).opening == ""
    both = TicTacToe(side="both")
    assert [both.start(i).opening == "" for i in range(4)] == [False, True, False, True]
    assert both.start(0).opening == game.opening


def test_the_text_is_the_game() -> None:
    game = TicTacToe().start(7)
    text, turn = game.opening, Turn()
    while turn.score is None:
        said = f" {optimal_moves(game.board)[0] + 1}"
        turn = game.respond(said)
        text += said + turn.text
    assert turn.text == ""
    moves = str(turn.info["moves"])
    assert text == " ".join(moves[: len(text.split())])
    assert len(moves) - len(text.split()) in (0, 1)  # the teacher's last move ends the game unsaid


# ---------------------------------------------------------------- reward, score, illegal moves


def test_every_terminal_reward_and_score_arrives() -> None:
    expected = {"win": (1.0, 1.0), "draw": (0.5, 1.0), "loss": (-1.0, 0.0)}
    seen = set()
    task = TicTacToe(opponent="random")
    for item in range(300):
        *before, last = finish(task.start(item), random_player(item))
        outcome = last.info["outcome"]
        seen.add(outcome)
        assert (last.reward, last.score) == expected[outcome]
        assert all((t.reward, t.score) == (0.0, None) for t in before)
        assert all(t.text for t in before)
    assert seen == set(expected)


def test_shaping_is_judged_on_the_board_before_the_move() -> None:
    task = TicTacToe(shaping=0.25)
    for item in range(50):
        game = task.start(item)
        best, n = optimal_moves(game.board), len(legal_moves(game.board))
        assert game.respond(str(best[0] + 1)).reward == 0.25
        if len(best) < n:
            other = next(c for c in legal_moves(EMPTY) if c not in best and str(c + 1) != game.opening)
            assert task.start(item).respond(str(other + 1)).reward == 0.0
    turns = finish(task.start(0), lambda board: optimal_moves(board)[0])
    assert turns[-1].reward == 0.75
    assert sum(t.reward for t in turns) == pytest.approx(0.5 + 0.25 * len(turns))
    assert turns[-1].info["optimal_moves"] == len(turns)


@pytest.mark.parametrize("utterance", ["", "no move", "0", "occupied"])
def test_an_illegal_move_loses_by_default(utterance: str) -> None:
    game = TicTacToe().start(0)
    turn = game.respond(game.opening if utterance == "occupied" else utterance)
    assert (turn.reward, turn.score, turn.text, turn.replace) == (-1.0, 0.0, "", None)
    assert turn.info == {
        "outcome": "illegal",
        "moves": game.opening,
        "optimal_moves": 0,
        "illegal_moves": 1,
    }
    with pytest.raises(RuntimeError, match="the game is over"):
        game.respond("5")


def test_the_first_digit_in_the_utterance_is_the_move() -> None:
    game = TicTacToe().start(0)
    free = str(legal_moves(game.board)[0] + 1)
    assert game.respond(f"I play {free}, not {game.opening}.").info["moves"][1] == free


def test_the_random_fallback_plays_a_legal_move_and_keeps_the_context_a_game() -> None:
    task = TicTacToe(illegal="random_move", shaping=1.0)
    fallbacks = set()
    for item in range(200):
        game, again = task.start(item), task.start(item)
        text, turn = game.opening, Turn()
        while turn.score is None:
            turn = game.respond("nothing")
            assert turn == again.respond(game.opening)  # same stream, whatever was said
            assert turn.replace is not None
            text += turn.replace + turn.text
        fallbacks.add(turn.info["moves"][1])
        assert str(turn.info["moves"]).startswith(text.replace(" ", ""))
        assert len(set(turn.info["moves"])) == len(turn.info["moves"])
        assert turn.info["optimal_moves"] == 0
        assert turn.info["illegal_moves"] >= 2
        assert turn.reward in (-1.0, 0.5)  # no shaping for a move the model did not choose
    assert len(fallbacks) == 9


def test_the_fallback_does_not_shift_the_teacher() -> None:
    task = TicTacToe(illegal="random_move")
    said, silent = task.start(5), task.start(5)
    replaced = silent.respond("").replace
    assert replaced is not None
    said.respond(replaced)
    assert said.board == silent.board


# ---------------------------------------------------------------- board and bad input


def test_state_and_render_show_the_board() -> None:
    game = TicTacToe(side="X").start(0)
    game.respond("5")
    state = game.state()
    assert state.shape == TicTacToe.state_shape
    assert state.max() < TicTacToe.state_levels
    assert state[4] == 1
    assert (state == 2).sum() == 1
    picture = game.render()
    assert picture.count("O") == 1
    assert "[5]" in picture
    assert "X to move" in picture


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "dev"}, "split must be one of 'train', 'validation', 'test', got 'dev'"),
        ({"opponent": "weak"}, "opponent must be one of 'optimal', 'random', got 'weak'"),
        ({"side": "Y"}, "side must be one of 'O', 'X', 'both', got 'Y'"),
        ({"illegal": "retry"}, "illegal must be one of 'loss', 'random_move', got 'retry'"),
        ({"epsilon": 1.5}, r"epsilon must be in \[0, 1\], got 1.5"),
        ({"epsilon": float("nan")}, r"epsilon must be in \[0, 1\], got nan"),
        ({"epsilon": "x"}, r"epsilon must be in \[0, 1\], got 'x'"),
        ({"opponent": "random", "epsilon": 0.1}, "epsilon needs opponent='optimal', got 0.1"),
        ({"shaping": float("inf")}, "shaping must be finite, got inf"),
        ({"shaping": "x"}, "shaping must be finite, got 'x'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS["tictactoe"](**kwargs)


@pytest.mark.parametrize("item", [-1, 1_000])
def test_an_item_out_of_range_is_named(item: int) -> None:
    message = rf"item must be in \[0, 1000\) for split 'validation', got {item}"
    with pytest.raises(ValueError, match=message):
        TicTacToe(split="validation").start(item)
