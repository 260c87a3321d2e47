"""The decision process, written once and batched: choreography of a model, a task and an agent's actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from steer_env.envs.observations import Seen
from steer_env.envs.options import Options, Said, decide, read_tails
from steer_env.envs.ordering import Draw, ItemOrder
from steer_env.envs.scene import OPENING, Scene
from steer_env.errors import SteeringError
from steer_env.lazy import torch
from steer_env.lm.tokenizer import divergence
from steer_env.tasks.base import Conversation, Turn

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class _Lane:
    """One episode under way."""

    draw: Draw
    conversation: Conversation
    choices: tuple[str, ...] = ()
    options: Options = ()
    utterance: list[int] = field(default_factory=list)
    unwritten: list[int] = field(default_factory=list)
    completion: list[str] = field(default_factory=list)
    transcript: list[tuple[str, bool]] = field(default_factory=list)
    logprobs: tuple[float, ...] = ()
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
    string or ``max_new_tokens``; where the task offers options, the turn is one step, which chooses among them. The
    task then replies, which goes on, or scores, which ends the episode.
    """

    def __init__(self, scene: Scene):
        self.scene = scene
        self.lanes = scene.model.lanes
        self.order = ItemOrder(len(scene.task), self.lanes, scene.items)
        self.hidden = torch.zeros(self.lanes, scene.dictionary.directions.shape[1])
        self._prompted = self.hidden.clone()
        self._running: dict[int, _Lane] = {}
        self._active = torch.zeros(
            self.lanes, scene.dictionary.width, dtype=torch.bool, device=scene.dictionary.directions.device
        )
        self._unsteered: tuple[Tensor, dict[int, list[float]]] | None = None
        self._encoded: Tensor | None = None
        if scene.mask == "all":
            scene.model.watch = self._see

    def start(self, lane: int) -> None:
        """Deal the lane its next item; it is read at the next :meth:`observe`."""
        draw = self.order.deal(lane)
        conversation = self.scene.task.start(draw.item)
        self._running[lane] = _Lane(draw, conversation, transcript=[(conversation.opening, False)])
        self._offer(lane, conversation.opening, opening=True)
        self._active[lane] = False
        options = self._running[lane].options
        once = self.scene.task.turns == 1 and bool(options) and all(len(option) == 1 for option in options)
        self.scene.model.restart(lane, self.scene.tokenizer.prompt(conversation.opening), once)

    def observe(self) -> Any:
        """Read what is new in every lane up to the steering site; returns the batched observation."""
        model = self.scene.model
        self._unsteered = (model.peek(), read_tails(model, self._offered())) if self.scene.compare else None
        self.hidden = model.observe()
        self._encoded = None
        begins = torch.tensor([not self._running[lane].utterance for lane in range(self.lanes)])
        begins = begins.to(self.hidden.device)[:, None]
        self._prompted = torch.where(begins, self.hidden, self._prompted.to(self.hidden))
        if self.scene.mask in ("current", "generation"):
            active = self.encode() > 0
            self._active = active | self._active if self.scene.mask == "generation" else active
        return self.scene.observation.read(Seen(self.hidden, self._prompted, self.conversations))

    def step(self, actions: np.ndarray) -> Step:
        """Steer, let each lane write one token, and let the tasks answer. Ended lanes wait for :meth:`start`."""
        scene = self.scene
        if not scene.model.paused:
            raise SteeringError("no episode is under way: call reset first")
        actions = scene.actuator.read(actions, self.lanes)
        logits = scene.model.advance(scene.actuator.delta(actions))
        chances = self._chances()
        offered = self._offered()
        said = decide(logits, offered, read_tails(scene.model, offered), scene.temperature, chances)
        applied = scene.actuator.record(actions) | self._compared(said, chances, logits)
        steered = scene.actuator.steers(actions)
        rewards = np.zeros(self.lanes)
        ended = np.zeros(self.lanes, dtype=bool)
        finals = {}
        for lane, words in enumerate(said):
            turn = self._say(lane, words, bool(steered[lane]))
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

    def steps(self) -> np.ndarray:
        """``[B]`` tokens that each episode under way has so far."""
        return np.array([self._running[lane].steps for lane in range(self.lanes)])

    def encode(self) -> Tensor:
        """SAE activations ``[B, F]`` of the residuals last observed."""
        if self._encoded is None:
            self._encoded = self.scene.dictionary.encode(self.hidden)
        return self._encoded

    def legal(self) -> np.ndarray:
        """``[B, A]`` bool: actions whose feature is active in the mask's scope; the no-op always is legal.

        Raises:
            ValueError: The actions are strengths, which have no mask.
        """
        if not isinstance(self.scene.actuator.space, spaces.Discrete):
            raise ValueError("strengths of features have no action mask; choose features one at a time for that")
        features = self.scene.actuator.features
        legal = np.ones((self.lanes, len(features) + 1), dtype=bool)
        if self.scene.mask == "opening":
            legal[[len(self._running[lane].utterance) >= OPENING for lane in range(self.lanes)], :-1] = False
        elif self.scene.mask != "off":
            legal[:, :-1] = self._active.cpu().numpy()[:, features]
        return legal

    def transcript(self, lane: int = 0) -> list[tuple[str, bool]]:
        """The pieces of what the lane has read and said, and whether each was steered."""
        return list(self._running[lane].transcript)

    def render(self, lane: int = 0) -> str:
        """The task's own picture, then the transcript with steered tokens in brackets."""
        running = self._running[lane]
        text = "".join(f"[{part}]" if steered else part for part, steered in running.transcript)
        return f"{running.conversation.render()}\n{text}"

    def _offer(self, lane: int, before: str, opening: bool = False) -> None:
        """Look up what the model's turn may be, behind the text ``before`` it."""
        running, tokenizer = self._running[lane], self.scene.tokenizer
        running.choices = tokenizer.spoken(running.conversation.choices, opening)
        running.options = tokenizer.options(before, running.choices, opening) if running.choices else ()

    def _offered(self) -> dict[int, Options]:
        """The options of the lanes that have them."""
        return {lane: running.options for lane, running in self._running.items() if running.options}

    def _say(self, lane: int, said: Said, steered: bool) -> Turn:
        """Let the lane say its token or option; the task answers when that ends the model's turn."""
        running = self._running[lane]
        running.steps += 1
        running.transcript.append((self._text(lane, said), steered))
        words = self._choose(running, said) if said.option is not None else self._write(running, said.token)
        if words is None:
            self.scene.model.write(lane, running.unwritten)
            return Turn()
        running.completion.append(words)
        turn = running.conversation.respond(words)
        if turn.score is None:
            self._reply(lane, turn)
        return turn

    def _choose(self, running: _Lane, said: Said) -> str:
        """The option chosen is all of the model's turn."""
        assert said.option is not None
        running.logprobs = said.logprobs
        running.utterance = running.unwritten = list(running.options[said.option])
        return running.choices[said.option]

    def _write(self, running: _Lane, token: int) -> str | None:
        """One more token of the model's turn; the text of the turn where it ends."""
        tokenizer, task = self.scene.tokenizer, self.scene.task
        running.utterance.append(token)
        running.unwritten = [token]
        ended = token in self.scene.ends or len(running.utterance) >= task.max_new_tokens
        text = tokenizer.decode(*running.utterance) if task.stop or ended else ""
        cut = min((text.find(stop) for stop in task.stop if stop in text), default=None)
        return None if cut is None and not ended else text[:cut]

    def _reply(self, lane: int, turn: Turn) -> None:
        """Put the model's words (or what stands in their place) and the task's answer into the lane."""
        running, tokenizer, model = self._running[lane], self.scene.tokenizer, self.scene.model
        if turn.replace is None:
            model.write(lane, running.unwritten)
        else:
            model.rewind(lane, len(running.utterance) - len(running.unwritten))
            model.write(lane, tokenizer.encode(turn.replace))
            running.transcript.append((f" ->{turn.replace}", False))
        if turn.text:
            model.write(lane, tokenizer.encode(turn.text))
            running.transcript.append((turn.text, False))
        running.utterance = []
        self._offer(lane, turn.text)

    def _chances(self) -> np.ndarray:
        """One uniform number a lane from its episode's own generator; none is drawn when decoding is greedy."""
        if self.scene.temperature == 0:
            return np.zeros(self.lanes)
        return np.array([self._running[lane].draw.rng.random() for lane in range(self.lanes)])

    def _compared(self, said: list[Said], chances: np.ndarray, logits: Tensor) -> dict[str, np.ndarray]:
        """What was said for the record and, where the unsteered model was asked, what it would have said instead."""
        record = self._record(said)
        if self._unsteered is not None:
            unsteered, tails = self._unsteered
            alone = decide(unsteered, self._offered(), tails, self.scene.temperature, chances)
            record |= {f"unsteered_{name}": values for name, values in self._record(alone).items()}
            record["changed"] = np.array([a[:2] != b[:2] for a, b in zip(said, alone, strict=True)])
            record["kl"] = divergence(logits, unsteered)
        return record

    def _record(self, said: list[Said]) -> dict[str, np.ndarray]:
        texts = [self._text(lane, words) for lane, words in enumerate(said)]
        return {"token": np.array([words.token for words in said]), "token_text": np.array(texts, dtype=object)}

    def _text(self, lane: int, said: Said) -> str:
        return (
            self.scene.tokenizer.decode(said.token) if said.option is None else self._running[lane].choices[said.option]
        )

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
            **({"option_logprobs": running.logprobs} if running.logprobs else {}),
            **turn.info,
        }

    def _see(self, lanes: Tensor, residual: Tensor, real: Tensor) -> None:
        """Mark the features of every real token that passes the site as active in its lane."""
        for position in range(residual.shape[1]):  # all at once, a long prompt would take gigabytes
            active = self.scene.dictionary.encode(residual[:, position]) > 0
            self._active[lanes] |= active & real[:, position, None]
