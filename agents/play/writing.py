"""A text that is written token by token, each with what was done there and what else could have been written.

A person may do otherwise at any token; the text goes on from there, with all before it steered as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agents.play.choosing import SHOWN, Asked, ByHand, Push, Said, nothing
from steer_env.errors import SteeringError
from steer_env.evaluation.play import Policy
from steer_env.lm.model import SteeredModel
from steer_env.lm.tokenizer import divergence, end_tokens, next_tokens
from steer_env.steered import SteeredLM
from steer_env.steering import LanesInPass

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 2_000
_BEHIND = 4


@dataclass(frozen=True)
class Asking:
    """What is asked for.

    Attributes:
        prompt: The text to write behind.
        max_new_tokens: Tokens at most, in ``[1, 2000]``.
        temperature: 0 takes the likeliest token.
        seed: Of drawing: the steered and the unsteered text draw the same numbers.

    Raises:
        SteeringError: One of them cannot be used (it is named).
    """

    prompt: str
    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= LONGEST:
            raise SteeringError(f"tokens must be in [1, {LONGEST}], got {self.max_new_tokens}")
        if not 0 <= self.temperature < np.inf:
            raise SteeringError(f"temperature must be finite and at least 0, got {self.temperature}")
        if self.seed < 0:
            raise SteeringError(f"seed must be at least 0, got {self.seed}")


class Continuation(NamedTuple):
    """A token that could have been written, with its probability steered and unsteered."""

    text: str
    steered: float
    unsteered: float | None


@dataclass(frozen=True)
class Token:
    """One token of a text.

    Attributes:
        step: Its place in the reply.
        token: Its id.
        text: What it adds to the text.
        said: What was done there.
        unsteered: The text of the token that the unsteered model would have written there, or None where nobody asked.
        changed: Whether that is another one.
        kl: Divergence of what may follow from the unsteered model's, in nats.
        continuations: The likeliest tokens.
    """

    step: int
    token: int
    text: str
    said: Said
    unsteered: str | None = None
    changed: bool = False
    kl: float | None = None
    continuations: tuple[Continuation, ...] = ()


class Writing:
    """A text under way: :meth:`go_on` writes it, :meth:`change` does otherwise at a token.

    Args:
        steered: The model with its SAE.
        asking: What is asked for.
        policy: What chooses, by default nothing does: the text is the model's own.
        always: A push at every token in place of the policy.

    Attributes:
        tokens: What is written so far.
        by_hand: What the person wants at some tokens.
        end: Why nothing more comes: ``"end"`` (the model ended its turn, or a stop string came), ``"length"``,
            ``"context"`` (the model can read no more); None while more may come.
    """

    def __init__(
        self, steered: SteeredLM, asking: Asking, policy: Policy | None = None, always: Push | None = None
    ) -> None:
        own = steered.steering
        self.asking, self.tokens, self.by_hand = asking, list[Token](), dict[int, Push]()
        self.end: str | None = None
        self._width = own.dictionary.width
        self._always = None if always is None else always.check(self._width)
        self._alone = policy is None and always is None
        self._tokenizer, self._stop = steered.tokenizer, steered.stop
        self._ends = end_tokens(steered.lm, steered.tokenizer)
        self._prompt = self._tokenizer.prompt(asking.prompt)
        self._hand = ByHand(own.actuator, own.dictionary.directions)
        self._asked = Asked(policy or nothing)
        self._lanes = LanesInPass(replace(own, policy=self._asked, actuator=self._hand))
        self._engine = SteeredModel(steered.lm, steered.layer, 1, steered.site)
        self._read = -1

    @property
    def text(self) -> str:
        """The reply so far, up to a stop string."""
        whole = self._whole()
        return whole[: min((whole.find(stop) for stop in self._stop if stop in whole), default=len(whole))]

    def change(self, step: int, push: Push | None) -> None:
        """Forget what was written from a token on, and do otherwise there when :meth:`go_on` is called.

        Args:
            step: The token.
            push: What to do there; None leaves it to the policy again.

        Raises:
            SteeringError: There is no such token or no such feature.
        """
        if not 0 <= step < len(self.tokens):
            raise SteeringError(f"there is no token {step}: the text has {len(self.tokens)}")
        self.by_hand = {place: other for place, other in self.by_hand.items() if place < step}
        if push is not None:
            self.by_hand[step] = push.check(self._width)
        del self.tokens[step:]
        self.end = None

    def go_on(self) -> Iterator[Token]:
        """Write on from where the text stands; whoever has seen enough closes the iterator."""
        if self._read != len(self.tokens):
            self._engine.restart(0, self._prompt)
            for step in range(len(self.tokens)):  # every token is steered as it was
                self._queue(step)
                self._steer(step)
        while self._more():
            self._read = -1  # a pass that fails leaves the model between two tokens
            self.tokens.append(self._write())
            self._read = len(self.tokens)
            yield self.tokens[-1]

    def _more(self) -> bool:
        self.end = None
        if self.tokens and (self.tokens[-1].token in self._ends or self._stopped()):
            self.end = "end"
        elif len(self.tokens) >= self.asking.max_new_tokens:
            self.end = "length"
        elif self._engine.context is not None and self.tokens and self._engine.length(0) >= self._engine.context:
            self.end = "context"
        return self.end is None

    def _stopped(self) -> bool:
        text = self._whole() if self._stop else ""
        return any(stop in text for stop in self._stop)

    def _queue(self, step: int) -> None:
        """Let the next pass read the token before ``step``; of the first, that is the prompt's last."""
        if step:
            self._engine.write(0, [self.tokens[step - 1].token])

    def _steer(self, step: int) -> tuple[Tensor, Said]:
        """``[1, V]`` logits behind what is queued, and what was done there."""
        hidden = self._engine.observe()
        self._hand.push = self.by_hand.get(step, self._always)
        record: list[dict[str, np.ndarray]] = []
        with self._lanes.recording(record):
            delta = self._lanes.delta(hidden, fresh=step == 0)
        said = self._asked.said(self._hand, record[0], self._lanes.encode()[0], step in self.by_hand)
        return self._engine.advance(delta), said

    def _write(self) -> Token:
        step = len(self.tokens)
        self._queue(step)
        alone = None if self._alone else self._engine.peek()
        logits, said = self._steer(step)
        token = self._draw(logits, step)
        found = Token(step, token, self._added(token), said, continuations=self._continuations(logits, alone))
        if alone is None:
            return found
        other, kl = self._draw(alone, step), float(divergence(logits, alone)[0])
        return replace(found, unsteered=self._added(other), changed=other != token, kl=kl)

    def _draw(self, logits: Tensor, step: int) -> int:
        chances = np.random.default_rng([self.asking.seed, step]).random(1)
        return next_tokens(logits, self.asking.temperature, chances)[0]

    def _continuations(self, logits: Tensor, alone: Tensor | None) -> tuple[Continuation, ...]:
        steered = logits[0].softmax(dim=-1)
        unsteered = None if alone is None else alone[0].softmax(dim=-1)
        best = steered.topk(min(SHOWN, len(steered))).indices.tolist()
        return tuple(
            Continuation(
                self._added(token),
                float(steered[token]),
                None if unsteered is None else float(unsteered[token]),
            )
            for token in best
        )

    def _whole(self) -> str:
        return self._tokenizer.decode(*(each.token for each in self.tokens)) if self.tokens else ""

    def _added(self, token: int) -> str:
        """What a token adds to the text: behind others it may read otherwise than alone."""
        head = [each.token for each in self.tokens[-_BEHIND:]]
        before = self._tokenizer.decode(*head) if head else ""
        return self._tokenizer.decode(*head, token)[len(before) :]
