"""What does a steering policy itself represent? ``steer controller --run runs/first`` (tic-tac-toe).

The policy only reads the language model's residual, so the bar for each of its layers is what can be read off that
residual by the same linear probe, and off an untrained policy. No probe has seen the positions it is tested on; the
policy may have, in training. Writes ``controller.json``, ``.md`` and ``.png``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.inside.controller_report import as_markdown, controller_plot
from agents.inside.controller_scores import feature_scores, number_scores, probe_scores, value_scores
from agents.inside.controller_states import ControllerStates, overhear, record_controller
from agents.inside.probes_data import OBSERVATION, layers_of
from agents.inside.recording import RolloutConfig
from agents.report.figures import draw_png
from agents.runs.folder import RunFolder, write_json
from agents.runs.loading import fresh_agent, load_trained, make_envs
from agents.runs.steering import require_same_steering
from agents.vec_env import SB3VecEnv
from steer_env.lm.sae_training import SAEConfig

_UNTRAINED = 1_000


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
    """Of the value probes: see ``experiments.inside.value_probe``."""
    rows: int = 4_000
    """At most this many steps are learnt from by a value probe."""
    sae_width: int = 512
    """Features of a TopK SAE on the actor's last hidden layer."""
    sae_k: int = 10
    """Active features of it."""
    samples: int = 300_000
    """Activations that it sees."""
    shuffles: int = 2_000
    """Of the permutation tests and bootstraps."""
    seed: int = 0
    """Of play, split, SAE and tests."""
    num_envs: int = 64
    """Lanes in one forward pass."""


def main(cfg: ControllerConfig) -> dict[str, Any]:
    """Run the study and write it into the run's folder.

    Raises:
        FileExistsError: it is there already.
        ValueError: the run is of another task, or its agent has no actor and critic of plain layers.
        RuntimeError: the language model or what actions mean is not as in training.
    """
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    run = RunFolder.open(cfg.run)
    if (cfg.run / "controller.json").exists():
        raise FileExistsError(f"{cfg.run / 'controller.json'} exists: move it away")
    if run.config["env"] != "Steer-TicTacToe-v0" or run.config["algo"] not in ("ppo", "a2c"):
        raise ValueError(
            "the controller of a Steer-TicTacToe-v0 run by ppo or a2c can be looked into, got "
            f"{run.config['env']} by {run.config['algo']}"
        )
    states, model = play(cfg, run)
    layers = layers_of(model.policy)
    actor, critic = last_hidden(layers)
    sae = SAEConfig(cfg.sae_width, cfg.sae_k, cfg.samples, scaled=True)
    result: dict[str, Any] = {
        "run": cfg.run.name,
        "env": run.config["env"],
        "algo": run.config["algo"],
        "benchmark": run.config["benchmark"],
        "states": sizes(states),
        "layers": {"all": list(layers), "actor": actor, "critic": critic},
        "probes": probe_scores(states, layers, (actor, critic), cfg.seed, cfg.shuffles),
        "numbers": number_scores(states, layers),
        "values": value_scores(states, (actor, critic, OBSERVATION), gamma_of(model), cfg.losses, cfg.rows, cfg.seed),
        "features": feature_scores(states, actor, sae, cfg.seed, cfg.shuffles),
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "config": asdict(cfg),
    }
    write_json(cfg.run / "controller.json", result)
    (cfg.run / "controller.md").write_text(as_markdown(result))
    draw_png(lambda axes, theme: controller_plot(axes, theme, result), cfg.run / "controller.png")
    return result


def play(cfg: ControllerConfig, run: RunFolder) -> tuple[ControllerStates, BaseAlgorithm]:
    """Record the run's agent over its own environments."""
    envs = make_envs(run.config, cfg.split, cfg.num_envs, compare=True, **other_teacher(run.config, cfg.blunder))
    require_same_steering(run.config, envs, cfg.run)
    model, mask = load_trained(run, envs)
    assert isinstance(model, (PPO, A2C))
    if mask is not None:
        mask.frozen = True
    fresh = fresh_agent({**run.config, "seed": run.config["seed"] + _UNTRAINED}, envs, SB3VecEnv(envs, mask))
    rollout = RolloutConfig(cfg.episodes, cfg.seed, deterministic=False, gamma=model.gamma)
    return record_controller((model, fresh), overhear(envs, mask), rollout, cfg.noises), model


def other_teacher(config: Mapping[str, Any], blunder: float | None) -> dict[str, Any]:
    """What makes the run's environments ones with a teacher who blunders, the agent's pushes as they were."""
    if blunder is None:
        return {}
    # In units of the norm a push would change with the games in which that norm is measured.
    recorded = config.get("steering", {})
    push = {"coefficient": recorded["coefficient"], "coefficient_unit": "residual"} if recorded else {}
    return {"opponent": "optimal", "epsilon": blunder, **push}


def last_hidden(layers: tuple[str, ...]) -> tuple[str, str]:
    """The last hidden layer of the actor, and of the critic.

    Raises:
        ValueError: one of them has none.
    """
    found = []
    for part in ("policy_net", "value_net"):
        hidden = [layer for layer in layers if part in layer]
        if not hidden:
            raise ValueError(f"the policy has no hidden layer in {part}; its layers: {', '.join(layers)}")
        found.append(hidden[-1])
    return found[0], found[1]


def gamma_of(model: BaseAlgorithm) -> float:
    """Discount of the agent's training."""
    return float(model.gamma)  # type: ignore[attr-defined]  # every algorithm has one


def sizes(states: ControllerStates) -> Mapping[str, Any]:
    """How many steps and states there are, and how often each fact holds where it is tested."""
    test = states.test
    return {
        "steps": len(states.recording),
        "train": len(states.train),
        "test": len(test),
        "positions": {
            side: len(np.unique(states.position[rows])) for side, rows in (("train", states.train), ("test", test))
        },
        "facts": {name: float(held[test].mean()) for name, held in states.facts.items()},
    }


if __name__ == "__main__":
    print(as_markdown(main(tyro.cli(ControllerConfig))))
