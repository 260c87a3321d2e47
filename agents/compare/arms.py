"""The arms of a comparison, for one run or several seeds: who plays, what each needs, and what is reported of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from agents.compare.results import ArmResult, ItemOracle, Test
from agents.finetune import LoRA, finetune
from agents.runs.folder import RunFolder
from agents.runs.loading import load_run, make_envs
from steer_env.envs.base import SteerBase, unwrap
from steer_env.evaluation import linear_probe
from steer_env.evaluation.comparison import ComparedArm, compare, mean
from steer_env.evaluation.controls import (
    BOX_ONLY,
    CONTROLS,
    Setting,
    fixed,
    pushes,
    score_pushes,
    search_best_fixed,
    unsteered_variants,
)
from steer_env.evaluation.corrsteer import CorrSteer, fit_corrsteer
from steer_env.evaluation.play import Played, Policy, drawn_items, play
from steer_env.evaluation.statistics import score_interval
from steer_env.lm.labels import promoted

WARM = 1.0  # temperature at which CorrSteer looks for right answers where greedy decoding has none, or only such
WRITES = 10  # a feature writes a token itself where the token is among so many that its direction promotes most
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
        lora: How fine-tuning is done; None leaves it out.
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
    lora: LoRA | None = None

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
        return range(len(self.runs) if self.configs[0]["env_kwargs"].get("limit") else 1)

    @property
    def chooses(self) -> bool:
        """Whether an action is the choice of one feature."""
        return isinstance(self.envs(compare=self.compare).single_action_space, spaces.Discrete)

    @cached_property
    def corrsteer(self) -> list[CorrSteer]:
        """CorrSteer's feature, of the items that each training seed may learn from."""
        return [
            fit_corrsteer(
                self.envs("train", seed, **self.every),
                self.dealt_in_train(seed),
                self.seed,
                self.envs("train", seed, **{**self.every, "temperature": WARM}),
            )
            for seed in self.fits
        ]

    @cached_property
    def _make(self) -> Callable[[str], Any]:
        # Making an environment reads all items of its task again, which takes longer than many an arm plays.
        return lru_cache(KEPT)(lambda settings: make_envs(**json.loads(settings)))

    def envs(self, split: str | None = None, seed: int = 0, **overrides: Any) -> Any:
        """The environments of a training seed's run, of this bench's split or another; made once, reset by play."""
        split = split or self.split
        config = {name: self.configs[seed][name] for name in ("env", "env_kwargs", "mask")}
        if split != "train":  # limits are on what may be learned from: without them all seeds share environments
            own = config["env_kwargs"].items()
            config["env_kwargs"] = {name: value for name, value in own if name not in ("limit", "limit_seed")}
        settings = {"config": config, "split": split, "num_envs": self.num_envs, **self.overrides, **overrides}
        return self._make(json.dumps(settings, sort_keys=True))

    def play(self, policy: Policy, seed: int = 0, **overrides: Any) -> Played:
        """Every item once, in the environments of a training seed's run."""
        return play(self.envs(seed=seed, compare=self.compare, **overrides), policy, self.drawn, self.seed)

    def arm(self, policies: Sequence[Policy], start: float | None = None, **overrides: Any) -> Arm:
        """The arm of policies, one a seed, which began at ``start`` (by default now)."""
        start = time.perf_counter() if start is None else start
        played = [self.play(policy, seed, **overrides) for seed, policy in enumerate(policies)]
        return Arm(played, time.perf_counter() - start)

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


def control(name: str) -> Callable[[Bench], Arm]:
    """The arm of a row of CONTROLS, which needs no more than a mask."""

    def arm(bench: Bench) -> Arm:
        mask = load_run(bench.runs[0]).mask
        return bench.arm([CONTROLS[name](Setting(seed=bench.seed, mask=mask))])

    return arm


def best_fixed(bench: Bench) -> Arm:
    """The best push for all items, of the items that each training seed may learn from."""
    start = time.perf_counter()
    train = [bench.envs("train", seed, **bench.every) for seed in bench.fits]
    searches = [search_best_fixed(envs, bench.seed, bench.search_games) for envs in train]
    arm = bench.arm([fixed(search.best) for search in searches], start, **bench.every)
    finals = [[row for row in search.table if row["round"] == search.table[-1]["round"]] for search in searches]
    return replace(arm, about={"features": [rows[0]["feature"] for rows in finals], "finalists": finals})


def corrsteer(bench: Bench) -> Arm:
    """CorrSteer's feature at its published strength."""
    start = time.perf_counter()
    found = bench.corrsteer
    fit_s, start = time.perf_counter() - start, time.perf_counter()
    strengths = [{} if fit.feature is None else fit.env_kwargs for fit in found]
    played = [
        bench.play(fit.policy(), **strength, **bench.every) for fit, strength in zip(found, strengths, strict=True)
    ]
    about = {"found": [vars(fit) for fit in found], "fit_s": fit_s}
    return Arm(played, time.perf_counter() - start, about)


def corrsteer_same_strength(bench: Bench) -> Arm:
    """CorrSteer's feature as strong as the agent's."""
    arm = bench.arm([fit.policy() for fit in bench.corrsteer], **bench.every)
    return replace(arm, about={"found": [vars(fit) for fit in bench.corrsteer]})


def asked_otherwise(name: str) -> Callable[[Bench], Arm]:
    """The unsteered model with an instruction, or with the other decoding."""

    def arm(bench: Bench) -> Arm:
        return bench.arm([CONTROLS["unsteered"](Setting())], **unsteered_variants(bench.parts.task.name)[name])

    return arm


def fine_tuned(bench: Bench) -> Arm:
    """LoRA on the reference replies to the same train items, with each seed."""
    start, lora = time.perf_counter(), bench.lora or LoRA()
    train, folder = bench.envs("train"), bench.runs[0].parent
    models = [
        finetune(train, bench.dealt_in_train(seed), folder / f"lora-{seed}", replace(lora, seed=seed))
        for seed in range(len(bench.runs))
    ]
    idle = CONTROLS["unsteered"](Setting())
    played = [bench.play(idle, **model.env_kwargs) for model in models]
    return Arm(played, time.perf_counter() - start, {"parameters": models[0].trained_parameters})


def trained(bench: Bench, **overrides: Any) -> Arm:
    """The trained agent of every seed, and the same agents on items of train."""
    arm = bench.arm(bench.agents, **overrides)
    if not bench.train_items or overrides:
        return arm
    on_train = []
    for seed, agent in enumerate(bench.agents):
        items = drawn_items(bench.dealt_in_train(seed), bench.train_items, bench.seed)
        on_train.append(play(bench.envs("train", seed), agent, items, bench.seed, tokens=False))
    return replace(arm, on_train=on_train)


def _has_decoding(bench: Bench, other: str) -> bool:
    """Whether the agent decodes in another way than this, and the task knows both."""
    own = getattr(bench.parts.task, "decode", "")
    return own not in ("", other) and f"{other}_only" in unsteered_variants(bench.parts.task.name)


class ArmSpec(NamedTuple):
    """A row of ARMS.

    Attributes:
        play: Makes the arm.
        fits: Whether it can be made of these runs.
        needs: What it needs, in words.
    """

    play: Callable[[Bench], Arm]
    fits: Callable[[Bench], bool] = lambda bench: True
    needs: str = ""


ARMS: dict[str, ArmSpec] = {
    **{
        name: ArmSpec(control(name), lambda bench: not bench.chooses, "actions that are strengths")
        if name in BOX_ONLY
        else ArmSpec(control(name))
        for name in CONTROLS
    },
    "best_fixed": ArmSpec(best_fixed),
    "corrsteer": ArmSpec(corrsteer, lambda bench: bench.chooses, "actions that choose a feature"),
    "corrsteer, same strength": ArmSpec(
        corrsteer_same_strength,
        lambda bench: bench.chooses and any(fit.feature is not None for fit in bench.corrsteer),
        "a feature that CorrSteer finds",
    ),
    "constrained_only": ArmSpec(
        asked_otherwise("constrained_only"), lambda bench: _has_decoding(bench, "constrained"), "free decoding"
    ),
    "free_only": ArmSpec(
        asked_otherwise("free_only"), lambda bench: _has_decoding(bench, "free"), "constrained decoding"
    ),
    "prompt_only": ArmSpec(
        asked_otherwise("prompt_only"),
        lambda bench: "prompt_only" in unsteered_variants(bench.parts.task.name),
        "a task with an instruction",
    ),
    "lora": ArmSpec(
        fine_tuned,
        lambda bench: bench.lora is not None and bench.parts.task.reference(0) is not None,
        "a task with reference replies",
    ),
    "trained": ArmSpec(trained),
    "trained, free decoding": ArmSpec(
        lambda bench: trained(bench, decode="free"), lambda bench: _has_decoding(bench, "free"), "constrained decoding"
    ),
}
"""Every arm, in the order of the tables. Adding one is a function and a row; a control is a row of CONTROLS alone."""


def play_arms(bench: Bench, names: Collection[str] = tuple(ARMS)) -> dict[str, Arm]:
    """Those of ``names`` that fit, in the order of ARMS."""
    assert bench.agents  # a training that has not finished is found before anything plays
    played = {}
    bar = tqdm([name for name in ARMS if name in names], desc="arms", disable=None)
    for name in bar:
        bar.set_postfix_str(name)
        if ARMS[name].fits(bench):
            played[name] = ARMS[name].play(bench)
    return played


def arm_results(bench: Bench, arms: Mapping[str, Arm], reference: str = "unsteered") -> dict[str, ArmResult]:
    """What is reported of each arm; its changes and tests are against ``reference``."""
    compared = compare({name: arm.played for name, arm in arms.items()}, reference, bench.seed).arms
    results = {name: _result(arm, compared[name], bench.parts) for name, arm in arms.items()}
    if "trained" in arms and "unsteered" in arms:
        written = puppeteered(arms["unsteered"].played[0], arms["trained"].played, bench.parts)
        results["trained"] = replace(results["trained"], puppeteered=written)
    return results


def against_trained(arms: Mapping[str, Arm], seed: int) -> dict[str, Test]:
    """``trained_vs_<arm>``: the trained arm against each that is no trained agent, on the same items."""
    others = {name: arm.played for name, arm in arms.items() if not name.startswith("trained")}
    compared = compare({**others, "trained": arms["trained"].played}, "trained", seed).arms
    mine = compared.pop("trained").score
    return {
        f"trained_vs_{name}": Test(
            difference=mine - arm.score,
            # What another arm broke of the trained one's right answers, the trained one corrected.
            corrected=arm.broken,
            broken=arm.corrected,
            p_mcnemar=arm.p_mcnemar,
            p_holm=arm.p_holm,
        )
        for name, arm in compared.items()
        if arm.p_mcnemar is not None and arm.p_holm is not None
    }


def beside_train(played: Played, on_train: Played) -> dict[str, Any]:
    """How an arm's episodes stand beside those of the same policy on the train split.

    Returns:
        ``train_score`` and ``train_n``; ``seen_in_train``, the share of the arm's episodes that went word for word
        (or move for move, where the task tells ``moves``) as one of those on train.
    """
    course = "moves" if "moves" in played.episodes[0] else "transcript"
    known = {episode[course] for episode in on_train.episodes}
    return {
        "train_score": on_train.score,
        "train_n": len(on_train.episodes),
        "seen_in_train": float(np.mean([episode[course] in known for episode in played.episodes])),
    }


def puppeteered(unsteered: Played, trained: Sequence[Played], parts: SteerBase) -> float | None:
    """Of the items that steering corrected, the share where a feature wrote one of the tokens that steering changed.

    A feature *writes* a token where that is among the ``WRITES`` tokens its direction promotes most; otherwise it has
    set a condition, which the model above turned into words.
    """
    shares = []
    for played in trained:
        right = (played.scores > 0.5) & (unsteered.scores <= 0.5)
        tokens = played.tokens
        if "changed" not in tokens:
            return None
        changed = tokens["changed"].astype(bool) & (tokens["feature"] >= 0) & right[tokens["episode"]]
        features = np.unique(tokens["feature"][changed])
        if not len(features):
            continue
        promotes = promoted(parts.lm, parts.tokenizer, parts.sae.directions[features], WRITES)
        writes = dict(zip(features.tolist(), promotes, strict=True))
        columns = (tokens[name][changed].tolist() for name in ("episode", "feature", "token"))
        wrote = {episode for episode, feature, token in zip(*columns, strict=True) if token in writes[feature]}
        shares.append(len(wrote) / right.sum())
    return float(np.mean(shares)) if shares else None


def item_oracle(bench: Bench, count: int) -> ItemOracle | None:
    """The best single feature of each item, by trying all of them on ``count`` of the items; None of 0."""
    items = drawn_items(bench.drawn, count, bench.seed)
    if not items:
        return None
    envs = bench.envs(**bench.every)
    best = score_pushes(envs, np.arange(len(pushes(envs))), items, bench.seed).max(axis=0)
    return ItemOracle(len(items), float(best.mean()), score_interval(best.tolist()))


def read_off(bench: Bench) -> linear_probe.ReadOff | None:
    """What a linear probe of the agent's first observation knows of the items."""
    fitted = drawn_items(bench.dealt_in_train(0), linear_probe.TRAIN, bench.seed)
    return linear_probe.read_off(bench.envs("train"), bench.envs(), (fitted, bench.drawn), bench.seed)


def _result(arm: Arm, compared: ComparedArm, parts: SteerBase) -> ArmResult:
    summaries = [parts.task.summary(played.episodes) for played in arm.played]
    used = [played.tokens["feature"] for played in arm.played]
    levels = [final["coherence"] for played in arm.played for final in played.episodes if "coherence" in final]
    found = [beside_train(*pair) for pair in zip(arm.played, arm.on_train, strict=True)] if arm.on_train else []
    on_train: dict[str, Any] = {name: mean([row[name] for row in found]) for name in found[0]} if found else {}
    return ArmResult(
        **vars(compared),
        coherence=float(np.mean(levels)) if levels else None,
        distinct_features=mean([len(np.unique(features[features >= 0])) for features in used]),
        distinct_completions=mean([len({final["completion"] for final in each.episodes}) for each in arm.played]),
        idle=float(np.mean([(features < 0).mean() for features in used])),
        tokens=sum(map(len, used)),
        wall_s=arm.wall_s,
        summary={name: float(np.mean([summary[name] for summary in summaries])) for name in summaries[0]},
        about=arm.about,
        **on_train,
    )
