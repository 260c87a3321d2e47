"""The arms of a comparison, for one run or several seeds: who plays, what each needs, and what is reported of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from agents.compare import answers
from agents.compare.bench import Arm, Bench
from agents.compare.results import ArmResult, Gain, ItemOracle, Test
from agents.finetune import FineTuned, LoRA, finetune
from agents.runs.loading import load_run
from steer_env.envs.base import SteerBase
from steer_env.evaluation import linear_probe
from steer_env.evaluation.comparison import ComparedArm, compare, mean
from steer_env.evaluation.controls import (
    BOX_ONLY,
    CONTROLS,
    Setting,
    fixed,
    pushes,
    score_pushes,
    unsteered_variants,
)
from steer_env.evaluation.corrsteer import CorrSteer
from steer_env.evaluation.play import Played, drawn_items, play
from steer_env.evaluation.statistics import runs_interval, score_interval
from steer_env.lm.labels import promoted

WRITES = 10  # a feature writes a token itself where the token is among so many that its direction promotes most
_NONE = np.zeros(0, dtype=np.int64)


def control(name: str) -> Callable[[Bench], Arm]:
    """The arm of a row of CONTROLS, which needs no more than a mask."""

    def arm(bench: Bench) -> Arm:
        mask = load_run(bench.runs[0]).mask
        return bench.arm(name, [CONTROLS[name](Setting(seed=bench.seed, mask=mask))])

    return arm


def best_fixed(bench: Bench) -> Arm:
    """The best push for all items, of the items that each training seed may learn from."""
    searches = [search for search, _ in bench.searches]
    arm = bench.arm("best_fixed", [fixed(search.best) for search in searches], **bench.every)
    finals = [[row for row in search.table if row["round"] == search.table[-1]["round"]] for search in searches]
    about = {"features": [rows[0]["feature"] for rows in finals], "finalists": finals}
    return replace(arm, wall_s=arm.wall_s + sum(seconds for _, seconds in bench.searches), about=about)


def corrsteer(bench: Bench) -> Arm:
    """CorrSteer's feature at its published strength."""
    played = [
        bench.play("corrsteer", fit.policy(), seed, **strength_of(fit), **bench.every)
        for seed, (fit, _) in enumerate(bench.corrsteer)
    ]
    fit_s = sum(seconds for _, seconds in bench.corrsteer)
    return Arm.of(played, found=[vars(fit) for fit, _ in bench.corrsteer], fit_s=fit_s)


def strength_of(fit: CorrSteer) -> dict[str, Any]:
    """Arguments of environments that steer as strongly as CorrSteer does; none where it found no feature."""
    return {} if fit.feature is None else fit.env_kwargs


def corrsteer_same_strength(bench: Bench) -> Arm:
    """CorrSteer's feature as strong as the agent's."""
    arm = bench.arm("corrsteer-same-strength", [fit.policy() for fit, _ in bench.corrsteer], **bench.every)
    return replace(arm, about={"found": [vars(fit) for fit, _ in bench.corrsteer]})


def asked_otherwise(name: str) -> Callable[[Bench], Arm]:
    """The unsteered model with an instruction, or with the other decoding."""

    def arm(bench: Bench) -> Arm:
        return bench.arm(name, [CONTROLS["unsteered"](Setting())], **unsteered_variants(bench.parts.task.name)[name])

    return arm


def fine_tuned(bench: Bench) -> Arm:
    """LoRA on the reference replies to the same train items, with each seed."""
    models = [fine_tuned_model(bench, seed) for seed in range(len(bench.runs))]
    idle = CONTROLS["unsteered"](Setting())
    played = [bench.play("lora", idle, seed, **model.env_kwargs) for seed, (model, _) in enumerate(models)]
    learning = sum(seconds for _, seconds in models)
    return Arm.of(played, learning, parameters=models[0][0].trained_parameters)


def fine_tuned_model(bench: Bench, seed: int) -> tuple[FineTuned, float]:
    """The model that LoRA makes with a training seed, and the seconds that took."""
    lora, folder = bench.lora or LoRA(), (bench.kept.folder or bench.runs[0].parent) / f"lora-{seed}"

    def made() -> FineTuned:
        if bench.kept.folder is not None:  # what is there was not finished
            shutil.rmtree(folder, ignore_errors=True)
        return finetune(bench.envs("train"), bench.dealt_in_train(seed), folder, replace(lora, seed=seed))

    return bench.kept.timed(f"lora-model-{seed}", made)


def trained(bench: Bench, **overrides: Any) -> Arm:
    """The trained agent of every seed, and the same agents on items of train."""
    arm = bench.arm("trained", bench.agents, **overrides)
    return replace(
        arm, on_train=[on_train(bench, seed) for seed in range(len(bench.runs))] if bench.train_items else []
    )


def trained_free(bench: Bench) -> Arm:
    """The trained agents where the model is free to write."""
    return bench.arm("trained-free", bench.agents, decode="free")


def on_train(bench: Bench, seed: int) -> Played:
    """What a seed's agent does on items of train."""

    def played() -> Played:
        items = drawn_items(bench.dealt_in_train(seed), bench.train_items, bench.seed)
        return play(bench.envs("train", seed), bench.agents[seed], items, bench.seed, tokens=False)

    return bench.kept.get(f"trained-on-train-{seed}", played)


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
        lambda bench: bench.chooses and any(fit.feature is not None for fit, _ in bench.corrsteer),
        "a feature that CorrSteer finds",
    ),
    **{name: ArmSpec(arm, answers.are_few, "right answers among few") for name, arm in answers.ANSWERED.items()},
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
    "trained, free decoding": ArmSpec(trained_free, lambda bench: _has_decoding(bench, "free"), "constrained decoding"),
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


def gain(arm: Arm, unsteered: Arm, seed: int) -> Gain:
    """An arm less the unsteered one on the same items."""
    alone = unsteered.played[0].scores
    differences = [(played.scores - alone).tolist() for played in arm.played]
    by_seed = [float(np.mean(each)) for each in differences]
    return Gain(by_seed, float(np.mean(by_seed)), runs_interval(differences, seed))


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
    scores = bench.kept.get("item-oracle", lambda: score_pushes(envs, np.arange(len(pushes(envs))), items, bench.seed))
    best = scores.max(axis=0)
    return ItemOracle(len(items), float(best.mean()), score_interval(best.tolist()))


def read_off(bench: Bench) -> linear_probe.ReadOff | None:
    """What a linear probe of the agent's first observation knows of the items."""
    reading = bench.readings[0]
    return None if reading is None else reading.scores()


def _result(arm: Arm, compared: ComparedArm, parts: SteerBase) -> ArmResult:
    summaries = [parts.task.summary(played.episodes) for played in arm.played]
    used = [played.tokens.get("feature", _NONE) for played in arm.played]
    levels = [final["coherence"] for played in arm.played for final in played.episodes if "coherence" in final]
    found = [beside_train(*pair) for pair in zip(arm.played, arm.on_train, strict=True)] if arm.on_train else []
    on_train: dict[str, Any] = {name: mean([row[name] for row in found]) for name in found[0]} if found else {}
    return ArmResult(
        **vars(compared),
        coherence=float(np.mean(levels)) if levels else None,
        distinct_features=mean([len(np.unique(features[features >= 0])) for features in used]),
        distinct_completions=mean([len({final["completion"] for final in each.episodes}) for each in arm.played]),
        idle=float(np.mean([(features < 0).mean() if len(features) else 1.0 for features in used])),
        tokens=sum(map(len, used)),
        wall_s=arm.wall_s,
        summary={name: float(np.mean([summary[name] for summary in summaries])) for name in summaries[0]},
        about=arm.about,
        **on_train,
    )
