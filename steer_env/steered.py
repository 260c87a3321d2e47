"""A language model that is steered while it generates: what a run has learned, or one feature, in ``generate``.

The policy chooses inside the pass, at the last token of each, so that Transformers' own ``generate`` does all the rest:
sampling, streaming, stopping, batches of prompts of different lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from steer_env.envs.actions import FeatureChoice, chosen_features
from steer_env.envs.observations import Seen, Source, make_observation
from steer_env.errors import SteeringError
from steer_env.evaluation.controls import CONTROLS, Setting, fixed
from steer_env.evaluation.play import Policy
from steer_env.lazy import torch
from steer_env.lm.anatomy import find_block
from steer_env.lm.labels import feature_labels
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer
from steer_env.lm.passes import edited_passes, steered_last
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.tokenizer import Tokenizer, end_tokens
from steer_env.steering import LanesInPass, Steering

if TYPE_CHECKING:
    from torch import Tensor

    from steer_env.envs.base import SteerBase

Chat: TypeAlias = Sequence[Mapping[str, str]]
Prompts: TypeAlias = "str | Chat | Sequence[str] | Sequence[Chat] | Tensor"
_OF_A_TEXT = ("normalized", "prompted", "residual", "features")
_NO_TASK: Any = SimpleNamespace(name="a text", state_shape=(0,), state_levels=1, max_new_tokens=0)
_REFUSED: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "use_cache": (None, True),
    "assistant_model": (None,),
    "prompt_lookup_num_tokens": (None,),
    "prefill_chunk_size": (None,),
}
"""Arguments of ``generate`` that would read a token twice, or several at once, and the values that are fine."""


@dataclass
class Generation:
    """What was generated.

    Attributes:
        texts: What was written behind each prompt, up to a stop string.
        sequences: ``[B, T]`` tokens of prompts and replies, as Transformers' ``generate`` returns them.
        interventions: A row a token of each reply: ``step``, ``token``, ``token_text``, ``feature`` (-1 for none) or
            ``strengths``, ``label``, ``coefficient``, and what the policy says of its choice: ``probability``,
            ``value``, ``entropy``.
    """

    texts: list[str]
    sequences: Tensor
    interventions: list[list[dict[str, Any]]]


class SteeredLM:
    """A frozen causal LM with a policy that pushes SAE features as it writes.

    >>> from steer_env import SteeredLM, fixed
    >>> steered = SteeredLM("gpt2", "gpt2-small-res-jb:blocks.8.hook_resid_pre", fixed(12082), coefficient=40)
    >>> steered.generate("I think that")  # doctest: +SKIP
    >>> with steered:  # the model itself, in whatever calls it, a pipeline for example
    ...     steered.lm.generate(ids)  # doctest: +SKIP

    Args:
        lm: A model that was loaded, or what :func:`load_language_model` takes.
        sae: An SAE that was loaded, or what :func:`load_sae` takes.
        policy: What chooses: ``fixed(feature)``, an agent's (``agents.load_run(...).steered()`` is shorter), or any
            function of observations and lanes (:class:`Policy`).
        coefficient: How much of a feature's decoder direction is added, in residual units.
        layer: Block; by default the SAE's own.
        site: ``"post"`` or ``"pre"`` of that block; by default the SAE's own.
        features: Those to choose from, by default all: actions are their places, and the last does nothing.
        observation: What the policy sees: one of ``OBSERVATIONS`` that needs no task and no statistics of one.
        tokenizer: Of a model that was loaded, Hugging Face's; by default the one of that name.
        chat: Put prompts into the chat template.
        labels: Where names of features come from (:func:`steer_env.lm.labels.read_labels`).

    Raises:
        SteeringError: The model and the SAE do not fit, or an argument cannot be used (it is named).
    """

    def __init__(
        self,
        lm: Any,
        sae: FeatureDictionary | str,
        policy: Policy,
        *,
        coefficient: float,
        layer: int | None = None,
        site: str | None = None,
        features: Sequence[int] | None = None,
        observation: str = "normalized",
        tokenizer: Any = None,
        chat: bool = False,
        labels: str | None = None,
    ) -> None:
        self.lm = load_language_model(lm) if isinstance(lm, str) else lm
        device = str(self.lm.device)
        dictionary = load_sae(sae, device) if isinstance(sae, str) else sae
        dictionary.check_fits(self.lm.config.get_text_config().hidden_size)
        hf = tokenizer or load_tokenizer(self.lm.name_or_path).hf
        self.tokenizer = Tokenizer(hf, chat)
        block = dictionary.layer if layer is None else layer
        if block is None:
            raise SteeringError(f"SAE {dictionary.name!r} does not say which block it was trained on: give layer=")
        self.layer, self.site = block, (dictionary.site or "post") if site is None else site
        if observation not in _OF_A_TEXT:
            raise SteeringError(f"observation must be one of {', '.join(_OF_A_TEXT)}, got {observation!r}")
        if not np.isfinite(coefficient):
            raise SteeringError(f"coefficient must be finite, got {coefficient}")
        dictionary.warn_if_elsewhere(self.layer, self.site)
        chosen = chosen_features(features, dictionary.width)
        self.steering = Steering(
            dictionary,
            make_observation(observation, Source(dictionary, _NO_TASK)),
            FeatureChoice(dictionary.directions, chosen, float(coefficient)),
            policy,
        )
        self.labels = labels
        self.max_new_tokens = 64
        self.stop: tuple[str, ...] = ()
        self._begin()

    @classmethod
    def from_pretrained(cls, name: str, **overrides: Any) -> SteeredLM:
        """The model as a run learned to steer it; nothing that is loaded runs code of whoever made it.

        Args:
            name: Folder of the run, or hub id of a shared one, ``owner/name``.
            overrides: Arguments of the environment in place of the training's, such as ``model=`` where the same
                language model is in another place here.

        Raises:
            FileNotFoundError: There is no such run, or its training has not finished.
            RuntimeError: The language model or what actions mean is not as in training.
            SteeringError: The agent sees what a text alone does not have, such as a board.
        """
        # What runs are is the business of the package on top of this one, which is there wherever this one is.
        run = import_module("agents").load_run(name)
        steered: SteeredLM = run.steered(**overrides)
        return steered

    @classmethod
    def of(cls, envs: Any, policy: Policy) -> SteeredLM:
        """The model of an environment, steered as there: the same site, strength, observation and active features.

        Replies are at most as long, and stop, as the task's.

        Args:
            envs: What ``gym.make`` or ``gym.make_vec`` returned.
            policy: What chooses there.

        Raises:
            SteeringError: The policy sees what a text alone does not have, such as a board, or its mask counts features
                of the whole prompt.
        """
        from steer_env.envs.base import unwrap

        inner: SteerBase = unwrap(envs)
        scene = inner.episode.scene
        if scene.mask == "all":
            raise SteeringError("mask='all' looks at every token of a prompt, which generate does not show")
        one = scene.dictionary.directions[:1]
        shown = scene.observation.read(Seen(one, one, ()))
        if isinstance(shown, dict) or len(shown) != 1:
            raise SteeringError(f"what the policy sees in task {scene.task.name!r} is not in a text alone")
        steered = cls.__new__(cls)
        steered.lm, steered.tokenizer, steered.labels = inner.lm, scene.tokenizer, scene.labels
        steered.layer, steered.site = inner.layer, inner.site
        steered.steering = Steering(scene.dictionary, scene.observation, scene.actuator, policy, scene.mask)
        steered.max_new_tokens, steered.stop = scene.task.max_new_tokens, tuple(scene.task.stop)
        steered._begin()
        return steered

    def _begin(self) -> None:
        self._block = find_block(self.lm, self.layer, self.site)
        self._lanes = LanesInPass(self.steering)
        self._within = ExitStack()
        self._depth = 0

    def __enter__(self) -> SteeredLM:
        if self._depth == 0:
            self._within.enter_context(edited_passes(self.lm, self._block, self.site, self._edit))
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._within.close()

    def _edit(self, hidden: Tensor, fresh: bool) -> Tensor:
        return steered_last(hidden, self._lanes.delta(hidden[:, -1].float(), fresh))

    def generate(
        self,
        inputs: Prompts,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        streamer: Any = None,
        return_dict_in_generate: bool = False,
        **settings: Any,
    ) -> Any:
        """Write behind prompts, steered at every token.

        Args:
            inputs: A prompt, a chat (a list of messages), several of either, or ``input_ids [B, T]`` padded on the
                left, with ``attention_mask=``.
            max_new_tokens: Tokens at most; by default 64, or the task's.
            do_sample: Draw tokens rather than take the likeliest.
            temperature: Of drawing.
            top_p: Draw among the likeliest tokens of this total probability.
            seed: Of drawing; the global generator stays as it is.
            stop: Strings at which a text ends, which are left out of it.
            streamer: Of Transformers, for one prompt.
            return_dict_in_generate: Return a :class:`Generation`, with what was done at every token.
            settings: Other arguments of Transformers' ``generate``.

        Returns:
            A text for a prompt or a chat, a list of texts for several, ``sequences [B, T]`` for ``input_ids``; or the
            :class:`Generation`.

        Raises:
            SteeringError: A setting would read tokens twice or several at once, such as ``num_beams`` (it is named).
        """
        require_one_by_one(self.lm, settings)
        one = isinstance(inputs, str) or _is_chat(inputs)
        ids, attention = self._read(inputs, settings.pop("attention_mask", None))
        ends = sorted(end_tokens(self.lm, self.tokenizer))
        stops = [stop] if isinstance(stop, str) else list(self.stop if stop is None else stop)
        longest = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        chosen: dict[str, Any] = {"max_new_tokens": longest, "do_sample": do_sample}
        if do_sample:
            chosen |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
        if stops:
            own = self._stopping(ids.shape[1], stops)
            chosen |= {"stopping_criteria": [*settings.pop("stopping_criteria", ()), own]}
        if ends:
            chosen |= {"eos_token_id": ends}
        pad = self.tokenizer.hf.pad_token_id
        chosen |= {"pad_token_id": pad if pad is not None else (ends or [0])[0], "streamer": streamer}
        steps: list[dict[str, Any]] = []
        with self, self._lanes.recording(steps), _drawing(seed):
            sequences = self.lm.generate(ids, attention_mask=attention, **{**chosen, **settings})
        if not return_dict_in_generate and isinstance(inputs, torch.Tensor):
            return sequences
        replies = [self._until(row, ends, stops) for row in sequences[:, ids.shape[1] :].tolist()]
        texts = [_cut(self.tokenizer.decode(*reply), stops) for reply in replies]
        if not return_dict_in_generate:
            return texts[0] if one and len(texts) == 1 else texts
        return Generation(texts, sequences, self._interventions(replies, steps))

    def logits(self, ids: Tensor, begins: Sequence[int]) -> Tensor:
        """What the steered model makes of texts that are there, in one forward pass.

        Steering acts above the site and a policy looks below it: what it sees of a token is the same whatever was done
        at earlier ones. A text that is read at once is therefore steered as one that is written token by token.

        Args:
            ids: ``[B, T]`` texts, padded on the right.
            begins: ``[B]`` places in ``[0, T)``: the token there and all that follow are steered.

        Returns:
            ``[B, T, V]`` logits of what follows each token.

        Raises:
            SteeringError: A place is outside of the text, or a ``with`` block steers the model already.
        """
        if self._depth:
            raise SteeringError("texts are read outside of a with block, which would steer them twice")
        length = ids.shape[1]
        for begin in begins:
            if not 0 <= begin < length:
                raise SteeringError(f"begins must be in [0, {length}), got {begin}")
        lanes, first = torch.arange(len(ids), device=ids.device), torch.tensor(begins, device=ids.device)

        def steer(hidden: Tensor, fresh: bool) -> Tensor:
            steered = hidden.clone()
            for step in range(length - min(begins)):
                places = (first + step).clamp(max=length - 1)
                delta = self._lanes.delta(hidden[lanes, places].float(), step == 0)
                inside = first + step < length
                steered[lanes[inside], places[inside]] += delta[inside].to(hidden)
            return steered

        with torch.no_grad(), edited_passes(self.lm, self._block, self.site, steer):
            found: Tensor = self.lm(ids).logits
        return found

    def _read(self, inputs: Prompts, attention: Tensor | None) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask`` ``[B, T]``, padded on the left."""
        device = self.lm.device
        if isinstance(inputs, torch.Tensor):
            ids = inputs.to(device)
            return ids, torch.ones_like(ids) if attention is None else attention.to(device)
        listed: Any = [inputs] if isinstance(inputs, str) or _is_chat(inputs) else list(inputs)
        if not listed:
            raise SteeringError("there is no prompt to write behind")
        heads = [self._tokens(prompt) for prompt in listed]
        width = max(map(len, heads))
        ids = torch.tensor([[0] * (width - len(head)) + list(head) for head in heads], device=device)
        real = [[0] * (width - len(head)) + [1] * len(head) for head in heads]
        return ids, torch.tensor(real, device=device)

    def _tokens(self, prompt: str | Chat) -> Sequence[int]:
        if isinstance(prompt, str):
            return self.tokenizer.prompt(prompt)
        text = self.tokenizer.hf.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        found: list[int] = self.tokenizer.hf(text, add_special_tokens=False)["input_ids"]
        return found

    def _stopping(self, length: int, stops: Sequence[str]) -> Any:
        """Whether each text behind its first ``length`` tokens holds a stop string, as the environment looks for it."""

        def stopped(sequences: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            texts = [self.tokenizer.decode(*reply) for reply in sequences[:, length:].tolist()]
            return torch.tensor([any(stop in text for stop in stops) for text in texts], device=sequences.device)

        return stopped

    def _until(self, reply: list[int], ends: Sequence[int], stops: Sequence[str]) -> list[int]:
        """The tokens up to the one that ends the turn, or completes a stop string, and that; padding follows it."""
        for place, token in enumerate(reply):
            so_far = self.tokenizer.decode(*reply[: place + 1]) if stops else ""
            if token in ends or any(stop in so_far for stop in stops):
                return reply[: place + 1]
        return reply

    def _interventions(
        self, replies: Sequence[Sequence[int]], steps: Sequence[Mapping[str, Any]]
    ) -> list[list[dict[str, Any]]]:
        used = sorted({int(f) for step in steps for f in step.get("feature", ()) if f >= 0})
        names = feature_labels(self.labels, self.lm, self.tokenizer, self.steering.dictionary.directions, used)
        labels = dict(zip(used, names, strict=True))
        rows: list[list[dict[str, Any]]] = []
        for lane, reply in enumerate(replies):
            rows.append([])
            for step, token in enumerate(reply[: len(steps)]):
                row: dict[str, Any] = {"step": step, "token": token, "token_text": self.tokenizer.decode(token)}
                row |= {name: _plain(values[lane]) for name, values in steps[step].items()}
                row |= {"label": labels.get(row.get("feature", -1)), "coefficient": self.steering.actuator.coefficient}
                rows[-1].append(row)
        return rows


def steer(lm: Any, sae: FeatureDictionary | str, policy: Policy | int, **settings: Any) -> SteeredLM:
    """Steer a model in a ``with`` block, whoever calls it there; no hook is left behind.

    >>> with steer(lm, sae, 12082, coefficient=40):  # doctest: +SKIP
    ...     pipeline("text-generation", model=lm, tokenizer=tokenizer)("I think that")

    Args:
        lm: As :class:`SteeredLM` takes it.
        sae: As there.
        policy: As there, or the index of one feature.
        settings: Its other arguments.
    """
    return SteeredLM(lm, sae, fixed(policy) if isinstance(policy, int) else policy, **settings)


def require_one_by_one(lm: Any, settings: Mapping[str, Any]) -> None:
    """Refuse settings of ``lm.generate`` that would read a token twice, or several at once.

    Raises:
        SteeringError: There is one (it is named).
    """
    usual = settings.get("generation_config") or lm.generation_config
    for name, fine in _REFUSED.items():
        asked = settings.get(name, getattr(usual, name, None))
        if asked not in fine:
            raise SteeringError(f"{name}={asked!r} does not go with steering token by token")


def unsteered() -> Policy:
    """The policy that does nothing."""
    return CONTROLS["unsteered"](Setting())


def _is_chat(inputs: Any) -> bool:
    return (
        isinstance(inputs, Sequence) and not isinstance(inputs, str) and bool(inputs) and isinstance(inputs[0], Mapping)
    )


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


@contextmanager
def _drawing(seed: int | None) -> Iterator[None]:
    """PyTorch's generators seeded, and as they were afterwards; None leaves them alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
