"""A game of two seen from both sides: rules and values against brute force, and what CCS makes of the pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from agents.inside.probes import FitConfig, LossWeights
from agents.inside.recordings import Recording
from agents.inside.transitions import OBSERVATION, opposite_views
from agents.inside.value_study import Study
from agents.inside.worlds.agents import train_agent
from agents.inside.worlds.tictactoe import TicTacToeDuel, other_view, solved, states_of, view
from experiments.inside.value_probe import main
from tests.inside.test_value_probe import tiny

LINES = [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {0, 3, 6}, {1, 4, 7}, {2, 5, 8}, {0, 4, 8}, {2, 4, 6}]


def sides(seen: np.ndarray) -> tuple[set[int], set[int], bool]:
    return set(np.flatnonzero(seen[:9])), set(np.flatnonzero(seen[9:18])), bool(seen[18])


def test_it_is_an_environment() -> None:
    check_env(gym.make("TicTacToeDuel-v0").unwrapped, skip_render_check=True)
    with pytest.raises(ValueError, match=r"blunder must be in \[0, 1\], got 2"):
        TicTacToeDuel(blunder=2)
    with pytest.raises(ValueError, match="'X' or 'O', got"):
        TicTacToeDuel().reset(options={"side": "Z"})
    env = TicTacToeDuel(render_mode="ansi")
    env.reset(seed=0, options={"side": "X"})
    env.step(4)
    assert env.render() == ". . .\n. X .\n. . ."


@pytest.mark.parametrize("waiting", [True, False])
def test_games_are_tic_tac_toe(waiting: bool) -> None:
    env, rng = TicTacToeDuel(blunder=0.5, waiting=waiting), np.random.default_rng(0)
    ends = set()
    for game in range(60):
        seen, _ = env.reset(seed=game)
        over = False
        while not over:
            own, other, turn = sides(seen)
            assert waiting or turn
            action = int(rng.integers(9))
            later, reward, over, _, _ = env.step(action)
            mine, theirs, _ = sides(later)
            assert len(mine - own) == turn
            if turn and action not in own | other:
                assert mine - own == {action}
            assert own <= mine
            assert len(theirs - other) == (not turn if waiting else (not over or len(theirs) > len(other)))
            lost, won = (any(line <= marks for line in LINES) for marks in (theirs, mine))
            assert over == (won or lost or len(mine | theirs) == 9)
            assert reward == (won - lost if over else 0)
            seen = later
        ends.add(reward)
    assert ends == {1.0, 0.0, -1.0}


def test_who_never_blunders_is_never_beaten() -> None:
    env, rng = TicTacToeDuel(blunder=0.0, waiting=False), np.random.default_rng(1)
    rewards = []
    for game in range(60):
        env.reset(seed=game)
        over = False
        while not over:
            _, reward, over, _, _ = env.step(int(rng.integers(9)))
        rewards.append(reward)
    assert max(rewards) <= 0
    assert min(rewards) == -1


def test_both_see_one_position() -> None:
    board = (1, 0, 2, 0, 1, 0, 0, 0, 0)  # O to move
    np.testing.assert_array_equal(other_view(view(board, 2)), view(board, 1))
    np.testing.assert_array_equal(other_view(other_view(view(board, 2))), view(board, 2))
    assert sides(view(board, 2)) == ({2}, {0, 4}, True)
    assert sides(other_view(view(board, 2))) == ({0, 4}, {2}, False)


def test_values_are_those_of_negamax() -> None:
    views, values = solved()
    assert len(views) == 4_520
    known: dict[tuple[frozenset[int], frozenset[int]], int] = {}

    def worth(own: frozenset[int], other: frozenset[int]) -> int:
        if (own, other) not in known:
            lost = any(line <= other for line in LINES)
            moves = () if lost else set(range(9)) - own - other
            known[own, other] = -1 if lost else max((-worth(other, own | {cell}) for cell in moves), default=0)
        return known[own, other]

    for seen, value in zip(views, values, strict=True):
        own, other, turn = sides(seen)
        assert turn
        assert value == worth(frozenset(own), frozenset(other))
    assert values[states_of(view((0,) * 9, 1)[None])] == [0]
    np.testing.assert_array_equal(states_of(views[::-1]), np.arange(4_520)[::-1])
    with pytest.raises(ValueError, match="observation 1 is no view of a player to move"):
        states_of(np.stack([views[0], other_view(views[0])]))


def test_the_opponents_view_is_recorded_row_by_row() -> None:
    model = train_agent("TicTacToeDuel-v0", 0, 0)
    views, _ = solved()
    recording = Recording({}, {"obs": views[:50]}, {"value": np.zeros(50)})
    found = opposite_views(model.policy, recording, ["action_net"], other_view)
    actor = model.policy.mlp_extractor.policy_net(torch.from_numpy(other_view(views[:50])))  # type: ignore[attr-defined]
    expected = model.policy.action_net(actor).detach()  # type: ignore[attr-defined]
    torch.testing.assert_close(found.activations["action_net"], expected)


def known_values(flip: bool) -> tuple[Study, np.ndarray]:
    """A layer that holds the minimax value for its player and what both see alike; without a flip, no value at all."""
    views, values = solved()
    marks = views[:, :18].sum(axis=1)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(views))
    value, marks = values[order], marks[order]
    seen = np.column_stack([value, marks, np.ones(len(order))]).astype(np.float32)
    other = np.column_stack([-value if flip else value, marks, np.zeros(len(order))]).astype(np.float32)
    count = len(order)
    zeros, no = np.zeros(count), np.zeros(count, dtype=bool)
    steps = {"trajectory": np.arange(count), "step": zeros, "level": np.arange(count) % 2, "truncated": no}
    steps |= {"explored": no, "reward": value, "return": value, "value": zeros}
    learn = np.arange(count) % 4 < 2
    weights = {"ccs": LossWeights.parse("ccs")}
    fit = FitConfig(150, rate=0.05, restarts=2)
    recording, opposite = Recording({}, {"obs": seen}, steps), Recording({}, {"obs": other}, steps)
    return Study(recording, 1.0, learn, steps["level"] == 0, weights, fit, 1_500, 2, None, opposite), value


def test_ccs_finds_the_value_that_two_views_disagree_on() -> None:
    study, value = known_values(flip=True)
    one = study.probes(OBSERVATION)["ccs"]
    assert abs(np.corrcoef(one.values[~study.learn], value[~study.learn])[0, 1]) > 0.9
    alike, _ = known_values(flip=False)
    assert alike.probes(OBSERVATION)["ccs"].probe.loss > one.probe.loss + 0.05
    with pytest.raises(ValueError, match="nothing for ccs"):
        replace(study, opposite=None).probes(OBSERVATION)


def test_the_whole_study_with_ccs(tmp_path: Path) -> None:
    losses = ("returns", "ccs")
    cfg = tiny(tmp_path / "duel", env="TicTacToeDuel-v0", env_kwargs={}, losses=losses, episodes=40, rows=200)
    result = main(cfg)
    probes = result.agents[0]["probes"]
    assert set(probes["trained"]["action_net"]) == {"returns", "ccs"}
    assert {"exact_spearman", "unseen_r2"} <= set(probes["untrained"]["action_net"]["ccs"])
    assert "planned" not in probes["trained"]["action_net"]["ccs"]
    assert result.agents[0]["references"]["exact value"]["exact_r2"] == 1.0
    assert result.supervised == ["returns"]
    text = (tmp_path / "duel" / "value_probe.md").read_text()
    assert "R2 against the exact value, unseen states" in text
    assert "Return of planning" not in text
    with pytest.raises(ValueError, match="'ccs' cannot be learnt"):
        main(tiny(tmp_path / "grid", losses=losses))
