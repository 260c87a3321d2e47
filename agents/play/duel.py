"""A game of tic-tac-toe between a person and the model, steered or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agents.play.choosing import Asked, ByHand, Push, Said, nothing, recorded
from agents.play.one_lane import OneLane
from steer_env.envs.episode import Episode
from steer_env.evaluation.play import Policy
from steer_env.tasks.base import Board
from steer_env.tasks.tictactoe.person import PersonalTicTacToe
from steer_env.tasks.tictactoe.task import TicTacToe

if TYPE_CHECKING:
    from steer_env.envs.base import SteerBase


@dataclass(frozen=True)
class Move:
    """What the model said in its turn.

    Attributes:
        text: Its words; the move is the first digit.
        said: What was done there, and why.
    """

    text: str
    said: Said


class Duel:
    """One game. The model reads it as in its environment: one steered turn after the other.

    Args:
        envs: The environment whose model, SAE, observation and rules hold, of one lane that nobody else uses.
        policy: What steers the model's turns, by default nothing.
        always: A push at every token in place of the policy.
        cell: The person's first move, in ``[0, 9)``; None lets the model begin.

    Attributes:
        moves: What the model said so far.

    Raises:
        ValueError: The environment is not of tic-tac-toe, or there is no such cell.
    """

    def __init__(
        self, envs: SteerBase, policy: Policy | None = None, always: Push | None = None, cell: int | None = None
    ) -> None:
        scene = envs.episode.scene
        if not isinstance(scene.task, TicTacToe):
            raise ValueError(f"tic-tac-toe is played in its own environment, not in one of {scene.task.name!r}")
        self._hand = ByHand(scene.actuator, scene.dictionary.directions)
        self._hand.push = None if always is None else always.check(scene.dictionary.width)
        self._task = PersonalTicTacToe(scene.task, cell)
        self._asked = Asked(policy or nothing)
        self._episode = Episode(replace(scene, task=self._task, actuator=self._hand))
        self._lane = OneLane(self._episode)
        self.moves: list[Move] = []
        self._episode.start(0)
        self._reply()

    @property
    def over(self) -> bool:
        """Whether the game has ended."""
        return bool(self._task.game.outcome)

    @property
    def result(self) -> str:
        """How it ended, in words; empty while it goes on."""
        said = repr(self.moves[-1].text.strip()) if self.moves else ""
        ends = {"win": "the model wins", "loss": "you win", "draw": "a draw"}
        return {**ends, "illegal": f"you win: the model said {said}, which is no legal move", "": ""}[
            self._task.game.outcome
        ]

    @property
    def board(self) -> Board:
        """The board; ``own`` cells are the model's."""
        return self._task.board(self._task.game.final)

    def play(self, cell: int) -> None:
        """Play the person's move and let the model answer.

        Args:
            cell: In ``[0, 9)``, row by row.

        Raises:
            ValueError: The game is over, or the cell is taken.
        """
        text = self._task.game.answer(cell)
        scene = self._episode.scene
        scene.model.write(0, scene.tokenizer.encode(text))
        self._reply()

    def _reply(self) -> None:
        """The model's turn, of one token or several."""
        turns = len(self._task.game.moves)
        while not self.over and len(self._task.game.moves) == turns:
            observed = self._episode.observe()
            actions, _ = self._asked(observed, self._lane.now())
            outcome = self._episode.step(np.asarray(actions))
            said = self._asked.said(self._hand, recorded(outcome.applied), self._lane.encode()[0], by_hand=False)
            self.moves.append(Move(str(outcome.applied["token_text"][0]), said))
