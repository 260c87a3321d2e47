"""What kind of feature each feature is: computed from where it is active over a task's texts, not judged by eye.

Texts are prompts with what the model alone writes behind them; residuals are read over the whole text but its first
position, an attention sink. Of every feature (:func:`describe`):

* ``kind_shares``: of its ``TOP`` strongest tokens (of those where it is active) the share of each of
  :data:`agents.analysis.token_kinds.KINDS`;
* ``kind``: the kind of at least half of them, else ``"mixed"``; ``"silent"`` where it is never active;
* ``activity``: the share of tokens where it is active;
* ``information``: what its activity tells, in bits (:func:`information`). Activity has three levels:
  none, and below or above the median of what it is where there is any. ``position``: the token's place in its text, in
  ``BINS`` bins of about as many tokens each; chance is each text turned round. Each name of the item's topics (such as
  ``subject``, or the right answer, ``target``): the topic against the feature's strongest activity in the text; chance
  is topics shuffled over items. Each has ``bits`` (plug-in less its mean over shuffles), ``entropy`` of the activity,
  which is the most it could be, and ``p`` (one-sided, over the same shuffles).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from agents.analysis.token_kinds import KINDS, token_kinds
from steer_env.envs.base import unwrap
from steer_env.envs.vector_env import SteerVectorEnv
from steer_env.evaluation.controls import Setting, unsteered
from steer_env.evaluation.linear_probe import topics_of
from steer_env.evaluation.play import play
from steer_env.lm.text_residuals import Place, in_groups, padded
from steer_env.tasks import Task, Turn

Array = npt.NDArray[Any]
Shuffle = Callable[[np.random.Generator], Array]
TEXTS = 256
TOP = 50
BINS = 8
ROWS = 16
SHUFFLES = 100


@dataclass(frozen=True)
class TaskTexts:
    """What is read.

    Attributes:
        rows: Tokens of each text.
        kinds: Of each token.
        topics: By name, what each text is about.
    """

    rows: list[list[int]]
    kinds: list[list[str]]
    topics: Mapping[str, Sequence[str]]

    def token_shares(self) -> dict[str, float]:
        """The share of each kind among the tokens that are read: what a feature would show that fires anywhere."""
        counts = Counter(kind for own in self.kinds for kind in own[1:])
        return {kind: counts[kind] / counts.total() for kind in KINDS}


def read_texts(envs: Any, items: Sequence[int], seed: int = 0) -> TaskTexts:
    """Let the model write unsteered behind the prompts of ``items``.

    Args:
        envs: Where the items are; reset them before they are used again.
        items: Of their split.
        seed: Of sampled decoding.

    Raises:
        ValueError: There are no items.
    """
    tokenizer, heard = unwrap(envs).tokenizer, _Heard(unwrap(envs).task)
    # Without a mask of its own: it would watch the model in the place of that of ``envs``.
    listening = SteerVectorEnv(replace(unwrap(envs).episode.scene, task=cast(Task, heard), mask="off", compare=False))
    finals = play(listening, unsteered(Setting()), items, seed, tokens=False).episodes
    texts = [heard.texts[item] for item in items]
    prompts = [tokenizer.prompt(opening) for opening, _ in texts]
    rows = [[*prompt, *tokenizer.encode(rest)] for prompt, (_, rest) in zip(prompts, texts, strict=True)]
    return TaskTexts(rows, token_kinds(rows, [len(prompt) for prompt in prompts], tokenizer), topics_of(finals))


class _Heard:
    """A task whose conversations are written down as the model reads them: prompt, and what comes behind it."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.texts: dict[int, tuple[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __len__(self) -> int:
        return len(self._task)

    def start(self, item: int) -> Any:
        talk, said = self._task.start(item), []
        opening, answer = talk.opening, talk.respond

        def respond(utterance: str) -> Turn:
            turn: Turn = answer(utterance)
            said.append((utterance if turn.replace is None else turn.replace) + turn.text)
            if turn.score is not None:
                self.texts[item] = opening, "".join(said)
            return turn

        talk.respond = respond
        return talk


def feature_kinds(envs: Any, texts: TaskTexts, features: Sequence[int], seed: int = 0) -> dict[int, dict[str, Any]]:
    """What kind each of ``features`` is, by SAE index."""
    rows = describe(activations(envs, texts.rows, features), texts, seed) if len(features) else []
    return dict(zip(map(int, features), rows, strict=True))


def activations(envs: Any, rows: Sequence[list[int]], features: Sequence[int]) -> Array:
    """``[n, f]`` of ``features`` at the steering site, for all tokens of all texts but the first of each."""
    parts, chosen = unwrap(envs), torch.as_tensor(features)
    place = Place(parts.lm, parts.layer, parts.site, ROWS)
    groups = (padded(group, skip_first=True) for group in in_groups(rows, ROWS))
    residuals = (residual for group in groups for residual in place.read(*group))
    encoded = (parts.sae.encode(residual).cpu()[:, chosen] for residual in residuals)
    return torch.cat(list(encoded)).numpy()


def describe(active: Array, texts: TaskTexts, seed: int = 0) -> list[dict[str, Any]]:
    """The record of each feature.

    Args:
        active: ``[n, F]`` activations, of all tokens but each text's first.
        texts: The texts.
        seed: Of the shuffles.

    Raises:
        ValueError: There are not as many activations as tokens.
    """
    lengths = np.array([len(row) - 1 for row in texts.rows])
    if len(active) != lengths.sum():
        raise ValueError(f"the texts have {lengths.sum()} tokens behind their first ones, got {len(active)} rows")
    kinds = np.array([KINDS.index(kind) for own in texts.kinds for kind in own[1:]])
    places = np.concatenate([np.arange(length) for length in lengths])
    bins = _bins(places)
    told = {"position": _told(active, bins, along_each(bins, lengths), seed)}
    strongest = _by_text(active, lengths)
    for name, topics in texts.topics.items():
        labels = np.unique(topics, return_inverse=True)[1]
        told[name] = _told(strongest, labels, among_all(labels), seed)
    return [
        {
            **kind_of(active[:, feature], kinds),
            "activity": float((active[:, feature] > 0).mean()),
            "information": {
                name: {key: float(values[feature]) for key, values in vars(found).items()}
                for name, found in told.items()
            },
        }
        for feature in range(active.shape[1])
    ]


def kind_of(active: Array, kinds: Array) -> dict[str, Any]:
    """``kind`` and ``kind_shares`` of a feature.

    Args:
        active: ``[n]`` activations.
        kinds: ``[n]`` places in ``KINDS``.
    """
    strongest = np.argsort(-active, kind="stable")[:TOP]
    strongest = strongest[active[strongest] > 0]
    if len(strongest) == 0:
        return {"kind": "silent", "kind_shares": None}
    shares = np.bincount(kinds[strongest], minlength=len(KINDS)) / len(strongest)
    first = int(shares.argmax())
    return {
        "kind": KINDS[first] if shares[first] >= 0.5 else "mixed",
        "kind_shares": dict(zip(KINDS, shares.tolist(), strict=True)),
    }


def levels(active: Array) -> Array:
    """``[n, F]`` 0 for none, 1 up to the median of what is above 0, 2 above it."""
    positive = np.where(active > 0, active, np.nan)
    silent = ~(active > 0).any(axis=0)
    positive[:, silent] = 0.0  # a median of nothing is a warning
    median = np.nanmedian(positive, axis=0)
    found: Array = (active > 0).astype(np.int64) + (active > np.where(silent, np.inf, median))
    return found


def _told(active: Array, labels: Array, shuffled: Shuffle, seed: int) -> Information:
    return information(levels(active), labels, shuffled, seed)


def _by_text(active: Array, lengths: Array) -> Array:
    """``[texts, F]`` the strongest activity in each; none in a text of one token."""
    strongest = np.zeros((len(lengths), active.shape[1]), dtype=active.dtype)
    np.maximum.at(strongest, np.repeat(np.arange(len(lengths)), lengths), active)
    return strongest


def _bins(places: Array) -> Array:
    """Bins ``[n]`` of about as many places each, fewer where many are alike."""
    edges = np.quantile(places, np.arange(1, BINS) / BINS)
    found: Array = np.unique(np.searchsorted(edges, places, side="left"), return_inverse=True)[1]
    return found


@dataclass(frozen=True)
class Information:
    """What a variable tells of each of ``F`` others.

    Attributes:
        bits: ``[F]`` mutual information, plug-in less its mean over shuffles.
        entropy: ``[F]`` bits, plug-in: what there was to tell.
        p: ``[F]`` share of shuffles (and the data themselves) whose plug-in estimate is as large, one-sided.
    """

    bits: Array
    entropy: Array
    p: Array


def information(levels: Array, labels: Array, shuffled: Shuffle, seed: int, shuffles: int = SHUFFLES) -> Information:
    """Mutual information of labels with each column of levels.

    Args:
        levels: ``[n, F]`` integers from 0, few of them.
        labels: ``[n]`` integers from 0.
        shuffled: Draws labels ``[n]`` as they could be if they told nothing.
        seed: Of the shuffles.
        shuffles: How many.

    Raises:
        ValueError: There are no samples, their numbers differ, or there are fewer than one shuffle.
    """
    if len(levels) == 0 or len(levels) != len(labels):
        raise ValueError(f"levels and labels must be of the same samples, got {len(levels)} and {len(labels)}")
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}")
    places = [(levels == level).astype(np.float32) for level in range(int(levels.max()) + 1)]
    found, rng = _plug_in(places, labels), np.random.default_rng(seed)
    by_chance = np.stack([_plug_in(places, shuffled(rng)) for _ in range(shuffles)])
    shares = np.stack([place.mean(axis=0) for place in places])
    # Sums in another order may differ in the last digits.
    as_large = (by_chance >= found - 1e-9).sum(axis=0)
    return Information(found - by_chance.mean(axis=0), _entropy(shares), (1 + as_large) / (1 + shuffles))


def among_all(labels: Array) -> Shuffle:
    """Shuffles of labels over all samples, for samples that do not hang together."""
    return lambda rng: rng.permutation(labels)


def along_each(labels: Array, lengths: Array) -> Shuffle:
    """Shuffles of labels of sequences laid end to end: each turned round by a random number of places of its own.

    What follows what in a sequence stays as it is, so that runs of neighbours alike are no evidence.

    Args:
        labels: ``[n]``.
        lengths: Of the sequences; their sum is ``n``.
    """
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    own = np.repeat(lengths, lengths)
    places = np.arange(len(labels)) - starts

    def shuffled(rng: np.random.Generator) -> Array:
        turns = np.repeat(rng.integers(0, np.maximum(lengths, 1)), lengths)
        turned: Array = labels[starts + (places + turns) % own]
        return turned

    return shuffled


def _plug_in(places: list[Array], labels: Array) -> Array:
    """``[F]`` bits from the shares of the table of levels and labels."""
    rows = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels].T
    joint = np.stack([rows @ place for place in places]).astype(np.float64) / len(labels)
    level, label = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    ratio = np.divide(joint, level * label, out=np.ones_like(joint), where=joint > 0)
    bits: Array = (joint * np.log2(ratio)).sum(axis=(0, 1))
    return bits


def _entropy(shares: Array) -> Array:
    """``[F]`` bits of distributions ``[levels, F]``."""
    logs = np.log2(shares, out=np.zeros(shares.shape), where=shares > 0)
    bits: Array = np.abs((shares * logs).sum(axis=0))
    return bits
