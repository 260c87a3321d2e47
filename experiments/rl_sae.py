"""SAEs on an RL agent, with controls: ``python -m experiments.rl_sae --agent runs/agents/krk/seed-0 --out runs/sae``.

Record the agent, train SAEs on one module, let the network play through each of them, and score their features against
predicates of the state beside raw neurons, principal components and an untrained network. JSON, Markdown and cards of
the features that tell most.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.activations import Activations
from agents.recording import Predicates, RolloutConfig, join, recompute, record
from agents.rl_sae import playing_through, principal_components
from agents.worlds.king_rook_predicates import lane_predicates
from agents.worlds.training import make_world, recipe_of, train_agent
from experiments.feature_cards import draw_cards, feature_cards
from experiments.make_agents import evaluate
from experiments.rl_sae_report import as_markdown
from experiments.rl_sae_scores import Acting, States, look_closely, over_seeds, score_columns, split_states
from experiments.run_folder import write_json
from experiments.sae_training import SAEConfig, sae_quality, train_sae

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"DQN": DQN, "PPO": PPO}
PLACES = {"DQN": ("q_net.q_net.2", "q_net.q_net"), "PPO": ("mlp_extractor.policy_net.2", "action_net")}
"""By algorithm: the module that is decomposed (its last hidden layer before the non-linearity), and the outputs."""
PREDICATES: dict[str, Predicates] = {"KingRookKing-v0": lane_predicates}


@dataclass(frozen=True)
class RLSAEConfig:
    """Decompose one agent's activations."""

    out: Path
    """Folder to make: ``rl_sae.json``, ``rl_sae.md`` and ``cards.png``."""
    agent: str = "train"
    """Folder of ``experiments.make_agents`` (``.../seed-0``), or ``train`` to train one by the recipe of ``env``."""
    env: str = "KingRookKing-v0"
    """World, where an agent is trained."""
    module: str | None = None
    """Module to decompose; by default the last hidden layer before its non-linearity."""
    episodes: int = 4_000
    """Episodes recorded."""
    epsilon: float = 0.2
    """Share of random actions in them, so that more than the agent's best lines are seen."""
    seed: int = 0
    """Of recording, split and tests."""
    widths: tuple[int, ...] = (512, 1_024)
    """Features of the TopK SAEs."""
    ks: tuple[int, ...] = (5, 10, 20, 40)
    """Active features of the TopK SAEs."""
    penalties: tuple[float, ...] = (1.0, 4.0)
    """Weights of the L1 penalty of the standard SAEs, of the largest width."""
    jumprelu_ks: tuple[int, ...] = (10, 20)
    """Active features that the penalty of the JumpReLU SAEs aims at, of the largest width."""
    sae_seeds: tuple[int, ...] = (0,)
    """Of weights and batches of the SAEs: each SAE is trained with every one; the first is looked at closely."""
    samples: int = 1_000_000
    """Activations that each SAE sees."""
    games: int = 300
    """Episodes of an evaluation, where the world is not evaluated exactly."""
    kept: float = 0.95
    """Share of the return that the chosen SAE must keep; of those that do, the sparsest is looked at closely."""
    cards: int = 8
    """Predicates whose best feature gets a card."""
    shuffles: int = 1_000
    """Of the permutation tests and the bootstrap."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON, where an agent is trained."""


@dataclass(frozen=True)
class Agent:
    """What is decomposed."""

    model: BaseAlgorithm
    env: str
    env_kwargs: dict[str, Any]
    hidden: tuple[int, ...]
    seed: int

    def earned(self, games: int) -> dict[str, float]:
        """What the greedy policy earns as it stands, a substitution included."""
        return evaluate(self.model, self.env, self.env_kwargs, games, self.seed)


def main(cfg: RLSAEConfig) -> dict[str, Any]:
    """Run the whole study and write it down.

    Raises:
        FileExistsError: the folder exists.
        ValueError: the world has no predicates, the module does not exist, or there is no seed for the SAEs.
    """
    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    if not cfg.sae_seeds:
        raise ValueError("sae_seeds must name at least one seed")
    torch.set_num_threads(1)
    start = time.perf_counter()
    agent = load_agent(cfg)
    module, outputs = PLACES[type(agent.model).__name__]
    module = cfg.module or module
    states = recorded_states(cfg, agent, module, outputs)
    result: dict[str, Any] = {
        "agent": {"from": cfg.agent, "env": agent.env, "hidden": list(agent.hidden), "seed": agent.seed},
        "module": module,
        "rows": {
            "visited": len(states.visited),
            "train": len(states.train),
            "test": len(states.test),
            "kept_together": states.unit,
        },
        "plain": agent.earned(cfg.games),
    }
    saes = train_saes(cfg, states.acts(states.visited))
    result["saes"] = {
        name: over_seeds({seed: measure(cfg, agent, module, sae, states) for seed, sae in seeds.items()})
        for name, seeds in saes.items()
    }
    result["substitutions"] = substitutions(cfg, agent, module, states)
    result["columns"] = columns(cfg, agent, module, states)
    best = result["chosen"] = choose(result, cfg.kept)
    first = saes[best][cfg.sae_seeds[0]]
    acting = Acting(
        lambda replace: _through(cfg, agent, module, replace),
        lambda replace: _said(agent, module, outputs, states, replace),
    )
    result["close"] = look_closely(
        first, states, result["saes"][best]["predicates"], acting, seed=cfg.seed, shuffles=cfg.shuffles
    )
    result |= {"wall_s": time.perf_counter() - start, "config": {**asdict(cfg), "out": str(cfg.out)}}
    cfg.out.mkdir(parents=True)
    write_json(cfg.out / "rl_sae.json", result)
    (cfg.out / "rl_sae.md").write_text(as_markdown(result))
    draw_cards(feature_cards(result, first, states, cfg.cards), agent.env, cfg.out / "cards.png")
    return result


def load_agent(cfg: RLSAEConfig) -> Agent:
    """The agent asked for, loaded or trained.

    Raises:
        ValueError: its world has no predicates; raised before anything is trained.
    """
    fresh = cfg.agent == "train"
    card: dict[str, Any] = {"env": cfg.env} if fresh else json.loads((Path(cfg.agent) / "agent.json").read_text())
    if card["env"] not in PREDICATES:
        raise ValueError(f"no predicates for {card['env']!r}; there are for: {', '.join(PREDICATES)}")
    if fresh:
        kwargs = {name: json.loads(value) for name, value in cfg.env_kwargs.items()}
        model = train_agent(cfg.env, cfg.seed, env_kwargs=kwargs)
        return Agent(model, cfg.env, kwargs, recipe_of(cfg.env).hidden, cfg.seed)
    model = ALGORITHMS[card["algorithm"]].load(Path(cfg.agent) / "agent.zip", device="cpu")
    return Agent(model, card["env"], card["env_kwargs"], tuple(card["hidden"]), card["seed"])


def recorded_states(cfg: RLSAEConfig, agent: Agent, module: str, outputs: str) -> States:
    """Play and split."""
    recipe = recipe_of(agent.env)
    envs = make_world(agent.env, recipe.lanes, recipe.reward_scale, **agent.env_kwargs)
    rollout = RolloutConfig(cfg.episodes, cfg.seed, cfg.epsilon)
    recording = join(list(record(agent.model, envs, [module, outputs], rollout, PREDICATES[agent.env])))
    return split_states(recording, module, outputs, cfg.seed)


def train_saes(cfg: RLSAEConfig, acts: Tensor) -> dict[str, dict[int, Any]]:
    """Every SAE asked for, by name and seed."""
    widest = max(cfg.widths)
    wanted = {
        f"topk-{width}-k{k}": SAEConfig(width, k, cfg.samples, scaled=True) for width in cfg.widths for k in cfg.ks
    }
    for k in cfg.jumprelu_ks:
        wanted[f"jumprelu-{widest}-k{k}"] = SAEConfig(widest, k, cfg.samples, architecture="jumprelu", scaled=True)
    for penalty in cfg.penalties:
        name = f"l1-{widest}-{penalty:g}"
        wanted[name] = SAEConfig(widest, 1, cfg.samples, architecture="standard", sparsity=penalty, scaled=True)
    return {
        name: {seed: train_sae(acts, setting, {}, seed) for seed in cfg.sae_seeds} for name, setting in wanted.items()
    }


@torch.no_grad()
def measure(cfg: RLSAEConfig, agent: Agent, module: str, sae: Any, states: States) -> dict[str, Any]:
    """Quality on held-out states, play through the reconstruction, and what the features stand for."""
    quality = sae_quality(sae, states.acts(states.test))
    quality["dead_share"] = quality.pop("dead_features") / sae.cfg.d_sae
    train, test = (sae.encode(states.acts(rows)) for rows in (states.train, states.test))
    return {
        **quality,
        "play": _through(cfg, agent, module, sae),
        **score_columns(train, test, states, cfg.seed, cfg.shuffles),
    }


@torch.no_grad()
def substitutions(cfg: RLSAEConfig, agent: Agent, module: str, states: States) -> dict[str, dict[str, float]]:
    """What cruder stand-ins of the same activations earn: their mean, and as many principal components as k."""
    acts = states.acts(states.visited)
    mean = acts.mean(dim=0)
    axes = torch.linalg.eigh(torch.cov(acts.T.double())).eigenvectors.flip(1).T.to(mean)
    found = {"mean": _through(cfg, agent, module, lambda acts: mean.expand_as(acts))}
    for k in cfg.ks:
        kept = axes[:k].T @ axes[:k]
        found[f"pca-{k}"] = _through(cfg, agent, module, lambda acts, kept=kept: (acts - mean) @ kept + mean)
    return found


@torch.no_grad()
def columns(cfg: RLSAEConfig, agent: Agent, module: str, states: States) -> dict[str, Any]:
    """What other columns of numbers stand for: neurons, components, outputs, an untrained network and its SAE."""
    fresh = train_agent(agent.env, agent.seed + 1_000, 0, agent.hidden, agent.env_kwargs)
    untrained = recompute(fresh.policy, states.recording, [module]).activations[module]
    largest = SAEConfig(max(cfg.widths), max(cfg.ks), cfg.samples, scaled=True)
    with torch.enable_grad():
        sae = train_sae(untrained[states.visited], largest, {}, cfg.seed)
    halves = [states.acts(rows) for rows in (states.train, states.test)]
    random = [untrained[rows] for rows in (states.train, states.test)]
    found = {
        "neurons": halves,
        "neurons after ReLU": [acts.relu() for acts in halves],
        "principal components": principal_components(*halves),
        "outputs": [torch.from_numpy(states.said(rows)) for rows in (states.train, states.test)],
        "untrained neurons": random,
        f"untrained topk-{largest.features}-k{largest.k}": [sae.encode(acts) for acts in random],
    }
    return {name: score_columns(one, two, states, cfg.seed, cfg.shuffles) for name, (one, two) in found.items()}


def choose(result: dict[str, Any], kept: float) -> str:
    """The sparsest SAE that keeps the return, both by the mean over seeds; if none does, the one that keeps most."""
    plain, saes = result["plain"]["return"], result["saes"]
    mean = {name: {column: cell["mean"] for column, cell in row["over_seeds"].items()} for name, row in saes.items()}
    share = {name: 1 - (plain - row["return"]) / abs(plain) for name, row in mean.items()}
    for name, row in saes.items():
        row["return_kept"] = share[name]
    good = [name for name in saes if share[name] >= kept]
    return min(good, key=lambda name: mean[name]["l0"]) if good else max(share, key=lambda name: share[name])


def _through(cfg: RLSAEConfig, agent: Agent, module: str, replace: Any) -> dict[str, float]:
    with playing_through(agent.model.policy, module, replace):
        return agent.earned(cfg.games)


def _said(agent: Agent, module: str, outputs: str, states: States, replace: Any) -> Tensor:
    """``[n, A]`` what the network puts out in the tested states with a substitute in the activation's place."""
    seen = {name: rows[states.test] for name, rows in states.recording.observations.items()}
    with playing_through(agent.model.policy, module, replace):
        return Activations(agent.model.policy, [outputs])(seen)[0][outputs]


if __name__ == "__main__":
    done = main(tyro.cli(RLSAEConfig))
    print(as_markdown(done))
