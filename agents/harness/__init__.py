"""A steered model for lm-evaluation-harness, under the name ``steer``: what a run has learned, or one feature.

``import agents.harness`` registers it for ``lm_eval.simple_evaluate(model="steer", ...)``, and ``python -m
agents.harness`` is the command ``lm_eval`` with it. (The harness's own ``steered`` adds fixed vectors at every token.)

What is steered is what the evaluator steers, the tokens that write a reply. Where a task generates, the policy is asked
at the last token of the context and at each that the model writes. Where it compares continuations, each of them is a
text of its own: the policy is asked at the last token of the context before the first is judged, then at each token of
the continuation. (Steer's own tasks ask once and read the rest of an option unsteered; for options of one token, such
as letters, that is the same.) Where whole texts are scored, every token is steered.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from agents.runs.loading import load_run
from steer_env.errors import SteeringError
from steer_env.evaluation.controls import fixed
from steer_env.lm.loading import load_language_model, load_sae, resolve_device
from steer_env.lm.presets import find_preset
from steer_env.lm.sae import FeatureDictionary
from steer_env.steered import SteeredLM, require_one_by_one, unsteered

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils_hf import pad_and_concat
except ImportError as error:
    raise ImportError(f"lm-evaluation-harness is needed: pip install 'steer-env[harness]' ({error})") from error

__all__ = ["SteeredHarnessLM", "steered_model"]

Request = tuple[tuple[str, str], list[int], list[int]]
Text = tuple[tuple[int, ...], int]


@register_model("steer")
class SteeredHarnessLM(HFLM):
    """A steered model that the harness asks as it asks its own ``hf``, and without a policy one that answers as that.

    Args:
        steered: What is asked, if it is made already.
        batch_size: Texts in one forward pass, or ``"auto"``.
        max_batch_size: Of ``"auto"``.
        max_length: Tokens of context and continuation; by default the model's.
        arguments: Those of :func:`steered_model`, in place of ``steered``.

    Raises:
        SteeringError: The arguments do not say what is to be steered (the message names one).
    """

    def __init__(
        self,
        steered: SteeredLM | None = None,
        batch_size: int | str = 1,
        max_batch_size: int = 64,
        max_length: int | None = None,
        **arguments: Any,
    ) -> None:
        self.steered = steered or steered_model(**arguments)
        super().__init__(
            pretrained=self.steered.lm,
            tokenizer=deepcopy(self.steered.tokenizer.hf),  # it is given a token for padding; others share this one
            backend="causal",
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            max_length=max_length,
        )
        self.pretrained = self.steered.lm.name_or_path
        self._arguments = arguments

    def get_model_info(self) -> dict[str, Any]:
        """What the harness records of the model, and where and how hard it is steered."""
        steered, told = self.steered, {name: str(value) for name, value in self._arguments.items()}
        at = {"layer": steered.layer, "site": steered.site, "coefficient": steered.steering.actuator.coefficient}
        return super().get_model_info() | {"steering": told | at}

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """As of ``hf``; warns where prompts go without the template that a policy was trained with."""
        if not chat_template and self.steered.tokenizer.chat:
            warnings.warn("the policy was trained on chats, these are none: give --apply_chat_template", stacklevel=2)
        found: str | None = super().chat_template(chat_template)
        return found

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Sum of log-probabilities, and whether greedy decoding would write it, of each continuation.

        Continuations that differ in their last token alone are judged by one pass.
        """
        asked: dict[Text, list[int]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            window = [*context, *continuation][-self.max_length - 1 : -1]
            asked.setdefault((tuple(window), len(continuation)), []).append(place)
        texts = sorted(asked, key=lambda text: -len(text[0]))
        size = override_bs or (self._detect_batch_size() if self.batch_size == "auto" else self.batch_size)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for begin in tqdm(range(0, len(texts), size), "Running loglikelihood requests", disable=disable_tqdm):
            batch = texts[begin : begin + size]
            for text, logprobs in zip(batch, self._judged(batch), strict=True):
                for place in asked[text]:
                    request, _, continuation = requests[place]
                    found[place] = _answer(logprobs, continuation)
                    if request is not None:
                        self.cache_hook.add_partial("loglikelihood", request, found[place])
        return found

    def _judged(self, texts: Sequence[Text]) -> list[Tensor]:
        """``[n, V]`` log-probabilities at the last ``n`` tokens of each text, which are steered."""
        width = max(len(tokens) for tokens, _ in texts)
        rows = [torch.tensor(tokens, device=self.device) for tokens, _ in texts]
        begins = [len(tokens) - count for tokens, count in texts]
        logits = self.steered.logits(pad_and_concat(width, rows, padding_side="right"), begins)
        spans = zip(logits, begins, texts, strict=True)
        return [row[begin : len(tokens)].log_softmax(dim=-1) for row, begin, (tokens, _) in spans]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **settings: Any) -> Tensor:
        require_one_by_one(self.steered.lm, settings)
        with self.steered:
            written: Tensor = super()._model_generate(context, max_length, stop, **settings)
        return written


def steered_model(
    run: str | None = None,
    preset: str | None = None,
    model: str | None = None,
    sae: str | None = None,
    feature: int | None = None,
    coefficient: float | None = None,
    layer: int | None = None,
    policy: str | None = "steered",
    device: str | None = None,
    dtype: str = "float32",
) -> SteeredLM:
    """The model that ``--model_args`` asks for.

    Args:
        run: Folder of a training run, with which all else but ``policy`` is settled; or
        preset: Row of the preset table, or
        model: Language model, with ``sae``, as :func:`load_language_model` takes it.
        sae: SAE, as :func:`load_sae` takes it; with a preset another than its own.
        feature: The one feature that is added at every token.
        coefficient: How much of its direction, in residual units.
        layer: Block; by default the preset's or the SAE's own.
        policy: ``"none"`` leaves the model as it is.
        device: Where the model is loaded; by default where there is room. A run's is where its settings say.
        dtype: Of the weights.

    Raises:
        SteeringError: Something is missing, is said twice, or cannot be used (it is named).
    """
    if policy not in (None, "none", "steered"):  # the harness reads the word none as None
        raise SteeringError(f"policy must be 'none' or left out, got {policy!r}")
    still = policy != "steered"
    own = {"preset": preset, "model": model, "sae": sae, "feature": feature, "coefficient": coefficient, "layer": layer}
    if run is not None:
        if given := [name for name, value in own.items() if value is not None]:
            raise SteeringError(f"run={run} says what is steered and how: leave out {given[0]}={own[given[0]]}")
        trained = load_run(str(run))
        return SteeredLM.of(trained.envs("train", num_envs=1), unsteered()) if still else trained.steered()
    name, dictionary, where = _located(preset, model, sae, resolve_device(device or "auto"))
    if not still and (missing := [name for name in ("feature", "coefficient") if own[name] is None]):
        raise SteeringError(f"{missing[0]}= is missing; policy=none leaves the model unsteered")
    if layer is not None:
        where["layer"] = layer
    if feature is not None and feature not in range(dictionary.width):
        raise SteeringError(f"feature must be in [0, {dictionary.width}), got {feature!r}")
    chosen = unsteered() if still or feature is None else fixed(feature)
    lm = load_language_model(name, dtype, resolve_device(device or "auto"))
    return SteeredLM(lm, dictionary, chosen, coefficient=float(coefficient or 0), **where)


def _located(
    preset: str | None, model: str | None, sae: str | None, device: str
) -> tuple[str, FeatureDictionary, dict[str, Any]]:
    """The model's name, the SAE, and where it steers if the preset says that."""
    if preset is None:
        if model is None or sae is None:
            raise SteeringError("give run=, preset=, or model= and sae=")
        return model, load_sae(sae, device), {}
    row = find_preset(preset, "")
    return model or row.model, load_sae(sae or row.sae, device), {} if sae else {"layer": row.layer, "site": row.site}


def _answer(logprobs: Tensor, continuation: Sequence[int]) -> tuple[float, bool]:
    tokens = torch.tensor(continuation, device=logprobs.device)
    chosen = logprobs.gather(1, tokens[:, None])
    return float(chosen.sum()), bool((logprobs.argmax(dim=-1) == tokens).all())
