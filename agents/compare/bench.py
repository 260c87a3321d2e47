"""Where the arms of a comparison play, and what an arm is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from gymnasium import spaces

from agents.compare.kept import NOTHING, Kept
from agents.finetune import LoRA
from agents.runs.folder import RunFolder
from agents.runs.loading import load_run, make_envs
from steer_env.envs.base import SteerBase, unwrap
from steer_env.evaluation import linear_probe
from steer_env.evaluation.controls import FixedSearch, search_best_fixed
from steer_env.evaluation.corrsteer import CorrSteer, fit_corrsteer
from steer_env.evaluation.play import Played, Policy, drawn_items, play

WARM = 1.0  # temperature at which CorrSteer looks for right answers where greedy decoding has none, or only such
_LIMITS = ("limit", "limit_seed")  # what decides which items may be learned from
KEPT = 3  # environments that are kept: those of the split, the same without comparing, those of train


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where all arms play: the items of one split, once each, in the environments of the trained agent's runs.

    Attributes:
        runs: Run folders of the trained agent, one a seed; environment, settings and mask are theirs.
        split: Split of the items.
        items: Number of items at most, drawn; None is all.
        train_items: Number of items of train at most that trained agents play again; 0 is none.
        seed: Seed of the choice of items, of sampled decoding, random arms and searches.
        num_envs: Lanes.
        overrides: Arguments of every environment that win over the runs' own, such as ``temperature``.
        every: Arguments of an environment that chooses among all features, where the agent chooses among screened ones:
            for the best fixed feature, CorrSteer and the item oracle.
        compare: Whether the unsteered model's next token is recorded too.
        search_games: Items a candidate in each round of the search for the best fixed feature.
        search_candidates: Features that are tried in it, drawn; None is all.
        lora: How fine-tuning is done; None leaves it out.
        kept: What earlier processes of the same study finished, and where this one puts what it does.
    """

    runs: Sequence[Path]
    split: str = "test"
    items: int | None = None
    train_items: int = 5_000
    seed: int = 0
    num_envs: int = 64
    overrides: Mapping[str, Any] = field(default_factory=dict)
    every: Mapping[str, Any] = field(default_factory=dict)
    compare: bool = True
    search_games: tuple[int, int] = (32, 256)
    search_candidates: int | None = None
    lora: LoRA | None = None
    kept: Kept = NOTHING

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """``config.json`` of each run."""
        return [RunFolder.open(path).config for path in self.runs]

    @cached_property
    def parts(self) -> SteerBase:
        """The typed environment of the split."""
        return unwrap(self.envs(compare=self.compare))

    @cached_property
    def drawn(self) -> list[int]:
        """The items that every arm plays."""
        return drawn_items(self.parts.dealt, self.items, self.seed)

    @property
    def fits(self) -> range:
        """Training seeds with items of their own to learn from: one, where all learn from the same."""
        dealt = {json.dumps([config["env_kwargs"].get(name) for name in _LIMITS]) for config in self.configs}
        return range(len(self.runs) if len(dealt) > 1 else 1)

    @property
    def chooses(self) -> bool:
        """Whether an action is the choice of one feature."""
        return isinstance(self.envs(compare=self.compare).single_action_space, spaces.Discrete)

    @cached_property
    def corrsteer(self) -> list[tuple[CorrSteer, float]]:
        """CorrSteer's feature, of the items that each training seed may learn from, and the seconds that took."""
        return [self.kept.timed(f"corrsteer-fit-{seed}", partial(self._fit_corrsteer, seed)) for seed in self.fits]

    @cached_property
    def searches(self) -> list[tuple[FixedSearch, float]]:
        """The search for the best push, on the items that each training seed may learn from, and its seconds."""
        return [self.kept.timed(f"best-fixed-search-{seed}", partial(self._search, seed)) for seed in self.fits]

    @cached_property
    def readings(self) -> list[linear_probe.Reading | None]:
        """What a linear probe of the agent's first observation names, fitted on what each training seed learns from."""
        return [self.kept.get(f"reading-{seed}", partial(self._read, seed)) for seed in self.fits]

    def _fit_corrsteer(self, seed: int) -> CorrSteer:
        envs = self.envs("train", seed, **self.every)
        warm = self.envs("train", seed, **{**self.every, "temperature": WARM})
        return fit_corrsteer(envs, self.dealt_in_train(seed), self.seed, warm)

    def _search(self, seed: int) -> FixedSearch:
        envs = self.envs("train", seed, **self.every)
        return search_best_fixed(envs, self.seed, self.search_games, candidates=self.search_candidates)

    def _read(self, seed: int) -> linear_probe.Reading | None:
        fitted = drawn_items(self.dealt_in_train(seed), linear_probe.TRAIN, self.seed)
        return linear_probe.read_items(self.envs("train", seed), self.envs(), (fitted, self.drawn), self.seed)

    @cached_property
    def _make(self) -> Callable[[str], Any]:
        # Making an environment reads all items of its task again, which takes longer than many an arm plays.
        return lru_cache(KEPT)(lambda settings: make_envs(**json.loads(settings)))

    def envs(self, split: str | None = None, seed: int = 0, **overrides: Any) -> Any:
        """The environments of a training seed's run, of this bench's split or another; made once, reset by play."""
        split = split or self.split
        # The record of steering comes along: agents see as they saw, also where another task would be seen otherwise.
        config = {name: self.configs[seed].get(name, {}) for name in ("env", "env_kwargs", "mask", "steering")}
        if split != "train":  # limits are on what may be learned from: without them all seeds share environments
            own = config["env_kwargs"].items()
            config["env_kwargs"] = {name: value for name, value in own if name not in _LIMITS}
        settings = {"config": config, "split": split, "num_envs": self.num_envs, **self.overrides, **overrides}
        return self._make(json.dumps(settings, sort_keys=True))

    def play(self, name: str, policy: Policy, seed: int = 0, **overrides: Any) -> tuple[Played, float]:
        """Every item once, in the environments of a training seed's run; and the seconds.

        Args:
            name: Of the arm; with the seed, the name under which the episodes are kept.
            policy: What plays.
            seed: Training seed.
            overrides: Arguments of the environments that win over all others.
        """

        def played() -> Played:
            return play(self.envs(seed=seed, compare=self.compare, **overrides), policy, self.drawn, self.seed)

        return self.kept.timed(f"{name}-{seed}", played)

    def arm(self, name: str, policies: Sequence[Policy], **overrides: Any) -> Arm:
        """The arm of policies, one a seed."""
        return Arm.of([self.play(name, policy, seed, **overrides) for seed, policy in enumerate(policies)])

    @cached_property
    def agents(self) -> list[Policy]:
        """The agent of each training seed.

        Raises:
            FileNotFoundError: A training has not finished.
        """
        return [load_run(path).policy for path in self.runs]

    def dealt_in_train(self, seed: int) -> list[int]:
        """Items of train that anything may learn from with a training seed."""
        return unwrap(self.envs("train", seed)).dealt


@dataclass(frozen=True)
class Arm:
    """What an arm did: once, or once for each training seed.

    Attributes:
        played: The items, for each seed.
        wall_s: Seconds of play, and of learning where that is part of the arm.
        about: What else there is to say.
        on_train: What trained agents did on items of train, for each seed.
    """

    played: list[Played]
    wall_s: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    on_train: list[Played] = field(default_factory=list)

    @classmethod
    def of(cls, played: Sequence[tuple[Played, float]], learning: float = 0.0, **about: Any) -> Arm:
        """The arm of episodes with their seconds, after ``learning`` seconds of it."""
        return cls([each for each, _ in played], learning + sum(seconds for _, seconds in played), about)
