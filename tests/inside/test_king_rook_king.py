"""King and rook against king: rules against plain chess on coordinates, the shells against each other."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from agents.inside.worlds.king_rook_king import KingRookKingVectorEnv, observations, positions_of, start_position
from agents.inside.worlds.king_rook_rules import (
    ACTIONS,
    AFTER,
    CHECK,
    ESCAPES,
    LEGAL,
    OUTCOME,
    POSITIONS,
    REPLIES,
    Outcome,
    describe_action,
    draw_board,
    to_position,
    to_squares,
)
from agents.vec_env import SB3VecEnv
from tests.plain_chess import plain_escapes, plain_is_legal, plain_replies, plain_white_moves

NAMED = {describe_action(action): action for action in range(ACTIONS)}


def board(text: str) -> int:
    """The position drawn: K and R white, k black, rows from the top."""
    cells = "".join(text.split())
    return to_position(cells.index("R"), cells.index("K"), cells.index("k"))


def make(**kwargs: Any) -> gym.Env:
    return gym.make("KingRookKing-v0", **kwargs)


def test_rules_are_plain_chess() -> None:
    """Every position: legality, black's squares, check and black's answer; moves and outcomes on a sample."""
    rng = np.random.default_rng(0)
    for position in range(POSITIONS):
        squares = to_squares(position)
        assert to_position(*squares) == position
        assert LEGAL[position] == plain_is_legal(*squares), position
    for position in rng.choice(np.flatnonzero(LEGAL), 300, replace=False):
        expected = plain_white_moves(*to_squares(int(position)))
        for action in range(ACTIONS):
            outcome, after = expected[action]
            assert Outcome(OUTCOME[position, action]).name == outcome, (draw_board(int(position)), action)
            if after is None:
                assert AFTER[position, action] == position
                continue
            place = to_position(*after)
            assert AFTER[position, action] == place
            assert set(np.flatnonzero(ESCAPES[place])) == plain_escapes(*after)
            assert set(np.flatnonzero(REPLIES[place])) == plain_replies(*after)


@pytest.mark.parametrize(
    ("drawing", "action", "outcome"),
    [
        ("k.... ..... K.... ..... ....R", "Kn", "ILLEGAL"),  # kings would touch
        ("k.... ..... .K... ..... ....R", "Re1", "ILLEGAL"),  # off the board
        (".k... ..... R.K.. ..... .....", "Re3", "ILLEGAL"),  # over the king
        ("k.... ..... .K... ..... ....R", "Rn4", "MATE"),
        ("k.... ....R .K... ..... .....", "Rw3", "STALEMATE"),
        ("k.... ..... ..K.. ....R .....", "Rn2", "ONGOING"),
        (".k... ..... ....K ..R.. .....", "Rn2", "ROOK_LOST"),  # next to black, out of the king's reach
        ("..k.. ..... .RK.. ..... .....", "Rn1", "ONGOING"),  # next to black, but defended
    ],
)
def test_hand_made_moves(drawing: str, action: str, outcome: str) -> None:
    assert LEGAL[board(drawing)]
    assert Outcome(OUTCOME[board(drawing), NAMED[action]]).name == outcome


@pytest.mark.parametrize(
    ("drawing", "squares"),
    [
        ("..... ..... ..k.. ..... R...K", {16}),  # nearest the rook
        ("R.... ..... ..k.. ..... ....K", {6}),
        ("..R.. ..... ..k.. ..... K....", {6, 8}),  # in check: off the line, both alike, so by lot
        (".R... k.... ..... ..... ....K", {1}),  # takes it
        (".R... k.K.. ..... ..... .....", {10}),  # defended; only away
    ],
)
def test_black_runs_toward_the_rook(drawing: str, squares: set[int]) -> None:
    assert set(np.flatnonzero(REPLIES[board(drawing)]).tolist()) == squares


def test_the_black_king_does_not_hide_on_the_line_it_leaves() -> None:
    """A king in check on the rook's line may not step back along it; a white king between does block."""
    checked = board("R.k.. ..... ..... ..... ....K")
    assert CHECK[checked]
    assert not ESCAPES[checked, [1, 3]].any()
    assert not CHECK[board("RK.k. ..... ..... ..... .....")]


def test_rules_keep_the_symmetry_of_the_board() -> None:
    """Turned by a quarter, the same outcomes in the same numbers and the same replies."""
    turn = np.rot90(np.arange(25).reshape(5, 5)).ravel()
    rng = np.random.default_rng(1)
    for position in rng.choice(np.flatnonzero(LEGAL), 200, replace=False):
        rook, king, black = to_squares(int(position))
        turned = to_position(int(turn[rook]), int(turn[king]), int(turn[black]))
        assert sorted(OUTCOME[position]) == sorted(OUTCOME[turned])
        assert set(turn[np.flatnonzero(REPLIES[position])]) == set(np.flatnonzero(REPLIES[turned]))


@pytest.mark.filterwarnings("error")
def test_gymnasium_and_sb3_accept_it() -> None:
    check_env(make(render_mode="ansi").unwrapped)
    sb3_check_env(make())


@pytest.mark.parametrize(
    ("drawing", "action", "reward", "outcome"),
    [
        ("k.... ..... .K... ..... ....R", "Rn4", 100.0, "mate"),
        ("k.... ....R .K... ..... .....", "Rw3", -100.0, "stalemate"),
        (".k... ..... ....K ..R.. .....", "Rn2", -100.0, "rook_lost"),
        ("k.... ..... .K... ..... ....R", "Re1", -100.0, "illegal"),
        ("k.... ..... ..K.. ....R .....", "Rn2", -1.0, None),
    ],
)
def test_rewards_and_ends(drawing: str, action: str, reward: float, outcome: str | None) -> None:
    env = make()
    obs, info = env.reset(options={"position": to_squares(board(drawing))})
    assert info["position"] == board(drawing) == positions_of(obs)
    assert obs.sum() == 3
    obs, got, terminated, truncated, info = env.step(NAMED[action])
    assert (got, terminated, truncated, info.get("outcome")) == (reward, outcome is not None, False, outcome)
    assert obs.sum() == (2 if outcome == "rook_lost" else 3)
    assert positions_of(obs) == info["position"]


def test_starts_are_uniform_over_the_legal_positions() -> None:
    rng = np.random.default_rng(3)
    drawn = [start_position(None, rng) for _ in range(20 * int(LEGAL.sum()))]
    counts = np.bincount(drawn, minlength=POSITIONS)
    assert counts[~LEGAL].sum() == 0
    assert abs(counts[LEGAL].var() / 20 - 1) < 0.1  # a Poisson count's variance is its mean


def test_fifty_moves_truncate() -> None:
    env = make()
    env.reset(options={"position": to_squares(board("R.... ..... ..... ....k K...."))})
    for move in range(50):
        legal = np.flatnonzero(OUTCOME[env.unwrapped.position] == Outcome.ONGOING)  # type: ignore[attr-defined]
        _, _, terminated, truncated, _ = env.step(int(legal[0]))
        assert not terminated
        assert truncated == (move == 49)


def test_lanes_are_single_environments() -> None:
    """Across starts, draws of lots, every kind of end and truncation."""
    lanes, limit = 5, 6
    batch = gym.make_vec("KingRookKing-v0", num_envs=lanes, max_episode_steps=limit)
    singles = [make(max_episode_steps=limit) for _ in range(lanes)]
    obs, infos = batch.reset(seed=11)
    alone = [env.reset(seed=11 + lane) for lane, env in enumerate(singles)]
    rng = np.random.default_rng(0)
    seen: set[str | None] = set()
    for _ in range(600):
        for lane in range(lanes):
            np.testing.assert_array_equal(obs[lane], alone[lane][0])
            assert infos["position"][lane] == alone[lane][1]["position"]
        fair = [rng.permutation(np.flatnonzero(OUTCOME[p] != Outcome.ILLEGAL)) for p in infos["position"]]
        actions = np.array([rng.integers(ACTIONS) if rng.random() < 0.02 else moves[0] for moves in fair])
        obs, rewards, terminated, truncated, infos = batch.step(actions)
        for lane, env in enumerate(singles):
            alone_obs, reward, over, cut, info = env.step(actions[lane])
            assert (rewards[lane], terminated[lane], truncated[lane]) == (reward, over, cut)
            alone[lane] = (alone_obs, info)
            if over or cut:
                np.testing.assert_array_equal(infos["final_obs"][lane], alone_obs)
                assert infos["final_info"]["position"][lane] == info["position"]
                assert infos["final_info"]["outcome"][lane] == info.get("outcome")
                seen.add(info.get("outcome"))
                alone[lane] = env.reset()
    assert seen == {"mate", "stalemate", "rook_lost", "illegal", None}


def test_under_sb3_the_outcome_is_told() -> None:
    vec_env = SB3VecEnv(gym.make_vec("KingRookKing-v0", num_envs=2))
    vec_env.set_options({"position": to_squares(board("k.... ..... .K... ..... ....R"))})
    vec_env.reset()
    _, rewards, ended, infos = vec_env.step(np.full(2, NAMED["Rn4"]))
    assert ended.all()
    assert rewards.tolist() == [100.0, 100.0]
    assert infos[0]["outcome"] == "mate"
    assert positions_of(infos[0]["terminal_observation"]) == board("k...R ..... .K... ..... .....")


def test_the_seed_decides_everything() -> None:
    def course(seed: int) -> list[int]:
        env = KingRookKingVectorEnv(num_envs=3)
        env.reset(seed=seed)
        rng = np.random.default_rng(0)
        return [int(p) for _ in range(40) for p in env.step(rng.integers(ACTIONS, size=3))[4]["position"]]

    assert course(1) == course(1)
    assert course(1) != course(2)


def test_observations_round_trip() -> None:
    legal = np.flatnonzero(LEGAL)
    np.testing.assert_array_equal(positions_of(observations(legal)), legal)
    rows = observations(legal)
    assert rows.shape == (len(legal), 75)
    assert (rows.reshape(-1, 3, 25).sum(2) == 1).all()


def test_render_draws_the_board() -> None:
    drawing = "k.... ....R .K... ..... ....."
    env = make(render_mode="ansi")
    env.reset(options={"position": board(drawing)})
    assert str(env.render()).replace(" ", "").split("\n") == drawing.split()
    assert len(KingRookKingVectorEnv(2, render_mode="ansi").render() or ()) == 2


def test_what_cannot_be_used_is_named() -> None:
    env = make()
    with pytest.raises(ValueError, match=r"position \(0, 0, 4\) is not legal"):
        env.reset(options={"position": (0, 0, 4)})
    with pytest.raises(ValueError, match="got 25"):
        env.reset(options={"position": (25, 0, 4)})
    with pytest.raises(ValueError, match=r"unknown reset options \['items'\]"):
        env.reset(options={"items": 3})
    with pytest.raises(ValueError, match="got 24"):
        env.unwrapped.step(24)
    with pytest.raises(ValueError, match="'human'"):
        env.unwrapped.__class__(render_mode="human")
    with pytest.raises(ValueError, match="at least 1, got 0, 50"):
        KingRookKingVectorEnv(0)
