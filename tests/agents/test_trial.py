"""One short update of every algorithm: the gradients it shows, and the rewards that arrive."""

from functools import partial

import numpy as np
import pytest
import torch

from agents.algos import ALGOS, make_algo
from agents.reading import Q_VALUES, QUANTILES
from agents.trial import part_of, try_update
from agents.vec_env import SB3VecEnv
from tests.toys import AimVectorEnv, CueVectorEnv


@pytest.mark.parametrize("algo", ALGOS)
def test_a_trial_measures_every_algorithm(algo):
    row = ALGOS[algo]
    box = "box" in row.actions and "discrete" not in row.actions
    vec_env = SB3VecEnv(AimVectorEnv() if box else CueVectorEnv(horizon=3))
    trial = try_update(row, partial(make_algo, algo, vec_env, seed=0, device="cpu"), vec_env, steps=10)
    assert set(trial.gradients) == ({"policy"} if row.family in (Q_VALUES, QUANTILES) else {"policy", "critic"})
    assert min(trial.gradients.values()) > 1e-4
    assert trial.episodes == (0 if box else 4 * 3)  # three episodes of three steps a lane in ten steps
    assert np.allclose(trial.received, trial.earned)


@pytest.mark.parametrize("algo", ["ppo", "a2c", "trpo"])
def test_the_measured_gradient_is_the_policy_gradient(algo, monkeypatch):
    """Oracle: the mean of normalised advantage times the gradient of the log-probability, on the same roll-out."""
    row, vec_env, models = ALGOS[algo], SB3VecEnv(CueVectorEnv()), []
    make = partial(make_algo, algo, vec_env, seed=0, device="cpu")
    cls, sound = row.cls, row.cls.train
    monkeypatch.setattr(cls, "train", lambda self: (models.append(self), sound(self))[1])
    trial = try_update(row, make, vec_env, steps=16)
    buffer = models[0].rollout_buffer
    policy = make().policy
    obs, actions = torch.as_tensor(buffer.observations), torch.as_tensor(buffer.actions).long().flatten()
    advantages = torch.as_tensor(buffer.advantages).flatten()
    scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    (scaled * policy.get_distribution(obs).log_prob(actions)).mean().backward()
    square = sum(float(p.grad.square().sum()) for p in policy.parameters() if p.grad is not None)
    assert trial.gradients["policy"] == pytest.approx(square**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("action_net.weight", "policy"),
        ("mlp_extractor.policy_net.0.bias", "policy"),
        ("log_std", "policy"),
        ("q_net.q_net.0.weight", "policy"),
        ("actor.mu.weight", "policy"),
        ("value_net.weight", "critic"),
        ("mlp_extractor.value_net.0.bias", "critic"),
        ("vf_features_extractor.net.weight", "critic"),
        ("critic.qf0.0.weight", "critic"),
        ("critic_target.qf0.0.weight", None),
        ("q_net_target.q_net.0.weight", None),
        ("quantile_net.quantile_net.0.weight", "policy"),
        ("quantile_net_target.quantile_net.0.weight", None),
    ],
)
def test_parameters_belong_to_the_policy_or_the_critic(name, part):
    assert part_of(name) == part
