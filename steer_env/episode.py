"""The decision process, written once and batched: choreography of a model, a task and an agent's actions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer_env.actions import Actuator, FeatureChoice
from steer_env.decoding import Words, next_tokens
from steer_env.errors import SteeringError
from steer_env.model import SteeredModel
from steer_env.observations import Observation
from steer_env.ordering import Draw, ItemOrder
from steer_env.sae import FeatureDictionary
from steer_env.tasks.base import Conversation, Task, Turn

MASKS = ("off", "current", "generation", "all")


@dataclass(frozen=True)
class Scene:
    """Everything an episode is made of, assembled by the registry.

    Attributes:
        model: ``B`` lanes of the frozen language model.
        words: Its tokenizer.
        ends: Tokens that end a turn of the model.
        dictionary: The SAE at its steering site.
        task: Items, replies and scores.
        actuator: What the agent may do.
        observation: What the agent sees.
        mask: Scope of the features that count as active: one of ``MASKS``.
        temperature: 0 is greedy decoding.
        compare: Also ask the unsteered model for its token, at one more pass a token.
    """

    model: SteeredModel
    words: Words
    ends: frozenset[int]
    dictionary: FeatureDictionary
    task: Task
    actuator: Actuator
    observation: Observation
    mask: str = "off"
    temperature: float = 0.0
    compare: bool = False

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise ValueError(f"mask must be one of {MASKS}, got {self.mask!r}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and at least 0, got {self.temperature}")
        if len(self.task) == 0:
            raise ValueError(f"task {self.task.name!r} has no items in this split")


@dataclass
class _Lane:
    """One episode under way."""

    draw: Draw
    conversation: Conversation
    utterance: list[int] = field(default_factory=list)
    completion: list[str] = field(default_factory=list)
    transcript: list[tuple[str, bool]] = field(default_factory=list)
    steps: int = 0
    total: float = 0.0


class Step(NamedTuple):
    """Outcome of one action a lane: rewards and ends ``[B]``, what was applied, and the ended lanes' records."""

    rewards: np.ndarray
    ended: np.ndarray
    applied: dict[str, np.ndarray]
    finals: dict[int, dict[str, Any]]


class Episode:
    """``B`` episodes side by side. Lane ``i`` behaves as a batch of one would.

    An action steers the token that the model is about to write. A turn of the model ends at its end token, a stop
    string or ``max_new_tokens``; the task then replies, which goes on, or scores, which ends the episode.
    """

    def __init__(self, scene: Scene):
        self.scene = scene
        self.lanes = scene.model.lanes
        self.order = ItemOrder(len(scene.task), self.lanes)
        self.hidden = torch.zeros(self.lanes, scene.dictionary.directions.shape[1])
        self._running: dict[int, _Lane] = {}
        self._active = torch.zeros(
            self.lanes, scene.dictionary.width, dtype=torch.bool, device=scene.dictionary.directions.device
        )
        self._unsteered: Tensor | None = None
        self._encoded: Tensor | None = None
        if scene.mask == "all":
            scene.model.watch = self._see

    def start(self, lane: int) -> None:
        """Deal the lane its next item; it is read at the next :meth:`observe`."""
        draw = self.order.deal(lane)
        conversation = self.scene.task.start(draw.item)
        self._running[lane] = _Lane(draw, conversation, transcript=[(conversation.opening, False)])
        self._active[lane] = False
        self.scene.model.restart(lane, self.scene.words.prompt(conversation.opening))

    def observe(self) -> Any:
        """Read what is new in every lane up to the steering site; returns the batched observation."""
        self._unsteered = self.scene.model.peek() if self.scene.compare else None
        self.hidden = self.scene.model.observe()
        self._encoded = None
        if self.scene.mask in ("current", "generation"):
            active = self.encode() > 0
            self._active = active | self._active if self.scene.mask == "generation" else active
        return self.scene.observation.read(self.hidden, self.conversations)

    def step(self, actions: np.ndarray) -> Step:
        """Steer, let each lane write one token, and let the tasks answer. Ended lanes wait for :meth:`start`."""
        scene = self.scene
        if not scene.model.paused:
            raise SteeringError("no episode is under way: call reset first")
        actions = scene.actuator.read(actions, self.lanes)
        logits = scene.model.advance(scene.actuator.delta(actions))
        chances = self._chances()
        tokens = next_tokens(logits, scene.temperature, chances)
        applied = scene.actuator.record(actions) | self._compared(tokens, chances)
        steered = scene.actuator.steers(actions)
        rewards = np.zeros(self.lanes)
        ended = np.zeros(self.lanes, dtype=bool)
        finals = {}
        for lane, token in enumerate(tokens):
            turn = self._say(lane, token, bool(steered[lane]))
            rewards[lane] = turn.reward
            self._running[lane].total += turn.reward
            if turn.score is not None:
                ended[lane] = True
                finals[lane] = self._final(lane, turn)
        return Step(rewards, ended, applied, finals)

    @property
    def conversations(self) -> Sequence[Conversation]:
        """The lanes' conversations."""
        return [self._running[lane].conversation for lane in range(self.lanes)]

    def items(self) -> dict[str, np.ndarray]:
        """``item`` and ``index`` ``[B]`` of the episodes under way."""
        draws = [self._running[lane].draw for lane in range(self.lanes)]
        return {
            "item": np.array([draw.item for draw in draws]),
            "index": np.array([draw.index for draw in draws]),
        }

    def encode(self) -> Tensor:
        """SAE activations ``[B, F]`` of the residuals last observed."""
        if self._encoded is None:
            self._encoded = self.scene.dictionary.encode(self.hidden)
        return self._encoded

    def legal(self) -> np.ndarray:
        """``[B, A]`` bool: actions whose feature is active in the mask's scope; the no-op always is.

        Raises:
            ValueError: The actions are strengths, which have no mask.
        """
        if not isinstance(self.scene.actuator, FeatureChoice):
            raise ValueError("strengths of features have no action mask; choose features one at a time for that")
        features = self.scene.actuator.features
        legal = np.ones((self.lanes, len(features) + 1), dtype=bool)
        if self.scene.mask != "off":
            legal[:, :-1] = self._active.cpu().numpy()[:, features]
        return legal

    def render(self, lane: int = 0) -> str:
        """The task's own picture, then the transcript with steered tokens in brackets."""
        running = self._running[lane]
        text = "".join(f"[{part}]" if steered else part for part, steered in running.transcript)
        return f"{running.conversation.render()}\n{text}"

    def _say(self, lane: int, token: int, steered: bool) -> Turn:
        """Let the lane write one token; the task answers when that ends the model's turn."""
        running, words = self._running[lane], self.scene.words
        running.steps += 1
        running.utterance.append(token)
        running.transcript.append((words.decode(token), steered))
        stops = self.scene.task.stop
        ended = token in self.scene.ends or len(running.utterance) >= self.scene.task.max_new_tokens
        text = words.decode(*running.utterance) if stops or ended else ""
        cut = min((text.find(stop) for stop in stops if stop in text), default=None)
        if cut is None and not ended:
            self.scene.model.write(lane, [token])
            return Turn()
        said = text[:cut]
        running.completion.append(said)
        turn = running.conversation.respond(said)
        if turn.score is None:
            self._reply(lane, turn)
        return turn

    def _reply(self, lane: int, turn: Turn) -> None:
        """Put the model's words (or what stands in their place) and the task's answer into the lane."""
        running, words, model = self._running[lane], self.scene.words, self.scene.model
        if turn.replace is None:
            model.write(lane, running.utterance[-1:])
        else:
            model.rewind(lane, len(running.utterance) - 1)
            model.write(lane, words.encode(turn.replace))
            running.transcript.append((f" ->{turn.replace}", False))
        if turn.text:
            model.write(lane, words.encode(turn.text))
            running.transcript.append((turn.text, False))
        running.utterance = []

    def _chances(self) -> np.ndarray:
        """One uniform number a lane from its episode's own generator; none is drawn when decoding is greedy."""
        if self.scene.temperature == 0:
            return np.zeros(self.lanes)
        return np.array([self._running[lane].draw.rng.random() for lane in range(self.lanes)])

    def _compared(self, tokens: list[int], chances: np.ndarray) -> dict[str, np.ndarray]:
        """The tokens for the record and, where the unsteered model was asked, what it would have said instead."""
        said = {"token": np.array(tokens), "token_text": self._texts(tokens)}
        if self._unsteered is not None:
            alone = next_tokens(self._unsteered, self.scene.temperature, chances)
            said |= {"unsteered_token": np.array(alone), "unsteered_token_text": self._texts(alone)}
            said["changed"] = said["token"] != said["unsteered_token"]
        return said

    def _texts(self, tokens: list[int]) -> np.ndarray:
        return np.array([self.scene.words.decode(token) for token in tokens], dtype=object)

    def _final(self, lane: int, turn: Turn) -> dict[str, Any]:
        running = self._running[lane]
        return {
            "item": running.draw.item,
            "index": running.draw.index,
            "score": float(turn.score or 0.0),
            "return": running.total,
            "steps": running.steps,
            "completion": "\n".join(running.completion),
            "transcript": self.render(lane),
            **turn.info,
        }

    def _see(self, lanes: Tensor, residual: Tensor, real: Tensor) -> None:
        """Mark the features of every real token that passes the site as active in its lane."""
        for position in range(residual.shape[1]):  # all at once, a long prompt would take gigabytes
            active = self.scene.dictionary.encode(residual[:, position]) > 0
            self._active[lanes] |= active & real[:, position, None]
