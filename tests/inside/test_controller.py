"""Facts of tic-tac-toe against brute force, probes on planted layers, and the study of a small run's policy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.inside.controller import (
    ControllerStates,
    best_ridge,
    canonical,
    last_hidden,
    moves_so_far,
    number_scores,
    overhear,
    probe_scores,
    record_controller,
)
from agents.inside.controller_report import ControllerResult, as_html, as_markdown
from agents.inside.recordings import Recording, RolloutConfig
from agents.inside.transitions import OBSERVATION, layer_rows
from agents.inside.worlds.tictactoe import board_after, fact_table, facts, value_to_mover
from agents.runs.config import parse_settings
from agents.runs.folder import RunFolder, write_json
from agents.runs.loading import fresh_agent, load_trained, make_envs
from agents.runs.training import TrainConfig
from agents.runs.training import main as train
from experiments.inside.controller import ControllerConfig, main
from experiments.report import ReportConfig
from experiments.report import main as report
from steer_env.tasks.tictactoe.rules import legal_moves, play

RNG = np.random.default_rng(0)
ACTOR, CRITIC = "mlp_extractor.policy_net.1", "mlp_extractor.value_net.1"
ROWS = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])


@cache
def reachable() -> list[tuple[int, ...]]:
    """Every position of a game, the ended ones too."""
    found, new = {(0,) * 9}, [(0,) * 9]
    while new:
        new = list({play(board, cell) for board in new for cell in legal_moves(board)} - found)
        found.update(new)
    return sorted(found)


@cache
def worth(own: frozenset[int], other: frozenset[int]) -> int:
    """Negamax on sets of cells: nothing shared with the product."""
    if any(set(row) <= other for row in ROWS.tolist()):
        return -1
    free = set(range(9)) - own - other
    return max((-worth(other, own | {cell}) for cell in free), default=0)


def test_facts_are_those_of_brute_force() -> None:
    going = [board for board in reachable() if legal_moves(board)]
    assert len(going) == 4_520
    for board in going[::7]:
        mark = 1 if board.count(1) == board.count(2) else 2
        own, other = (frozenset(i for i, m in enumerate(board) if m == who) for who in (mark, 3 - mark))
        free = set(range(9)) - own - other
        told, best = facts(board), worth(own, other)
        lines = [set(row) for row in ROWS.tolist()]
        threats = sum(any(row <= other | {cell} for row in lines) for cell in free)
        assert told["won"] == (best == 1)
        assert told["lost"] == (best == -1)
        assert told["can_win_now"] == any(row <= own | {cell} for row in lines for cell in free)
        assert (told["threatened"], told["two_threats"]) == (threats > 0, threats > 1)
        holding = sum(-worth(other, own | {cell}) == best for cell in free)
        assert told["one_move_holds"] == (holding == 1)
        assert told["centre_theirs"] == (4 in other)
        assert value_to_mover(board) == best


def test_positions_are_told_apart_up_to_symmetry() -> None:
    assert len({canonical(board) for board in reachable()}) == 765  # known
    assert canonical((1, 0, 0, 0, 2, 0, 0, 0, 0)) == canonical((0, 0, 0, 0, 2, 0, 0, 0, 1))


def test_moves_make_a_board_or_an_error() -> None:
    assert board_after("519") == (2, 0, 0, 0, 1, 0, 0, 0, 1)
    for moves in ("55", "x", "142536"):
        with pytest.raises(ValueError, match="no legal move"):
            board_after(moves)
    with pytest.raises(ValueError, match="over"):
        facts(board_after("14253"))


def planted() -> ControllerStates:
    """A product of two inputs is in the trained layers alone; a third input can be read off everything."""
    count = 900
    seen = RNG.normal(size=(count, 6)).astype(np.float32)
    product, plain = seen[:, 0] * seen[:, 1], seen[:, 2]
    noise = RNG.normal(size=(count, 3))
    layer = torch.tensor(np.column_stack([np.sign(product), plain, noise]), dtype=torch.float32)
    fresh = torch.tensor(np.column_stack([plain, noise]), dtype=torch.float32)
    steps: dict[str, Any] = {"value": product.astype(np.float32)}
    learn = np.arange(count) % 2 == 0
    truths = {"product": product > 0, "plain": plain > 0, "always": np.ones(count, dtype=bool)}
    return ControllerStates(
        Recording({ACTOR: layer, CRITIC: layer}, {"obs": seen}, steps),
        Recording({ACTOR: fresh, CRITIC: fresh}, {"obs": seen}, steps),
        np.arange(count),
        np.arange(count),
        learn,
        truths,
        np.sign(product).astype(np.int64),
        np.zeros(count, dtype=np.int64),
    )


def test_what_is_computed_is_told_from_what_is_read() -> None:
    states = planted()
    found = probe_scores(states, (ACTOR, CRITIC), (ACTOR,), seed=0, shuffles=200)
    assert set(found["observation"]) == {"product", "plain"}
    assert abs(found["observation"]["product"] - 0.5) < 0.1
    assert found["observation"]["plain"] > 0.98
    assert found["trained"][ACTOR]["product"] > 0.99
    for layer in (ACTOR, OBSERVATION):  # a direction that was learnt from nothing may lie along something, either way
        assert all(abs(row["mean"] - 0.5) < 0.25 for row in found["shuffled"][layer].values())
        assert all(row["mean"] < row["high"] <= 1 for row in found["shuffled"][layer].values())
    assert found["critic"]["product"] == 1.0
    gains = found["gains"][ACTOR]
    for bar in (OBSERVATION, "untrained"):
        assert gains[bar]["product"]["low"] > 0.3
        assert gains[bar]["product"]["p_holm"] < 0.05
        assert gains[bar]["plain"]["low"] < 0.01
    numbers = number_scores(states, (ACTOR,))
    assert numbers["value"][ACTOR] > 0.95
    assert numbers["value"][OBSERVATION] < 0.1
    assert numbers["critic_spearman"]["value"] > 0.8


def test_a_ridge_is_chosen_where_positions_are_left_out() -> None:
    """Forty columns of noise, unlike in every position: a weak ridge learns them by heart."""
    position = np.repeat(np.arange(60), 10)
    truth = np.repeat(RNG.random(60) < 0.5, 10)
    noise = np.repeat(RNG.normal(size=(60, 40)), 10, axis=0)
    columns = np.column_stack([truth + RNG.normal(size=600), noise])
    assert best_ridge(columns, truth, position) >= 1.0
    assert best_ridge(columns, truth, np.arange(600)) == 0.01  # rows of one position on both sides look like knowledge
    steep = np.column_stack([np.arange(90.0), np.arange(90.0) + RNG.normal(size=90)])
    assert best_ridge(steep, np.arange(90.0), np.arange(90)) == 0.01


@pytest.fixture(scope="module")
def run(tiny: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = (f"{name}={json.dumps(value)}" for name, value in tiny.items())
    return train(
        TrainConfig(
            name="small",
            env="Steer-TicTacToe-v0",
            algo="ppo",
            mask="generation",
            total_timesteps=256,
            num_envs=8,
            env_kwargs=parse_settings([*settings, "opponent=random", "illegal=random_move", "coefficient=2"]),
            algo_kwargs={"n_steps": 16, "policy_kwargs": {"net_arch": [16, 12]}},
            wandb="disabled",
            runs_dir=tmp_path_factory.mktemp("runs"),
        )
    )


def test_states_are_of_the_runs_games(run: Path) -> None:
    folder = RunFolder.open(run)
    envs = make_envs(folder.config, "train", 8, compare=True)
    model, mask = load_trained(folder, envs)
    lanes = overhear(envs, mask)
    fresh = fresh_agent(folder.config | {"seed": 9}, envs, lanes)
    states = record_controller((model, fresh), lanes, RolloutConfig(24, deterministic=False), (1.0,))
    assert layer_rows(states.recording, OBSERVATION).shape[1] == 32  # the residual, without the mask
    assert set(states.recording.observations) == {"obs"}
    assert set(np.unique(states.recording.steps["level"])) == {0, 1}
    assert not set(states.train) & set(states.test)
    assert not set(states.position[states.train]) & set(states.position[states.test])
    assert (states.marks % 2 == 1).all()  # the student is O
    later = next(row for row in states.rows if states.marks[row] == 3)
    again = torch.from_numpy(states.recording.observations["obs"][[later]])
    actor = model.policy.mlp_extractor.policy_net(again)  # type: ignore[attr-defined]  # SB3 policies have it
    torch.testing.assert_close(states.recording.activations["mlp_extractor.policy_net.3"][[later]], actor.detach())
    plain = make_envs(folder.config, "train", 8, compare=False)
    watched = overhear(plain, None)  # the no-op says what the model alone would
    watched.alone = {}
    plain.reset(seed=0)
    compared = 0
    for _ in range(12):
        before = moves_so_far(watched)["moves"]
        _, _, _, _, infos = plain.step(np.full(8, plain.single_action_space.n - 1))  # type: ignore[attr-defined]  # Discrete
        for moves, text in zip(before, infos["token_text"], strict=True):
            if moves in lanes.alone:
                assert lanes.alone[moves] == text
                compared += 1
    assert compared > 8


def test_the_study_of_a_small_run(run: Path) -> None:
    cfg = ControllerConfig(
        run,
        episodes=24,
        noises=(1.0,),
        losses=("returns",),
        sae_width=24,
        sae_k=3,
        samples=4_096,
        shuffles=20,
        num_envs=8,
        blunder=0.5,
    )
    result = main(cfg)
    assert result.layers["actor"] == "mlp_extractor.policy_net.3"
    assert set(result.probes["trained"]) == set(result.probes["untrained"]) == set(result.layers["all"])
    assert result.features["columns"]["neurons"]["live"] <= 12
    assert set(result.values) == {"mlp_extractor.policy_net.3", "mlp_extractor.value_net.3", "observation"}
    assert "early" in result.probes["observation"]
    text = (run / "controller.md").read_text()
    assert text == as_markdown(ControllerResult.read(run / "controller.json"))
    assert "| centre theirs |" in text
    assert (run / "controller.png").read_bytes()[:4] == b"\x89PNG"
    page = report(ReportConfig(run)).read_text()
    assert "What the agent represents" in page
    assert as_html(result) in page
    with pytest.raises(FileExistsError, match=r"controller\.json exists"):
        main(cfg)


def test_what_cannot_be_looked_into_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "config.json", {"env": "Steer-GSM8K-v0", "algo": "ppo"})
    with pytest.raises(ValueError, match="got Steer-GSM8K-v0 by ppo"):
        main(ControllerConfig(tmp_path / "other"))
    with pytest.raises(
        ValueError, match=r"no hidden layer in value_net; its layers: mlp_extractor\.policy_net\.1, action_net"
    ):
        last_hidden(("mlp_extractor.policy_net.1", "action_net"))
    assert fact_table([(0,) * 9])["early"].tolist() == [True]
