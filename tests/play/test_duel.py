"""A person's games are those of the environment with another teacher."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from agents.play.choosing import NOTHING, Push
from agents.play.duel import Duel
from steer_env import SteeringError
from steer_env.tasks.tictactoe.rules import legal_moves

FEATURES = (135, 7, 211)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_person_who_plays_the_teachers_moves_meets_the_same_model(games, feature):
    """Where the student is O and where it begins, over whole games."""
    for side, item in (("O", 3), ("X", 4), ("O", 8)):
        env = gym.make("Steer-TicTacToe-v0", split="test", side=side)
        _, info = env.reset(options={"item": item})
        game = env.unwrapped.episode.conversations[0]
        duel = Duel(
            games.make("test"),
            always=Push(feature, games.coefficient),
            cell=int(game.moves) - 1 if game.moves else None,
        )
        ended = False
        while not ended:
            before = game.moves
            *_, ended, _, info = env.step(np.int64(feature))
            assert duel.moves[-1].text == info["token_text"]
            assert duel.moves[-1].said.push == Push(feature, games.coefficient)
            if len(game.moves) == len(before) + 2:
                duel.play(int(game.moves[-1]) - 1)
        assert duel.over
        assert duel.board.cells == env.unwrapped.task.board({"item": item, **info}).cells


def test_an_unsteered_model_is_left_alone(games):
    duel, other = (Duel(games.make("test"), always=always, cell=4) for always in (None, NOTHING))
    assert duel.moves[0].text == other.moves[0].text
    assert duel.moves[0].said.push == NOTHING


def test_a_game_ends_as_the_rules_say(games):
    ends = set()
    for first in range(9):
        duel = Duel(games.make("test"), cell=first)
        while not duel.over:
            duel.play(legal_moves(tuple(" XO".index(cell or " ") for cell in duel.board.cells))[0])
        ends.add(duel.result.partition(":")[0])
        with pytest.raises(ValueError, match="the game is over"):
            duel.play(0)
    assert "you win" in ends


def test_what_the_model_says_wrongly_is_told(games):
    illegal = (Duel(games.make("test"), always=Push(feature, 400.0), cell=4) for feature in range(40))
    duel = next(duel for duel in illegal if duel.over)
    assert duel.result == f"you win: the model said {duel.moves[-1].text.strip()!r}, which is no legal move"


def test_what_cannot_be_is_refused(games, stage):
    duel = Duel(games.make("test"), cell=4)
    with pytest.raises(ValueError, match="cell 5 is no legal move"):
        duel.play(4)
    with pytest.raises(ValueError, match=r"cell must be in \[0, 9\), got 9"):
        Duel(games.make("test"), cell=9)
    with pytest.raises(ValueError, match="played in its own environment, not in one of 'harmbench'"):
        Duel(stage.make("test"), cell=4)
    with pytest.raises(SteeringError, match=r"feature must be in \[0, 256\), got 999"):
        Duel(games.make("test"), always=Push(999, 1.0), cell=4)
