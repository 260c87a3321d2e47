"""Which actions are legal: the mask table, a mask that widens to rarely tried features, and one of distinct effects.

A mask is never a network input: it travels beside the observation as packed bits (A/8 bytes a row).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from steer_env.envs.base import unwrap
from steer_env.evaluation.effects import find_effects

_SHORTLISTED = 8
"""So many times as many features are tried in more states as are kept of each kind."""

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


class ActionMask(Protocol):
    """What SB3VecEnv asks of a mask. The last action is the no-op."""

    frozen: bool

    def look(self, envs: Any) -> int:
        """Before training, find out what is needed in environments of train; the actions that it took."""

    def legal(self, active: BoolArray) -> BoolArray:
        """From the features active in scope ``[B, A]`` to the legal actions ``[B, A]``."""

    def begin(self, lanes: int) -> None:
        """All ``lanes`` start a new episode; half-played ones are forgotten."""

    def update(self, actions: npt.NDArray[Any], ended: BoolArray, returns: FloatArray) -> None:
        """Learn from one step: ``actions``, ``ended``, ``returns`` ``[B]`` (read where ended)."""

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Everything a checkpoint must keep, as copies."""

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from ``state_dict()``."""


class ScopeMask:
    """Legal = what the environment's scope allows, or the no-op."""

    def __init__(self, n_actions: int, seed: int = 0) -> None:
        """Args: A, the no-op included; ``seed`` is there for the table, nothing is random."""
        self.n_actions = n_actions
        self.frozen = True

    def look(self, envs: Any) -> int:
        """Nothing to look at."""
        return 0

    def legal(self, active: BoolArray) -> BoolArray:
        """See ActionMask. Returns a new array.

        Raises:
            ValueError: ``active`` is not ``[B, A]``.
        """
        return _with_noop(active, self.n_actions)

    def begin(self, lanes: int) -> None:
        """Nothing to forget."""

    def update(self, actions: npt.NDArray[Any], ended: BoolArray, returns: FloatArray) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Empty: the mask has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Nothing to load."""


class AdaptiveMask:
    """Scope mask plus features opened by an upper confidence bound on mean episode return.

    Control Reinforcement Learning (arXiv 2602.10437) names Adaptive Feature Masking without a
    formula. This is our rule. Feature ``f`` was used in ``n[f]`` of ``N`` episodes, with mean
    return ``mean[f]``; its bound is ``mean[f] + beta * sqrt(log(1 + N) / n[f])``, infinite when
    ``n[f] = 0``. Every ``interval`` steps the open set is chosen anew among the features whose
    bound is at least the mean return of all episodes:

    * tried (``n[f] >= tries``): all of them. Good ones stay, bad ones close outside their context;
    * rare (``n[f] < tries``): at most ``width``, first those that beat the mean so far, then at
      random by seed, so that exploration is local in time and every feature has its turn.

    Counts fade by ``discount`` at each refresh (discounted UCB, Garivier and Moulines 2011): the
    returns of an early, worse policy would otherwise close good features for good.
    """

    def __init__(
        self,
        n_actions: int,
        seed: int = 0,
        width: int = 16,
        beta: float = 1.0,
        tries: int = 8,
        interval: int = 32,
        discount: float = 0.9,
    ) -> None:
        """Start with ``width`` random features open.

        Args:
            n_actions: A, the no-op included.
            seed: decides every random draw, together with the number of refreshes so far.
            width: rare features open at a time.
            beta: exploration bonus, in units of return.
            tries: episodes after which a feature is no longer rare.
            interval: vector steps between refreshes.
            discount: kept share of the statistics at a refresh; 1 keeps all.

        Raises:
            ValueError: a setting is out of its range (named).
        """
        for name, value, good in (
            ("n_actions", n_actions, n_actions >= 1),
            ("width", width, width >= 0),
            ("beta", beta, np.isfinite(beta) and beta >= 0),
            ("tries", tries, tries >= 1),
            ("interval", interval, interval >= 1),
            ("discount", discount, 0 < discount <= 1),
        ):
            if not good:
                raise ValueError(f"adaptive mask: {name} is out of range, got {value}")
        self.n_actions, self.seed, self.width, self.beta = n_actions, seed, width, beta
        self.tries, self.interval, self.discount = tries, interval, discount
        self.frozen = False
        self.counts = np.zeros(n_actions - 1)
        self.sums = np.zeros(n_actions - 1)
        self.totals = np.zeros(2)  # episodes, sum of returns
        self.clock = 0
        self.open: BoolArray = np.zeros(n_actions - 1, dtype=bool)
        self._used: BoolArray = np.zeros((0, n_actions), dtype=bool)
        self._refresh()

    def look(self, envs: Any) -> int:
        """Nothing to look at."""
        return 0

    def legal(self, active: BoolArray) -> BoolArray:
        """Active in scope, open, or the no-op; a new ``[B, A]`` array.

        Raises:
            ValueError: ``active`` is not ``[B, A]``.
        """
        legal = _with_noop(active, self.n_actions)
        legal[:, :-1] |= self.open
        return legal

    def begin(self, lanes: int) -> None:
        """Forget the features used in half-played episodes."""
        self._used = np.zeros((lanes, self.n_actions), dtype=bool)

    def update(self, actions: npt.NDArray[Any], ended: BoolArray, returns: FloatArray) -> None:
        """Credit each feature used in an ended episode once with its return.

        Args:
            actions: ``[B]`` actions just taken.
            ended: ``[B]`` lanes whose episode ended with this step.
            returns: ``[B]`` return of the episode, read where ``ended``.
        """
        if self.frozen:
            return
        if len(self._used) != len(actions):
            self.begin(len(actions))
        self._used[np.arange(len(actions)), actions] = True
        if ended.any():
            episode, feature = np.nonzero(self._used[ended, :-1])
            np.add.at(self.counts, feature, 1.0)
            np.add.at(self.sums, feature, returns[ended][episode])
            self.totals += ended.sum(), returns[ended].sum()
            self._used[ended] = False
        self.clock += 1
        if self.clock % self.interval == 0:
            for statistic in (self.counts, self.sums, self.totals):
                statistic *= self.discount
            self._refresh()

    def bounds(self) -> FloatArray:
        """Upper confidence bound ``[F]`` on mean episode return; infinite when untried."""
        tried = self.counts > 0
        counts = np.where(tried, self.counts, 1.0)
        bonus = self.beta * np.sqrt(np.log1p(self.totals[0]) / counts)
        return np.where(tried, self.sums / counts + bonus, np.inf)

    def _refresh(self) -> None:
        episodes, returned = self.totals
        running = returned / episodes if episodes > 0 else 0.0
        hopeful = self.bounds() >= running
        rare = self.counts < self.tries
        self.open = hopeful & ~rare
        candidates = np.flatnonzero(hopeful & rare)
        rng = np.random.default_rng([self.seed, self.clock // self.interval])
        beats = self.sums[candidates] > running * self.counts[candidates]
        first = np.argsort(-(rng.random(len(candidates)) + beats))
        self.open[candidates[first[: self.width]]] = True

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Counts, sums, totals, open set, and the clock, which also places the random draws."""
        return {
            "counts": self.counts.copy(),
            "sums": self.sums.copy(),
            "totals": self.totals.copy(),
            "open": self.open.copy(),
            "clock": np.array(self.clock),
            "seed": np.array(self.seed),
        }

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from ``state_dict()``; the lanes begin new episodes.

        Raises:
            ValueError: the state is of another number of features, or an entry is missing.
        """
        missing = {"counts", "sums", "totals", "open", "clock", "seed"} - set(state)
        if missing:
            raise ValueError(f"adaptive mask state lacks {', '.join(sorted(missing))}")
        for name in ("counts", "sums", "open"):
            if state[name].shape != self.counts.shape:
                raise ValueError(
                    f"adaptive mask state {name!r} has shape {state[name].shape}, "
                    f"this mask has {self.n_actions - 1} features"
                )
        self.counts, self.sums = state["counts"].copy(), state["sums"].copy()
        self.totals, self.open = state["totals"].copy(), state["open"].copy()
        self.clock, self.seed = int(state["clock"]), int(state["seed"])
        self._used = np.zeros((0, self.n_actions), dtype=bool)


class EffectMask:
    """The no-op and a few features that together bring about all that any feature of the SAE does.

    They are found before training by pushing each feature once in some states of train (:meth:`look`); no reward is
    read, and the tokens that it takes count as training's. Where the model's turn may be longer than a token, or
    nothing that is pushed changes anything, all features stay legal.
    """

    def __init__(self, n_actions: int, seed: int = 0, states: int = 8, first: int = 2, each: int = 3) -> None:
        """Start with all actions legal, until they are looked at.

        Args:
            n_actions: A, the no-op included.
            seed: There for the table: the list is the same for all seeds of training.
            states: Items of train in which the features are pushed that seem to do most in the first few.
            first: Of these, in which every feature is pushed.
            each: Features that bring about the same at least, where there are so many.

        Raises:
            ValueError: A setting is out of its range (named).
        """
        for name, value, good in (
            ("states", states, states >= first),
            ("first", first, first >= 1),
            ("each", each, each >= 1),
        ):
            if not good:
                raise ValueError(f"effects mask: {name} is out of range, got {value}")
        self.n_actions, self.states, self.first, self.each = n_actions, states, first, each
        self.frozen = True
        self.tokens = 0
        self.listed: BoolArray = np.ones(n_actions - 1, dtype=bool)

    def look(self, envs: Any) -> int:
        """List the features that together bring about all that any does.

        Where the model's turn may be longer than one token, all features stay legal and nothing is spent: a first
        token says too little of a sentence, and what is to be said differs by item (on the embedded SimpleQA, an agent
        with a list falls behind one with all features; ``experiments/LOG.md``).

        Raises:
            ValueError: Actions do not choose features.
        """
        inner = unwrap(envs)
        if inner.task.max_new_tokens > 1:
            return 0
        places = np.random.default_rng(0).permutation(len(inner.dealt))[: self.states]
        items = [inner.dealt[place] for place in places.tolist()]
        found = find_effects(envs, items[: self.first], items[self.first :], _SHORTLISTED * self.each, seed=0)
        chosen = found.cover(self.each)
        if chosen:
            self.listed = np.isin(np.arange(self.n_actions - 1), chosen)
        self.tokens = found.tokens
        return self.tokens

    def legal(self, active: BoolArray) -> BoolArray:
        """The listed features and the no-op; a new ``[B, A]`` array.

        Raises:
            ValueError: ``active`` is not ``[B, A]``.
        """
        legal = _with_noop(active, self.n_actions)
        legal[:, :-1] = self.listed
        return legal

    def begin(self, lanes: int) -> None:
        """Nothing to forget."""

    def update(self, actions: npt.NDArray[Any], ended: BoolArray, returns: FloatArray) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The list, and the tokens that it took."""
        return {"listed": self.listed.copy(), "tokens": np.array(self.tokens)}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over a list.

        Raises:
            ValueError: The state is of another number of features, or an entry is missing.
        """
        missing = {"listed", "tokens"} - set(state)
        if missing:
            raise ValueError(f"effects mask state lacks {', '.join(sorted(missing))}")
        if state["listed"].shape != self.listed.shape:
            raise ValueError(
                f"effects mask state has shape {state['listed'].shape}, this mask has {self.n_actions - 1} features"
            )
        self.listed, self.tokens = state["listed"].copy(), int(state["tokens"])


@dataclass(frozen=True)
class MaskSpec:
    """A row of MASKS: the environment's ``mask=`` argument, and what to make of it."""

    scope: str
    make: Callable[..., ActionMask] | None


MASKS: dict[str, MaskSpec] = {
    "off": MaskSpec("off", None),
    "current": MaskSpec("current", ScopeMask),
    "generation": MaskSpec("generation", ScopeMask),
    "all": MaskSpec("all", ScopeMask),
    "opening": MaskSpec("opening", ScopeMask),
    "adaptive": MaskSpec("generation", AdaptiveMask),
    "effects": MaskSpec("off", EffectMask),
}


def make_mask(name: str, n_actions: int, seed: int = 0, **settings: Any) -> ActionMask | None:
    """The mask of that name, or None for ``"off"``; ``settings`` go to its constructor.

    Raises:
        ValueError: no such mask, or it has no such setting.
    """
    check_mask_settings(name, settings)
    make = MASKS[name].make
    return None if make is None else make(n_actions, seed, **settings)


def check_mask_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Raise a ValueError where there is no such mask, or it has no such setting."""
    if name not in MASKS:
        raise ValueError(f"unknown mask {name!r}; known masks: {', '.join(MASKS)}")
    make = MASKS[name].make
    known = [] if make is None else list(inspect.signature(make).parameters)[2:]  # n_actions and seed are not settings
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        taken = f"only {', '.join(known)}" if known else "no settings"
        raise ValueError(f"mask {name!r} takes {taken}, got {', '.join(unknown)}")


def masked_space(observation: spaces.Space[Any], n_actions: int) -> spaces.Dict:
    """The observation space ``{"obs", "mask"}``; the mask is A bits in uint8.

    Raises:
        ValueError: the observation is a Dict or Tuple, which SB3 cannot nest.
    """
    if isinstance(observation, (spaces.Dict, spaces.Tuple)):
        raise ValueError(f"an action mask needs a single array as observation, got {observation}")
    width = (n_actions + 7) // 8
    return spaces.Dict({"obs": observation, "mask": spaces.Box(0, 255, (width,), np.uint8)})


def carries_mask(observation: spaces.Space[Any]) -> TypeGuard[spaces.Dict]:
    """True for the spaces made by ``masked_space``."""
    return isinstance(observation, spaces.Dict) and set(observation.spaces) == {"obs", "mask"}


def _with_noop(active: BoolArray, n_actions: int) -> BoolArray:
    if active.ndim != 2 or active.shape[1] != n_actions:
        raise ValueError(f"the active features have shape {active.shape}, want [B, {n_actions}]")
    legal = np.array(active, dtype=bool)
    legal[:, -1] = True
    return legal
