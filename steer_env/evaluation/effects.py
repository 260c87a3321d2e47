"""Which features change what the model says, and a few that together bring about all that any of them does.

Of the thousands of features of an SAE most change nothing at a given strength, and many of the others the same. An
agent that draws among all of them spends its tokens on nothing; it learns fast among a few with different effects. No
reward is read here and nothing is said of which to use when: that is left to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import idle, pushes
from steer_env.evaluation.play import PATIENCE

Words = npt.NDArray[np.object_]
_UNTRIED = np.array(None, dtype=object)


@dataclass(frozen=True)
class Effects:
    """What each feature makes the model say, where its turn begins.

    Attributes:
        words: ``[k, n]`` what the model said next in each state with each feature pushed: an option, or a token; None
            where it was not tried.
        alone: ``[n]`` what it said unsteered.
        tokens: Actions that it took to find out.
    """

    words: Words
    alone: Words
    tokens: int

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """``[k]`` whether a feature changed anything in any state."""
        tried = np.not_equal(self.words, _UNTRIED)
        return np.asarray((tried & (self.words != self.alone)).any(axis=1))

    def cover(self, each: int) -> list[int]:
        """A few features, in ascending order, that bring about whatever any of the features that change something does.

        What a feature brings about is a state and the words there, the unsteered ones too. The list is built greedily
        (Nemhauser, Wolsey and Fisher 1978): the next is the one that adds most, of those tried in every state.

        Args:
            each: Features that bring about the same at least, where there are so many.
        """
        tried = np.not_equal(self.words, _UNTRIED).all(axis=1)
        able = np.flatnonzero(self.changed & (tried if tried.any() else True))
        said = self.words[able]
        columns = [said[:, state] == words for state in range(said.shape[1]) for words in set(said[:, state]) - {None}]
        reach = np.array(columns, dtype=bool).T.reshape(len(able), len(columns))
        wanted = np.minimum(reach.sum(axis=0), each)
        chosen: list[int] = []
        while wanted.any():
            gains = reach[:, wanted > 0].sum(axis=1)
            gains[chosen] = 0
            best = int(gains.argmax())
            chosen.append(best)
            wanted = np.maximum(wanted - reach[best], 0)
        return sorted(able[chosen].tolist())


def find_effects(envs: Any, first: Sequence[int], later: Sequence[int], each: int, seed: int) -> Effects:
    """Push each feature once where the model's turn begins: in a few states all, in more those that seem to do most.

    Args:
        envs: What ``gym.make_vec`` returned, with actions that choose features.
        first: Items in which every feature is tried.
        later: Items in which a cover of what happened in the first is tried again.
        each: Of that cover, as :meth:`Effects.cover` has it.
        seed: Seed of sampled decoding.

    Raises:
        ValueError: There are no items to begin with.
    """
    if not first:
        raise ValueError("effects are looked for in at least one item")
    choices = pushes(envs)
    alone, spent = _said(envs, idle(envs)[:1], [*first, *later], seed)
    words = np.full((len(choices), len(first) + len(later)), _UNTRIED, dtype=object)
    words[:, : len(first)], tokens = _said(envs, choices, first, seed)
    found = Effects(words, alone[0], spent + tokens)
    shortlist = Effects(words[:, : len(first)], alone[0, : len(first)], 0).cover(each)
    if not later or not shortlist:
        return found
    words[shortlist, len(first) :], tokens = _said(envs, choices[shortlist], later, seed)
    return Effects(words, alone[0], found.tokens + tokens)


def _said(envs: Any, actions: npt.NDArray[Any], items: Sequence[int], seed: int) -> tuple[Words, int]:
    """``[n, items]`` what the model says next with each action in each item, and the actions that it took."""
    inner = unwrap(envs)
    count = len(actions) * len(items)
    words = np.full(count, _UNTRIED, dtype=object)
    start = tokens = 0
    with tqdm(total=count, desc="effects", delay=PATIENCE, leave=False, disable=None) as bar:
        while start < count:
            # Repeats of one item stand side by side, so that its prompt is at hand.
            envs.reset(seed=seed, options={"items": np.repeat(items, len(actions))[start:].tolist()})
            places, fresh = start + inner.playing["index"], True
            while fresh and places.min() < count:
                live = places < count
                _, _, ended, _, infos = envs.step(actions[places % len(actions)])
                words[places[live]] = infos["token_text"][live]
                tokens += int(live.sum())
                bar.update(int(live.sum()))
                places, fresh = start + infos["index"], bool(ended.all())
            start = int(np.not_equal(words, _UNTRIED).sum())
    return words.reshape(len(items), len(actions)).T, tokens
