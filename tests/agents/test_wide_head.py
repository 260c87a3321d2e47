"""Heads over many actions: legal logits alone, and blocks of all, against the plain matrix of logits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from torch.distributions import Categorical, kl_divergence

from agents import masked_policy, wide_head
from agents.masked_policy import LegalCategorical, LinearHead, MaskedPolicy, SparseCategorical, TiedHead, unpack_bits
from agents.vec_env import SB3VecEnv
from agents.wide_head import Places, chosen_in_blocks, products_at, spread
from steer_env.evaluation.masks import ScopeMask
from tests.toys import CueVectorEnv

DOUBLE = torch.float64


def some_legal(rows: int, count: int, share: float, seed: int = 0) -> np.ndarray:
    legal = np.random.default_rng(seed).random((rows, count)) < share
    legal[:, -1] = True  # the no-op
    return legal


def places(legal: np.ndarray) -> Places:
    return Places.of_bits(torch.from_numpy(np.packbits(legal, axis=1)), legal.shape[1])


def heads(width: int, actions: int) -> dict[str, LinearHead | TiedHead]:
    torch.manual_seed(0)
    tied = TiedHead(width, torch.nn.functional.normalize(torch.randn(actions - 1, 4), dim=1))
    torch.nn.init.normal_(tied.noop_key)
    torch.nn.init.normal_(tied.bias)
    return {"linear": LinearHead(width, actions), "tied": tied}


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 200])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_places_are_those_of_the_bits_in_order(count, share):
    legal = some_legal(5, count, share)
    found = places(legal)
    rows, columns = np.nonzero(legal)
    assert found.rows.tolist() == rows.tolist()
    assert found.columns.tolist() == columns.tolist()
    assert found.counts.tolist() == legal.sum(1).tolist()
    assert found.starts.tolist() == [0, *legal.sum(1).cumsum()]


def test_bits_behind_the_last_action_are_no_places():
    found = Places.of_bits(torch.full((2, 2), 255, dtype=torch.uint8), 9)
    assert found.columns.tolist() == [*range(9)] * 2


def test_products_and_spreads_are_those_of_the_dense_matrices_and_so_are_both_derivatives():
    here = places(some_legal(4, 9, 0.3))
    left = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)
    right = torch.randn(9, 3, dtype=DOUBLE, requires_grad=True)
    values = torch.randn(len(here.rows), dtype=DOUBLE, requires_grad=True)
    torch.testing.assert_close(products_at(here, left, right), (left @ right.T)[here.rows, here.columns])
    full = torch.zeros(4, 9, dtype=DOUBLE).index_put((here.rows, here.columns), values)
    torch.testing.assert_close(spread(here, values, right), full @ right)
    for function, inputs in (
        (lambda a, b: products_at(here, a, b), (left, right)),
        (lambda a, b: spread(here, a, b), (values, right)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("block", [3, 8, 2_048])
def test_blocks_give_what_the_whole_softmax_gives(block, monkeypatch):
    monkeypatch.setattr(wide_head, "BLOCK", block)
    latent = torch.randn(5, 3, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(8, 3, dtype=DOUBLE, requires_grad=True)
    bias = (3 * torch.randn(8, dtype=DOUBLE)).requires_grad_()
    actions = torch.tensor([0, 7, 3, 2, 7])
    log_prob, entropy, log_total = chosen_in_blocks(latent, weight, bias, actions)
    logits = latent @ weight.T + bias
    whole = Categorical(logits=logits)
    torch.testing.assert_close(log_prob, whole.log_prob(actions))
    torch.testing.assert_close(entropy, whole.entropy())
    torch.testing.assert_close(log_total, logits.logsumexp(1))
    assert torch.autograd.gradcheck(lambda *given: chosen_in_blocks(*given, actions), (latent, weight, bias))


def test_blocks_keep_no_matrix_of_all_logits():
    """What is saved for the backward pass is of the sizes of the inputs, not of B times A."""
    latent, weight, bias = torch.randn(64, 8), torch.randn(5_000, 8, requires_grad=True), torch.zeros(5_000)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda x: x):
        chosen_in_blocks(latent, weight, bias, torch.zeros(64, dtype=torch.long))
    assert max(saved) == weight.numel() < 64 * 5_000


@pytest.mark.parametrize("head", ["linear", "tied"])
def test_few_legal_actions_have_the_distribution_of_the_masked_matrix(head):
    network = heads(6, 40)[head]
    legal = some_legal(7, 40, 0.2)
    latent = torch.randn(7, 6)
    actions = torch.tensor([np.flatnonzero(row)[lane % 2 - 1] for lane, row in enumerate(legal)])
    gradients = []
    dense = LegalCategorical(network(latent), torch.from_numpy(legal))
    sparse = SparseCategorical(network.at(latent, places(legal)), places(legal))
    for each in (dense, sparse):
        network.zero_grad()
        (each.log_prob(actions).sum() + 0.3 * each.entropy().sum()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    for name in ("logits", "probs"):
        torch.testing.assert_close(getattr(sparse, name), getattr(dense, name))
    torch.testing.assert_close(sparse.log_prob(actions), dense.log_prob(actions))
    torch.testing.assert_close(sparse.entropy(), dense.entropy())
    assert torch.equal(sparse.mode, dense.mode)
    assert sparse.log_prob(torch.full((7,), 1))[~torch.from_numpy(legal[:, 1])].max() < -1e7
    other = SparseCategorical(network.at(latent + 1, places(legal)), places(legal))
    theirs = LegalCategorical(network(latent + 1), torch.from_numpy(legal))
    torch.testing.assert_close(kl_divergence(sparse, other), kl_divergence(dense, theirs))
    drawn = sparse.sample((2_000,))
    shares = torch.nn.functional.one_hot(drawn, 40).float().mean(0)
    torch.testing.assert_close(shares, dense.probs, rtol=0, atol=0.05)
    assert (shares[~torch.from_numpy(legal)] == 0).all()


@pytest.mark.parametrize("head", ["linear", "tied"])
def test_where_all_are_legal_blocks_have_the_distribution_of_the_matrix(head):
    network = heads(6, 40)[head]
    latent, actions = torch.randn(5, 6), torch.tensor([0, 39, 39, 17, 38])
    whole = Categorical(logits=network(latent))
    gradients = []
    for log_prob, entropy in (network.chosen(latent, actions), (whole.log_prob(actions), whole.entropy())):
        network.zero_grad()
        torch.testing.assert_close(log_prob, whole.log_prob(actions))
        torch.testing.assert_close(entropy, whole.entropy())
        (log_prob.sum() + 0.3 * entropy.sum()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", [PPO, TRPO])
@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("head", ["linear", "tied"])
def test_a_wide_policy_learns_what_the_plain_one_learns(algorithm, with_mask, head, monkeypatch):
    """The same updates from one roll-out, but for rounding: logits where needed, or all at once."""
    monkeypatch.setattr(masked_policy, "SPARSE", 2)
    envs = CueVectorEnv(num_envs=8, features=20)
    kwargs = {"head": head, "directions": envs.directions, "optimizer_kwargs": {"fused": False}}
    settings = {"n_steps": 16, "batch_size": 64, "seed": 0, "device": "cpu", "policy_kwargs": kwargs}
    model = algorithm(MaskedPolicy, SB3VecEnv(envs, ScopeMask(21) if with_mask else None), **settings)
    _, callback = model._setup_learn(128)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=16)
    start, memory = copy.deepcopy(model.policy.state_dict()), copy.deepcopy(model.policy.optimizer.state_dict())
    learned = []
    for wide in (8, 1_000):
        monkeypatch.setattr(masked_policy, "WIDE", wide)
        model.policy.load_state_dict(start)
        model.policy.optimizer.load_state_dict(copy.deepcopy(memory))
        np.random.seed(0)  # minibatches
        model.train()
        learned.append(copy.deepcopy(model.policy.state_dict()))
    assert not torch.equal(learned[0]["action_net.bias"], start["action_net.bias"])
    torch.testing.assert_close(learned[0], learned[1], rtol=1e-3, atol=1e-4)


def test_what_is_sparse_and_what_is_not():
    envs = CueVectorEnv(num_envs=2, features=2_000)
    vec_env = SB3VecEnv(envs, ScopeMask(2_001))
    policy = PPO(MaskedPolicy, vec_env, n_steps=4, batch_size=8, device="cpu").policy
    assert policy.optimizer.defaults["fused"]
    assert policy.optimizer.defaults["eps"] == 1e-5, "as SB3 has it"
    obs = {key: torch.from_numpy(value) for key, value in vec_env.reset().items()}
    assert isinstance(policy.get_distribution(obs).distribution, SparseCategorical)
    legal = unpack_bits(obs["mask"], 2_001)
    assert torch.equal(policy.get_distribution(obs).distribution.logits > -1e7, legal)
    everything = {**obs, "mask": torch.full_like(obs["mask"], 255)}
    assert isinstance(policy.get_distribution(everything).distribution, LegalCategorical)
