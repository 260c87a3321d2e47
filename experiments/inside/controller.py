"""What does a steering policy itself represent? ``steer controller --run runs/first`` (tic-tac-toe).

The policy only reads the language model's residual, so the bar for each of its layers is what the same linear probe
reads off that residual, and off an untrained policy. No probe has seen the positions it is tested on; the policy may
have, in training. Writes ``controller.json``, ``.md`` and ``.png``.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ControllerConfig:
    """Look into the policy of a tic-tac-toe run."""

    run: Path
    """Run folder with a trained PPO or A2C agent."""
    split: str = "validation"
    """Games that are played."""
    episodes: int = 1_000
    """Games of the policy, and of each noisier version."""
    noises: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Chances of a random action in the noisier versions, so that more than the policy's own lines are seen."""
    blunder: float | None = None
    """Chance that the teacher moves at random, instead of the run's: more positions, those that are won among them."""
    losses: tuple[str, ...] = ("td", "returns", "variance+10*dominance")
    """Losses of the value probes, as in ``steer value-probe``."""
    rows: int = 4_000
    """Steps that a value probe is fitted to, at most."""
    sae_width: int = 512
    """Features of a TopK SAE on the actor's last hidden layer."""
    sae_k: int = 10
    """Active features of that SAE."""
    samples: int = 300_000
    """Activations that the SAE sees in training."""
    shuffles: int = 2_000
    """Shuffles of the permutation tests and resamples of the bootstraps."""
    seed: int = 0
    """Seed of play, split, SAE and tests."""
    num_envs: int = 64
    """Lanes in one forward pass."""


def main(cfg: ControllerConfig) -> Any:
    """Run the study and write it into the run's folder; returns the ``ControllerResult``.

    Raises:
        FileExistsError: It is there already.
        ValueError: The run is of another task, or its agent has no actor and critic of plain layers.
        RuntimeError: The language model or what actions mean is not as in training.
    """
    import torch

    from agents.inside import controller as study
    from agents.inside.controller_report import ControllerResult, as_markdown, controller_plot
    from agents.inside.recordings import RolloutConfig
    from agents.inside.transitions import OBSERVATION, layers_of
    from agents.report.figures import draw_png
    from agents.runs.folder import RunFolder
    from steer_env.lm.sae_training import SAEConfig

    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    run = RunFolder.open(cfg.run)
    if (cfg.run / "controller.json").exists():
        raise FileExistsError(f"{cfg.run / 'controller.json'} exists: move it away")
    study.require_tictactoe(run.config)
    rollout = RolloutConfig(cfg.episodes, cfg.seed, deterministic=False)
    states, model = study.record_run(run, cfg.split, cfg.num_envs, rollout, cfg.noises, cfg.blunder)
    layers = layers_of(model.policy)
    actor, critic = study.last_hidden(layers)
    sae = SAEConfig(cfg.sae_width, cfg.sae_k, cfg.samples, scaled=True)
    valued = (actor, critic, OBSERVATION)
    result = ControllerResult(
        run=cfg.run.name,
        env=run.config["env"],
        algo=run.config["algo"],
        benchmark=run.config["benchmark"],
        states=dict(study.sizes(states)),
        layers={"all": list(layers), "actor": actor, "critic": critic},
        probes=study.probe_scores(states, layers, (actor, critic), cfg.seed, cfg.shuffles),
        numbers=study.number_scores(states, layers),
        values=study.value_scores(states, valued, vars(model)["gamma"], cfg.losses, cfg.rows, cfg.seed),
        features=study.feature_scores(states, actor, sae, cfg.seed, cfg.shuffles),
        config=asdict(cfg),
        wall_s=time.perf_counter() - start,
        cpu_s=time.process_time() - cpu,
    )
    result.write(cfg.run / "controller.json")
    text = as_markdown(result)
    (cfg.run / "controller.md").write_text(text)
    draw_png(lambda axes, theme: controller_plot(axes, theme, result), cfg.run / "controller.png")
    print(text)
    return result
