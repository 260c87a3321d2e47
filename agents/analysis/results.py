"""The result files of an analysis: what ``branch_points.json``, ``critic.json`` and ``features.json`` hold.

Right is a score above one half; a score flips when it goes from right to wrong or from wrong to right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from agents.runs.results import ResultFile

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Analysis(ResultFile):
    """What every file of an analysis begins with.

    Attributes:
        run: Name of the run folder.
        evaluation: File name of the analysed evaluation.
        env: Environment id.
        algo: Algorithm of the trained agent.
        split: Split of the items.
        seed: Seed of the evaluation.
        temperature: Temperature of decoding; 0 is greedy.
        benchmark: Whether scores may carry the benchmark's name.
        episodes_analysed: Number of episodes, the first ones of the evaluation.
    """

    MADE_BY: ClassVar[str] = "steer analyze --run RUN"

    run: str
    evaluation: str
    env: str
    algo: str
    split: str
    seed: int
    temperature: float
    benchmark: bool
    episodes_analysed: int


@dataclass
class ArmCounts:
    """One arm of alternatives, counted over all tokens.

    Attributes:
        tried: Tokens at which the arm was tried.
        alternatives: Alternatives that were tried.
        flips: Alternatives that flip the score.
        corrected: Those of them that flip it to right.
        broken: Those of them that flip it to wrong.
        branch_points: Tokens with at least one flip.
    """

    tried: int = 0
    alternatives: int = 0
    flips: int = 0
    corrected: int = 0
    broken: int = 0
    branch_points: int = 0


@dataclass(frozen=True)
class MeanOverEpisodes:
    """A mean over episodes.

    Attributes:
        mean: The mean.
        ci95: Its 95 % interval, a bootstrap over episodes.
    """

    mean: float
    ci95: Interval


@dataclass(frozen=True)
class RandomAlternatives:
    """What random alternatives do.

    Attributes:
        episodes: Episodes in which some were tried.
        draws: Alternatives that were tried.
        flip_rate: Share of an episode's random alternatives that flip its score.
        advantage: Score of the episode less the mean score of its random alternatives.
    """

    episodes: int
    draws: int
    flip_rate: MeanOverEpisodes
    advantage: MeanOverEpisodes


@dataclass(frozen=True)
class FactualEpisode:
    """An episode as the evaluation played it.

    Attributes:
        episode: Place in the evaluation.
        item: Item of the split.
        score: Its score.
        completion: What was written.
        tokens: Its length.
        tried: Tokens at which alternatives were tried.
        branch_points: Those of them at which some alternative flips the score.
        info: What else the task reports at the end of an episode.
    """

    episode: int
    item: int
    score: float
    completion: str
    tokens: int
    tried: int
    branch_points: int
    info: dict[str, Any]


@dataclass(frozen=True)
class AlternativeChoice:
    """Another choice at a token, and how the episode ends with it.

    Attributes:
        arm: Kind of alternative.
        feature: SAE index, -1 for no steering.
        label: Its label.
        score: Score of the counterfactual episode.
        flips: Whether that score is right where the factual one is wrong, or the reverse.
        strengths: The whole action, where actions are strengths.
        completion: What was written, of those that flip.
        info: What else the task reports, of those that flip.
    """

    arm: str
    feature: int
    label: str | None
    score: float
    flips: bool
    strengths: list[float] | None = None
    completion: str | None = None
    info: dict[str, Any] | None = None


@dataclass(frozen=True)
class BranchPoint:
    """A token at which another choice flips the final score.

    Attributes:
        episode: Place of the episode in the evaluation.
        step: Place of the token in its episode.
        token_text: What was written.
        feature: SAE index of the choice, -1 for no steering.
        label: Its label.
        alternatives: Everything that was tried there.
    """

    episode: int
    step: int
    token_text: str
    feature: int
    label: str | None
    alternatives: list[AlternativeChoice]


@dataclass(frozen=True, kw_only=True)
class BranchPoints(Analysis):
    """``branch_points.json``: the tokens of each episode at which another choice would have flipped the score.

    Attributes:
        settings: What was tried (:class:`steer_env.evaluation.counterfactuals.Alternatives`); ``tokens``, at how many
            tokens of an episode at most.
        arms: Counts of each arm of alternatives.
        random: What random alternatives do; None where none were tried.
        episodes: The factual episodes.
        branch_points: By episode and step.
        cost: ``episodes_played``, ``forward_passes`` and ``seconds`` of ``factual`` play, ``branches``, ``removals_*``,
            ``search`` and ``all``; of the branches also their ``tokens``, and ``prefix_tokens``, those of them before
            the branch, which are played again.
        not_reproduced: A line for each factual episode that differs from the evaluation's log when played again.
    """

    settings: dict[str, int]
    arms: dict[str, ArmCounts]
    random: RandomAlternatives | None
    episodes: list[FactualEpisode]
    branch_points: list[BranchPoint]
    cost: dict[str, dict[str, float]]
    not_reproduced: list[str]


@dataclass(frozen=True)
class ValueAt:
    """The critic's value at one place of the episodes of a group.

    Attributes:
        at: The place: a step, or a part of the episode from 0 (its first token) to 1 (its last).
        n: Number of tokens.
        mean: Mean value.
        p10: 10th percentile.
        p90: 90th percentile.
    """

    at: float
    n: int
    mean: float
    p10: float
    p90: float


@dataclass(frozen=True)
class CriticGroup:
    """The critic's values in the episodes of one outcome.

    Attributes:
        n: Number of episodes.
        mean_return: Their mean target at the first token; None without episodes.
        by_step: Values along the episode, by step.
        by_position: Values along the episode, in ten parts.
    """

    n: int
    mean_return: float | None
    by_step: list[ValueAt]
    by_position: list[ValueAt]


@dataclass(frozen=True)
class CalibrationBin:
    """Tokens of similar value.

    Attributes:
        low: Lowest value.
        high: Highest value.
        n: Number of tokens.
        value: Mean value.
        target: Mean of what it is held against.
    """

    low: float
    high: float
    n: int
    value: float
    target: float


@dataclass(frozen=True)
class Calibration:
    """How close values are to their targets.

    Attributes:
        n: Number of tokens.
        bias: Mean of value less target.
        mae: Mean absolute difference.
        r2: Share of the target's variance that the value explains, negative where the mean of the targets would do
            better; None where targets do not vary.
        correlation: Pearson; None where one of them does not vary.
        table: Ten bins of as many tokens each, by value.
    """

    n: int
    bias: float
    mae: float
    r2: float | None
    correlation: float | None
    table: list[CalibrationBin]


@dataclass(frozen=True)
class FailureCounts:
    """Wrong episodes, divided by what could have been better.

    Attributes:
        searched: Wrong episodes in which a better choice was looked for.
        policy: Those in which one was found.
        critic: Those that the critic took for successes; None, like what follows, without values or right episodes.
        both: Those with both.
        neither: Those with neither.
    """

    searched: int
    policy: int
    critic: int | None
    both: int | None
    neither: int | None


@dataclass(frozen=True)
class Failures:
    """Why episodes ended wrong: the policy chose badly, the critic misjudged them, both or neither.

    Attributes:
        definitions: What ``policy``, ``critic`` and ``neither`` mean, in a sentence each.
        wrong: Number of wrong episodes.
        gap: Mean target of right episodes less that of wrong ones; None without values or right episodes.
        searches: Counts for each search of better choices: ``one_token`` and ``one_feature``.
    """

    definitions: dict[str, str]
    wrong: int
    gap: float | None
    searches: dict[str, FailureCounts]


@dataclass(frozen=True, kw_only=True)
class Critic(Analysis):
    """``critic.json``: the critic's values along episodes, how right they are, and why episodes failed.

    Attributes:
        target: What values are held against: ``"return"``, the discounted rewards from the token on; ``"score"``, the
            episode's, where the log has no rewards; None where the algorithm logs no values, and the rest is empty.
        gamma: Discount of the agent's training.
        groups: ``correct``, ``corrected``, ``misguided`` and ``incorrect``: unsteered and steered right; wrong and
            right; right and wrong; wrong and wrong.
        calibration: Over ``all_tokens`` and over ``first_tokens``.
        separation: At the ``first`` and the ``last`` token, the area under the ROC curve (0.5 is chance) with which
            the value separates ``right_from_wrong`` and ``corrected_from_misguided``; None where a side is empty.
        failures: The wrong steered episodes; None without counterfactuals.
    """

    target: str | None
    gamma: float | None = None
    groups: dict[str, CriticGroup] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    separation: dict[str, dict[str, float | None]] = field(default_factory=dict)
    failures: Failures | None = None


@dataclass(frozen=True)
class Diversity:
    """How widely a policy spreads its choices.

    Attributes:
        tokens: Number of tokens.
        no_op: Share of tokens that are not steered.
        choices: Number of features to choose from.
        distinct: Number of features used.
        entropy: Entropy of the steered tokens' features, in nats.
        effective: Its exponential: the number of equally used features with the same entropy.
        gini: Gini coefficient over all choices: 0 where all are used alike, near 1 where one is used alone.
    """

    tokens: int
    no_op: float
    choices: int
    distinct: int
    entropy: float
    effective: float
    gini: float


@dataclass(frozen=True)
class Impact:
    """What removing a feature from the policy does in the episodes that used it.

    Attributes:
        effect: By how much the mean score of all episodes falls.
        where_used: By how much the mean score falls over the episodes that used it.
        ci95: 95 % interval of ``where_used``, a bootstrap over these episodes.
        broken: Episodes that become wrong.
        corrected: Episodes that become right.
        p: McNemar's exact test on the two.
    """

    effect: float
    where_used: float
    ci95: Interval
    broken: int
    corrected: int
    p: float


@dataclass(frozen=True)
class Example:
    """A token at which a feature was most active, one an episode.

    Attributes:
        activation: Activation of the feature.
        episode: Place of the episode in the evaluation.
        item: Item of the split.
        step: Place of the token in its episode.
        before: What the model had written, at most 20 tokens.
        token_text: What it wrote then.
        prompt: End of the prompt; None without the model.
    """

    activation: float
    episode: int
    item: int
    step: int
    before: str
    token_text: str
    prompt: str | None


@dataclass(frozen=True, kw_only=True)
class UsedFeature:
    """A feature that steered, or that was removed.

    Where actions are strengths, every feature has a row; ``tokens`` counts those where its strength is the largest;
    removal sets its strength to zero, under ``no_op``, and ``effect`` is that.

    Attributes:
        feature: SAE index.
        label: Its label.
        label_source: Where the label comes from.
        promoted: Tokens that it makes likelier, strongest first; None without the model.
        suppressed: Tokens that it makes less likely; None without the model.
        kind: Kind of its strongest tokens over the task's texts (:mod:`agents.analysis.feature_kinds`); None, like the
            next three, without the model.
        kind_shares: Share of each kind among them; None where it is never active.
        activity: Share of the texts' tokens where it is active.
        information: What its activity says about position and topic, in bits.
        tokens: Tokens that it steered.
        episodes: Episodes that used it.
        score_where_used: Their mean score.
        gain_where_used: Their mean score less the unsteered one on the same items.
        correlation: Of its use (yes or no) with the score over all episodes; None where one of them does not vary.
        correlation_rank: Rank by correlation, 1 is the highest.
        impact: Effect of its removal, with the policy's ``next_best`` choice in its place or the ``no_op``; None
            without counterfactuals.
        effect: The first of these effects, that of ``next_best`` where there is one.
        causal_rank: Rank by effect, 1 is the highest; where equal by that of ``no_op``.
        reach: Share of episodes that it makes right by itself, kept up all along; None without counterfactuals.
        reach_rank: Rank by reach among all choices.
        examples: Where it was most active. The log holds the five strongest features of a token: a feature that is
            never among them has no examples.
    """

    feature: int
    label: str | None
    label_source: str | None
    promoted: list[str] | None
    suppressed: list[str] | None
    kind: str | None
    kind_shares: dict[str, float] | None
    activity: float | None
    information: dict[str, dict[str, float]] | None
    tokens: int
    episodes: int
    score_where_used: float | None
    gain_where_used: float | None
    correlation: float | None
    correlation_rank: int | None
    impact: dict[str, Impact] | None
    effect: float | None
    causal_rank: int | None
    reach: float | None
    reach_rank: int | None
    examples: list[Example]


@dataclass(frozen=True)
class RankAgreement:
    """Correlation beside causation.

    Attributes:
        n: Features with both ranks.
        spearman: Spearman correlation of the ranks; None below three features.
        p: Its p value.
        disagreements: ``feature``, ``label`` and both ranks of the five features whose ranks differ most.
    """

    n: int
    spearman: float | None
    p: float | None
    disagreements: list[dict[str, Any]]


@dataclass(frozen=True)
class SingleFeatures:
    """What features do by themselves, each kept up for the whole episode.

    Attributes:
        episodes: Number of episodes, the first ones.
        unsteered: Share of them that are right unsteered.
        trained: Share that are right with the policy.
        oracle: Share that are right with the best feature of each.
        solvers: How many features make an episode right: ``p10``, ``median``, ``p90``. Where many do, none is
            necessary.
    """

    episodes: int
    unsteered: float
    trained: float
    oracle: float
    solvers: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Features(Analysis):
    """``features.json``: which features a policy uses, what they are, and what would be lost without each.

    Attributes:
        diversity: How widely its choices are spread.
        features: The used features, most used first.
        ranks: Correlation beside causation.
        alone: What features do by themselves; None without counterfactuals.
        planted: What :func:`agents.analysis.features.planted_record` says; None where nothing is known to be planted.
    """

    diversity: Diversity
    features: list[UsedFeature]
    ranks: RankAgreement
    alone: SingleFeatures | None
    planted: dict[str, Any] | None
