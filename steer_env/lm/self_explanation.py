"""Feature labels by self-explanation: a direction stands in a word's place, and the model says what the word means.

SelfIE (Chen, Vondrick and Mao 2024, arXiv 2403.10949); for the directions of an SAE "Self-explaining SAE features"
(Kharlapenko, neverix, Nanda and Conmy 2024), whose public code divides its cosine by a norm over the whole batch. Here
every row has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from steer_env.errors import SteeringError
from steer_env.lazy import torch
from steer_env.lm.anatomy import find_block, forward_options
from steer_env.lm.passes import hooked_pass
from steer_env.lm.tokenizer import Tokenizer, end_tokens

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Question:
    """What the model reads.

    Attributes:
        tokens: The whole prompt.
        places: Where in it the placeholder stands.
        stops: Texts that end an answer.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    stops: tuple[str, ...] = ()

    @property
    def judges(self) -> bool:
        """Whether self-similarity tells anything: not where the last token is the placeholder, and so the direction."""
        return self.places[-1] < len(self.tokens) - 1


class Depths(NamedTuple):
    """Where a direction goes in, and where it is looked for.

    Attributes:
        early: Block whose input is replaced at the placeholders.
        late: Block whose output is compared with the direction.
    """

    early: int
    late: int


class Limits(NamedTuple):
    """How much is computed.

    Attributes:
        tokens: Of an answer, at most; 0 asks for none.
        lanes: Of one forward pass, at most.
    """

    tokens: int = 24
    lanes: int = 512


class Chance(NamedTuple):
    """Random directions to compare features with: Gaussian, uniform on the sphere.

    Attributes:
        draws: How many.
        seed: Of their draw.
        quantile: Share of them that stays below the threshold.
    """

    draws: int = 64
    seed: int = 0
    quantile: float = 0.95


@dataclass(frozen=True)
class Trials:
    """What came of ``n`` directions at ``S`` scales.

    Attributes:
        cosines: ``[n, S]`` of the late residual of the prompt's last token with the direction.
        baselines: ``[n]`` the same with zeros at the placeholders.
        entropies: ``[n, S]`` of the answer's first token, in nats.
        answers: ``n`` lists of ``S`` texts.
    """

    cosines: Tensor
    baselines: Tensor
    entropies: Tensor
    answers: list[list[str]]

    @property
    def similarities(self) -> Tensor:
        """``[n]`` self-similarity: the largest cosine over the scales, less the one that zeros have."""
        return self.cosines.amax(dim=1) - self.baselines


def default_depths(lm: Any) -> Depths:
    """Input of block 2 and output of block 16 of 18, as the public code has it for Gemma 2B, or what is as far up."""
    blocks = lm.config.get_text_config().num_hidden_layers
    early = max(1, round(blocks / 9))
    return Depths(early, max(early, blocks - 2))


def ask(tokenizer: Tokenizer, text: str, begin: str, placeholder: str, stops: Sequence[str] = ()) -> Question:
    """Find the placeholders of a prompt.

    Args:
        tokenizer: The model's tokenizer.
        text: The prompt; with a chat template, what the user says.
        begin: How the model's answer begins.
        placeholder: The word whose residual is replaced, wherever it stands in either.
        stops: Texts that end an answer.

    Raises:
        SteeringError: The placeholder is nowhere, or no token of its own where it stands.
    """
    tokens = tokenizer.prompt(text) + tokenizer.encode(begin) if tokenizer.chat else tokenizer.prompt(text + begin)
    places = tuple(place for place, token in enumerate(tokens) if tokenizer.decode(token).strip() == placeholder)
    wanted = (text + begin).count(placeholder)
    if not places or len(places) != wanted:
        raise SteeringError(
            f"placeholder {placeholder!r} is {wanted} times in the prompt and {len(places)} times a token of its own: "
            f"choose another word or another prompt ({text + begin!r})"
        )
    return Question(tokens, places, tuple(stops))


def residual_norm(lm: Any, question: Question, depths: Depths) -> float:
    """Mean norm of the residuals that are to be replaced, as the placeholder's own word makes them."""
    seen: list[Tensor] = []
    ids = torch.tensor([question.tokens], device=lm.device)
    _forward(lm, ids, depths, lambda hidden: seen.append(hidden[0, list(question.places)]), lambda hidden: None)
    return float(seen[0].float().norm(dim=-1).mean())


def explain(
    lm: Any, tokenizer: Tokenizer, question: Question, depths: Depths, rows: Tensor, scales: Tensor, limits: Limits
) -> Trials:
    """Ask about every direction at every scale; all are lanes of one batch, and each is what it would be alone.

    Args:
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        question: The prompt.
        depths: Where the directions go in, and where they are looked for.
        rows: ``[n, M]`` directions, of any length above zero.
        scales: ``[S]`` lengths that they are given, in residual units.
        limits: Of the answers and of a forward pass.

    Raises:
        SteeringError: A depth is out of range, or prompt and answer do not fit into the model's context.
    """
    if depths.early > depths.late:
        raise SteeringError(f"a direction put in at block {depths.early} cannot be seen at block {depths.late} below")
    context = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and len(question.tokens) + limits.tokens > context:
        raise SteeringError(
            f"a prompt of {len(question.tokens)} tokens and an answer of {limits.tokens} do not fit into the model's "
            f"context of {context}"
        )
    units = torch.nn.functional.normalize(rows.float(), dim=1).to(lm.device)
    vectors = (units[:, None] * scales.to(units)[:, None]).flatten(0, 1)
    heard = [_listen(lm, tokenizer, question, depths, part, limits.tokens) for part in vectors.split(limits.lanes)]
    zeros = _listen(lm, tokenizer, question, depths, torch.zeros_like(units[:1]), 0)
    grid = (len(units), len(scales))
    late = torch.cat([part.late for part in heard]).unflatten(0, grid)
    answers = iter([answer for part in heard for answer in part.answers])
    return Trials(
        cosines=torch.cosine_similarity(late, units[:, None], dim=-1),
        baselines=torch.cosine_similarity(zeros.late, units, dim=-1),
        entropies=torch.cat([part.entropies for part in heard]).unflatten(0, grid),
        answers=[[next(answers) for _ in scales] for _ in units],
    )


def chosen_scales(trials: Trials, weight: float) -> Tensor:
    """The scale of each direction, by its index ``[n]``.

    That of the largest ``weight * cosine - (1 - weight) * entropy``, both stretched to 0 to 1 over the direction's
    scales; of several the smallest. The rule is the public tool's, which has in the entropy's place a cross-entropy
    against the answer to the mean embedding.

    Args:
        trials: Of ascending scales.
        weight: In ``[0, 1]``.
    """
    return (weight * _stretched(trials.cosines) - (1 - weight) * _stretched(trials.entropies)).argmax(dim=1)


def random_similarity(
    lm: Any, tokenizer: Tokenizer, question: Question, depths: Depths, scales: Tensor, chance: Chance, lanes: int
) -> float:
    """The self-similarity that only so many random directions exceed: what does not has failed to explain itself.

    The public code's threshold, 0.01 of its own cosine, holds for one model and one batch size; this one is measured.

    Args:
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        question: The prompt.
        depths: Where the directions go in, and where they are looked for.
        scales: ``[S]`` as for the features.
        chance: How many directions, and which of them.
        lanes: Of one forward pass, at most.
    """
    width = lm.config.get_text_config().hidden_size
    rows = torch.randn(chance.draws, width, generator=torch.Generator().manual_seed(chance.seed))
    similarities = explain(lm, tokenizer, question, depths, rows, scales, Limits(0, lanes)).similarities
    return float(similarities.quantile(chance.quantile))


def _stretched(rows: Tensor) -> Tensor:
    low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    return (rows - low) / (high - low).clamp(min=torch.finfo(rows.dtype).tiny)


class _Heard(NamedTuple):
    """Of ``b`` lanes late residuals ``[b, M]``, entropies ``[b]`` and answers."""

    late: Tensor
    entropies: Tensor
    answers: list[str]


def _listen(lm: Any, tokenizer: Tokenizer, question: Question, depths: Depths, vectors: Tensor, tokens: int) -> _Heard:
    """Read the prompt with ``vectors [b, M]`` at its placeholders, and answer."""
    late: list[Tensor] = []

    def replace(hidden: Tensor) -> Tensor:
        edited = hidden.clone()
        edited[:, list(question.places)] = vectors[:, None].to(hidden)
        return edited

    ids = torch.tensor([question.tokens], device=lm.device).expand(len(vectors), -1)
    output = _forward(lm, ids, depths, replace, lambda hidden: late.append(hidden[:, -1].float()))
    logits = output.logits[:, -1].float()
    entropies = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)
    said = _greedy(lm, logits, output.past_key_values, tokens, end_tokens(lm, tokenizer)) if tokens else [[]] * len(ids)
    return _Heard(late[0], entropies, [_answer(tokenizer, row, question.stops) for row in said])


def _forward(lm: Any, ids: Tensor, depths: Depths, edit: Callable[[Tensor], Any], read: Callable[[Tensor], Any]) -> Any:
    """One pass over prompts ``[b, Q]``: ``edit`` may replace the early residual ``[b, Q, M]``, ``read`` sees one."""
    early, late = find_block(lm, depths.early, "pre"), find_block(lm, depths.late, "post")

    def watched(**inputs: Any) -> Any:
        return hooked_pass(lm, inputs, late, "post", read)

    inputs = {"input_ids": ids, "use_cache": True, **forward_options(lm)}
    with torch.no_grad():
        return hooked_pass(watched, inputs, early, "pre", edit)


def _greedy(lm: Any, logits: Tensor, past: Any, tokens: int, ends: frozenset[int]) -> list[list[int]]:
    """Tokens of each lane up to its end, after the logits ``[b, V]`` of the prompt."""
    said = [logits.argmax(dim=-1)]
    stops = torch.tensor(sorted(ends), device=logits.device)
    ended = torch.isin(said[0], stops)
    while len(said) < tokens and not bool(ended.all()):
        with torch.no_grad():
            output = lm(input_ids=said[-1][:, None], past_key_values=past, use_cache=True)
        said.append(output.logits[:, -1].argmax(dim=-1))
        ended |= torch.isin(said[-1], stops)
    rows = torch.stack(said, dim=1).tolist()
    return [row[: next((place for place, token in enumerate(row) if token in ends), len(row))] for row in rows]


def _answer(tokenizer: Tokenizer, tokens: Sequence[int], stops: Sequence[str]) -> str:
    text = tokenizer.decode(*tokens)
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))].strip()
