"""Compare a trained run with its controls: ``steer evaluate --run runs/first``.

Every arm plays the same items once with the same sampling seeds, at the same coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agents.compare.results import Evaluation

if TYPE_CHECKING:
    from agents.compare.bench import Bench


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained run against its controls."""

    run: Path
    """Run folder."""
    items: int | None = None
    """Number of items, each played once by every arm; by default the whole split."""
    split: str = "test"
    """Split of the items; the best fixed feature always comes from train."""
    temperature: float | None = None
    """0 is greedy decoding; by default the temperature of the training."""
    seed: int = 0
    """Seed of the choice of items, of sampled decoding and of the random arms."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    compare: bool = True
    """Record what the unsteered model would have said, at one more pass a token."""
    search_games: tuple[int, int] = (32, 256)
    """Items a candidate in the two rounds of the search for the best fixed feature."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def main(cfg: EvaluateConfig) -> Evaluation:
    """Evaluate, write ``evaluation.json`` and ``interventions.parquet``, and return the former's content.

    With another temperature than the training's or another split both names carry them:
    ``evaluation-<temperature>-<split>.json``.

    Raises:
        FileExistsError: That file holds an evaluation with other settings.
        RuntimeError: The language model or what actions mean is not as in training, or the weights changed.
    """
    import torch

    from agents.compare import evaluate as library
    from agents.runs.folder import RunFolder
    from steer_env.evaluation.token_log import interventions_of, used_features, write_interventions

    torch.set_num_threads(cfg.threads)
    bench = make_bench(cfg)
    path = library.result_path(bench)
    library.refuse_other(path, bench)
    result, played = library.evaluate_run(bench)
    labels = library.label_features(bench.parts, used_features(played))
    write_interventions(interventions_of(path), result.run, played, labels)
    result.write(path)
    library.mirror(RunFolder.open(cfg.run), path.stem, result)
    library.print_result(result, path)
    return result


def make_bench(cfg: EvaluateConfig) -> Bench:
    """Where the arms play.

    Raises:
        ValueError: The split has fewer items.
    """
    from agents.compare.bench import Bench
    from agents.runs.folder import RunFolder

    own = RunFolder.open(cfg.run).config["env_kwargs"].get("temperature", 0.0)
    bench = Bench(
        runs=[cfg.run],
        split=cfg.split,
        items=cfg.items,
        seed=cfg.seed,
        num_envs=cfg.num_envs,
        overrides={"temperature": float(own if cfg.temperature is None else cfg.temperature)},
        compare=cfg.compare,
        search_games=cfg.search_games,
    )
    count = len(bench.parts.dealt)
    if cfg.items is not None and not 1 <= cfg.items <= count:
        raise ValueError(f"--items must be in [1, {count}], the items of split {cfg.split!r}; got {cfg.items}")
    return replace(bench, train_items=len(bench.drawn))
