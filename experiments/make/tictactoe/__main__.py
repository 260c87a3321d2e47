"""Makes the embedded tic-tac-toe model: games as text -> language model -> SAE -> measured card.

``steer make-tictactoe`` writes weights (safetensors), tokenizer, SAE and card, in
minutes on two cores; the same seed gives the same files on the same versions and thread count.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from experiments.make.tictactoe.games import Players, sample_games
from experiments.make.tictactoe.instrument import (
    Steered,
    best_fixed_feature,
    controllability,
    draw_rate,
    fixed,
    legal_rate,
    open_positions,
    oracle,
    play_games,
    readability,
    unsteered,
)
from experiments.make.tictactoe.training import (
    LanguageModelConfig,
    SAEConfig,
    build_tokenizer,
    encode_games,
    move_residuals,
    next_token_loss,
    train_language_model,
)
from steer_env.lm.cards import rounded, save_card
from steer_env.lm.sae_training import sae_quality, train_sae
from steer_env.tasks.tictactoe.task import TicTacToe

NAME = "steer-tictactoe"
EMBEDDED = Path(__file__).parents[3] / "steer_env" / "embedded" / "tictactoe"


@dataclass(frozen=True)
class Config:
    """Everything that decides what comes out.

    Attributes:
        out: folder to write.
        seed: of the games, the weights and the batches.
        games: games to train on.
        held_out: games that loss and SAE are measured on.
        players: who plays them.
        lm: the language model.
        sae: the SAE.
        layer: block whose output the SAE reads and steers.
        coefficient: default steering strength, in medians of the residual norm at ``layer``.
        positions: positions sampled for controllability; 0 takes all.
        episodes: games per measured draw rate.
        threads: torch threads; part of what makes a run repeat exactly.
    """

    out: Path = EMBEDDED
    seed: int = 0
    games: int = 100_000
    held_out: int = 5_000
    players: Players = field(default_factory=Players)
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    sae: SAEConfig = field(default_factory=SAEConfig)
    layer: int = 1
    coefficient: float = 1.0
    positions: int = 500
    episodes: int = 1_000
    threads: int = 1


def main(cfg: Config) -> dict[str, Any]:
    """Make, measure and save; returns the card.

    Raises:
        ValueError: the layer is not one of the model's blocks, or the coefficient is not finite.
    """
    _check(cfg)
    torch.set_num_threads(cfg.threads)
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(cfg.seed)
    train = encode_games(sample_games(cfg.games, cfg.players, rng), tokenizer)
    held_out = encode_games(sample_games(cfg.held_out, cfg.players, rng), tokenizer)

    model, train_loss = train_language_model(train, cfg.lm, cfg.seed)
    acts = move_residuals(model, train[: cfg.sae.games], cfg.layer)
    held_out_acts = move_residuals(model, held_out, cfg.layer)
    hook = {"model_name": NAME, "hook_name": f"blocks.{cfg.layer}.hook_resid_post", "prepend_bos": True}
    sae = train_sae(acts, cfg.sae, hook, cfg.seed)
    sae.fold_W_dec_norm()

    norm = float(held_out_acts.norm(dim=-1).median())
    measured = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "train_loss": train_loss,
        "held_out_loss": float(next_token_loss(model, held_out)),
        "sae": sae_quality(sae, held_out_acts),
        **measure(Steered(model, cfg.layer, sae.W_dec.detach() * cfg.coefficient * norm), cfg),
    }
    steering = {
        "layer": cfg.layer,
        "site": "post",
        "coefficient": cfg.coefficient,
        "coefficient_unit": "norm",
        "residual_norm": norm,
    }
    cfg.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(cfg.out)
    build_tokenizer().save_pretrained(cfg.out)  # a new one: encoding has left padding in the other
    sae.save_inference_model(cfg.out / "sae")
    return _write_card(cfg, steering, measured)


def measure(steered: Steered, cfg: Config) -> dict[str, Any]:
    """What makes it a good instrument: weak alone, strong under an oracle, no single feature enough."""
    task, items = TicTacToe(split="validation"), range(cfg.episodes)
    rng = np.random.default_rng(cfg.seed)
    everything = open_positions()
    sampled = [everything[i] for i in rng.permutation(len(everything))[: cfg.positions or None]]
    greedy = play_games(steered, task, items, unsteered)
    warm = play_games(steered, task, items, unsteered, temperature=1.0, seed=cfg.seed)
    few = range(min(200, cfg.episodes))
    best = best_fixed_feature(steered, few)
    return {
        "unsteered_greedy": {"draw_rate": draw_rate(greedy), "legal_rate": legal_rate(greedy)},
        "unsteered_sampled": {"draw_rate": draw_rate(warm), "legal_rate": legal_rate(warm)},
        "best_fixed": {
            "feature": best,
            "draw_rate": draw_rate(play_games(steered, task, items, fixed(steered.deltas[best]))),
        },
        "oracle": {"draw_rate": draw_rate(play_games(steered, task, few, oracle(steered)))},
        "control": {"positions": len(sampled), **controllability(steered, sampled)},
        "readability": {
            "positions": len(everything),
            **readability(steered.model, steered.layer, everything, cfg.seed),
        },
    }


def _check(cfg: Config) -> None:
    if not 0 <= cfg.layer < cfg.lm.blocks:
        raise ValueError(f"layer must be in [0, {cfg.lm.blocks}), got {cfg.layer}")
    if not np.isfinite(cfg.coefficient):
        raise ValueError(f"coefficient must be finite, got {cfg.coefficient}")


def _write_card(cfg: Config, steering: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(cfg).items() if key != "out"}
    found = {
        "name": NAME,
        "benchmark": False,
        "steering": {"tictactoe": {"sae": "sae", **steering}},
        "measured": rounded(measured),
        "config": settings,
    }
    return save_card(cfg.out, found, _card_text)


def _card_text(card: dict[str, Any]) -> str:
    m, c, s = card["measured"], card["config"], card["steering"]["tictactoe"]
    sae, alone, warm = m["sae"], m["unsteered_greedy"], m["unsteered_sampled"]
    control, read, best = m["control"], m["readability"], m["best_fixed"]
    return f"""# {card["name"]}

A {m["parameters"]:,}-parameter LLaMA that writes tic-tac-toe games as text, one digit a move (`5 1 9 ...`), and a
TopK SAE on the output of block {s["layer"]}. An instrument for steering experiments, not a benchmark.

* **Data:** {c["games"]:,} generated games. A player is an expert (minimax-optimal moves) with probability
  {c["players"]["expert_share"]}, else a novice, who plays the next free cell after the last move with probability
  {c["players"]["habit"]} and any free cell otherwise.
* **Language model:** {c["lm"]["blocks"]} blocks of width {c["lm"]["width"]}, {c["lm"]["steps"]:,} steps of
  {c["lm"]["batch"]} games; loss {m["train_loss"]:.3f} in training, {m["held_out_loss"]:.3f} held out (nats a token).
* **SAE:** {c["sae"]["features"]} features, k = {c["sae"]["k"]}, trained with SAELens on moves of
  {c["sae"]["games"]:,} games; explained variance {sae["explained_variance"]:.3f}, L0 {sae["l0"]:.1f},
  dead features {sae["dead_features"]}.
* **Steering:** {s["coefficient"]} times the median residual norm ({s["residual_norm"]:.2f}) at the output of block
  {s["layer"]}.

Measured as O against the optimal teacher, {c["episodes"]:,} validation games (200 for the oracle):

| | draws | legal moves |
|---|---|---|
| unsteered, greedy | {alone["draw_rate"]:.3f} | {alone["legal_rate"]:.3f} |
| unsteered, temperature 1 | {warm["draw_rate"]:.3f} | {warm["legal_rate"]:.3f} |
| best fixed feature ({best["feature"]}, chosen on training games) | {best["draw_rate"]:.3f} | |
| oracle (one feature a move) | {m["oracle"]["draw_rate"]:.3f} | |

* **Controllable:** in {control["controllable"]:.1%} of {control["positions"]:,} positions (O to move, not lost) some
  single feature makes the greedy move optimal; {control["reachable"]:.1%} of legal moves can be selected.
* **Readable:** a probe on the residual names an optimal move in {read["linear"]:.1%} (linear) and
  {read["mlp"]:.1%} (MLP) of held-out positions.

Made by `steer make-tictactoe`; settings, versions and hashes are in `card.json`.
"""


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Config))["measured"], indent=2))
