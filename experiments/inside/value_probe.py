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


@dataclass(frozen=True)
class ValueProbeConfig:
    """Look for the value of a state in agents of one world."""

    out: Path
    """Folder to make: ``value_probe.json``, ``value_probe.md`` and ``value_by_layer.png``."""
    env: str = "FrozenLake-v1"
    """World, a key of ``agents.inside.worlds.agents.RECIPES``, where agents are trained."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON: ``--env-kwargs layout '"obstacles"'``."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the agents that are trained, and of everything done with them."""
    steps: int | None = None
    """Training steps, instead of the recipe's."""
    agents: tuple[str, ...] = ()
    """Folders of ``steer make-agents`` (``.../seed-0``) of one world, instead of training."""
    losses: tuple[str, ...] = ("td", "returns", "td+returns", "variance", "dominance", "variance+10*dominance")
    """Weighted sums of ``td``, ``returns``, ``variance``, ``dominance`` and, in TicTacToeDuel-v0, ``ccs``."""
    noises: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Chances of a random action in the noisier versions of the policy."""
    episodes: int = 200
    """Episodes recorded of the policy and of each noisier version; probes are fitted to half of them."""
    rows: int = 2_000
    """Steps that a probe is fitted to, at most, drawn evenly from policy and noisier versions."""
    folds: int = 3
    """Parts into which the states of a small world are dealt, so that each is judged by a probe that never saw it."""
    fit_steps: int = 500
    """Steps of Adam, on all rows at once."""
    restarts: int = 2
    """First guesses of each probe; the one of the lowest loss is kept."""


def main(cfg: ValueProbeConfig) -> Any:
    """Run the whole study and write it down; returns the ``ValueProbeResult``.

    Raises:
        FileExistsError: The folder exists.
        ValueError: A loss is unknown or has nothing to be fitted to, or the agents are of several worlds.
    """
    import torch

    from agents.inside.probes import FitConfig, LossWeights
    from agents.inside.value_report import ValueProbeResult, as_markdown, draw, summarize
    from agents.inside.value_study import study_agent
    from agents.inside.worlds.agents import WorldAgent

    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    losses = {name: LossWeights.parse(name) for name in cfg.losses}
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    agents = [WorldAgent.load(Path(folder)) for folder in cfg.agents]
    if len({(agent.env, json.dumps(agent.env_kwargs, sort_keys=True)) for agent in agents}) > 1:
        raise ValueError(f"agents must be of one world, got {', '.join(agent.env for agent in agents)}")
    fit = FitConfig(cfg.fit_steps, restarts=cfg.restarts)
    found = []
    for place in range(len(agents) or len(cfg.seeds)):
        agent = agents[place] if agents else WorldAgent.train(cfg.env, cfg.env_kwargs, cfg.seeds[place], cfg.steps)
        found.append(study_agent(agent, losses, fit, cfg.episodes, cfg.noises, cfg.rows, cfg.folds))
        print(f"{agent.env}, seed {agent.seed}: {time.process_time() - cpu:.0f} s of CPU so far")
    result = ValueProbeResult(
        env=agent.env,
        env_kwargs=agent.env_kwargs,
        supervised=[name for name, weights in losses.items() if weights.supervised],
        agents=found,
        summary=summarize(found),
        config={**asdict(cfg), "out": str(cfg.out)},
        wall_s=time.perf_counter() - start,
        cpu_s=time.process_time() - cpu,
    )
    text = as_markdown(result)
    cfg.out.mkdir(parents=True)
    result.write(cfg.out / "value_probe.json")
    (cfg.out / "value_probe.md").write_text(text)
    draw(result, cfg.out / "value_by_layer.png")
    print(text)
    return result
