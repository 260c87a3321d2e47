"""The result files of comparisons: what ``evaluation.json`` and its kind hold, field by field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from agents.runs.results import ResultFile
from steer_env.evaluation.comparison import ComparedArm
from steer_env.evaluation.linear_probe import ReadOff

Interval = tuple[float, float]


def publish(result: ResultFile, path: Path, text: str, draw: Callable[[Path], None]) -> None:
    """Write a result with its table and its picture, and print the table.

    Args:
        result: What is written as JSON.
        path: Where, without an ending: ``.json``, ``.md`` and ``.png`` are added.
        text: The table, in Markdown.
        draw: Draws the picture into a file.
    """
    result.write(path.with_suffix(".json"))
    path.with_suffix(".md").write_text(text)
    draw(path.with_suffix(".png"))
    print(text)


@dataclass(frozen=True)
class ArmResult(ComparedArm):
    """What one arm scored: :class:`steer_env.evaluation.comparison.ComparedArm`, and how it got there.

    Attributes:
        coherence: Mean coherence of the replies where the task measures it.
        distinct_features: Features that a seed steers with, mean over seeds.
        distinct_completions: Different completions of a seed, mean over seeds.
        idle: Share of tokens that are left alone, mean over seeds.
        tokens: Actions of all seeds.
        wall_s: Seconds of play, and of learning where that is part of the arm.
        summary: The task's own numbers, mean over seeds.
        about: What else there is to say: ``features`` (of the best fixed arm), ``found`` (by CorrSteer), ``parameters``
            (trained by LoRA).
        train_score: Score of the same agents on items of train; this and what follows are known of trained arms only.
        train_n: Number of these items, mean over seeds.
        seen_in_train: Share of the episodes that went word for word (or move for move) as one of those on train.
        puppeteered: Of the items that steering corrected, the share where a feature wrote a changed token itself; None
            where nothing was corrected.
    """

    coherence: float | None
    distinct_features: int | float
    distinct_completions: int | float
    idle: float
    tokens: int
    wall_s: float
    summary: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)
    train_score: float | None = None
    train_n: int | float | None = None
    seen_in_train: float | None = None
    puppeteered: float | None = None


@dataclass(frozen=True)
class Test:
    """The trained arm against another on the same items.

    Attributes:
        difference: Mean score of the trained arm less the other's.
        corrected: Items wrong in the other arm and right in the trained one, mean over seeds.
        broken: Items right in the other arm and wrong in the trained one, mean over seeds.
        p_mcnemar: Exact paired test, the largest p over seeds.
        p_holm: The same with Holm's correction over arms.
    """

    __test__ = False  # pytest would collect the class by its name

    difference: float
    corrected: int | float
    broken: int | float
    p_mcnemar: float
    p_holm: float


@dataclass(frozen=True)
class ItemOracle:
    """The best single feature of each item, by trying all of them.

    Attributes:
        items: Number of items.
        score: Mean of the best score of each item.
        ci95: Its 95 % interval over items.
    """

    items: int
    score: float
    ci95: Interval


@dataclass(frozen=True, kw_only=True)
class Evaluation(ResultFile):
    """``evaluation.json``: a trained run beside its controls.

    Attributes:
        run: Name of the run folder.
        env: Environment id.
        env_kwargs: Arguments of the environment.
        algo: Algorithm of the trained arm.
        mask: Its mask.
        benchmark: Whether scores may carry the benchmark's name.
        seeds: ``train``, ``evaluation`` and ``search``.
        split: Split of the items.
        temperature: Of decoding; 0 is greedy.
        episodes: Items, each played once by every arm.
        seed: Seed of the choice of items, of sampled decoding and of random arms.
        num_envs: Lanes of one forward pass.
        compare: Whether the log says what the unsteered model would have written.
        search_games: Items a candidate in each round of the search for the best fixed feature.
        coefficient: Strength of one action in residual units.
        labels: Where the features' labels come from.
        data: What the task says of its items.
        arms: Every arm, ``unsteered`` first and ``trained`` last.
        tests: ``trained_vs_<arm>`` for every other arm.
        best_fixed: The best candidate of the search: ``push``, ``feature``, ``strength``, ``n``, ``score``.
        best_fixed_finalists: All candidates of its last round, best first.
        weights_sha256_before: Hash of the language model before play.
        weights_sha256_after: The same after play.
        git_commit: Commit of this code, None outside a repository.
        versions: Versions of packages.
    """

    MADE_BY: ClassVar[str] = "steer evaluate --run RUN"

    run: str
    env: str
    env_kwargs: dict[str, Any]
    algo: str
    mask: str
    benchmark: bool
    seeds: dict[str, int]
    split: str
    temperature: float
    episodes: int
    seed: int
    num_envs: int
    compare: bool
    search_games: tuple[int, int]
    coefficient: float
    labels: str
    data: dict[str, Any]
    arms: dict[str, ArmResult]
    tests: dict[str, Test]
    best_fixed: dict[str, Any]
    best_fixed_finalists: list[dict[str, Any]]
    weights_sha256_before: str
    weights_sha256_after: str
    git_commit: str | None
    versions: dict[str, str | None]

    def train_and_test(self) -> str:
        """One sentence: the trained agent's scores on train and on the evaluated split, and what they share."""
        arm = self.arms["trained"]
        return (
            f"Trained: {arm.train_score:.3f} on {arm.train_n} items of train, {arm.score:.3f} on {arm.n} of "
            f"{self.split} ({arm.distinct_completions} distinct completions); {arm.seen_in_train:.0%} of the latter "
            "went as one of the former"
        )


@dataclass(frozen=True)
class TuningPoint:
    """A point of the grid.

    Attributes:
        settings: Arguments of the environment.
        validation_score: Score of a short training with them; None where there was no choice.
    """

    settings: dict[str, Any]
    validation_score: float | None


@dataclass(frozen=True, kw_only=True)
class Evidence(ResultFile):
    """``evidence.json``: every arm, with several training seeds and settings chosen on validation.

    Attributes:
        env: Environment id.
        settings: Settings of the command.
        tuning: The grid.
        chosen: Its best point.
        train_items: Items of train that anything learned from, with each seed.
        data: What the task says of its items.
        arms: Every arm, ``unsteered`` first.
        tests: ``trained_vs_<arm>`` for every arm that is not a trained agent.
        item_oracle: None where it was left out.
        read_off: What a linear probe of the agent's first observation knows; None where the items have no topic.
        weights_sha256: Hash of the language model, before and after.
        wall_s: Seconds of everything; of a resumed study, of the process that finished it.
        git_commit: Commit of this code, None outside a repository.
        versions: Versions of packages.
    """

    MADE_BY: ClassVar[str] = "steer evidence --name NAME"

    env: str
    settings: dict[str, Any]
    tuning: list[TuningPoint]
    chosen: dict[str, Any]
    train_items: int
    data: dict[str, Any]
    arms: dict[str, ArmResult]
    tests: dict[str, Test]
    item_oracle: ItemOracle | None
    read_off: ReadOff | None
    weights_sha256: str
    wall_s: float
    git_commit: str | None
    versions: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Variant(ArmResult):
    """A variant of a sweep; the first one is the reference of ``corrected``, ``broken`` and p.

    Attributes:
        flags: How its training differs.
        steps_per_second: Tokens a second of training, median of a run, mean over seeds.
        curves: Of each seed's training, the tokens so far and the score of the last 200 episodes, after each update.
        tokens_to_reach: Tokens of each seed until that score was the one asked for, None where it never was.
    """

    flags: dict[str, Any]
    steps_per_second: float
    curves: list[list[tuple[int, float]]] = field(default_factory=list)
    tokens_to_reach: list[int | None] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Sweep(ResultFile):
    """``sweep.json``: variants of one training.

    Attributes:
        env: Environment id.
        settings: Settings of the command.
        variants: By name, the first is what the others are compared with.
        wall_s: Seconds of everything.
        git_commit: Commit of this code, None outside a repository.
        versions: Versions of packages.
    """

    MADE_BY: ClassVar[str] = "steer sweep --name NAME"

    env: str
    settings: dict[str, Any]
    variants: dict[str, Variant]
    wall_s: float
    git_commit: str | None
    versions: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class SampleEfficiency(ResultFile):
    """``samples.json``: scores against the number of items to learn from.

    Attributes:
        env: Environment id.
        settings: Settings of the command.
        sizes: Numbers of items.
        arms: For each arm a result a size, None where it does not exist.
        wall_s: Seconds of everything.
        git_commit: Commit of this code, None outside a repository.
        versions: Versions of packages.
    """

    MADE_BY: ClassVar[str] = "steer sample-efficiency --name NAME"

    env: str
    settings: dict[str, Any]
    sizes: list[int]
    arms: dict[str, list[ArmResult | None]]
    wall_s: float
    git_commit: str | None
    versions: dict[str, str | None]


@dataclass(frozen=True)
class Strength:
    """A strength that was tried at a layer.

    Attributes:
        coefficient: In medians of the residual norm there.
        residual_units: The same in residual units.
        feature: The best fixed feature on train at this strength.
        validation_score: Its score on validation.
    """

    coefficient: float
    residual_units: float
    feature: int
    validation_score: float

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of an environment that steers this hard."""
        return {"coefficient": self.residual_units, "coefficient_unit": "residual"}


@dataclass(frozen=True)
class Gain:
    """An arm less the unsteered one on the same items.

    Attributes:
        by_seed: Difference of each training seed.
        mean: Their mean.
        ci95: Its 95 % interval (:func:`steer_env.evaluation.statistics.runs_interval`).
    """

    by_seed: list[float]
    mean: float
    ci95: Interval


@dataclass(frozen=True)
class Change:
    """What every arm does under a change of the prompt.

    Attributes:
        env_kwargs: Arguments of the environment that differ from training's.
        arms: Every arm, ``unsteered`` first; ``corrected``, ``broken`` and p are against that.
        gains: Every other arm less the unsteered one.
    """

    env_kwargs: dict[str, Any]
    arms: dict[str, ArmResult]
    gains: dict[str, Gain]


@dataclass(frozen=True, kw_only=True)
class Transfer(ResultFile):
    """``transfer.json``: trained agents where the prompt is worded otherwise.

    Attributes:
        env: Environment id.
        runs: Names of the agents' run folders, one a training seed.
        settings: Settings of the command.
        data: What the task says of its items, as in training.
        changes: By name, ``home`` (none) first.
        weights_sha256: Hash of the language model, before and after.
        wall_s: Seconds of the process that finished it.
        git_commit: Commit of this code, None outside a repository.
        versions: Versions of packages.
    """

    MADE_BY: ClassVar[str] = "steer transfer --run RUN --name NAME"

    env: str
    runs: list[str]
    settings: dict[str, Any]
    data: dict[str, Any]
    changes: dict[str, Change]
    weights_sha256: str
    wall_s: float
    git_commit: str | None
    versions: dict[str, str | None]


@dataclass(frozen=True)
class UsedFeatures:
    """What the agents of a layer steered with.

    Attributes:
        diversity: Means over seeds of what :func:`agents.analysis.features.diversity` says.
        used: A row for each feature that any seed used, most used first: ``feature``, ``label``, ``tokens`` (of all
            seeds), ``seeds`` (that used it) and what :func:`agents.analysis.feature_kinds.describe` says.
        kinds: Shares of every kind among the ``used`` features, the ``tokens`` steered and the whole ``dictionary``.
        information: Mean bits of the ``used`` features and of the ``dictionary``, silent ones left out.
    """

    diversity: dict[str, float]
    used: list[dict[str, Any]]
    kinds: dict[str, dict[str, float] | None]
    information: dict[str, dict[str, float] | None]


@dataclass(frozen=True)
class Layer:
    """One layer of a comparison.

    Attributes:
        layer: Block.
        sae: ``name`` of the SAE, and its quality where it was trained for this.
        tuning: The strengths tried.
        chosen: The one that is best on validation.
        arms: ``unsteered``, ``best_fixed`` and ``trained``.
        tests: ``trained_vs_<arm>`` for the others.
        gain: Trained less unsteered.
        item_oracle: None where it was left out.
        read_off: What a linear probe of the agent's first observation knows; None where the items have no topic.
        features: What the agents steered with.
    """

    layer: int
    sae: dict[str, Any]
    tuning: list[Strength]
    chosen: Strength
    arms: dict[str, ArmResult]
    tests: dict[str, Test]
    gain: Gain
    item_oracle: ItemOracle | None
    read_off: ReadOff | None
    features: UsedFeatures


@dataclass(frozen=True, kw_only=True)
class Layers(ResultFile):
    """``layers.json``: the same protocol at several layers.

    Attributes:
        env: Environment id.
        settings: Settings of the command.
        blocks: Number of blocks of the model.
        data: What the task says of its items.
        texts: ``items`` and ``token_shares`` of the texts on which features' kinds are read.
        layers: In the order asked for.
        weights_sha256: Hash of the language model, before and after.
        wall_s: Seconds of everything.
        git_commit: Commit of this code, None outside a repository.
        versions: Versions of packages.
    """

    MADE_BY: ClassVar[str] = "steer layers --name NAME"

    env: str
    settings: dict[str, Any]
    blocks: int
    data: dict[str, Any]
    texts: dict[str, Any]
    layers: list[Layer]
    weights_sha256: str
    wall_s: float
    git_commit: str | None
    versions: dict[str, str | None]
