"""Value probes: losses by hand, planted values found, nothing found where there is nothing, splits, exact planning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO

from agents.inside.probes import (
    FitConfig,
    LossWeights,
    Scale,
    ccs_loss,
    dominance_loss,
    fit_probes,
    negative_variance,
    returns_loss,
    td_loss,
)
from agents.inside.recordings import Recording, RolloutConfig
from agents.inside.transitions import (
    OBSERVATION,
    Transitions,
    draw_rows,
    known_returns,
    layer_rows,
    layers_of,
    record_levels,
    shuffle_rewards,
    split_trajectories,
    transitions,
)
from agents.inside.worlds.agents import make_world, train_agent
from agents.inside.worlds.tabular import action_chances, exact_world, policy_values

FIT = FitConfig(steps=120, rate=0.05, restarts=2)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def parsed(*names: str) -> dict[str, LossWeights]:
    return {name: LossWeights.parse(name) for name in names}


def test_losses_by_hand() -> None:
    two = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    # Errors 1 + .9 * .2 - .5 = .68 and -.1 + 0 - 0 for the first probe, 1 + .9 - 1 and -.1 - 1 for the second.
    following, rewards = torch.tensor([[0.2, 1.0], [0.0, 0.0]]), torch.tensor([1.0, -0.1])
    expected = [(0.68**2 + 0.01) / 2, (0.81 + 1.21) / 2]
    assert td_loss(two, following, rewards, 0.9).tolist() == pytest.approx(expected)
    assert returns_loss(two, torch.tensor([1.0, -1.0])).tolist() == pytest.approx([(0.25 + 1) / 2, (0 + 4) / 2])
    assert negative_variance(two).tolist() == pytest.approx([-0.0625, 0.0])
    # The policy's mean is .4; noisier ones .1 (slack .3 fits) and .6 (no slack fits: violated by .2, and slack .1).
    assert dominance_loss(column(0.4, 0.1, 0.6), column(0.3, 0.1)).tolist() == pytest.approx([0.3**2 / 2])
    assert dominance_loss(column(0.4, 0.1, 0.6), column(0.3, 0.0)).tolist() == pytest.approx([0.2**2 / 2])


def test_ccs_on_toy_pairs() -> None:
    assert ccs_loss(column(1.0, -1.0), column(-1.0, 1.0)).item() == 0.0  # consistent and sure
    assert ccs_loss(column(0.0), column(0.0)).item() == pytest.approx(0.25)  # consistent, unsure
    assert ccs_loss(column(1.0), column(1.0)).item() == pytest.approx(1.0 + 1.0)  # both win
    assert ccs_loss(column(0.6), column(-0.2)).item() == pytest.approx(0.2**2 + 0.4**2)


def test_the_td_target_is_held_fixed() -> None:
    values, following = column(0.5).requires_grad_(), column(0.2).requires_grad_()
    td_loss(values, following, torch.tensor([0.0]), 0.5).sum().backward()
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(-2 * (0.1 - 0.5))
    assert following.grad is None


def test_every_loss_has_a_finite_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    here, there = (torch.randn(40, 3, generator=generator) for _ in range(2))
    theta = torch.randn(2, 3, generator=generator).mul(100).requires_grad_()  # saturated
    values, following = torch.tanh(here @ theta.T), torch.tanh(there @ theta.T)
    means = torch.stack([values[:20].mean(dim=0), values[20:].mean(dim=0)])
    found = [
        td_loss(values, following, torch.zeros(40), 0.9),
        returns_loss(values, torch.zeros(40)),
        negative_variance(values),
        dominance_loss(means, torch.ones(1, 2)),
        ccs_loss(values, following),
    ]
    for loss in found:
        (gradient,) = torch.autograd.grad(loss.sum(), theta, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_sums_of_losses_are_read() -> None:
    assert LossWeights.parse("td + 0.5*returns") == LossWeights(td=1.0, returns=0.5)
    assert LossWeights.parse("variance+10*dominance").row() == (0.0, 0.0, 1.0, 10.0, 0.0)
    assert LossWeights.parse("td").supervised
    assert not LossWeights.parse("variance+dominance+ccs").supervised
    for wrong in ("", "tdd", "td+td", "0*td", "-1*td", "inf*td"):
        with pytest.raises(ValueError, match=r"is no loss|must be a positive number"):
            LossWeights.parse(wrong)


def walks(seed: int = 0, trajectories: int = 60, width: int = 6) -> tuple[Recording, np.ndarray]:
    """Trajectories of random length in random activations, whose value ``2 + 3 tanh(direction . x)`` is the return.

    Rewards are what makes that so with gamma 0.9. Trajectories of level 1 lie lower in value.
    """
    rng = np.random.default_rng(seed)
    direction = np.zeros(width)
    direction[[1, 4]] = 0.8, -0.6
    parts = []
    for number in range(trajectories):
        length, level = int(rng.integers(5, 15)), number % 2
        obs = rng.normal(size=(length, width)).astype(np.float32)
        obs -= (0.5 * level * direction).astype(np.float32)
        value = 2 + 3 * np.tanh(obs @ direction)
        reward = value - 0.9 * np.append(value[1:], 0.0)
        steps = {
            "trajectory": np.full(length, number),
            "step": np.arange(length),
            "level": np.full(length, level),
            "reward": reward,
            "return": value,
            "value": value,
            "explored": np.zeros(length, bool),
            "truncated": np.zeros(length, bool),
        }
        parts.append((obs, steps, value))
    joined = {name: np.concatenate([steps[name] for _, steps, _ in parts]) for name in parts[0][1]}
    obs = np.concatenate([part[0] for part in parts])
    return Recording({"layer": torch.from_numpy(obs)}, {"obs": obs}, joined), np.concatenate([p[2] for p in parts])


def lesson(recording: Recording, learn: np.ndarray, layer: str = "layer") -> Transitions:
    return transitions(recording, layer, 0.9, learn, np.flatnonzero(learn))


def correlation(first: torch.Tensor, second: np.ndarray) -> float:
    return float(np.corrcoef(first.numpy(), second)[0, 1])


def test_a_planted_value_is_found() -> None:
    recording, value = walks()
    learn = split_trajectories(recording, 0)
    data = lesson(recording, learn)
    scale = Scale.of(torch.from_numpy(recording.steps["return"][learn]))
    assert -1.6 < scale.centre - scale.half < value.min()  # values outside [-1, 1]
    probes = fit_probes(data, parsed("td", "returns", "td+returns"), 0.9, scale, FitConfig(300, rate=0.05))
    for probe in probes.values():
        said = probe(layer_rows(recording, "layer"))[~learn]
        assert correlation(said, value[~learn]) > 0.99
        assert (said - torch.from_numpy(value[~learn])).abs().mean() < 0.3
        assert probe.theta[1] > 0 > probe.theta[4]
        assert probe.loss < 0.05


def test_without_rewards_the_better_end_of_the_widest_direction_is_found() -> None:
    """Two clouds of activations; the policy is more often in one, noisier versions in the other, by either sign."""
    rng = np.random.default_rng(1)
    for sign in (1.0, -1.0):
        level = rng.integers(2, size=400)
        side = np.where(rng.random(400) < np.where(level == 0, 0.8, 0.3), 1.0, -1.0)
        acts = torch.from_numpy(np.column_stack([*[sign * side] * 6, rng.normal(size=400)]).astype(np.float32))
        nothing, no = torch.zeros(400), torch.zeros(400, dtype=torch.bool)
        data = Transitions(acts, acts, no, nothing, nothing, no, no, torch.from_numpy(level), torch.ones(400))
        probes = fit_probes(data, parsed("variance+10*dominance"), 0.9, Scale(), FitConfig(150, rate=0.05, restarts=6))
        probe = probes["variance+10*dominance"]
        assert correlation(probe(acts), side) > 0.95


def test_ccs_finds_what_is_opposite() -> None:
    rng = np.random.default_rng(2)
    wins, other = np.sign(rng.normal(size=300)), np.sign(rng.normal(size=300))  # the second is the same for both
    mine = torch.from_numpy(np.column_stack([wins, other, np.ones(300)]).astype(np.float32))
    theirs = torch.from_numpy(np.column_stack([-wins, other, np.zeros(300)]).astype(np.float32))
    nothing, no = torch.zeros(300), torch.zeros(300, dtype=torch.bool)
    data = Transitions(mine, mine, no, nothing, nothing, no, no, torch.zeros(300), torch.ones(300), theirs)
    probe = fit_probes(data, parsed("ccs"), 1.0, Scale(), FIT)["ccs"]
    assert abs(correlation(probe(mine), wins)) > 0.95
    assert probe.loss < 0.1
    with pytest.raises(ValueError, match="'ccs' cannot be learnt: there is nothing for ccs"):
        fit_probes(replace(data, opposite=None), parsed("ccs"), 1.0, Scale(), FIT)


def test_controls_find_nothing() -> None:
    """Activations that know nothing of the value, and rewards dealt anew."""
    recording, value = walks(trajectories=120)
    learn = split_trajectories(recording, 0)
    rng = np.random.default_rng(3)
    noise = Recording(
        {"layer": torch.from_numpy(rng.normal(size=(len(recording), 6)).astype(np.float32))}, {}, recording.steps
    )
    shuffled = shuffle_rewards(recording, 0, 0.9)
    assert sorted(shuffled.steps["reward"]) == sorted(recording.steps["reward"])
    for control in (noise, shuffled):
        found = []
        for number in range(6):
            if control is shuffled:
                control = shuffled = shuffle_rewards(recording, number, 0.9)
            scale = Scale.of(torch.from_numpy(control.steps["return"][learn]))
            probes = fit_probes(lesson(control, learn), parsed("td", "returns"), 0.9, scale, replace(FIT, restarts=1))
            rows = layer_rows(control, "layer")[~learn]
            found.append([correlation(probe(rows), value[~learn]) for probe in probes.values()])
        assert np.abs(np.mean(found, axis=0)).max() < 0.4  # a random direction of six has a spread of 0.41


def test_probes_side_by_side_are_probes_alone() -> None:
    recording, _ = walks(trajectories=10)
    data = lesson(recording, np.ones(len(recording), bool))
    cfg = FitConfig(30, restarts=1)
    both = fit_probes(data, parsed("td", "returns"), 0.9, Scale(2, 3), cfg)
    alone = fit_probes(data, parsed("td"), 0.9, Scale(2, 3), cfg)
    torch.testing.assert_close(both["td"].theta, alone["td"].theta)
    best = fit_probes(data, parsed("td"), 0.9, Scale(2, 3), FitConfig(30, restarts=4))["td"]
    assert best.loss <= alone["td"].loss + 1e-6


def test_trajectories_are_kept_together_and_levels_split_alike() -> None:
    recording, _ = walks(trajectories=20)
    learn, number = split_trajectories(recording, 0), recording.steps["trajectory"]
    assert not set(number[learn]) & set(number[~learn])
    for level in (0, 1):
        here = recording.steps["level"] == level
        assert len(set(number[learn & here])) == len(set(number[~learn & here])) == 5
    assert (split_trajectories(recording, 1) != learn).any()
    with pytest.raises(ValueError, match="level 0 has 1 trajectory"):
        split_trajectories(walks(trajectories=2)[0], 0)


def short() -> Recording:
    """Two trajectories, the second cut off, the third of a noisier policy."""
    steps = {
        "trajectory": np.array([0, 0, 0, 1, 1, 2, 2]),
        "step": np.array([0, 1, 2, 0, 1, 0, 1]),
        "level": np.array([0, 0, 0, 0, 0, 1, 1]),
        "reward": np.arange(7.0),
        "return": np.arange(7.0),
        "explored": np.array([0, 0, 0, 0, 0, 1, 0], bool),
        "truncated": np.array([0, 0, 0, 1, 1, 0, 0], bool),
    }
    obs = np.arange(7, dtype=np.float32)[:, None]
    return Recording({"layer": torch.from_numpy(obs)}, {"obs": obs}, steps)


def test_what_each_step_teaches() -> None:
    allowed = np.array([1, 1, 0, 1, 1, 1, 1], bool)
    data = transitions(short(), "layer", 0.5, allowed, np.array([0, 1, 3, 4, 5, 6]))
    assert data.there[[0, 1, 2, 4], 0].tolist() == [1, 2, 4, 6]
    assert data.over.tolist() == [False, False, False, False, False, True]
    # Row 1 leads to a row held out, row 4 to where nobody looked, row 5 was chosen at random.
    assert data.taught_td.tolist() == [True, False, True, False, False, True]
    assert data.taught_returns.tolist() == [True, True, False, False, False, False]
    assert data.share.tolist() == pytest.approx([1 / 3, 1 / 3, 0.5, 0.5, 0.5, 0.5])
    assert known_returns(short(), 0.2).tolist() == [1, 1, 1, 1, 0, 0, 0]  # .2 ** 2 of the rest is missing at row 3
    assert torch.equal(layer_rows(short(), OBSERVATION), layer_rows(short(), "layer"))
    assert draw_rows(short(), allowed, 2, 0).tolist() in ([a, b] for a in (0, 1, 3, 4) for b in (5, 6))


def test_bad_lessons_are_named() -> None:
    data = transitions(short(), "layer", 0.5, np.ones(7, bool), np.arange(5))
    with pytest.raises(ValueError, match="nothing for dominance"):
        fit_probes(data, parsed("variance+dominance"), 0.5, Scale(), FIT)
    with pytest.raises(ValueError, match="nothing for returns"):
        fit_probes(replace(data, taught_returns=torch.zeros(5, dtype=torch.bool)), parsed("returns"), 0.5, Scale(), FIT)
    with pytest.raises(ValueError, match="finite"):
        fit_probes(replace(data, here=data.here / 0), parsed("td"), 0.5, Scale(), FIT)
    with pytest.raises(ValueError, match="known return"):
        Scale.of(torch.zeros(0))
    with pytest.raises(ValueError, match="restarts must be at least 1, got 0"):
        FitConfig(restarts=0)


def test_layers_of_actor_critic_and_q_network() -> None:
    layers = layers_of(train_agent("GridWorld-v0", 0, 0, (8, 4)).policy)
    actor, critic = "mlp_extractor.policy_net", "mlp_extractor.value_net"
    assert layers == (f"{actor}.1", f"{actor}.3", f"{critic}.1", f"{critic}.3", "action_net")
    assert layers_of(DQN("MlpPolicy", "CartPole-v1", buffer_size=5).policy) == tuple(
        f"q_net.q_net.{i}" for i in (1, 3, 4)
    )


def test_levels_are_recorded_apart() -> None:
    model = train_agent("GridWorld-v0", 0, 0, (8, 4))
    cfg = RolloutConfig(4, deterministic=False)
    recording = record_levels(model, make_world("GridWorld-v0", 2), ["action_net"], cfg, (0.5, 1.0))
    assert [len(set(recording.steps["trajectory"][recording.steps["level"] == level])) for level in range(3)] == [4] * 3
    assert len(set(recording.steps["trajectory"])) == 12
    explored = [recording.steps["explored"][recording.steps["level"] == level].mean() for level in range(3)]
    assert explored[0] == 0.0
    assert 0.2 < explored[1] < 0.8
    assert explored[2] == 1.0


def test_exact_values_and_planning() -> None:
    world = exact_world("GridWorld-v0", 0.9, layout="empty")
    assert world is not None
    assert world.starts.sum() == pytest.approx(1.0)
    assert np.count_nonzero(world.starts) == 35
    best = world.mdp.optimal_values(0.9)
    assert world.planned(best) == pytest.approx(world.starts @ best)
    assert world.planned(-best) < world.planned(best)
    model = train_agent("GridWorld-v0", 0, 0, (8, 4))
    assert isinstance(model, PPO)
    chances = action_chances(model.policy, 36)
    obs, _ = model.policy.obs_to_tensor(np.eye(36, dtype=np.float32)[[5]])
    expected = model.policy.get_distribution(obs).distribution.probs.detach().numpy()[0]  # type: ignore[union-attr]
    assert chances[5].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    # Bellman's equation at a state, by hand.
    values = policy_values(world, model)
    assert values[7] == pytest.approx(chances[7] @ world.mdp.action_values(values, 0.9)[7])
    lake = exact_world("FrozenLake-v1", 0.99)
    assert lake is not None
    assert lake.starts.tolist() == [1.0] + [0.0] * 15
    assert exact_world("CartPole-v1", 0.99) is None


def test_no_lane_starts_as_another_does() -> None:
    """Levels, lanes and agents of neighbouring seeds: a start that comes twice would be on both sides of a split."""
    starts = []
    for seed in (0, 1):
        model = train_agent("CartPole-v1", seed, 0, (8,))
        cfg = RolloutConfig(16, seed, deterministic=False)
        made = record_levels(model, make_world("CartPole-v1", 8), ["action_net"], cfg, (0.5, 1.0))
        starts += [tuple(row) for row in made.observations["obs"][made.steps["step"] == 0].tolist()]
    assert len(starts) == len(set(starts)) == 2 * 3 * 16
