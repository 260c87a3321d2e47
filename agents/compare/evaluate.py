"""Compare a trained run with its controls: ``python -m experiments.evaluate --run runs/first``.

Every arm plays the same items once with the same sampling seeds, at the same coefficient.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents.compare.evaluation_table import print_result
from agents.policies import trained_policy
from agents.runs.folder import RunFolder, read_json, write_json
from agents.runs.loading import drawn_items, load_trained, make_envs, model_sha256, provenance
from agents.runs.steering import require_same_steering
from agents.runs.tracking import Tracker
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import CONTROLS, FixedSearch, Setting, controls_for, search_best_fixed
from steer_env.evaluation.play import Played, Policy, play
from steer_env.evaluation.statistics import holm, mcnemar, score_interval
from steer_env.evaluation.token_log import interventions_of, used_features, write_interventions
from steer_env.lm.labels import feature_labels, label_source

Envs = VectorEnv[Any, Any, Any]
_REPEATABLE = ("split", "temperature", "episodes", "seed", "num_envs", "compare", "search_games")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained run against its controls."""

    run: Path
    """Run folder."""
    episodes: int | None = None
    """Items, each played once by every arm; by default the whole split."""
    split: str = "test"
    """Split of the items; the best fixed feature always comes from train."""
    temperature: float | None = None
    """0 is greedy decoding; by default the temperature of the training."""
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

    With another temperature than the training's or another split both names carry them:
    ``evaluation-<temperature>-<split>.json``.

    Raises:
        FileExistsError: That file holds an evaluation with other settings.
        RuntimeError: The language model or what actions mean is not as in training, or the weights changed.
    """
    torch.set_num_threads(cfg.threads)
    run = RunFolder.open(cfg.run)
    own = float(run.config["env_kwargs"].get("temperature", 0.0))
    cfg = replace(cfg, temperature=own if cfg.temperature is None else cfg.temperature)
    path = _result_path(cfg, own)
    envs = make_envs(run.config, cfg.split, cfg.num_envs, compare=cfg.compare, temperature=cfg.temperature)
    cfg = replace(cfg, episodes=_count(cfg, envs))
    _refuse_other(path, cfg)
    require_same_steering(run.config, envs, cfg.run)
    before = model_sha256(envs)
    arms, result = evaluate(cfg, run, envs)
    after = model_sha256(envs)
    if after != before:
        raise RuntimeError(f"the language model's weights changed: sha256 {before} before, {after} after")
    result |= {"weights_sha256_before": before, "weights_sha256_after": after}
    tokens = interventions_of(path)
    write_interventions(tokens, cfg.run.name, arms, label_features(envs, used_features(arms)))
    write_json(path, result)
    _mirror(run, path.stem, result)
    print_result(result, path)
    return result


def evaluate(cfg: EvaluateConfig, run: RunFolder, envs: Envs) -> tuple[dict[str, Played], dict[str, Any]]:
    """Search for the best fixed feature and play every arm on ``envs``, and the trained one on train too.

    Returns:
        The arms, and what is to be reported of them.
    """
    model, mask = load_trained(run, envs)
    train_envs = make_envs(run.config, "train", cfg.num_envs, temperature=cfg.temperature)
    search = search_best_fixed(train_envs, cfg.seed, cfg.search_games)
    setting = Setting(seed=cfg.seed, mask=mask, best=search.best)
    policies = {name: CONTROLS[name](setting) for name in controls_for(envs)}
    policies["trained"] = trained_policy(model, mask)
    arms, walls = play_arms(envs, policies, cfg)
    on_train = play(train_envs, policies["trained"], _items(train_envs, cfg), cfg.seed, tokens=False)
    result = _result(cfg, run, arms, walls, search)
    parts = unwrap(envs)
    result |= {"coefficient": float(parts.coefficient), "labels": label_source(parts.labels)}
    result["data"] = parts.task.data_record()
    for name, arm in arms.items():
        result["arms"][name]["summary"] = parts.task.summary(arm.episodes)
    result["arms"]["trained"] |= beside_train(arms["trained"], on_train)
    return arms, result


def play_arms(
    envs: Envs, policies: dict[str, Policy], cfg: EvaluateConfig
) -> tuple[dict[str, Played], dict[str, float]]:
    """Every policy on the same items; also the seconds each took."""
    items = _items(envs, cfg)
    arms, walls = {}, {}
    for name, policy in policies.items():
        start = time.perf_counter()
        arms[name] = play(envs, policy, items, cfg.seed)
        walls[name] = time.perf_counter() - start
    return arms, walls


def beside_train(arm: Played, on_train: Played) -> dict[str, Any]:
    """How an arm's episodes stand beside those of the same policy on the train split.

    Returns:
        ``train_score`` and ``train_n``; ``seen_in_train``, the share of the arm's episodes that went word for word
        (or move for move, where the task tells ``moves``) as one of those on train.
    """
    course = "moves" if "moves" in arm.episodes[0] else "transcript"
    known = {episode[course] for episode in on_train.episodes}
    return {
        "train_score": float(on_train.scores.mean()),
        "train_n": len(on_train.episodes),
        "seen_in_train": float(np.mean([episode[course] in known for episode in arm.episodes])),
    }


def label_features(envs: Any, features: list[int]) -> dict[int, str]:
    """Labels of SAE features, from where the environment's ``labels`` says."""
    parts = unwrap(envs)
    labels = feature_labels(parts.labels, parts.lm, parts.tokenizer, parts.sae.directions, features)
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
        "distinct_completions": len({episode["completion"] for episode in arm.episodes}),
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


def _result(
    cfg: EvaluateConfig, run: RunFolder, arms: dict[str, Played], walls: dict[str, float], search: FixedSearch
) -> dict[str, Any]:
    rows = {name: summarise(arm, arms["unsteered"]) | {"wall_s": walls[name]} for name, arm in arms.items()}
    finalists = [row for row in search.table if row["round"] == max(row["round"] for row in search.table)]
    return {
        "run": cfg.run.name,
        **{name: run.config[name] for name in ("env", "env_kwargs", "algo", "mask", "benchmark")},
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


def _count(cfg: EvaluateConfig, envs: Envs) -> int:
    count = len(_dealt(envs))
    wanted = count if cfg.episodes is None else cfg.episodes
    if not 1 <= wanted <= count:
        raise ValueError(f"--episodes must be in [1, {count}], the items of split {cfg.split!r}; got {wanted}")
    return wanted


def _items(envs: Envs, cfg: EvaluateConfig) -> list[int]:
    """At most ``episodes`` of the items that ``envs`` deals."""
    return drawn_items(_dealt(envs), cfg.episodes, cfg.seed)


def _dealt(envs: Any) -> Any:
    return unwrap(envs).dealt


def _result_path(cfg: EvaluateConfig, own: float) -> Path:
    default = cfg.temperature == own and cfg.split == "test"
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
    tracker.table(name, [_flat(name, arm) for name, arm in result["arms"].items()])
    tracker.finish()


def _flat(name: str, arm: dict[str, Any]) -> dict[str, Any]:
    """A row of wandb's table; the task's own numbers as ``summary/<name>``."""
    own = {f"summary/{key}": value for key, value in arm["summary"].items()}
    return {"arm": name} | {key: value for key, value in arm.items() if key != "summary"} | own
