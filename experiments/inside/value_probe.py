"""Probes for the value of a state: ``steer value-probe --env FrozenLake-v1 --out runs/lake``.

Record agents and noisier versions of them, fit linear probes by every loss to every layer of actor and critic, and
judge them on held-out trajectories beside controls. One JSON, one Markdown, one picture.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.inside.activations import Activations
from agents.inside.probes import FitConfig
from agents.inside.probes_data import OBSERVATION, layer_rows, layers_of, opposite_views, record_levels, shuffle_rewards
from agents.inside.probes_losses import LossWeights
from agents.inside.probes_planning import action_chances, exact_world, policy_values
from agents.inside.recording import Recording, RolloutConfig, recompute
from agents.inside.value_probe_report import as_markdown, draw, summarize
from agents.inside.value_probe_scores import Study, Truth, references, score_layer, with_other
from agents.inside.world_agents import WorldAgent
from agents.inside.worlds.tictactoe_duel import other_view, solved, states_of
from agents.runs.folder import write_json

_LONGEST = 1_000
_DUEL = "TicTacToeDuel-v0"


@dataclass(frozen=True)
class ValueProbeConfig:
    """Look for the value of a state in agents of one world."""

    out: Path
    """Folder to make: ``value_probe.json``, ``value_probe.md`` and ``value_by_layer.png``."""
    env: str = "FrozenLake-v1"
    """World, a key of ``agents.inside.worlds.training.RECIPES``, where agents are trained."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON: ``--env-kwargs layout '"obstacles"'``."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the agents that are trained, and of everything done with them."""
    steps: int | None = None
    """Training steps, instead of the recipe's."""
    agents: tuple[str, ...] = ()
    """Folders of ``experiments.make.agents`` (``.../seed-0``) of one world, instead of training."""
    losses: tuple[str, ...] = ("td", "returns", "td+returns", "variance", "dominance", "variance+10*dominance")
    """Weighted sums of ``td``, ``returns``, ``variance``, ``dominance`` and, in TicTacToeDuel-v0, ``ccs``."""
    noises: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Chances of a random action in the noisier versions of the policy."""
    episodes: int = 200
    """Recorded of the policy and of each noisier version; half of them are learnt from."""
    rows: int = 2_000
    """At most this many steps are learnt from, drawn evenly from policy and noisier versions."""
    folds: int = 3
    """Parts into which the states of a small world are dealt to judge each by a probe that never saw it."""
    fit_steps: int = 500
    """Of Adam, on all rows at once."""
    restarts: int = 2
    """First guesses of each probe; the one of the lowest loss is kept."""


def main(cfg: ValueProbeConfig) -> dict[str, Any]:
    """Run the whole study and write it down.

    Raises:
        FileExistsError: the folder exists.
        ValueError: a loss is unknown, has nothing to learn from, or the agents are of several worlds.
    """
    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    losses = {name: LossWeights.parse(name) for name in cfg.losses}
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    agents = [WorldAgent.load(Path(folder)) for folder in cfg.agents]
    if len({(agent.env, json.dumps(agent.env_kwargs, sort_keys=True)) for agent in agents}) > 1:
        raise ValueError(f"agents must be of one world, got {', '.join(agent.env for agent in agents)}")
    found = []
    for place in range(len(agents) or len(cfg.seeds)):
        agent = agents[place] if agents else WorldAgent.train(cfg.env, cfg.env_kwargs, cfg.seeds[place], cfg.steps)
        found.append(study_agent(cfg, agent, losses))
        print(f"{agent.env}, seed {agent.seed}: {time.process_time() - cpu:.0f} s of CPU so far")
    result: dict[str, Any] = {
        "env": agent.env,
        "env_kwargs": agent.env_kwargs,
        "supervised": [name for name, weights in losses.items() if weights.supervised],
        "agents": found,
        "summary": summarize(found),
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "config": {**asdict(cfg), "out": str(cfg.out)},
    }
    cfg.out.mkdir(parents=True)
    write_json(cfg.out / "value_probe.json", result)
    (cfg.out / "value_probe.md").write_text(as_markdown(result))
    draw(result, cfg.out / "value_by_layer.png")
    return result


def study_agent(cfg: ValueProbeConfig, agent: WorldAgent, losses: dict[str, LossWeights]) -> dict[str, Any]:
    """One agent: recorded, probed and judged, with its controls.

    Returns:
        ``data`` (sizes), ``references``, and ``probes`` by source (``trained``, ``untrained``, ``shuffled``), layer
        and loss.
    """
    layers = layers_of(agent.model.policy)
    gamma = float(agent.model.gamma)  # type: ignore[attr-defined]  # every algorithm has one
    recording = _record(cfg, agent, layers, gamma)
    truth = _truth(agent, recording, gamma)
    fit = FitConfig(cfg.fit_steps, restarts=cfg.restarts, seed=agent.seed)
    opposite = _opposite(agent.env, agent.model, recording, layers)
    study = Study.of(recording, gamma, losses, fit, rows=cfg.rows, folds=cfg.folds, truth=truth, opposite=opposite)
    fresh = agent.untrained()
    other = with_other(
        study,
        _critic_of(recompute(fresh.policy, recording, layers), recording),
        _opposite(agent.env, fresh, recording, layers),
    )
    shuffled = shuffle_rewards(recording, agent.seed, gamma)
    seen, unseen = (_of_states(one, layers, truth) for one in (agent.model, fresh))
    return {
        "seed": agent.seed,
        "steps": agent.model.num_timesteps,
        "gamma": gamma,
        "data": study.shown(),
        "references": references(study, _chances(agent, truth)),
        "probes": {
            "trained": {name: score_layer(study, name, seen.get(name)) for name in (*layers, OBSERVATION)},
            "untrained": {name: score_layer(other, name, unseen.get(name)) for name in layers},
            "shuffled": {name: score_layer(study, name, seen.get(name), shuffled) for name in (*layers, OBSERVATION)},
        },
    }


def _record(cfg: ValueProbeConfig, agent: WorldAgent, layers: tuple[str, ...], gamma: float) -> Recording:
    kwargs: dict[str, Any] = {}
    if agent.env == _DUEL:  # a state is the player's who is to move, its opposite that of the one who waits
        kwargs["waiting"] = False
    elif exact_world(agent.env, gamma, **agent.env_kwargs) is not None:  # exact values know of no time limit
        kwargs["max_episode_steps"] = _LONGEST
    rollout = RolloutConfig(cfg.episodes, agent.seed, deterministic=False, gamma=gamma)
    return record_levels(agent.model, agent.lanes(**kwargs), layers, rollout, cfg.noises)


def _truth(agent: WorldAgent, recording: Recording, gamma: float) -> Truth | None:
    seen = recording.observations["obs"]
    if agent.env == _DUEL:
        views, values = solved()
        return Truth(values, states_of(seen), views)
    world = exact_world(agent.env, gamma, **agent.env_kwargs)
    if world is None:
        return None
    every = np.eye(len(world.starts), dtype=np.float32)
    return Truth(policy_values(world, agent.model), seen.argmax(axis=1), every, world)


def _chances(agent: WorldAgent, truth: Truth | None) -> Any:
    """``[S, A]`` of the policy, where one can plan with them."""
    if truth is None or truth.world is None:
        return None
    return action_chances(agent.model.policy, len(truth.values))


def _opposite(env: str, model: BaseAlgorithm, recording: Recording, layers: tuple[str, ...]) -> Recording | None:
    """The opponent's view of the recorded positions, in a game of two."""
    return opposite_views(model.policy, recording, layers, other_view) if env == _DUEL else None


def _critic_of(recording: Recording, trained: Recording) -> Recording:
    """The critic to compare with stays the trained one."""
    return Recording(
        recording.activations, recording.observations, {**recording.steps, "value": trained.steps["value"]}
    )


def _of_states(model: BaseAlgorithm, layers: tuple[str, ...], truth: Truth | None) -> dict[str, Tensor]:
    """``[S, D]`` by layer, the observations themselves among them."""
    if truth is None:
        return {}
    every = {"obs": truth.observations}
    acts, _ = Activations(model.policy, layers)(every)
    plain = Recording(acts, every, {})
    return {name: layer_rows(plain, name) for name in (*layers, OBSERVATION)}


if __name__ == "__main__":
    print(as_markdown(main(tyro.cli(ValueProbeConfig))))
