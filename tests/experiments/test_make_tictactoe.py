"""The embedded tic-tac-toe model: how it is made, what is on disk, and what its card promises."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sae_lens import SAE
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.make.tictactoe.__main__ import card_text, main
from experiments.make.tictactoe.config import (
    EMBEDDED,
    GamesSAEConfig,
    LanguageModelConfig,
    MakeTicTacToeConfig,
    Players,
)
from experiments.make.tictactoe.games import habitual_move, sample_games
from experiments.make.tictactoe.instrument import moves_by_feature, open_positions, oracle, shares
from experiments.make.tictactoe.training import build_tokenizer, encode_games, train_language_model
from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import Setting, fixed, unsteered
from steer_env.evaluation.play import Envs, Policy, play
from steer_env.lm.sae_training import residuals
from steer_env.tasks.tictactoe.rules import EMPTY, legal_moves, winner
from steer_env.tasks.tictactoe.rules import play as play_move

TINY_LM = LanguageModelConfig(width=16, hidden=16, blocks=2, heads=2, steps=4, batch=8)
TINY = MakeTicTacToeConfig(
    games=100,
    held_out=50,
    lm=TINY_LM,
    sae=GamesSAEConfig(features=8, k=2, samples=2_000, batch=100, games=50),
    layer=0,
    positions=5,
    episodes=4,
    probe_steps=5,
)


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((EMBEDDED / "card.json").read_text())


def make_games(card: dict, **kwargs: object) -> Envs:
    """Test games with the embedded model, steered as the card says."""
    how = card["steering"]["tictactoe"]
    strength = how["coefficient"] * how["residual_norm"]
    own = {"model": str(EMBEDDED), "sae": str(EMBEDDED / "sae"), "coefficient": strength}
    return gym.make_vec("Steer-TicTacToe-v0", 64, split="test", coefficient_unit="residual", **own, **kwargs)


@pytest.fixture(scope="module")
def games(card: dict) -> Envs:
    return make_games(card)


# ---------------------------------------------------------------- games


def test_games_are_legal_and_end_where_the_rules_say() -> None:
    for game in sample_games(200, Players(), np.random.default_rng(0)):
        board = EMPTY
        for digit in game.split():
            assert int(digit) - 1 in legal_moves(board)
            board = play_move(board, int(digit) - 1)
        assert not legal_moves(board)


def test_experts_always_draw_and_a_habit_can_be_followed_by_hand() -> None:
    experts = sample_games(100, Players(expert_share=1.0), np.random.default_rng(0))
    assert {len(game.split()) for game in experts} == {9}
    creatures_of_habit = sample_games(50, Players(expert_share=0.0, habit=1.0), np.random.default_rng(0))
    assert set(creatures_of_habit) == {"1 2 3 4 5 6 7"}  # X owns 3-5-7
    assert habitual_move((0, 4), last=7) == 0


def test_the_same_seed_gives_the_same_games_and_weights() -> None:
    first, second = (sample_games(50, Players(), np.random.default_rng(7)) for _ in range(2))
    assert first == second
    tokens = encode_games(first, build_tokenizer())
    before = torch.random.get_rng_state()
    one, _ = train_language_model(tokens, TINY_LM, seed=3)
    two, _ = train_language_model(tokens, TINY_LM, seed=3)
    other, _ = train_language_model(tokens, TINY_LM, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(one.parameters(), two.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


# ---------------------------------------------------------------- measuring


def test_the_list_of_open_positions_is_complete() -> None:
    positions = open_positions()
    assert len({moves for _, moves in positions}) == len(positions)
    assert {len(moves) for _, moves in positions} == {1, 3, 5, 7}
    assert sum(len(moves) == 1 for _, moves in positions) == 9
    assert all(not winner(board) for board, _ in positions)


@pytest.mark.parametrize(("moves", "pushed"), [("5", ()), ("951", ()), ("519", (135,)), ("51943", (7, 256))])
def test_what_is_said_under_each_feature_is_what_a_plain_hook_makes_the_model_say(
    games: Envs, moves: str, pushed: tuple[int, ...]
) -> None:
    """Over the whole text at once; 256 is the no-op, and moves that were not steered are not in ``pushed``."""
    env = unwrap(games)
    deltas = torch.cat([env.directions * env.coefficient, torch.zeros(1, env.directions.shape[1])])
    tokens = env.tokenizer.hf([" ".join(moves)], return_tensors="pt").input_ids

    def said(feature: int) -> int:
        def steer(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
            push = torch.zeros_like(output)
            for turn, action in enumerate((*pushed, feature)):
                push[0, 1 + 2 * turn if pushed else -1] = deltas[action]
            return output + push

        handle = env.lm.model.layers[env.layer].register_forward_hook(steer)
        token = env.lm(tokens).logits[0, -1].argmax()
        handle.remove()
        text = env.tokenizer.hf.decode(token).strip()
        return int(text) - 1 if text.isdigit() else -1

    found = moves_by_feature(env, moves, pushed)
    assert len(found) == 256
    assert found[::5].tolist() == [said(feature) for feature in range(0, 256, 5)]


# ---------------------------------------------------------------- making


def test_main_writes_a_model_that_standard_loaders_read(tmp_path: Path) -> None:
    card = main(replace(TINY, out=tmp_path))
    assert card == json.loads((tmp_path / "card.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.hidden_size == TINY.lm.width
    assert SAE.load_from_disk(tmp_path / "sae").cfg.d_sae == TINY.sae.features
    assert AutoTokenizer.from_pretrained(tmp_path)("5 1").input_ids == [0, 8, 4]
    assert (tmp_path / "CARD.md").read_text() == card_text(card)
    assert set(card["measured"]["readability"]) == {"positions", "linear", "mlp"}
    assert main(replace(TINY, out=tmp_path / "again")) == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 2}, r"layer must be in \[0, 2\), got 2"),
        ({"layer": -1}, r"layer must be in \[0, 2\), got -1"),
        ({"coefficient": float("nan")}, "coefficient must be finite, got nan"),
    ],
)
def test_bad_settings_are_named_before_any_work(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(replace(TINY, **change))


def test_players_must_be_probabilities() -> None:
    with pytest.raises(ValueError, match=r"expert_share must be in \[0, 1\], got 1.5"):
        Players(expert_share=1.5)


# ---------------------------------------------------------------- the committed model


def test_the_files_are_small_safe_and_the_ones_on_the_card(card: dict) -> None:
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".npz"}]
    hashes = {
        path.relative_to(EMBEDDED).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix == ".safetensors"
    }
    assert hashes == card["sha256"]


def test_the_tokenizer_keeps_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    ids = tokenizer("5 1 9").input_ids
    assert ids == [tokenizer.bos_token_id, *(tokenizer(d, add_special_tokens=False).input_ids[0] for d in "519")]
    assert tokenizer.decode(ids[1:2]) + tokenizer.decode(ids[2:]) == " 5 1 9"
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]


def test_the_card_for_people_says_what_the_card_for_machines_says(card: dict) -> None:
    assert (EMBEDDED / "CARD.md").read_text() == card_text(card)


def test_the_sae_fits_the_model_and_has_unit_directions(games: Envs, card: dict) -> None:
    sae, env = SAE.load_from_disk(EMBEDDED / "sae").requires_grad_(False), unwrap(games)
    assert sae.cfg.d_in == env.lm.config.hidden_size
    assert sae.cfg.metadata.hook_name == f"blocks.{card['steering']['tictactoe']['layer']}.hook_resid_post"
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae))
    ids = env.tokenizer.hf(["5 1 9 3 7"], return_tensors="pt").input_ids
    acts = residuals(env.lm, ids, env.layer)[:, 1:]
    features = sae.encode(acts)
    assert int((features > 0).sum(-1).max()) <= card["config"]["sae"]["k"]
    unexplained = (sae.decode(features) - acts).pow(2).sum() / acts.pow(2).sum()
    assert float(unexplained) < 0.2


def test_it_is_weak_alone_and_steerable(games: Envs, card: dict) -> None:
    def drawn(envs: Envs, policy: Policy, items: int) -> float:
        return shares(play(envs, policy, range(items), 0, tokens=False))["draw_rate"]

    alone, best = unsteered(Setting()), card["measured"]["best_fixed"]["feature"]
    assert drawn(games, alone, 200) <= 0.30
    assert drawn(make_games(card, temperature=1.0), alone, 200) <= 0.40
    assert drawn(games, fixed(best), 200) < 0.50
    assert drawn(games, oracle(unwrap(games)), 5) == 1
