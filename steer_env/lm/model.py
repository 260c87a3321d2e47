"""A frozen language model that stops at one layer of every token and goes on with an edited residual.

A forward pass runs inside a greenlet: the hook at the steering site hands the residual out and sleeps; the steered
pass wakes it. Each generated token therefore costs exactly one pass.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from greenlet import getcurrent, greenlet

from steer_env.errors import SteeringError
from steer_env.lazy import torch
from steer_env.lm.anatomy import find_block, forward_options, mask_maker
from steer_env.lm.passes import explained_memory, hooked_pass, pausing_pass

if TYPE_CHECKING:
    from torch import Tensor

    from steer_env.lm.prompts import PromptStore
    from steer_env.lm.upper_half import UpperHalf

Watcher: TypeAlias = "Callable[[Tensor, Tensor, Tensor], None]"
_LONGEST_CHUNK = 8
_KEYS_AND_VALUES = "keys and values"
_LOG = logging.getLogger(__name__)
_SHORT_TEXTS = ((3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5), (2, 7, 1, 8, 2, 8, 1, 8, 2))
_ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-3}
_UPPER_HALVES: WeakKeyDictionary[Any, dict[tuple[int, str], UpperHalf | None]] = WeakKeyDictionary()


@dataclass
class _Unkept:
    """A prompt without its last token that is being read from token ``start`` on, and is to be kept then."""

    head: tuple[int, ...]
    start: int
    residuals: Tensor | None = None


class SteeredModel:
    """``B`` lanes of one frozen causal language model, steered at the last token of each.

    The cycle is ``restart``/``write`` (queue tokens), ``observe`` (run to the site), ``advance`` (steer and finish).
    Only the last queued token of a lane is steered, so prompts and replies never are; keys and values above the site
    keep the steering of the tokens that had it.

    Args:
        lm: A Hugging Face causal LM with ``sdpa`` or ``eager`` attention; put into eval mode, gradients off.
        layer: Block ``L`` in ``[0, blocks)``.
        lanes: Number of lanes ``B``.
        site: ``"post"`` = output of block ``L``; ``"pre"`` = its input.
        prompts: What was read of prompts, for lanes that restart with one that is known or begins like one.
        upper: The blocks above the site, for lanes that say one token behind a known prompt.
        watch: Called as ``watch(lanes [b], residuals [b, Q, M], real [b, Q])`` with every token that passes the
            site, steered ones before steering; ``real`` is False on padding.

    Raises:
        SteeringError: The layer, site or model cannot be steered.
    """

    def __init__(
        self,
        lm: Any,
        layer: int,
        lanes: int = 1,
        site: str = "post",
        prompts: PromptStore | None = None,
        watch: Watcher | None = None,
        upper: UpperHalf | None = None,
    ):
        from steer_env.lm.cache import LaneCache  # builds on Transformers, which takes a second to import

        self.lm = lm
        self.lanes = lanes
        self.layer = layer
        self.site = site
        self.watch = watch
        self._upper = upper
        self._residuals_kind = f"residuals {site} block {layer}"
        self._above_kind = f"keys and values above {site} block {layer}"
        self._last_kind = f"last residual {site} block {layer}"
        self.forward_passes = 0
        self._block = find_block(lm, layer, site)
        self._masks = mask_maker(lm)
        self._extra = forward_options(lm)
        # Looked up once: a Transformers configuration answers slowly, and every token would ask.
        config = lm.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None)
        self._width = config.hidden_size
        self._device, self._dtype = lm.device, lm.dtype
        self._cache = LaneCache(config.num_hidden_layers, lanes)
        self._pending: list[list[int]] = [[] for _ in range(lanes)]
        self._paused: greenlet | None = None
        self._counts: list[int] = []
        self._prompts = prompts
        self._to_keep: dict[int, _Unkept] = {}
        self._once = [False] * lanes
        self._last: list[Tensor | None] = [None] * lanes
        self._halved: dict[int, tuple[int, ...]] = {}
        self._waiting: Tensor | None = None
        self._thread = threading.get_ident()

    def restart(self, lane: int, tokens: Sequence[int], once: bool = False) -> None:
        """Forget the lane's past and queue the prompt ``tokens`` (at least one).

        Args:
            lane: The lane.
            tokens: The prompt.
            once: Nothing will be written behind the token that comes next. Where all lanes are so, only the blocks
                above the site run for it, if the engine was given them.
        """
        self._drop_pass()
        self._cache.clear(lane)
        self._pending[lane] = []
        self._to_keep.pop(lane, None)
        self._once[lane], self._last[lane] = False, None
        self._halved.pop(lane, None)
        self.write(lane, tokens)
        self._once[lane] = once and len(tokens) > _LONGEST_CHUNK

    def write(self, lane: int, tokens: Sequence[int]) -> None:
        """Queue ``tokens`` behind what the lane holds; the next :meth:`observe` reads them.

        Raises:
            SteeringError: The model's context has no room for them, or the lane was to say one token only.
        """
        if self._once[lane]:
            raise SteeringError(f"lane {lane} was restarted for one token: nothing can be written behind it")
        self._require_room(lane, len(tokens))
        self._pending[lane].extend(tokens)

    def rewind(self, lane: int, count: int) -> None:
        """Forget the last ``count`` tokens the lane holds; nothing may be queued."""
        held, queued = self._cache.lengths[lane], len(self._pending[lane])
        if queued or not 0 <= count <= held:
            raise SteeringError(
                f"cannot rewind lane {lane} by {count}: it holds {held} tokens and {queued} queued ones"
            )
        self._cache.lengths[lane] -= count

    def length(self, lane: int) -> int:
        """Tokens the lane holds, queued ones included."""
        return self._cache.lengths[lane] + len(self._pending[lane])

    def observe(self) -> Tensor:
        """Run every lane's queued tokens up to the site and stop there.

        Returns:
            ``[B, M]`` float32 residual of the last token of each lane, before steering.

        Raises:
            SteeringError: A lane has nothing queued, or its residual is not finite (the lane is named).
        """
        self._drop_pass()
        self._thread = threading.get_ident()
        if self._upper_alone:
            self._waiting = self._known_residuals()
            return _finite(self._waiting.float(), "residual")
        self._read_whole()
        self._prefill()
        self._counts = [len(tokens) for tokens in self._pending]
        self._require_tokens()
        inputs = self._inputs(range(self.lanes), self._pending)
        self._paused = greenlet(pausing_pass)
        self.forward_passes += 1
        with self._switching():
            hidden = self._paused.switch(self.lm, inputs, self._block, self.site)
        if self._paused.dead:
            raise SteeringError(f"the forward pass never reached its steering site, {self.site} of the block")
        self._look(hidden)
        return _finite(hidden[:, -1].float(), "residual")

    def advance(self, delta: Tensor) -> Tensor:
        """Add ``delta`` to the paused residual of each lane's last token and finish the pass.

        Args:
            delta: ``[B, M]`` in residual units; a zero row is a no-op.

        Returns:
            ``[B, V]`` float32 logits of the next token.

        Raises:
            SteeringError: Nothing is paused, the shape is wrong, or a row is not finite (the lane is named).
        """
        if not self.paused:
            raise SteeringError("advance needs a paused pass: call observe first")
        if delta.shape != (self.lanes, self._width):
            wanted = (self.lanes, self._width)
            raise SteeringError(f"the steering vectors must be of shape {wanted}, got {tuple(delta.shape)}")
        _finite(delta.to(self._dtype), "steering vector")
        self._check_thread()
        if self._waiting is not None:
            logits = self._above(self._waiting + delta.to(self._waiting))
            self._counts, self._waiting = [1] * self.lanes, None
            self._last = [None] * self.lanes
            self._halved.clear()
        else:
            assert self._paused is not None
            with self._switching():
                output = self._paused.switch(delta)
            self._paused = None
            logits = output.logits[:, -1].float()
        try:
            _finite(logits.max(dim=-1, keepdim=True).values, "logits' maximum", "; lower the coefficient")
        except SteeringError:
            self._cache.scrub()
            raise
        self._cache.commit(range(self.lanes), self._counts)
        self._pending = [[] for _ in range(self.lanes)]
        self._keep_prompts(range(self.lanes))
        return logits

    def peek(self) -> Tensor:
        """``[B, V]`` float32 logits the unsteered model gives for the queued tokens. Costs one more forward pass."""
        self._drop_pass()
        if self._upper_alone:
            return self._above(self._known_residuals())
        self._read_whole()
        self._prefill()
        self._require_tokens()
        with torch.no_grad(), explained_memory():
            self.forward_passes += 1
            output = self.lm(**self._inputs(range(self.lanes), self._pending))
        return output.logits[:, -1].float()

    def foresee(self, heads: Mapping[int, Sequence[int]]) -> dict[int, Tensor]:
        """What the model would say behind ``heads``: tokens ``[n]`` that some lanes might say next. Nothing stays.

        Reads unsteered, in one forward pass, behind what the lane holds: after :meth:`advance` its last token is a
        steered one, before :meth:`observe` it is not.

        Returns:
            For each such lane ``[n, V]`` float32 log-probabilities, behind each of its tokens.

        Raises:
            SteeringError: A lane has no room, or the log-probabilities are not finite.
        """
        self._drop_pass()
        lanes = sorted(heads)
        for lane in lanes:
            if self._once[lane]:
                raise SteeringError(f"lane {lane} was restarted for one token: nothing can be foreseen behind it")
            self._require_room(lane, len(heads[lane]))
        inputs = self._inputs(lanes, [[*self._pending[lane], *heads[lane]] for lane in lanes])
        if self._extra:
            inputs["logits_to_keep"] = max(map(len, heads.values()))
        self.forward_passes += 1
        with torch.no_grad(), explained_memory():
            logits = self.lm(**inputs).logits
        read = {}
        for lane, row in zip(lanes, logits, strict=True):
            read[lane] = row[-len(heads[lane]) :].float().log_softmax(dim=-1)
            if not bool(torch.isfinite(read[lane].max())):
                self._cache.scrub()
                raise SteeringError(f"the log-probabilities of lane {lane} are not finite")
        return read

    @property
    def _upper_alone(self) -> bool:
        """Whether the pass to come needs the blocks above the site only; a watcher wants to see the others."""
        return self._upper is not None and self.watch is None and all(self._once) and all(self._pending)

    def _above(self, residual: Tensor) -> Tensor:
        """``[B, V]`` float32 logits of the blocks above the site for residuals ``[B, M]``. Lanes stay as they are."""
        assert self._upper is not None
        self.forward_passes += 1
        with explained_memory():
            return self._upper(residual, self._inputs(range(self.lanes), self._pending))

    def _known_residuals(self) -> Tensor:
        """``[B, M]`` residuals of the prompts' last tokens, which alone stay queued; prompts not known are read."""
        fresh = {lane: tuple(self._pending[lane]) for lane in range(self.lanes) if self._last[lane] is None}
        unknown = [lane for lane, prompt in fresh.items() if not self._recall_above(lane, prompt)]
        for lane in unknown:
            self._recall(lane)
            if len(self._pending[lane]) > 1:
                self._read_ahead([lane], on_disk=False)
        if unknown:
            self._read_last(unknown, fresh)
        return torch.cat([row for row in self._last if row is not None])

    def _recall_above(self, lane: int, prompt: tuple[int, ...]) -> bool:
        """Fill an empty lane with what is known of its prompt above the site, if that is all of it."""
        assert self._upper is not None
        if self._prompts is None:
            return False
        last, found = self._prompts.last(self._last_kind, prompt), self._prompts.find((self._above_kind,), prompt[:-1])
        if last is None or found is None or len(found[0]) < len(prompt) - 1:
            return False
        if not self._cache.shaped:
            self._shape_cache()
        self._cache.fill(lane, found[0], self._upper.first)
        self._pending[lane] = [prompt[-1]]
        self._last[lane], self._halved[lane] = last.to(self._device), prompt
        return True

    def _read_last(self, lanes: Sequence[int], prompts: Mapping[int, tuple[int, ...]]) -> None:
        """Read the last token of prompts up to the site, and keep what is above it and the residual."""
        assert self._upper is not None
        seen: list[Tensor] = []
        inputs = self._inputs(lanes, [self._pending[lane] for lane in lanes])
        self.forward_passes += 1
        with torch.no_grad(), explained_memory():
            hooked_pass(self.lm, inputs, self._block, self.site, lambda hidden: seen.append(hidden[:, -1]))
        for lane, row in zip(lanes, seen[0].split(1), strict=True):
            self._last[lane] = row
            if self._prompts is not None:
                head = prompts[lane][:-1]
                self._prompts.keep(self._above_kind, head, self._cache.rows(lane, 0, len(head), self._upper.first))
                self._prompts.keep_last(self._last_kind, prompts[lane], row)

    def _read_whole(self) -> None:
        """Queue the whole prompts again of lanes that hold only what is above the site."""
        for lane, prompt in self._halved.items():
            self._cache.clear(lane)
            self._pending[lane] = list(prompt)
            self._last[lane] = None
        self._halved.clear()

    def _prefill(self) -> None:
        """Read long queues, all but their last token, so that the pass to come has one token a lane.

        A prompt, which is such a queue of an empty lane, is recalled as far as the store knows it. The rest is read
        in one pass for all lanes that have one; where every lane of many has one, the pass to come reads them as
        cheaply itself. A lane alone has its prompt read like one that is recalled: the same episode is then the same
        to the last bit. So have all lanes when the store wants prompts to be read alone.
        """
        long = [lane for lane, tokens in enumerate(self._pending) if len(tokens) > _LONGEST_CHUNK]
        alone = self._prompts is not None and self._prompts.alone
        for lane in [lane for lane in long if self._cache.lengths[lane] == 0]:
            self._recall(lane)
            if alone and len(self._pending[lane]) > 1:
                self._read_ahead([lane])
        rest = [lane for lane in long if len(self._pending[lane]) > 1]
        if rest and (len(rest) < self.lanes or self.lanes == 1):
            self._read_ahead(rest)

    def _recall(self, lane: int) -> None:
        """Fill an empty lane with what is known of its prompt, and note what is to be kept of the rest.

        The last token is steered and not part of it. A watcher is shown the residuals that were kept for one.
        """
        if self._prompts is None:
            return
        head = tuple(self._pending[lane][:-1])
        found = self._prompts.find(self._kinds(), head)
        if found is None:
            self._to_keep[lane] = _Unkept(head, 0)
            return
        if not self._cache.shaped:
            self._shape_cache()
        rows, *residuals = found
        self._cache.fill(lane, rows)
        if self.watch is not None:
            seen = residuals[0].to(self._device).float()[None]
            self.watch(torch.tensor([lane], device=self._device), seen, seen.new_ones(seen.shape[:2], dtype=torch.bool))
        del self._pending[lane][: len(rows)]
        if len(rows) < len(head):
            self._to_keep[lane] = _Unkept(head, len(rows))

    def _shape_cache(self) -> None:
        """Read any token and forget it: the cache learns what keys and values look like."""
        self.forward_passes += 1
        with torch.no_grad(), explained_memory():
            self.lm(**self._inputs([0], [[0]]))

    def _kinds(self) -> tuple[str, ...]:
        """What is kept of a prompt: a watcher needs the residuals too, which keys and values do not hold."""
        return (_KEYS_AND_VALUES,) if self.watch is None else (_KEYS_AND_VALUES, self._residuals_kind)

    def _read_ahead(self, lanes: Sequence[int], on_disk: bool = True) -> None:
        """Read all but the last queued token of ``lanes`` in one pass; what is new is kept, also on disk if asked."""
        heads = [self._pending[lane][:-1] for lane in lanes]
        inputs = self._inputs(lanes, heads)
        self.forward_passes += 1
        with torch.no_grad(), explained_memory():
            hooked_pass(self.lm, inputs, self._block, self.site, self._look)
        self._cache.commit(lanes, [len(head) for head in heads])
        for lane in lanes:
            self._pending[lane] = self._pending[lane][-1:]
        self._keep_prompts(lanes, on_disk)

    def _keep_prompts(self, lanes: Sequence[int], on_disk: bool = True) -> None:
        """Keep what has been read of new prompts in ``lanes``."""
        for lane in lanes:
            unkept = self._to_keep.pop(lane, None)
            if unkept is None or self._prompts is None:
                continue
            self._prompts.keep(
                _KEYS_AND_VALUES, unkept.head, self._cache.rows(lane, unkept.start, len(unkept.head)), on_disk
            )
            if unkept.residuals is not None:
                self._prompts.keep(self._residuals_kind, unkept.head, unkept.residuals)

    def _inputs(self, lanes: Sequence[int], chunks: Sequence[Sequence[int]]) -> dict[str, Any]:
        counts = [len(chunk) for chunk in chunks]
        plan = self._cache.begin(lanes, counts, self._device)
        width = max(counts)
        ids = torch.tensor([[0] * (width - len(chunk)) + list(chunk) for chunk in chunks], device=self._device)
        return {
            "input_ids": ids,
            "position_ids": plan.position_ids,
            "attention_mask": self._masks(plan),
            "past_key_values": self._cache,
            "use_cache": True,
            **self._extra,
        }

    def _look(self, hidden: Tensor) -> None:
        if self.watch is None:
            return
        plan = self._cache.plan
        self.watch(plan.lanes, hidden.float(), plan.real)
        for row, lane in enumerate(plan.lanes.tolist()):
            if lane in self._to_keep:
                unkept = self._to_keep[lane]
                unkept.residuals = hidden[row, plan.real[row]][: len(unkept.head) - unkept.start].clone()

    @property
    def paused(self) -> bool:
        """Whether a pass sleeps at the site, so that :meth:`advance` may come."""
        return self._paused is not None or self._waiting is not None

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise SteeringError("an environment belongs to the thread that reset it: make one for each thread")

    def _require_room(self, lane: int, count: int) -> None:
        length = self.length(lane) + count
        if self.context is not None and length > self.context:
            raise SteeringError(
                f"lane {lane} would hold {length} tokens, but the model's context is {self.context}; "
                "shorten the prompt or lower max_new_tokens"
            )

    def _require_tokens(self) -> None:
        for lane, tokens in enumerate(self._pending):
            if not tokens:
                raise SteeringError(f"lane {lane} has no token to read: restart it or write to it first")

    def _drop_pass(self) -> None:
        """Abandon a paused pass: its greenlet unwinds here, which removes its hook."""
        if self._paused is not None and not self._paused.dead:
            self._check_thread()
            self._paused.parent = getcurrent()
            with torch.no_grad():
                self._paused.throw()
        self._paused = self._waiting = None

    @contextmanager
    def _switching(self) -> Iterator[None]:
        """Switch into the pass with gradients off there and untouched outside."""
        assert self._paused is not None
        self._paused.parent = getcurrent()
        try:
            with torch.no_grad(), explained_memory():
                yield
        except BaseException:
            self._paused = None
            raise


def proven_upper_half(lm: Any, layer: int, site: str) -> UpperHalf | None:
    """The blocks above a site, where they give the model's own logits by themselves; None where they do not.

    It is tried on two short texts, unsteered and steered. Models whose blocks have more in common than the residual,
    or that do something else with embeddings than with tokens, fail.
    """
    from steer_env.lm.upper_half import UpperHalf

    halves = _UPPER_HALVES.setdefault(lm, {})
    if (layer, site) not in halves:
        half = UpperHalf(lm, layer, site)
        halves[layer, site] = half if _gives_the_same(lm, layer, site, half) else None
    return halves[layer, site]


def _gives_the_same(lm: Any, layer: int, site: str, half: UpperHalf) -> bool:
    whole = _answers(SteeredModel(lm, layer, len(_SHORT_TEXTS), site))
    try:
        alone = _answers(SteeredModel(lm, layer, len(_SHORT_TEXTS), site, upper=half))
    except Exception as error:  # whatever later blocks may raise without the others: the whole model is run then
        _LOG.info("%s runs whole: its blocks above the site fail alone (%s)", type(lm).__name__, error)
        return False
    largest = float((whole - alone).abs().max() / whole.abs().max())
    same = largest <= _ROUNDING.get(str(lm.dtype).removeprefix("torch."), 0.0)
    if not same:
        _LOG.info("%s runs whole: its blocks above the site differ alone by %.1e", type(lm).__name__, largest)
    return same


def _answers(model: SteeredModel) -> Tensor:
    """``[2 B, V]`` logits behind short texts, unsteered and steered."""
    logits = []
    for strength in (0.0, 0.5):
        for lane, tokens in enumerate(_SHORT_TEXTS):
            model.restart(lane, tokens, once=True)
        logits.append(model.advance(strength * model.observe().roll(1, dims=1)))
    return torch.cat(logits)


def _finite(rows: Tensor, what: str, advice: str = "") -> Tensor:
    if not bool(torch.isfinite(rows).all()):
        lane = int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])
        raise SteeringError(f"the {what} of lane {lane} is not finite{advice}")
    return rows
