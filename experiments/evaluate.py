"""Compare a trained run with its controls: ``python -m experiments.evaluate --run runs/first --episodes 1000``.

Every arm plays the same items once with the same sampling seeds, at the same coefficient.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table

from agents.controls import CONTROLS, FixedSearch, Setting, controls_for, search_best_fixed
from agents.evaluation import Played, Policy, play, trained_policy
from experiments.assembly import load_trained, make_envs, model_sha256, provenance, scene
from experiments.interventions import used_features, write_interventions
from experiments.run_folder import RunFolder, read_json, write_json
from experiments.statistics import holm, mcnemar, score_interval
from experiments.tracking import Tracker
from steer_env.labels import promoted_tokens

Envs = VectorEnv[Any, Any, Any]
_REPEATABLE = ("split", "temperature", "episodes", "seed", "num_envs", "compare", "search_games")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained run against its controls."""

    run: Path
    """Run folder."""
    episodes: int = 1000
    """Items, each played once by every arm."""
    split: str = "test"
    """Split of the items; the best fixed feature always comes from train."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    seed: int = 0
    """Of the choice of items, sampled decoding and the random arms."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    compare: bool = True
    """Record what the unsteered model would have said, at one more pass a token."""
    search_games: tuple[int, int] = (32, 256)
    """Items a candidate in the two rounds of the search for the best fixed feature."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def main(cfg: EvaluateConfig) -> dict[str, Any]:
    """Evaluate, write ``evaluation.json`` and ``interventions.parquet``, and return the former's content.

    With another temperature or split both names carry them: ``evaluation-<temperature>-<split>.json``.

    Raises:
        FileExistsError: That file holds an evaluation with other settings.
        RuntimeError: The language model is not the one of the training, or changed.
    """
    torch.set_num_threads(cfg.threads)
    run = RunFolder.open(cfg.run)
    path = _result_path(cfg)
    _refuse_other(path, cfg)
    decoding = {"temperature": cfg.temperature}
    envs = make_envs(run.config, cfg.split, cfg.num_envs, compare=cfg.compare, **decoding)
    before = model_sha256(envs)
    if before != run.config["weights_sha256"]:
        raise RuntimeError(f"the language model is not the one {cfg.run} was trained with (weights_sha256 differs)")
    model, mask = load_trained(run, envs)
    search = search_best_fixed(make_envs(run.config, "train", cfg.num_envs, **decoding), cfg.seed, cfg.search_games)
    setting = Setting(seed=cfg.seed, mask=mask, best=search.best)
    policies = {name: CONTROLS[name](setting) for name in controls_for(envs)}
    arms, walls = play_arms(envs, policies | {"trained": trained_policy(model, mask)}, cfg)
    after = model_sha256(envs)
    if after != before:
        raise RuntimeError(f"the language model's weights changed: sha256 {before} before, {after} after")
    result = _result(cfg, run, arms, walls, search) | {"weights_sha256_before": before, "weights_sha256_after": after}
    tokens = path.with_name(path.name.replace("evaluation", "interventions")).with_suffix(".parquet")
    write_interventions(tokens, cfg.run.name, arms, label_features(envs, used_features(arms)))
    write_json(path, result)
    _mirror(run, path.stem, result)
    print_result(result, path)
    return result


def play_arms(
    envs: Envs, policies: dict[str, Policy], cfg: EvaluateConfig
) -> tuple[dict[str, Played], dict[str, float]]:
    """Every policy on the same items; also the seconds each took."""
    count = len(scene(envs).task)
    if not 1 <= cfg.episodes <= count:
        raise ValueError(f"--episodes must be in [1, {count}], the items of split {cfg.split!r}; got {cfg.episodes}")
    items = np.random.default_rng(cfg.seed).permutation(count)[: cfg.episodes].tolist()
    arms, walls = {}, {}
    for name, policy in policies.items():
        start = time.perf_counter()
        arms[name] = play(envs, policy, items, cfg.seed)
        walls[name] = time.perf_counter() - start
    return arms, walls


def label_features(envs: Any, features: list[int]) -> dict[int, str]:
    """Labels of SAE features: the tokens their directions promote."""
    parts = scene(envs)
    labels = promoted_tokens(parts.model.lm, parts.words, parts.dictionary.directions[features])
    return dict(zip(features, labels, strict=True))


def compare_arms(reference: Played, arm: Played) -> dict[str, int]:
    """Items ``arm`` ``corrected`` and ``broken``; right is a score above one half."""
    was, now = reference.scores > 0.5, arm.scores > 0.5
    return {"corrected": int((now & ~was).sum()), "broken": int((was & ~now).sum())}


def summarise(arm: Played, unsteered: Played) -> dict[str, Any]:
    """One row of the table of arms."""
    feature = arm.tokens["feature"]
    return {
        "n": len(arm.episodes),
        "score": float(arm.scores.mean()),
        "ci95": score_interval(arm.scores.tolist()),
        **compare_arms(unsteered, arm),
        "distinct_features": len(np.unique(feature[feature >= 0])),
        "tokens": len(feature),
    }


def paired_tests(arms: dict[str, Played]) -> dict[str, dict[str, Any]]:
    """Exact paired tests of the trained arm against every other, with Holm's correction over them."""
    counts = {name: compare_arms(arm, arms["trained"]) for name, arm in arms.items() if name != "trained"}
    raw = {name: mcnemar(**count) for name, count in counts.items()}
    adjusted = holm(raw)
    return {
        f"trained_vs_{name}": {"p_mcnemar": raw[name], "p_holm": adjusted[name], **count}
        for name, count in counts.items()
    }


def print_result(result: dict[str, Any], path: Path) -> None:
    """The table of arms on the terminal."""
    what = f"{result['run']}, {result['episodes']} items of {result['split']}, temperature {result['temperature']:g}"
    table = Table(title=what, caption=str(path), box=None, padding=(0, 2, 0, 0))
    for column in ("arm", "score", "95 %", "corrected", "broken", "p (Holm)", "features"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for name, arm in result["arms"].items():
        test = result["tests"].get(f"trained_vs_{name}")
        table.add_row(
            name,
            f"{arm['score']:.3f}",
            "{:.3f}-{:.3f}".format(*arm["ci95"]),
            str(arm["corrected"]),
            str(arm["broken"]),
            f"{test['p_holm']:.1e}" if test else "",
            str(arm["distinct_features"]),
        )
    Console().print(table)


def _result(
    cfg: EvaluateConfig, run: RunFolder, arms: dict[str, Played], walls: dict[str, float], search: FixedSearch
) -> dict[str, Any]:
    rows = {name: summarise(arm, arms["unsteered"]) | {"wall_s": walls[name]} for name, arm in arms.items()}
    finalists = [row for row in search.table if row["round"] == max(row["round"] for row in search.table)]
    return {
        "run": cfg.run.name,
        "env": run.config["env"],
        "benchmark": run.config["benchmark"],
        "seeds": {"train": run.config["seed"], "evaluation": cfg.seed, "search": cfg.seed},
        **_settings(cfg),
        "arms": rows,
        "tests": paired_tests(arms),
        "best_fixed": finalists[0],
        "best_fixed_finalists": finalists,
        **provenance(),
    }


def _settings(cfg: EvaluateConfig) -> dict[str, Any]:
    values = {name: getattr(cfg, name) for name in _REPEATABLE}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _result_path(cfg: EvaluateConfig) -> Path:
    default = cfg.temperature == 0 and cfg.split == "test"
    return cfg.run / ("evaluation.json" if default else f"evaluation-{cfg.temperature:g}-{cfg.split}.json")


def _refuse_other(path: Path, cfg: EvaluateConfig) -> None:
    """The same settings give the same numbers again; anything else would replace other evidence."""
    if not path.is_file():
        return
    earlier = read_json(path)
    for name, value in _settings(cfg).items():
        if earlier[name] != value:
            raise FileExistsError(f"{path} holds an evaluation with {name} {earlier[name]}, not {value}: move it away")


def _mirror(run: RunFolder, name: str, result: dict[str, Any]) -> None:
    tracker = Tracker(run.config["wandb"], run.path, {}, run.config["wandb_id"])
    tracker.table(name, [{"arm": arm, **row} for arm, row in result["arms"].items()])
    tracker.finish()


if __name__ == "__main__":
    main(tyro.cli(EvaluateConfig))
