"""What one person plays on one page: a text, games and an environment, asked for and told in plain data.

Sessions share models, which never change, and nothing else. Each has a thread of its own: a pass that waits for its
steering belongs to the thread that began it.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from agents.play.choosing import Push, Said, Weighed
from agents.play.duel import Duel
from agents.play.features import Features
from agents.play.stage import GAME, Stage, embedded_stages, stage_of_model
from agents.play.stepping import Stepping
from agents.play.writing import Asking, Token, Writing
from steer_env.errors import SteeringError
from steer_env.evaluation.play import Policy
from steer_env.registration import task_of
from steer_env.tasks.tictactoe.task import TicTacToe

Data = dict[str, Any]
MOST = 64
"""Sessions that are kept; the one that was used longest ago is forgotten first."""
LEGAL = 24
"""Legal features that are listed, those that are not active only up to a third of this."""


class House:
    """The stages that sessions share, made when they are first asked for.

    Args:
        main: What is played.
    """

    def __init__(self, main: Stage) -> None:
        self.main = main
        self._stages = {main.env: main}
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    @property
    def envs(self) -> list[str]:
        """Environments that can be stepped: the one that is played, and all embedded ones where nothing is given."""
        return sorted({self.main.env, *embedded_stages()}) if self.main.embedded else [self.main.env]

    def stage(self, env: str) -> Stage:
        """The stage of an environment.

        Raises:
            SteeringError: It is none of them.
        """
        if env not in self.envs and env != GAME:
            raise SteeringError(f"environment must be one of {', '.join(self.envs)}, got {env!r}")
        with self._lock:
            if env not in self._stages:
                self._stages[env] = stage_of_model(env, {})
            return self._stages[env]

    @property
    def game(self) -> Stage:
        """The stage of tic-tac-toe: what is played, if it can play that, or the embedded model."""
        return self.main if issubclass(task_of(self.main.env), TicTacToe) else self.stage(GAME)

    @cached_property
    def about(self) -> Data:
        """What is played, for a page to begin with."""
        stage, game = self.main, self.game
        return {
            "name": stage.name,
            "env": stage.env,
            "layer": stage.steered.layer,
            "width": stage.features.width,
            "coefficient": stage.coefficient,
            "agent": stage.agent is not None,
            "boardbound": stage.boardbound,
            "embedded": stage.embedded,
            "openings": stage.openings,
            "first": _first(stage),
            "max_new_tokens": max(48, stage.steered.max_new_tokens),
            "envs": self.envs,
            "game": {"name": game.name, "coefficient": game.coefficient, "agent": game.agent is not None}
            | {"first": _first(game)},
        }

    def open(self) -> str:
        """A new session's name."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._sessions[name] = Session(self)
            if len(self._sessions) > MOST:
                self._sessions.popitem(last=False)[1].close()
        return name

    def session(self, name: Any) -> Session:
        """A session by name.

        Raises:
            SteeringError: It is forgotten, or there never was one.
        """
        with self._lock:
            if name not in self._sessions:
                raise SteeringError("this page was opened too long ago: reload it")
            self._sessions.move_to_end(name)
            return self._sessions[name]


class Session:
    """What one person plays.

    Args:
        house: The stages.

    Attributes:
        thread: Runs all that this page asks for, one thing after the other.
    """

    def __init__(self, house: House) -> None:
        self._house, self._main = house, house.main
        self.thread = ThreadPoolExecutor(max_workers=1)
        self._stopped = threading.Event()
        self._texts: dict[str, Writing] = {}
        self._duels: dict[str, Duel] = {}
        self._stepping: Stepping | None = None
        self._stepped: tuple[Stage, str] = (house.main, "")

    def close(self) -> None:
        """End the thread."""
        self.stop({})
        self.thread.shutdown(wait=False)

    def stop(self, asked: Data) -> Data:
        """End the text that is being written, from any thread."""
        self._stopped.set()
        return {}

    def write(self, asked: Data) -> Iterator[Data]:
        """Write the steered and the unsteered text, a token of either at a time, the steered one's first.

        Args:
            asked: ``prompt``, ``max_new_tokens``, ``temperature``, ``seed``; ``feature`` and ``strength`` of a fixed
                feature, or neither for the agent.
        """
        asking = Asking(
            str(asked.get("prompt", "")),
            _integer(asked, "max_new_tokens", 48),
            _number(asked, "temperature", 0.0),
            _integer(asked, "seed", 0),
        )
        policy, always = self._steering(self._main, asked)
        if policy is not None and self._main.boardbound:
            raise SteeringError(f"the agent writes no texts, a fixed feature can: {self._main.boardbound}")
        self._texts = {
            "steered": Writing(self._main.steered, asking, policy, always),
            "unsteered": Writing(self._main.steered, asking),
        }
        yield from self._writing(*self._texts)

    def change(self, asked: Data) -> Iterator[Data]:
        """Do otherwise at a token of the steered text, and go on from there.

        Args:
            asked: ``step``; ``feature`` and ``strength``, or ``back``: leave it to the policy again.
        """
        text = self._text("steered")
        push = None if asked.get("back") else self._push(self._main, asked)
        text.change(_integer(asked, "step"), push)
        yield from self._writing("steered")

    def token(self, asked: Data) -> Data:
        """All that is known of one token: ``arm`` and ``step``."""
        text, step = self._text(asked.get("arm")), _integer(asked, "step")
        if not 0 <= step < len(text.tokens):
            raise SteeringError(f"there is no token {step}: the text has {len(text.tokens)}")
        token = text.tokens[step]
        found = {**_shown(token), "continuations": [each._asdict() for each in token.continuations]}
        return found | _explained(self._main.features, token.said)

    def search(self, asked: Data) -> Data:
        """Features by number or words of their label, of the model that ``where`` (texts, game, env) is about."""
        stages = {"game": lambda: self._house.game, "env": lambda: self._stepped[0]}
        features = stages.get(str(asked.get("where")), lambda: self._main)().features
        found = features.search(str(asked.get("query", "")))
        pairs = [{"feature": feature, "label": label} for feature, label in found]
        return {"found": pairs, "read": features.read, "width": features.width}

    def begin(self, asked: Data) -> Data:
        """Begin a game in ``arm``: ``cell`` is the person's first move, None lets the model begin."""
        arm, stage = _arm(asked.get("arm")), self._house.game
        policy, always = self._steering(stage, asked) if arm == "steered" else (None, None)
        cell = None if asked.get("cell") is None else _integer(asked, "cell")
        self._duels[arm] = Duel(stage.make("test"), policy, always, cell)
        return self._game(arm)

    def play(self, asked: Data) -> Data:
        """Play ``cell`` in the game of ``arm``."""
        arm = _arm(asked.get("arm"))
        if arm not in self._duels:
            raise SteeringError("no game is under way: begin one")
        self._duels[arm].play(_integer(asked, "cell"))
        return self._game(arm)

    def reset(self, asked: Data) -> Data:
        """Begin an episode of ``env``, ``item`` of ``split``, or one dealt by ``seed``."""
        stage, split = self._house.stage(str(asked.get("env") or self._main.env)), str(asked.get("split") or "test")
        if self._stepping is None or (stage, split) != self._stepped:
            self._stepping, self._stepped = Stepping(stage.make(split), stage.agent), (stage, split)
        self._stepping.reset(None if asked.get("item") is None else _integer(asked, "item"), _integer(asked, "seed", 0))
        return self._episode()

    def step(self, asked: Data) -> Data:
        """Take a step: ``feature`` (-1 for none) at ``strength`` where actions have one, or what the agent chooses."""
        if self._stepping is None:
            raise SteeringError("no episode is under way: reset the environment")
        feature = None if asked.get("feature") is None else _integer(asked, "feature")
        self._stepping.step(feature, _number(asked, "strength", 1.0))
        return self._episode()

    def _text(self, arm: Any) -> Writing:
        if _arm(arm) not in self._texts:
            raise SteeringError("nothing is written yet")
        return self._texts[arm]

    def _writing(self, *arms: str) -> Iterator[Data]:
        """Tokens of some texts in turn, until all have ended or somebody stops them; then why each ended."""
        self._stopped.clear()
        for together in zip_longest(*(self._texts[arm].go_on() for arm in arms)):
            for arm, token in zip(arms, together, strict=True):
                if token is not None:
                    label = self._main.features.label(token.said.push.feature)
                    yield {"arm": arm, **_shown(token), "label": label}
            if self._stopped.is_set():
                break
        ends = {arm: self._texts[arm].end or "stopped" for arm in arms}
        yield {"ends": ends, "texts": {arm: self._texts[arm].text for arm in arms}}

    def _steering(self, stage: Stage, asked: Data) -> tuple[Policy | None, Push | None]:
        """The agent, or a push at every token."""
        if asked.get("feature") is not None:
            return None, self._push(stage, asked)
        if stage.agent is None:
            raise SteeringError("choose a feature first: search by a word of its label, or give its number")
        return stage.agent, None

    def _push(self, stage: Stage, asked: Data) -> Push:
        strength = stage.coefficient if asked.get("strength") is None else _number(asked, "strength")
        return Push(_integer(asked, "feature"), strength).check(stage.features.width)

    def _game(self, arm: str) -> Data:
        duel, features = self._duels[arm], self._house.game.features
        moves = [{"text": move.text, **_explained(features, move.said)} for move in duel.moves]
        return {"arm": arm, "board": asdict(duel.board), "over": duel.over, "result": duel.result, "moves": moves}

    def _episode(self) -> Data:
        stepping, features = self._stepping, self._stepped[0].features
        assert stepping is not None
        over = stepping.final is not None
        legal = [] if over else stepping.legal
        listed = [each for place, each in enumerate(legal[:LEGAL]) if each.number > 0 or place < LEGAL // 3]
        return {
            "env": self._stepped[0].env,
            "item": stepping.item,
            "dealt": len(stepping.env.task),
            "split": stepping.env.task.split,
            "coefficient": stepping.env.coefficient,
            "transcript": stepping.transcript,
            "picture": stepping.picture,
            "steps": [{**_plain(asdict(step), "said"), **_explained(features, step.said)} for step in stepping.steps],
            "total": stepping.total,
            "over": over,
            "final": None if stepping.final is None else {k: _told(v) for k, v in stepping.final.items()},
            "seen": [asdict(part) for part in stepping.seen],
            "legal": {"count": len(legal), "of": stepping.features, "listed": _listed(features, listed)},
            "bound": stepping.strengths,
            "choice": None if stepping.choice is None else _explained(features, stepping.choice),
        }


def _shown(token: Token) -> Data:
    """What a page needs to show a token in its text."""
    said, names = token.said, ("step", "text", "unsteered", "changed", "kl")
    own = {name: getattr(token, name) for name in names}
    return own | {"feature": said.push.feature, "strength": said.push.strength, "by_hand": said.by_hand}


def _explained(features: Features, said: Said) -> Data:
    """What was done and why, with labels."""
    feature, strength = said.push
    return {
        "feature": feature,
        "strength": strength,
        "label": features.labels([feature]).get(feature),
        "by_hand": said.by_hand,
        "probability": said.probability,
        "value": said.value,
        "entropy": said.entropy,
        "weighed_by": said.weighed_by,
        "alternatives": _listed(features, said.alternatives),
        "active": _listed(features, said.active),
    }


def _listed(features: Features, weighed: Any) -> list[Data]:
    pairs: list[Weighed] = list(weighed)
    labels = features.labels(each.feature for each in pairs)
    return [{"feature": f, "label": labels.get(f), "number": number} for f, number in pairs]


def _first(stage: Stage) -> Data | None:
    """The feature to begin with."""
    if stage.first is None:
        return None
    feature, _ = stage.first
    return {"feature": feature, "label": stage.features.labels([feature])[feature]}


def _plain(row: Mapping[str, Any], *left_out: str) -> Data:
    return {name: value for name, value in row.items() if name not in left_out}


def _told(value: Any) -> Any:
    """A value of ``info`` as JSON has it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _arm(arm: Any) -> str:
    if arm not in ("steered", "unsteered"):
        raise SteeringError(f"arm must be 'steered' or 'unsteered', got {arm!r}")
    return str(arm)


def _integer(asked: Data, name: str, default: int | None = None) -> int:
    value = asked.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise SteeringError(f"{name} must be a whole number, got {value!r}")
    return value


def _number(asked: Data, name: str, default: float | None = None) -> float:
    value = asked.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise SteeringError(f"{name} must be a number, got {value!r}")
    return float(value)
