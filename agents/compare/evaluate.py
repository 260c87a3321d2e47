"""A trained run beside its controls: ``evaluation.json``, the token log and the table on the terminal.

Every arm plays the same items once with the same sampling seeds, at the same coefficient.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.compare.answers import ANSWERED
from agents.compare.arms import against_trained, arm_results, play_arms
from agents.compare.bench import Bench
from agents.compare.results import ArmResult, Evaluation
from agents.runs.folder import RunFolder, provenance
from agents.runs.loading import model_sha256
from agents.runs.steering import require_same_steering
from agents.runs.tracking import Tracker
from steer_env.envs.base import SteerBase
from steer_env.evaluation.controls import CONTROLS
from steer_env.evaluation.play import Played
from steer_env.lm.labels import feature_labels, label_source

EVALUATED = (*CONTROLS, *ANSWERED, "trained")


def evaluate_run(bench: Bench) -> tuple[Evaluation, dict[str, Played]]:
    """Play every control and the trained agent of the bench's only run.

    Returns:
        What ``evaluation.json`` holds, and what each arm that writes tokens played.

    Raises:
        RuntimeError: The language model or what actions mean is not as in training, or the weights changed.
    """
    run, parts = RunFolder.open(bench.runs[0]), bench.parts
    require_same_steering(run.config, bench.envs(compare=bench.compare), run.path)
    before = model_sha256(bench.envs(compare=bench.compare))
    arms = play_arms(bench, EVALUATED)
    finalists = arms["best_fixed"].about["finalists"][0]
    after = require_same_weights(bench, before)
    result = Evaluation(
        run=run.path.name,
        **{name: run.config[name] for name in ("env", "env_kwargs", "algo", "mask", "benchmark")},
        seeds={"train": run.config["seed"], "evaluation": bench.seed, "search": bench.seed},
        **asked_of(bench),
        coefficient=parts.coefficient,
        labels=label_source(parts.labels),
        data=parts.task.data_record(),
        arms=arm_results(bench, arms),
        tests=against_trained(arms, bench.seed),
        best_fixed=finalists[0],
        best_fixed_finalists=finalists,
        weights_sha256_before=before,
        weights_sha256_after=after,
        **provenance(),
    )
    return result, {name: arm.played[0] for name, arm in arms.items() if arm.played[0].tokens}


def require_same_weights(bench: Bench, before: str) -> str:
    """The hash of the language model's weights, which must be the one it had before.

    Raises:
        RuntimeError: It is another.
    """
    after = model_sha256(bench.envs(compare=bench.compare))
    if after != before:
        raise RuntimeError(f"the language model's weights changed: sha256 {before} before, {after} after")
    return after


def result_path(bench: Bench) -> Path:
    """``evaluation.json``, or with another temperature than training's or another split both are in the name."""
    own = float(bench.configs[0]["env_kwargs"].get("temperature", 0.0))
    asked = asked_of(bench)
    default = asked["temperature"] == own and bench.split == "test"
    return bench.runs[0] / ("evaluation.json" if default else f"evaluation-{asked['temperature']:g}-{bench.split}.json")


def asked_of(bench: Bench) -> dict[str, Any]:
    """The settings that make the same numbers again, by field of :class:`Evaluation`."""
    return {
        "split": bench.split,
        "temperature": float(bench.overrides["temperature"]),
        "episodes": len(bench.drawn),
        "seed": bench.seed,
        "num_envs": bench.num_envs,
        "compare": bench.compare,
        "search_games": tuple(bench.search_games),
    }


def refuse_other(path: Path, bench: Bench) -> None:
    """Refuse to replace an evaluation with other settings: the same ones give the same numbers again.

    Raises:
        FileExistsError: The file holds another.
    """
    if not path.is_file():
        return
    earlier = Evaluation.read(path)
    for name, value in asked_of(bench).items():
        was = getattr(earlier, name)
        if was != value:
            raise FileExistsError(f"{path} holds an evaluation with {name} {was}, not {value}: move it away")


def label_features(parts: SteerBase, features: list[int]) -> dict[int, str]:
    """Labels of SAE features, from where the environment's ``labels`` says."""
    labels = feature_labels(parts.labels, parts.lm, parts.tokenizer, parts.sae.directions, features)
    return dict(zip(features, labels, strict=True))


def mirror(run: RunFolder, name: str, result: Evaluation) -> None:
    """Send the table of arms to wandb; the task's own numbers are columns ``summary/<name>``."""
    tracker = Tracker(run.config["wandb"], run.path, {}, run.config["wandb_id"])
    tracker.table(name, [_flat(name, arm) for name, arm in result.arms.items()])
    tracker.finish()


def _flat(name: str, arm: ArmResult) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(arm).items() if key not in ("summary", "about", "scores")}
    return {"arm": name, **plain, **{f"summary/{key}": value for key, value in arm.summary.items()}}


def print_result(result: Evaluation, path: Path) -> None:
    """The table of arms on the terminal, and one of the task's own numbers."""
    what = f"{result.run}, {result.episodes} items of {result.split}, temperature {result.temperature:g}"
    table = Table(title=what, caption=f"{result.train_and_test()}\n{path}", box=None, padding=(0, 2, 0, 0))
    for column in ("arm", "score", "95 %", "corrected", "broken", "p (Holm)", "features"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for name, arm in result.arms.items():
        test = result.tests.get(f"trained_vs_{name}")
        counts = (f"{arm.corrected:g}", f"{arm.broken:g}", f"{test.p_holm:.1e}" if test else "")
        low, high = arm.ci95
        table.add_row(name, f"{arm.score:.3f}", f"{low:.3f}-{high:.3f}", *counts, f"{arm.distinct_features:g}")
    Console().print(table)
    Console().print(_summaries(result.arms))


def _summaries(arms: dict[str, ArmResult]) -> Table:
    """The task's own numbers, a row each and a column an arm: tasks have more numbers than there are arms."""
    numbers = list(next(iter(arms.values())).summary)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, min_width=max(map(len, numbers), default=0))
    for name in arms:
        table.add_column(name.replace("_", " "), justify="right", min_width=5)
    for number in numbers:
        table.add_row(number, *(f"{arm.summary[number]:.3f}" for arm in arms.values()))
    return table
