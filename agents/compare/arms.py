"""The arms of an evidence run: what each plays on the test split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agents.finetune import LoRA, finetune
from agents.policies import policy_of
from agents.runs.folder import RunFolder
from agents.runs.loading import drawn_items, load_trained, make_envs, trained_mask
from steer_env.envs.base import unwrap
from steer_env.evaluation import linear_probe
from steer_env.evaluation.controls import (
    CONTROLS,
    Setting,
    controls_for,
    fixed,
    pushes,
    score_pushes,
    search_best_fixed,
)
from steer_env.evaluation.corrsteer import fit_corrsteer
from steer_env.evaluation.play import Played, Policy, play
from steer_env.evaluation.statistics import score_interval
from steer_env.evaluation.variants import unsteered_variants

WARM = 1.0  # temperature at which CorrSteer looks for right answers where greedy decoding has none, or only such


@dataclass(frozen=True)
class Bench:
    """Where all arms play.

    Attributes:
        runs: run folders of the trained agent, one a seed; environment, settings and mask are theirs.
        folder: where fine-tuned models go.
        test_items: how many items of test at most, drawn; None is all.
        oracle_items: how many of these the item oracle has at most, drawn.
        num_envs: lanes.
        seed: of sampled decoding, random arms and searches.
        lora: how fine-tuning is done; None leaves it out.
        every: what lets an environment choose among all features, where the agent chooses among screened ones: so do
            the best fixed feature, CorrSteer and the item oracle.
    """

    runs: Sequence[Path]
    folder: Path
    test_items: int | None
    oracle_items: int
    num_envs: int
    seed: int
    lora: LoRA | None
    every: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """Of each run."""
        return [RunFolder.open(path).config for path in self.runs]

    def envs(self, split: str, seed: int = 0, **overrides: Any) -> Any:
        """The environments of a training seed's run, on any split."""
        return make_envs(self.configs[seed], split, self.num_envs, **overrides)

    def play(self, policy: Policy, seed: int = 0, **overrides: Any) -> Played:
        """Every test item once, in the environments of a training seed's run."""
        return play(self.envs("test", seed, compare=True, **overrides), policy, self.items(), self.seed)

    def play_agents(self, **overrides: Any) -> list[Played]:
        """The trained agent of every seed."""
        return [self.play(self.agent(seed), seed, **overrides) for seed in range(len(self.runs))]

    def agent(self, seed: int) -> Policy:
        """What was trained with a seed."""
        return policy_of(*load_trained(RunFolder.open(self.runs[seed]), self.envs("test", seed)))

    def items(self) -> list[int]:
        """The test items."""
        return drawn_items(range(len(unwrap(self.envs("test")).task)), self.test_items, self.seed)

    def fits(self) -> range:
        """Training seeds with items of their own to learn from: one, where all learn from the same."""
        return range(len(self.runs) if self.configs[0]["env_kwargs"].get("limit") else 1)

    def train_items(self, seed: int) -> list[int]:
        """Items of train that anything may learn from with a training seed."""
        items: list[int] = unwrap(self.envs("train", seed)).dealt
        return items


@dataclass(frozen=True)
class Arm:
    """What an arm did: once, or once for each training seed.

    Attributes:
        played: the test items, for each seed.
        wall_s: seconds of play, and of learning where that is part of the arm.
        about: what else is to be said of it.
    """

    played: list[Played]
    wall_s: float
    about: dict[str, Any] = field(default_factory=dict)


def play_arms(bench: Bench) -> dict[str, Arm]:
    """Every arm, in the order of the table."""
    return {
        **controls(bench),
        **corrsteer(bench),
        **other_words(bench),
        **({} if bench.lora is None else fine_tuned(bench, bench.lora)),
        "trained": trained(bench),
        **other_decoding(bench),
    }


def trained(bench: Bench, **overrides: Any) -> Arm:
    """The trained agent of every seed."""
    start = time.perf_counter()
    return Arm(bench.play_agents(**overrides), time.perf_counter() - start)


def controls(bench: Bench) -> dict[str, Arm]:
    """Policies without learning, in the agent's own environment; the best fixed push is searched for on train."""
    envs = bench.envs("test")
    setting = Setting(seed=bench.seed, mask=trained_mask(RunFolder.open(bench.runs[0]), envs))
    names = [name for name in controls_for(envs) if name != "best_fixed"]
    arms = {name: _arm(bench, [CONTROLS[name](setting)]) for name in names}
    return arms | {"best_fixed": best_fixed(bench)}


def best_fixed(bench: Bench) -> Arm:
    """The best push for all items, of the items that each training seed may learn from."""
    start, envs = time.perf_counter(), bench.envs("test", **bench.every)
    found = [search_best_fixed(bench.envs("train", seed, **bench.every), bench.seed).best for seed in bench.fits()]
    played = [bench.play(fixed(push), **bench.every) for push in found]
    about = {"features": [_feature(envs, push) for push in found]}
    return Arm(played, time.perf_counter() - start, about)


def _feature(envs: Any, push: int) -> int:
    """The SAE feature behind a push; strengths have two pushes a feature."""
    return int(unwrap(envs).features[push % len(unwrap(envs).features)])


def corrsteer(bench: Bench) -> dict[str, Arm]:
    """CorrSteer's feature at its published strength, and at the agent's."""
    if bench.configs[0]["env_kwargs"].get("action", "choice") != "choice":
        return {}
    start = time.perf_counter()
    found = [
        fit_corrsteer(
            bench.envs("train", seed, **bench.every),
            bench.train_items(seed),
            bench.seed,
            bench.envs("train", seed, temperature=WARM, **bench.every),
        )
        for seed in bench.fits()
    ]
    about = {"found": [vars(fit) for fit in found], "fit_s": time.perf_counter() - start}
    start = time.perf_counter()
    strengths = [{} if fit.feature is None else fit.env_kwargs for fit in found]
    published = [
        bench.play(fit.policy(), **strength, **bench.every) for fit, strength in zip(found, strengths, strict=True)
    ]
    arms = {"corrsteer": Arm(published, time.perf_counter() - start, about)}
    if any(fit.feature is not None for fit in found):
        arms["corrsteer, same strength"] = _arm(bench, [fit.policy() for fit in found], about, **bench.every)
    return arms


def other_words(bench: Bench) -> dict[str, Arm]:
    """The unsteered model asked otherwise: with an instruction, or with the other decoding."""
    task, idle = unwrap(bench.envs("test")).task, CONTROLS["unsteered"](Setting())
    own = f"{getattr(task, 'decode', '')}_only"
    variants = {name: kwargs for name, kwargs in unsteered_variants(task.name).items() if name != own}
    return {name: _arm(bench, [idle], **kwargs) for name, kwargs in variants.items()}


def fine_tuned(bench: Bench, lora: LoRA) -> dict[str, Arm]:
    """LoRA on the reference replies to the same train items, with each seed; nothing where a task has none."""
    train = bench.envs("train")
    if unwrap(train).task.reference(bench.train_items(0)[0]) is None:
        return {}
    start, idle = time.perf_counter(), CONTROLS["unsteered"](Setting())
    models = [
        finetune(train, bench.train_items(seed), bench.folder / f"lora-{seed}", replace(lora, seed=seed))
        for seed in range(len(bench.runs))
    ]
    played = [bench.play(idle, **model.env_kwargs) for model in models]
    return {"lora": Arm(played, time.perf_counter() - start, {"parameters": models[0].trained_parameters})}


def other_decoding(bench: Bench) -> dict[str, Arm]:
    """The agents where options are not offered: what they learned under constrained decoding, written freely."""
    if getattr(unwrap(bench.envs("test")).task, "decode", "") != "constrained":
        return {}
    return {"trained, free decoding": trained(bench, decode="free")}


def item_oracle(bench: Bench) -> dict[str, Any] | None:
    """The best single feature of each item, by trying all of them on ``oracle_items`` of test."""
    items = drawn_items(bench.items(), bench.oracle_items, bench.seed)
    if not items:
        return None
    envs = bench.envs("test", **bench.every)
    best = score_pushes(envs, np.arange(len(pushes(envs))), items, bench.seed).max(axis=0)
    return {"items": len(items), "score": float(best.mean()), "ci95": score_interval(best.tolist())}


def read_off(bench: Bench) -> dict[str, Any] | None:
    """What a linear probe of the agent's first observation tells of the test items."""
    learnt = drawn_items(bench.train_items(0), linear_probe.TRAIN, bench.seed)
    return linear_probe.read_off(bench.envs("train"), bench.envs("test"), (learnt, bench.items()), bench.seed)


def _arm(bench: Bench, policies: Sequence[Policy], about: Mapping[str, Any] | None = None, **overrides: Any) -> Arm:
    start = time.perf_counter()
    played = [bench.play(policy, **overrides) for policy in policies]
    return Arm(played, time.perf_counter() - start, dict(about or {}))
