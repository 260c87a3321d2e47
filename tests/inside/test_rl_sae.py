"""Scores of features against pair counting and planted truths, substitution by hand, and the study on a tiny agent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from stable_baselines3 import DQN
from torch import Tensor, nn

from agents.inside import sae_study
from agents.inside.recordings import Recording, recompute
from agents.inside.sae_report import chosen_states, draw_board, draw_cart_pole, draw_minatar
from agents.inside.sae_study import SPREADS, Acting, choose, look_closely, over_seeds, score_columns, split_states
from agents.inside.saes import (
    auroc,
    auroc_gain,
    best_matches,
    best_threshold,
    chance,
    distinct_rows,
    f1,
    faithful_features,
    playing_through,
    principal_components,
    split_rows,
    without_feature,
)
from agents.inside.worlds.agents import train_agent
from agents.inside.worlds.king_rook_king import observations
from agents.inside.worlds.king_rook_rules import to_position
from experiments.inside.rl_sae import RLSAEConfig, main
from experiments.make.agents import AgentsConfig
from experiments.make.agents import main as make_agents
from steer_env.evaluation.linear_probe import linear_probe

RNG = np.random.default_rng(0)


def recording(obs: np.ndarray, trajectory: np.ndarray, **truths: np.ndarray) -> Recording:
    steps = {"trajectory": trajectory, "step": np.arange(len(obs))}
    acts = {"layer": torch.tensor(obs, dtype=torch.float32), "out": torch.tensor(obs[:, :2], dtype=torch.float32)}
    return Recording(acts, {"obs": obs}, steps | {f"predicate/{name}": values for name, values in truths.items()})


def test_auroc_counts_pairs() -> None:
    scores = RNG.integers(0, 4, size=(40, 3)).astype(float)  # with ties
    truths = RNG.random((40, 2)) < 0.4
    found = auroc(scores, truths)
    for feature in range(3):
        for name in range(2):
            yes, no = scores[truths[:, name], feature], scores[~truths[:, name], feature]
            pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
            assert found[feature, name] == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.ones((40, 1), bool))).all()


def test_the_planted_feature_is_found_whatever_its_sign() -> None:
    truth, noise = RNG.random(600) < 0.3, RNG.normal(size=(600, 6))
    columns = noise.copy()
    columns[:, 4] = -2.5 * truth + 0.5 * noise[:, 4]
    first, second = slice(0, 300), slice(300, 600)
    other = RNG.random(600) < 0.5  # told by nothing
    truths = {"planted": truth, "nothing": other}
    match = best_matches(
        columns[first],
        {name: values[first] for name, values in truths.items()},
        columns[second],
        {name: values[second] for name, values in truths.items()},
        shuffles=200,
    )
    assert (match["planted"].feature, match["planted"].sign) == (4, -1)
    assert match["planted"].auroc > 0.99
    assert match["planted"].f1 > 0.9
    assert match["planted"].p == pytest.approx(1 / 201)
    learn, later = ({name: values[half] for name, values in truths.items()} for half in (first, second))
    assert faithful_features(columns[first], learn, columns[second], later) == [4]
    shuffled = columns[first][RNG.permutation(300)]
    assert faithful_features(shuffled, learn, columns[second], later) == []


def test_the_luck_of_the_choice_is_not_measured_again() -> None:
    rng = np.random.default_rng(4)
    columns, nothing = rng.normal(size=(120, 80)), rng.random(120) < 0.5
    first, second = slice(0, 60), slice(60, 120)
    match = best_matches(columns[first], {"a": nothing[first]}, columns[second], {"a": nothing[second]}, shuffles=99)
    assert match["a"].chosen > 0.65
    assert match["a"].auroc < 0.6
    assert match["a"].p > 0.05


def test_predicates_that_always_hold_are_left_out() -> None:
    columns, always = RNG.normal(size=(20, 2)), np.ones(20, bool)
    some = np.arange(20) % 2 == 0
    assert best_matches(columns, {"always": always}, columns, {"always": some}) == {}
    assert faithful_features(columns, {"always": always}, columns, {"always": always}) == []


def test_chance_is_uniform_where_there_is_nothing() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores, truth = rng.normal(size=50), rng.random(50) < 0.5
        value = auroc(scores[:, None], truth[:, None])[0, 0]
        found.append(chance(scores, truth, value, shuffles=99, seed=seed))
    assert 0.4 < np.mean(found) < 0.6
    assert min(found) >= 0.01
    perfect = np.arange(50.0)
    assert chance(perfect, perfect > 40, 1.0, shuffles=99) == 0.01


def test_f1_and_its_threshold_by_hand() -> None:
    said, truth = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert f1(said, truth) == 0.5
    assert f1(~said & False, truth) == 0.0
    scores = np.array([0.0, 0.0, 0.0, 1.0, 2.0])
    assert f1(scores > best_threshold(scores, scores > 0), scores > 0) == 1.0
    assert f1(scores > best_threshold(scores, np.ones(5, bool)), np.ones(5, bool)) == 1.0


def test_a_linear_probe_reads_what_is_linear() -> None:
    inputs = RNG.normal(size=(400, 5)) * [1, 10, 0.1, 1, 0] + 3
    truth = inputs[:, 0] + 10 * inputs[:, 2] > inputs[:, 0].mean() + 10 * inputs[:, 2].mean()
    scores = linear_probe(inputs[:200], truth[:200], inputs[200:])
    assert auroc(scores[:, None], truth[200:, None])[0, 0] > 0.98
    square = (inputs[:, 0] - 3) ** 2 > 0.5
    blind = linear_probe(inputs[:200], square[:200], inputs[200:])
    assert abs(auroc(blind[:, None], square[200:, None])[0, 0] - 0.5) < 0.15


def test_gain_over_a_bar() -> None:
    truth = RNG.random(300) < 0.5
    good, poor = truth + 0.3 * RNG.normal(size=300), truth + 3.0 * RNG.normal(size=300)
    gain, low, p = auroc_gain(good, poor, truth, seed=0, resamples=200)
    assert gain > low > 0.2
    assert p == pytest.approx(1 / 201)
    same = auroc_gain(good, good.copy(), truth, seed=0, resamples=200)
    assert same == (0.0, 0.0, 1.0)
    assert auroc_gain(poor, good, truth, seed=0, resamples=200)[2] == 1.0


def test_copies_of_a_state_are_no_evidence() -> None:
    rng = np.random.default_rng(7)
    truth = rng.random(60) < 0.5
    good, poor = truth + rng.normal(size=60), truth + 2 * rng.normal(size=60)
    gain, low, _ = auroc_gain(good, poor, truth, seed=0, resamples=400)
    copied = [np.repeat(values, 20) for values in (good, poor, truth)]
    as_rows = auroc_gain(*copied, seed=0, resamples=400)
    as_groups = auroc_gain(*copied, seed=0, resamples=400, groups=np.repeat(np.arange(60), 20))
    assert as_rows[0] == as_groups[0] == pytest.approx(gain)
    assert as_groups[1] == pytest.approx(low, abs=0.02)
    assert gain - as_rows[1] < (gain - low) / 2


def test_splits_keep_observations_or_trajectories_together() -> None:
    repeated = np.eye(10)[RNG.integers(10, size=200)]
    learn = split_rows(recording(repeated, np.arange(200) // 20), 3, "observation")
    which = repeated.argmax(1)
    assert not set(which[learn]) & set(which[~learn])
    assert 2 <= len(set(which[learn])) <= 8
    again = split_rows(recording(repeated[::-1].copy(), np.arange(200)), 3, "observation")
    np.testing.assert_array_equal(again[::-1], learn)  # an observation is on its side wherever it is met
    other = [split_rows(recording(repeated, np.arange(200)), seed, "observation") for seed in range(3)]
    assert len({learn.tobytes() for learn in other}) > 1
    fresh = RNG.normal(size=(200, 3))
    trajectory = np.arange(200) // 20
    learn = split_rows(recording(fresh, trajectory), 0, "trajectory")
    assert len(set(trajectory[learn])) == 5
    assert not set(trajectory[learn]) & set(trajectory[~learn])
    assert (split_rows(recording(fresh, trajectory), 1, "trajectory") != learn).any()
    with pytest.raises(ValueError, match="unit must be 'observation' or 'trajectory', got 'step'"):
        split_rows(recording(fresh, trajectory), 0, "step")


def test_distinct_observations_are_scored_once() -> None:
    obs = np.eye(4)[[2, 0, 2, 1, 0, 3]]
    learn = np.array([False, True, True, True, False, False])
    first, later = distinct_rows(recording(obs, np.zeros(6)), learn)
    assert (first.tolist(), later.tolist()) == ([1, 2, 3], [5])  # what is learnt from anywhere is tested nowhere
    repeated = np.eye(10)[RNG.integers(10, size=200)]
    states = split_states(recording(repeated, np.zeros(200)), "layer", "out", 0, "observation")
    assert len(states.train) + len(states.test) == 10
    assert len(states.visited) > 20
    with pytest.raises(ValueError, match="200 recorded states cannot be halved by trajectory: record more episodes"):
        split_states(recording(repeated, np.zeros(200)), "layer", "out", 0, "trajectory")


def test_what_is_rare_is_not_told() -> None:
    """Fewer than twenty states on one side, or twenty trajectories where states follow each other, are too few."""
    obs = RNG.normal(size=(4_000, 3))
    rare = np.zeros(4_000, bool)
    rare[RNG.permutation(4_000)[:30]] = True
    by_turns = np.arange(4_000) // 400 % 2 == 0  # ten trajectories of 400 rows hold it throughout
    truths = {"rare": rare, "by_turns": by_turns, "common": obs[:, 0] > 0, "always": np.ones(4_000, bool)}
    made = recording(obs, np.arange(4_000) // 40, **truths)
    assert set(split_states(made, "layer", "out", 0, "observation").truths(np.arange(3))) == {"by_turns", "common"}
    long = recording(obs, np.arange(4_000) // 400, **truths)
    assert split_states(long, "layer", "out", 0, "trajectory").truths(np.arange(3)) == {}
    assert set(split_states(made, "layer", "out", 0, "trajectory").truths(np.arange(3))) == {"by_turns", "common"}


def test_neighbours_alike_are_no_evidence() -> None:
    """Columns and truths that drift: shuffled row by row everything looks sure, turned round it does not."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        drift = np.cumsum(rng.normal(size=(400, 2)), axis=0)
        scores, truth = drift[:, 0], drift[:, 1] > np.median(drift[:, 1])
        value = auroc(scores[:, None], truth[:, None])[0, 0]
        for turned, ps in found.items():
            ps.append(chance(scores, truth, value, 99, seed, np.zeros(400) if turned else None))
    assert np.mean(np.array(found[False]) < 0.05) > 0.3
    assert np.mean(np.array(found[True]) < 0.05) < 0.2


def test_shuffled_predicates_find_nothing() -> None:
    obs = RNG.normal(size=(400, 3))
    made = recording(obs, np.arange(400) // 4, planted=obs[:, 1] > 0.5)
    states = split_states(made, "layer", "out", 0, "trajectory")
    row = score_columns(states.acts(states.train), states.acts(states.test), states, seed=0, shuffles=50)
    assert (row["features"], row["shuffled_features"], row["detected"], row["live"]) == (1, 0, 1, 3)
    assert row["predicates"]["planted"]["feature"] == 1
    assert row["mean_auroc"] == 1.0


def test_principal_components_keep_all_and_sort_by_variance() -> None:
    acts = torch.tensor(RNG.normal(size=(100, 4)) * [1, 5, 2, 0.1] + 7, dtype=torch.float32)
    first, second = principal_components(acts, acts[:10])
    assert (first.std(0).diff() < 0).all()
    torch.testing.assert_close(torch.pdist(first), torch.pdist(acts), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(second, first[:10], atol=1e-4, rtol=1e-4)


def cart_pole() -> DQN:
    return DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [8, 6]}, buffer_size=5, seed=0)


class Pairs(nn.Module):
    """An SAE by hand: a feature for the positive and one for the negative part of each number."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width

    def encode(self, acts: Tensor) -> Tensor:
        return torch.cat([acts.relu(), (-acts).relu()], dim=-1)

    def decode(self, features: Tensor) -> Tensor:
        return features[..., : self.width] - features[..., self.width :]

    def forward(self, acts: Tensor) -> Tensor:
        return self.decode(self.encode(acts))


def test_the_network_plays_through_what_stands_in() -> None:
    model = cart_pole()
    obs = torch.tensor(RNG.normal(size=(5, 4)), dtype=torch.float32)
    layers: Any = model.q_net.q_net
    plain = model.q_net(obs)
    with playing_through(model.policy, "q_net.q_net.2", Pairs()):
        torch.testing.assert_close(model.q_net(obs), plain)
    with playing_through(model.policy, "q_net.q_net.2", lambda acts: acts * 0 + 1):
        torch.testing.assert_close(model.q_net(obs), layers[4](torch.ones(5, 6)))
    hidden = layers[2](layers[1](layers[0](obs)))
    hidden[:, 3] = hidden[:, 3].clamp(max=0)  # its positive part
    with playing_through(model.policy, "q_net.q_net.2", without_feature(Pairs(), 3)):
        torch.testing.assert_close(model.q_net(obs), layers[4](hidden.relu()))
    torch.testing.assert_close(model.q_net(obs), plain)
    with pytest.raises(RuntimeError, match="stop"), playing_through(model.policy, "q_net.q_net.2", Pairs()):
        raise RuntimeError("stop")
    assert not layers[2]._forward_hooks
    with pytest.raises(AttributeError), playing_through(model.policy, "q_net.fc9", Pairs()):
        pass


def test_another_policy_on_the_same_steps() -> None:
    model = cart_pole()
    obs = RNG.normal(size=(7, 4)).astype(np.float32)
    again = recompute(model.policy, recording(obs, np.zeros(7)), ["q_net.q_net"])
    torch.testing.assert_close(again.activations["q_net.q_net"], model.q_net(torch.tensor(obs)).detach())


def test_the_sparsest_sae_that_keeps_the_return_is_chosen() -> None:
    def row(l0: float, earned: float) -> dict[str, Any]:
        return {"over_seeds": {"l0": {"mean": l0}, "return": {"mean": earned}}}

    saes = {"thin": row(5, 80.0), "middle": row(10, 96.0), "thick": row(40, 100.0)}
    assert choose(saes, 100.0, 0.95) == "middle"
    assert saes["thin"]["return_kept"] == pytest.approx(0.8)
    assert choose(saes, 100.0, 1.01) == "thick"
    bad = {"a": row(5, -12.0), "b": row(9, -10.0)}
    assert choose(bad, -10.0, 0.95) == "b"
    assert bad["a"]["return_kept"] is None
    assert choose(saes, 0.0, 0.95) == "thick"


def test_spreads_are_over_the_seeds_and_details_of_the_first() -> None:
    def row(l0: float, earned: float) -> dict[str, Any]:
        return dict.fromkeys(SPREADS, 1.0) | {"l0": l0, "play": {"return": earned}, "predicates": {"of": l0}}

    found = over_seeds({7: row(4, 90.0), 3: row(6, 70.0)})
    assert found["over_seeds"]["l0"] == {"mean": 5.0, "std": pytest.approx(2**0.5), "n": 2}
    assert over_seeds({7: row(4, 90.0)})["over_seeds"]["l0"] == {"mean": 4.0, "std": 0.0, "n": 1}
    assert found["over_seeds"]["return"] == {"mean": 80.0, "std": pytest.approx(200**0.5), "n": 2}
    assert (found["predicates"], found["l0"]) == ({"of": 4}, 4)


def test_what_a_feature_does_to_the_outputs_is_told_where_it_fires() -> None:
    """Three numbers are put out as they are; feature 1 is the positive part of the second."""
    obs = RNG.normal(size=(400, 3))
    states = split_states(recording(obs, np.arange(400) // 4, high=obs[:, 1] > 0.3), "layer", "out", 0, "trajectory")
    sae = Pairs(3)
    acts = states.acts(states.test)
    acting = Acting(lambda replace: {"return": 0.0}, lambda replace: replace(acts))
    scored = {"high": {"feature": 1, "sign": 1, "auroc": 1.0}}
    found = look_closely(sae, states, scored, acting, seed=0, shuffles=20)["high"]
    own = acts[acts[:, 1] > 0].numpy()
    assert found["fires"] == pytest.approx(len(own) / len(acts))
    assert found["outputs_moved"] == pytest.approx(own[:, 1].mean() / 3 / acts.numpy().std(), rel=1e-4)
    without = own * [1, 0, 1]
    assert found["choices_changed"] == pytest.approx((own.argmax(1) != without.argmax(1)).mean())


def test_cards_show_the_top_and_what_is_below_it() -> None:
    values = np.zeros(200)
    values[50:150] = np.arange(1, 101)
    rows, ranks = chosen_states(values)
    assert values[rows].tolist() == [100, 99, 98, 97, 96, 75, 50, 11]
    assert ranks[4:6] == ("top 5", "percentile 75")
    few, ranks = chosen_states(np.array([0.0, 2.0, 1.0]))
    assert (few.tolist(), ranks) == ([1, 2], ("top 1", "top 2"))
    assert chosen_states(np.zeros(3))[0].tolist() == []


def test_a_board_is_drawn_as_it_stands() -> None:
    axes = Figure().subplots()
    draw_board(axes, observations(to_position(rook=0, white_king=7, black_king=24)))
    pieces = {text.get_text(): text.get_position() for text in axes.texts}
    assert pieces == {"\u2656": (0, 0), "\u2654": (2, 1), "\u265a": (4, 4)}  # (column, row)


def test_a_cart_and_its_pole_are_drawn_where_they_are() -> None:
    axes = Figure().subplots()
    draw_cart_pole(axes, np.array([0.5, 1.0, -0.1, 0.0]))
    pole = axes.lines[1]
    assert pole.get_xdata()[0] == 0.5  # type: ignore[index]
    assert pole.get_xdata()[1] == pytest.approx(0.5 - np.sin(0.5))  # type: ignore[index]  # leans left, five times as far


def test_cells_of_minatar_have_the_colour_of_their_channel() -> None:
    axes = Figure().subplots()
    cells = np.zeros((10, 10, 4))
    cells[9, 4, 0] = cells[1, :, 3] = 1
    draw_minatar(axes, cells.ravel())
    drawn = np.asarray(axes.images[0].get_array())
    assert (drawn[9, 4], drawn[1].tolist(), drawn.sum()) == (1, [4] * 10, 41)


@pytest.mark.parametrize("env", ["CartPole-v1", "MinAtarBreakout-v0"])
def test_other_worlds_are_studied_too(tmp_path: Path, env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if env.startswith("MinAtar"):
        pytest.importorskip("minatar")
        monkeypatch.setattr(sae_study, "FEWEST", 2)  # who moves at random soon loses and sees little
    make_agents(AgentsConfig(tmp_path / "agent", env, steps=0, hidden=(16, 12), episodes=3))
    agent = str(tmp_path / "agent" / "seed-0")
    settings: dict[str, Any] = {"widths": (24,), "ks": (3,), "penalties": (), "jumprelu_ks": ()}
    settings |= {"episodes": 200, "epsilon": 1.0, "samples": 40_960, "shuffles": 10, "games": 8}
    result = main(RLSAEConfig(tmp_path / "study", agent, **settings))
    assert result.module == "mlp_extractor.policy_net.2"
    assert all((row["return_kept"] is None) == (result.plain["return"] <= 0) for row in result.saes.values())
    assert "neurons after Tanh" in result.columns
    assert {"CartPole-v1": "leans_right", "MinAtarBreakout-v0": "ball_left_of_paddle"}[env] in result.close
    assert (tmp_path / "study" / "cards.png").read_bytes()[:4] == b"\x89PNG"


def test_the_whole_study_of_a_tiny_agent(tmp_path: Path) -> None:
    make_agents(AgentsConfig(tmp_path / "agent", steps=0, hidden=(16, 12)))
    cfg = RLSAEConfig(
        tmp_path / "study",
        str(tmp_path / "agent" / "seed-0"),
        episodes=300,
        epsilon=1.0,
        widths=(24,),
        ks=(2, 6),
        penalties=(1.0,),
        jumprelu_ks=(),
        samples=300_000,
        shuffles=30,
        cards=3,
    )
    result = main(cfg)
    assert set(result.saes) == {"topk-24-k2", "topk-24-k6", "l1-24-1"}
    assert result.saes["topk-24-k2"]["l0"] <= 2
    assert result.saes["topk-24-k6"]["explained_variance"] > result.saes["topk-24-k2"]["explained_variance"] > 0
    assert set(result.substitutions) == {"mean", "pca-2", "pca-6"}
    assert result.columns["neurons"]["live"] == 12
    assert all(row["shuffled_features"] == 0 for row in result.columns.values())
    assert result.close.keys() == result.saes[result.chosen]["predicates"].keys()
    assert all(0.5 < row["observation"] <= 1 for name, row in result.close.items() if "on_edge" in name)
    assert all(0 <= row["choices_changed"] <= 1 for row in result.close.values())
    assert any(row["outputs_moved"] > 0 for row in result.close.values())
    assert json.loads((cfg.out / "rl_sae.json").read_text())["chosen"] == result.chosen
    text = (cfg.out / "rl_sae.md").read_text()
    assert "| topk-24-k2 |" in text
    assert "seeds of the SAE" not in text
    assert "| mate_in_one |" in text or "mate_in_one" not in result.close
    assert (cfg.out / "cards.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FileExistsError, match="study exists"):
        main(cfg)
    with pytest.raises(ValueError, match="sae_seeds must name at least one"):
        RLSAEConfig(tmp_path / "other", sae_seeds=())
    with pytest.raises(ValueError, match="cards must be at least 1, got 0"):
        RLSAEConfig(tmp_path / "other", cards=0)
    with pytest.raises(ValueError, match=r"sparsity must be finite and above 0, got 0\.0"):
        RLSAEConfig(tmp_path / "other", penalties=(0.0,))
    with pytest.raises(ValueError, match="no SAE is asked for"):
        RLSAEConfig(tmp_path / "other", widths=(), jumprelu_ks=(), penalties=())


def test_what_does_not_matter_is_not_decomposed(tmp_path: Path) -> None:
    make_agents(AgentsConfig(tmp_path / "agent", "CartPole-v1", steps=0, hidden=(16, 12), episodes=3))
    agent = str(tmp_path / "agent" / "seed-0")
    cfg = RLSAEConfig(tmp_path / "study", agent, module="mlp_extractor.value_net.2", episodes=20, epsilon=1.0)
    with pytest.raises(ValueError, match=r"'mlp_extractor.value_net.2' does not matter to what the agent does"):
        main(cfg)
    assert not cfg.out.exists()
    with pytest.raises(ValueError, match="no predicate holds and fails in 20 units of either half"):
        main(replace(cfg, module=None, episodes=4))


def test_every_sae_is_trained_with_every_seed(tmp_path: Path) -> None:
    make_agents(AgentsConfig(tmp_path / "agent", steps=0, hidden=(16, 12)))
    agent = str(tmp_path / "agent" / "seed-0")
    settings: dict[str, Any] = {"widths": (24,), "ks": (3,), "penalties": (), "jumprelu_ks": (4,), "sae_seeds": (5, 1)}
    settings |= {"episodes": 200, "epsilon": 1.0, "samples": 20_480, "shuffles": 10}
    result = main(RLSAEConfig(tmp_path / "study", agent, **settings))
    assert set(result.saes) == {"topk-24-k3", "jumprelu-24-k4"}
    for row in result.saes.values():
        spread = row["over_seeds"]["explained_variance"]
        assert spread["n"] == 2
        assert spread["std"] > 0
        assert abs(row["explained_variance"] - spread["mean"]) == pytest.approx(spread["std"] / 2**0.5)
    assert "over 2 seeds of the SAE" in (tmp_path / "study" / "rl_sae.md").read_text()


def test_worlds_without_predicates_are_named(tmp_path: Path) -> None:
    make_agents(AgentsConfig(tmp_path / "agent", "GridWorld-v0", steps=0, episodes=3))
    with pytest.raises(
        ValueError, match="no predicates for 'GridWorld-v0'; there are for: KingRookKing-v0, CartPole-v1"
    ):
        main(RLSAEConfig(tmp_path / "study", str(tmp_path / "agent" / "seed-0")))
    with pytest.raises(ValueError, match="no predicates for 'FrozenLake-v1'"):  # and nothing is trained before
        main(RLSAEConfig(tmp_path / "study", env="FrozenLake-v1"))


def test_an_untrained_agent_has_the_same_shape() -> None:
    first, other = (train_agent("KingRookKing-v0", seed, 0, (9, 7)) for seed in (0, 1_000))
    assert [p.shape for p in first.policy.parameters()] == [p.shape for p in other.policy.parameters()]
    assert not torch.equal(next(first.policy.parameters()), next(other.policy.parameters()))
