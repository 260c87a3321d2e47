"""The same agents where the prompt is worded otherwise: whether features that steer an answer are about its letter.

A feature that writes " B" corrects answers only where the right option is called B. Whoever has learned from the
questions instead still gains where options have other labels, another order, or are answered in their own words.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.compare.arms import arm_results, fine_tuned_model, gain, strength_of
from agents.compare.bench import Arm, Bench
from agents.compare.results import Change, Transfer
from agents.report.markdown import markdown_table
from agents.report.plots import Score, intervals, save_png
from agents.runs.steering import require_same_steering
from steer_env.evaluation.controls import CONTROLS, Setting, fixed
from steer_env.evaluation.play import Policy
from steer_env.tasks import Task

HOME = "home"
CHANGES: dict[str, dict[str, Any]] = {
    "ABC": {"letters": "ABC"},
    "123": {"letters": "123"},
    "PQR": {"letters": "PQR"},
    "KLM": {"letters": "KLM"},
    "reordered": {"shuffle_options": 1},
    "words": {"decode": "words"},
    "free": {"decode": "free"},
}
"""Arguments of the environment by the name of the change. Adding one is a row."""
USUAL = ("ABC", "123", "PQR", "reordered", "words", "free")
SURE = 0.05

Learned = tuple[Policy, dict[str, Any]]


def changes_of(task: Task, env_kwargs: Mapping[str, Any], names: Sequence[str] = USUAL) -> dict[str, dict[str, Any]]:
    """Those of the changes that the task knows and that are not how the agents were trained.

    Args:
        task: The task of the runs.
        env_kwargs: Arguments of the runs' environments.
        names: Keys of ``CHANGES``.

    Raises:
        ValueError: There is no such change, or none is left.
    """
    unknown = sorted(set(names) - set(CHANGES))
    if unknown:
        raise ValueError(f"changes must be among {', '.join(CHANGES)}, got {unknown[0]!r}")
    known = {name: each.default for name, each in inspect.signature(type(task)).parameters.items()}
    trained = known | dict(env_kwargs)
    fitting = {
        name: CHANGES[name]
        for name in names
        if all(argument in known and trained[argument] != value for argument, value in CHANGES[name].items())
    }
    if not fitting:
        raise ValueError(f"task {task.name!r} has none of the changes {', '.join(names)}")
    return fitting


def learned_at_home(bench: Bench) -> dict[str, list[Learned]]:
    """What each arm does and the arguments of its own environments, one entry a seed, learned where agents learned."""
    idle = CONTROLS["unsteered"](Setting())
    arms: dict[str, list[Learned]] = {
        "unsteered": [(idle, {})],
        "best_fixed": [(fixed(search.best), dict(bench.every)) for search, _ in bench.searches],
    }
    if bench.chooses:
        arms["corrsteer"] = [(fit.policy(), {**bench.every, **strength_of(fit)}) for fit, _ in bench.corrsteer]
    if bench.lora is not None:
        models = (fine_tuned_model(bench, seed)[0] for seed in range(len(bench.runs)))
        arms["lora"] = [(idle, model.env_kwargs) for model in models]
    return arms | {"trained": [(agent, {}) for agent in bench.agents]}


def same_actions(bench: Bench, seed: int) -> dict[str, Any]:
    """Arguments with which actions mean what they meant in training, so that nothing is measured anew."""
    steering = bench.configs[seed]["steering"]
    chosen = {} if isinstance(steering["features"], dict) else {"features": steering["features"]}
    return {"coefficient": steering["coefficient"], "coefficient_unit": "residual", **chosen}


def play_change(bench: Bench, name: str, change: Mapping[str, Any]) -> Change:
    """Every arm under a change, each tested against the unsteered model under the same change.

    Raises:
        RuntimeError: The language model or what actions mean is not as in training.
    """
    overrides = [{**same_actions(bench, seed), **change} for seed in range(len(bench.runs))]
    for seed, own in enumerate(overrides):
        envs = bench.envs(seed=seed, compare=bench.compare, **own)
        require_same_steering(bench.configs[seed], envs, bench.runs[seed])
    arms = {
        arm: Arm.of(
            [
                bench.play(f"{name}-{arm}", policy, seed, **{**overrides[seed], **own})
                for seed, (policy, own) in enumerate(several)
            ]
        )
        for arm, several in learned_at_home(bench).items()
    }
    gains = {arm: gain(played, arms["unsteered"], bench.seed) for arm, played in arms.items() if arm != "unsteered"}
    return Change(env_kwargs=dict(change), arms=arm_results(bench, arms), gains=gains)


def markdown(result: Transfer) -> str:
    """A row an arm, a column a change: what the arm gains on the unsteered model there."""
    names = list(result.changes)
    arms = list(result.changes[HOME].gains)
    unsteered = ["unsteered (score)", *(f"{each.arms['unsteered'].score:.3f}" for each in result.changes.values())]
    gains = [[arm, *(_cell(result.changes[name], arm) for name in names)] for arm in arms]
    written = [_share(each.arms["trained"].puppeteered) for each in result.changes.values()]
    trained = result.changes[HOME].arms["trained"]
    return "\n".join(
        [
            f"# {result.env}: gains where the prompt is worded otherwise",
            "",
            f"{trained.n} items of {result.settings['split']}; {len(trained.scores)} training seeds.",
            "",
            markdown_table(("gain of", *names), [unsteered, *gains, ["written by a feature itself", *written]]),
            "",
            "Gain: score less the unsteered model's on the same items under the same change, with 95 % (over items,",
            f"and over seeds where that is wider). *: exact McNemar below {SURE:g}, the largest over seeds, Holm's",
            "correction over the arms of a change. Everything was learned at home. Last row: of what the trained",
            "agent corrected, the share where a feature wrote a changed token itself.",
            "",
        ]
    )


def _cell(change: Change, arm: str) -> str:
    own, p = change.gains[arm], change.arms[arm].p_holm
    low, high = own.ci95
    return f"{own.mean:+.3f}{'*' if p is not None and p < SURE else ''} ({low:+.3f} to {high:+.3f})"


def _share(written: float | None) -> str:
    return "" if written is None else f"{written:.0%}"


def draw(result: Transfer, path: Path) -> None:
    """Scores of the unsteered model and the trained agents under each change, with their intervals."""
    rows: dict[str, Score] = {}
    for name, change in result.changes.items():
        for arm in ("unsteered", "trained"):
            own = change.arms[arm]
            rows[f"{name}, {arm}"] = Score(own.score, own.ci95, own.scores)

    def plot(axes: Any, theme: Any) -> None:
        intervals(axes, theme, rows, {name for name in rows if name.endswith("trained")})
        axes.set_xlabel(f"score on {result.settings['split']}")

    save_png(path, result.env, [plot], (7.5, 0.36 * len(rows) + 1.3))
