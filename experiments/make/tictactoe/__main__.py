"""Makes the embedded tic-tac-toe model: games as text -> language model -> SAE -> measured card.

``steer make-tictactoe`` writes weights (safetensors), tokenizer, SAE and card, in minutes on two cores; the same seed
gives the same files on the same versions and thread count.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from experiments.make.tictactoe.config import MakeTicTacToeConfig

NAME = "steer-tictactoe"


def main(cfg: MakeTicTacToeConfig) -> dict[str, Any]:
    """Make, save and measure; returns the card.

    Raises:
        ValueError: The layer is not one of the model's blocks, or the coefficient is not finite.
    """
    import numpy as np
    import torch

    from experiments.make.tictactoe.games import sample_games
    from experiments.make.tictactoe.instrument import measure
    from experiments.make.tictactoe.training import (
        build_tokenizer,
        encode_games,
        move_residuals,
        next_token_loss,
        train_language_model,
    )
    from steer_env.lm.cards import rounded, save_card
    from steer_env.lm.sae_training import sae_quality, train_sae

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

    cfg.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(cfg.out)
    build_tokenizer().save_pretrained(cfg.out)  # a new one: encoding has left padding in the other
    sae.save_inference_model(cfg.out / "sae")

    norm = float(held_out_acts.norm(dim=-1).median())
    saved = {"model": str(cfg.out), "sae": str(cfg.out / "sae")}
    strength = {"coefficient": cfg.coefficient * norm, "coefficient_unit": "residual"}
    measured = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "train_loss": train_loss,
        "held_out_loss": float(next_token_loss(model, held_out)),
        "sae": sae_quality(sae, held_out_acts),
        **measure(saved | strength, cfg),
    }
    steering = {
        "sae": "sae",
        "layer": cfg.layer,
        "site": "post",
        "coefficient": cfg.coefficient,
        "coefficient_unit": "norm",
        "residual_norm": norm,
    }
    found = {
        "name": NAME,
        "benchmark": False,
        "steering": {"tictactoe": steering},
        "measured": rounded(measured),
        "config": {key: value for key, value in asdict(cfg).items() if key != "out"},
    }
    print(json.dumps(found["measured"], indent=2))
    return save_card(cfg.out, found, card_text)


def _check(cfg: MakeTicTacToeConfig) -> None:
    if not 0 <= cfg.layer < cfg.lm.blocks:
        raise ValueError(f"layer must be in [0, {cfg.lm.blocks}), got {cfg.layer}")
    if not math.isfinite(cfg.coefficient):
        raise ValueError(f"coefficient must be finite, got {cfg.coefficient}")


def card_text(card: dict[str, Any]) -> str:
    """The card as a person reads it."""
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
