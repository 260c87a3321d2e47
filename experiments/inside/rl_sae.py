"""SAEs on an RL agent, with controls: ``steer rl-sae --agent runs/agents/krk/seed-0 --out runs/sae``.

Record the agent, train SAEs on one module, let the network play through each of them, and score their features against
predicates of the state beside raw neurons, principal components and an untrained network. JSON, Markdown and cards of
the features that tell most.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from agents.inside.activations import Activations
from agents.inside.feature_cards import draw_cards, feature_cards
from agents.inside.recording import Predicates, RolloutConfig, join, recompute, record
from agents.inside.sae_report import as_markdown
from agents.inside.sae_scores import FEWEST, Acting, States, look_closely, over_seeds, score_columns, split_states
from agents.inside.saes import playing_through, principal_components
from agents.inside.world_agents import PLACES, WorldAgent, unit_of
from agents.inside.worlds import breakout_predicates, cartpole_predicates, king_rook_predicates
from agents.runs.folder import read_json, write_json
from steer_env.lm.sae_training import SAEConfig, check, sae_quality, train_sae


@dataclass(frozen=True)
class World:
    """How a world is looked at.

    Attributes:
        predicates: of its states.
        episodes: to record, some tens of thousands of states.
    """

    predicates: Predicates
    episodes: int


WORLDS = {
    "KingRookKing-v0": World(king_rook_predicates.lane_predicates, 4_000),
    "CartPole-v1": World(cartpole_predicates.lane_predicates, 80),
    "MinAtarBreakout-v0": World(breakout_predicates.lane_predicates, 400),
}


@dataclass(frozen=True)
class RLSAEConfig:
    """Decompose one agent's activations."""

    out: Path
    """Folder to make: ``rl_sae.json``, ``rl_sae.md`` and ``cards.png``."""
    agent: str = "train"
    """Folder of ``experiments.make.agents`` (``.../seed-0``), or ``train`` to train one by the recipe of ``env``."""
    env: str = "KingRookKing-v0"
    """World, where an agent is trained."""
    module: str | None = None
    """Module to decompose; by default the last hidden layer before its non-linearity."""
    episodes: int | None = None
    """Episodes recorded, instead of the world's own number in ``WORLDS``."""
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
    """Share of the return that the chosen SAE must keep; of those that do, the sparsest is looked at closely. If
    none does, or the agent earns nothing, the SAE that earns most is."""
    cards: int = 8
    """Predicates whose best feature gets a card."""
    shuffles: int = 1_000
    """Of the permutation tests and the bootstrap."""
    env_kwargs: dict[str, str] = field(default_factory=dict)
    """Arguments of the world, each as JSON, where an agent is trained."""

    def __post_init__(self) -> None:
        if not self.sae_seeds:
            raise ValueError("sae_seeds must name at least one seed")
        for name in ("games", "cards", "shuffles"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        sae_configs(self)


def main(cfg: RLSAEConfig) -> dict[str, Any]:
    """Run the whole study and write it down.

    Raises:
        FileExistsError: the folder exists.
        ValueError: the world has no predicates, or the module does not exist or takes no part in what is done.
    """
    if cfg.out.exists():
        raise FileExistsError(f"{cfg.out} exists")
    torch.set_num_threads(1)
    start = time.perf_counter()
    study = Study.begin(cfg)
    saes = train_saes(cfg, study.states.acts(study.states.visited))
    result = study.result(saes)
    result |= {"wall_s": time.perf_counter() - start, "config": {**asdict(cfg), "out": str(cfg.out)}}
    cards = feature_cards(result, saes[result["chosen"]][cfg.sae_seeds[0]], study.states, cfg.cards)
    cfg.out.mkdir(parents=True)
    write_json(cfg.out / "rl_sae.json", result)
    (cfg.out / "rl_sae.md").write_text(as_markdown(result))
    draw_cards(cards, study.agent.env, cfg.out / "cards.png")
    return result


@dataclass(frozen=True)
class Study:
    """One agent that is decomposed.

    Attributes:
        cfg: what is asked for.
        agent: the agent.
        module: what is decomposed.
        outputs: what puts out its Q values or logits.
        states: where it has been.
    """

    cfg: RLSAEConfig
    agent: WorldAgent
    module: str
    outputs: str
    states: States

    @classmethod
    def begin(cls, cfg: RLSAEConfig) -> Study:
        """Load or train the agent, and record it.

        Raises:
            ValueError: its world has no predicates, raised before anything is trained; too little is recorded to tell
                of any; or what is decomposed does not matter to what the agent does, as a critic does not.
        """
        fresh = cfg.agent == "train"
        env = cfg.env if fresh else read_json(Path(cfg.agent) / "agent.json")["env"]
        if env not in WORLDS:
            raise ValueError(f"no predicates for {env!r}; there are for: {', '.join(WORLDS)}")
        agent = WorldAgent.train(env, cfg.env_kwargs, cfg.seed) if fresh else WorldAgent.load(Path(cfg.agent))
        last_hidden, outputs = PLACES[agent.algorithm]
        module = cfg.module or last_hidden
        rollout = RolloutConfig(cfg.episodes or WORLDS[env].episodes, cfg.seed, cfg.epsilon)
        recorded = record(agent.model, agent.lanes(), [module, outputs], rollout, WORLDS[env].predicates)
        states = split_states(join(list(recorded)), module, outputs, cfg.seed, unit_of(env))
        study = cls(cfg, agent, module, outputs, states)
        if torch.equal(study.said_through(torch.zeros_like), study.said_through(lambda acts: acts)):
            raise ValueError(f"{module!r} does not matter to what the agent does: nothing can be seen by replacing it")
        if not states.truths(states.test):
            raise ValueError(f"no predicate holds and fails in {FEWEST} units of either half: record more episodes")
        return study

    def result(self, saes: dict[str, dict[int, Any]]) -> dict[str, Any]:
        """All that is found out, by the SAEs by name and seed."""
        agent, states, cfg = self.agent, self.states, self.cfg
        found: dict[str, Any] = {
            "agent": {"from": cfg.agent, "env": agent.env, "hidden": list(agent.hidden), "seed": agent.seed},
            "module": self.module,
            "rows": {
                "visited": len(states.visited),
                "train": len(states.train),
                "test": len(states.test),
                "kept_together": states.unit,
            },
            "plain": agent.earned(cfg.games),
            "saes": {
                name: over_seeds({seed: self.measured(sae) for seed, sae in seeds.items()})
                for name, seeds in saes.items()
            },
            "substitutions": self.substitutions(),
        }
        best = found["chosen"] = choose(found, cfg.kept)
        found["columns"] = self.columns(best)
        first, scored = saes[best][cfg.sae_seeds[0]], found["saes"][best]["predicates"]
        acting = Acting(self.earned_through, self.said_through)
        found["close"] = look_closely(first, states, scored, acting, seed=cfg.seed, shuffles=cfg.shuffles)
        return found

    @torch.no_grad()
    def measured(self, sae: Any) -> dict[str, Any]:
        """Quality on held-out states, play through the reconstruction, and what the features stand for."""
        states = self.states
        quality = sae_quality(sae, states.acts(states.test))
        quality["dead_share"] = quality.pop("dead_features") / sae.cfg.d_sae
        train, test = (sae.encode(states.acts(rows)) for rows in (states.train, states.test))
        return {**quality, "play": self.earned_through(sae), **self.scored(train, test)}

    @torch.no_grad()
    def substitutions(self) -> dict[str, dict[str, float]]:
        """What cruder stand-ins of the same activations earn: their mean, and as many principal components as k."""
        acts = self.states.acts(self.states.visited)
        mean = acts.mean(dim=0)
        axes = torch.linalg.eigh(torch.cov(acts.T.double())).eigenvectors.flip(1).T.to(mean)
        found = {"mean": self.earned_through(lambda acts: mean.expand_as(acts))}
        for k in self.cfg.ks:
            kept = axes[:k].T @ axes[:k]
            found[f"pca-{k}"] = self.earned_through(lambda acts, kept=kept: (acts - mean) @ kept + mean)
        return found

    @torch.no_grad()
    def columns(self, chosen: str) -> dict[str, Any]:
        """What other columns of numbers stand for: neurons, components, outputs, an untrained network and its SAE.

        Args:
            chosen: name of the SAE that the untrained network gets too.
        """
        states, cfg = self.states, self.cfg
        untrained = recompute(self.agent.untrained().policy, states.recording, [self.module]).activations[self.module]
        with torch.enable_grad():
            sae = train_sae(untrained[states.visited], sae_configs(cfg)[chosen], {}, cfg.sae_seeds[0])
        halves = [states.acts(rows) for rows in (states.train, states.test)]
        random = [untrained[rows] for rows in (states.train, states.test)]
        passed_on: type[nn.Module] = self.agent.model.policy.activation_fn  # type: ignore[assignment]  # of all of SB3's
        found = {
            "neurons": halves,
            f"neurons after {passed_on.__name__}": [passed_on()(acts) for acts in halves],
            "principal components": principal_components(*halves),
            "outputs": [torch.from_numpy(states.said(rows)) for rows in (states.train, states.test)],
            "untrained neurons": random,
            f"untrained {chosen}": [sae.encode(acts) for acts in random],
        }
        return {name: self.scored(one, two) for name, (one, two) in found.items()}

    def scored(self, train: Tensor, test: Tensor) -> dict[str, Any]:
        """What columns of numbers in both halves stand for."""
        return score_columns(train, test, self.states, self.cfg.seed, self.cfg.shuffles)

    def earned_through(self, replace: Any) -> dict[str, float]:
        """What the agent earns with a substitute in the activation's place."""
        with playing_through(self.agent.model.policy, self.module, replace):
            return self.agent.earned(self.cfg.games)

    def said_through(self, replace: Any) -> Tensor:
        """``[n, A]`` what the network puts out in the tested states, with a substitute in the activation's place."""
        seen = {name: rows[self.states.test] for name, rows in self.states.recording.observations.items()}
        with playing_through(self.agent.model.policy, self.module, replace):
            return Activations(self.agent.model.policy, [self.outputs])(seen)[0][self.outputs]


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


def train_saes(cfg: RLSAEConfig, acts: Tensor) -> dict[str, dict[int, Any]]:
    """Every SAE asked for, by name and seed."""
    return {
        name: {seed: train_sae(acts, setting, {}, seed) for seed in cfg.sae_seeds}
        for name, setting in sae_configs(cfg).items()
    }


def choose(result: dict[str, Any], kept: float) -> str:
    """The sparsest SAE that keeps the return, both by the mean over seeds; if none does, the one that earns most.

    Writes ``return_kept`` into its row of ``saes``; it is None where the agent earns nothing that could be kept.
    """
    plain, saes = result["plain"]["return"], result["saes"]
    mean = {name: {column: cell["mean"] for column, cell in row["over_seeds"].items()} for name, row in saes.items()}
    for name, row in saes.items():
        row["return_kept"] = mean[name]["return"] / plain if plain > 0 else None
    good = [name for name, row in saes.items() if row["return_kept"] is not None and row["return_kept"] >= kept]
    return min(good, key=lambda name: mean[name]["l0"]) if good else max(saes, key=lambda name: mean[name]["return"])


if __name__ == "__main__":
    done = main(tyro.cli(RLSAEConfig))
    print(as_markdown(done))
