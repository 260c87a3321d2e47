"""SAEs on an RL agent, with controls: ``steer rl-sae --agent runs/agents/krk/seed-0 --out runs/sae``.

Record the agent, train SAEs on one module, let the network play through each of them, and score their features against
predicates of the state beside raw neurons, principal components and an untrained network. JSON, Markdown and cards of
the features that detect most.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steer_env.lm.sae_config import SAEConfig, check


@dataclass(frozen=True)
class RLSAEConfig:
    """Decompose one agent's activations."""

    out: Path
    """Folder to make: ``rl_sae.json``, ``rl_sae.md`` and ``cards.png``."""
    agent: str = "train"
    """Folder of ``steer make-agents`` (``.../seed-0``), or ``train`` to train one by the recipe of ``env``."""
    env: str = "KingRookKing-v0"
    """World, where an agent is trained."""
    module: str | None = None
    """Module to decompose; by default the last hidden layer before its non-linearity."""
    episodes: int | None = None
    """Episodes recorded, instead of the world's own number in ``WORLDS``."""
    epsilon: float = 0.2
    """Share of random actions in them, so that more than the agent's best lines are seen."""
    seed: int = 0
    """Seed of recording, split and tests."""
    widths: tuple[int, ...] = (512, 1_024)
    """Features of the TopK SAEs."""
    ks: tuple[int, ...] = (5, 10, 20, 40)
    """Active features of the TopK SAEs."""
    penalties: tuple[float, ...] = (1.0, 4.0)
    """Weights of the L1 penalty of the standard SAEs, of the largest width."""
    jumprelu_ks: tuple[int, ...] = (10, 20)
    """Active features that the penalty of the JumpReLU SAEs aims at, of the largest width."""
    sae_seeds: tuple[int, ...] = (0,)
    """Seeds of weights and batches of the SAEs: each SAE is trained with every one; the first is looked at closely."""
    samples: int = 1_000_000
    """Activations that each SAE sees in training."""
    games: int = 300
    """Episodes of an evaluation, where the world is not evaluated exactly."""
    kept: float = 0.95
    """Share of the return that the chosen SAE must keep; of those that do, the sparsest is looked at closely. If
    none does, or the agent earns nothing, the SAE that earns most is."""
    cards: int = 8
    """Predicates whose best feature gets a card."""
    shuffles: int = 1_000
    """Shuffles of the permutation tests and resamples of the bootstrap."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON, where an agent is trained."""

    def __post_init__(self) -> None:
        if not self.sae_seeds:
            raise ValueError("sae_seeds must name at least one seed")
        for name in ("games", "cards", "shuffles"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        sae_configs(self)


def main(cfg: RLSAEConfig) -> Any:
    """Run the whole study and write it down; returns the ``RLSAEResult``.

    Raises:
        FileExistsError: The folder exists.
        ValueError: The world has no predicates (raised before anything is trained), or the module does not exist or
            takes no part in what is done.
    """
    import torch

    from agents.inside.recordings import RolloutConfig
    from agents.inside.sae_report import RLSAEResult, as_markdown, draw_cards, feature_cards
    from agents.inside.sae_study import Study, choose, over_seeds, world_of
    from agents.inside.worlds.agents import AgentCard, WorldAgent
    from steer_env.lm.sae_training import train_sae

    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    torch.set_num_threads(1)
    start = time.perf_counter()
    fresh = cfg.agent == "train"
    env = cfg.env if fresh else AgentCard.read(Path(cfg.agent) / "agent.json").env
    rollout = RolloutConfig(cfg.episodes or world_of(env).episodes, cfg.seed, cfg.epsilon)
    agent = WorldAgent.train(env, cfg.env_kwargs, cfg.seed) if fresh else WorldAgent.load(Path(cfg.agent))
    study = Study.begin(agent, cfg.module, rollout, cfg.shuffles, cfg.games)
    visited = study.states.acts(study.states.visited)
    settings, first = sae_configs(cfg), cfg.sae_seeds[0]
    saes = {
        name: {seed: train_sae(visited, setting, {}, seed) for seed in cfg.sae_seeds}
        for name, setting in settings.items()
    }
    rows = {
        name: over_seeds({seed: study.measured(sae) for seed, sae in seeds.items()}) for name, seeds in saes.items()
    }
    plain = agent.earned(cfg.games)
    chosen = choose(rows, plain["return"], cfg.kept)
    result = RLSAEResult(
        agent={"from": cfg.agent, "env": agent.env, "hidden": list(agent.hidden), "seed": agent.seed},
        module=study.states.module,
        rows=study.sizes(),
        plain=plain,
        saes=rows,
        substitutions=study.substitutions(cfg.ks),
        chosen=chosen,
        columns=study.columns(chosen, settings[chosen], first),
        close=study.closely(saes[chosen][first], rows[chosen]["predicates"]),
        config={**asdict(cfg), "out": str(cfg.out)},
        wall_s=time.perf_counter() - start,
    )
    cards = feature_cards(result, saes[chosen][first], study.states, cfg.cards)
    text = as_markdown(result)
    cfg.out.mkdir(parents=True)
    result.write(cfg.out / "rl_sae.json")
    (cfg.out / "rl_sae.md").write_text(text)
    draw_cards(cards, agent.env, cfg.out / "cards.png")
    print(text)
    return result


def sae_configs(cfg: RLSAEConfig) -> dict[str, SAEConfig]:
    """Every SAE asked for, by name.

    Raises:
        ValueError: there is none, or one cannot be.
    """
    widest = max(cfg.widths, default=0)
    wanted = {
        f"topk-{width}-k{k}": SAEConfig(width, k, cfg.samples, scaled=True) for width in cfg.widths for k in cfg.ks
    }
    for k in cfg.jumprelu_ks:
        wanted[f"jumprelu-{widest}-k{k}"] = SAEConfig(widest, k, cfg.samples, architecture="jumprelu", scaled=True)
    for penalty in cfg.penalties:
        name = f"l1-{widest}-{penalty:g}"
        wanted[name] = SAEConfig(widest, 1, cfg.samples, architecture="standard", sparsity=penalty, scaled=True)
    if not wanted:
        raise ValueError("no SAE is asked for: give widths with ks, jumprelu_ks or penalties")
    for one in wanted.values():
        check(one)
    return wanted
