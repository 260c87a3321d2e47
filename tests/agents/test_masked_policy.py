"""MaskedPolicy against MaskablePPO and stock PPO, bit for bit, and proofs that it learns.

Chance and ceiling stand beside each threshold, which is half of the way between them: a mean over seeds passes it
on any machine, although rounding differs between processors and makes another training of the same seed.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.masked_policy import MaskedPolicy, TiedHead, _LegalLogSumExp, tied_keys, unpack_bits
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import AdaptiveMask, ScopeMask
from tests.toys import AimVectorEnv, CueVectorEnv

HYPER = {"n_steps": 16, "batch_size": 32, "n_epochs": 3, "ent_coef": 0.01, "gamma": 1.0, "seed": 3, "device": "cpu"}
DIRECTIONS = CueVectorEnv().directions


def masked_env(**kwargs: Any) -> SB3VecEnv:
    envs = CueVectorEnv(**kwargs)
    return SB3VecEnv(envs, ScopeMask(envs.features + 1))


def make_policy(vec_env: VecEnv, **kwargs: Any) -> MaskedPolicy:
    torch.manual_seed(0)
    policy = MaskedPolicy(vec_env.observation_space, vec_env.action_space, lambda _: 1e-3, **kwargs)
    torch.nn.init.normal_(policy.action_net.bias)  # an opinion, so that ties do not hide faults
    return policy


def tensors(obs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in obs.items()}


def assert_same_parameters(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(("limit", "features"), [(None, 12), (1, 12), (None, 500)])
def test_parameters_equal_maskable_ppo_bit_for_bit(limit: int | None, features: int) -> None:
    shape = {"num_envs": 6, "horizon": 3, "limit": limit, "features": features}
    theirs = MaskablePPO("MlpPolicy", SB3VecEnv(CueVectorEnv(**shape)), **HYPER)
    start = copy.deepcopy(theirs.policy)
    theirs.learn(5 * 96)
    # Built after that one has learned: the seed is of global generators, set at construction.
    ours = PPO(MaskedPolicy, masked_env(**shape), **HYPER)
    assert_same_parameters(ours.policy, start)
    ours.learn(5 * 96)
    assert_same_parameters(ours.policy, theirs.policy)
    assert not torch.equal(ours.policy.action_net.weight, start.action_net.weight)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_without_a_mask_parameters_equal_stock_sb3(algorithm: type) -> None:
    hyper = HYPER if algorithm is PPO else {"n_steps": 8, "seed": 3, "device": "cpu"}
    models = [
        algorithm(policy, SB3VecEnv(CueVectorEnv()), **hyper).learn(256) for policy in (MaskedPolicy, "MlpPolicy")
    ]
    assert_same_parameters(models[0].policy, models[1].policy)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65])
def test_unpacking_undoes_numpys_packing(count: int) -> None:
    legal = np.random.default_rng(count).random((5, count)) < 0.5
    packed = torch.from_numpy(np.packbits(legal, axis=1))
    assert torch.equal(unpack_bits(packed, count), torch.from_numpy(legal))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("head", ["linear", "tied"])
def test_the_mask_is_never_a_network_input(head: str, share: bool) -> None:
    """Only the mask changes: values and the odds among actions legal in both stay exactly the same."""
    vec_env = masked_env(num_envs=8)
    policy = make_policy(vec_env, head=head, directions=DIRECTIONS, share_features_extractor=share)
    obs = tensors(vec_env.reset())
    everything = {**obs, "mask": torch.full_like(obs["mask"], 255)}
    both = unpack_bits(obs["mask"], 13)
    some, all_legal = (policy.get_distribution(part).distribution.logits for part in (obs, everything))
    torch.testing.assert_close((some - some[:, -1:])[both], (all_legal - all_legal[:, -1:])[both], rtol=0, atol=1e-5)
    assert torch.equal(policy.predict_values(obs), policy.predict_values(everything))
    latent = policy.extract_features(obs)
    for features in (latent,) if share else latent:
        assert torch.equal(features, obs["obs"])
    assert policy.features_dim == obs["obs"].shape[1]


def test_rollout_and_update_see_the_same_distribution() -> None:
    vec_env = masked_env(num_envs=64)
    policy = make_policy(vec_env)
    obs = tensors(vec_env.reset())
    actions, values, log_prob = policy(obs)
    values2, log_prob2, entropy = policy.evaluate_actions(obs, actions)
    assert torch.equal(values, values2)
    assert torch.equal(values, policy.predict_values(obs))
    assert torch.equal(log_prob, log_prob2)
    # Independent answer: softmax over the legal logits only, lane by lane.
    logits = policy.action_net(policy.mlp_extractor.forward_actor(obs["obs"]))
    for lane, legal in enumerate(unpack_bits(obs["mask"], 13)):
        probabilities = torch.softmax(logits[lane, legal], 0)
        expected = -(probabilities * probabilities.log()).sum()
        torch.testing.assert_close(entropy[lane], expected)
        index = int(legal[: int(actions[lane])].sum())
        torch.testing.assert_close(log_prob[lane].exp(), probabilities[index])
    greedy, _ = policy.predict({key: value.numpy() for key, value in obs.items()}, deterministic=True)
    legal_logits = torch.where(unpack_bits(obs["mask"], 13), logits, -torch.inf)
    assert greedy.tolist() == legal_logits.argmax(1).tolist()


def test_illegal_actions_are_never_sampled() -> None:
    vec_env = masked_env(num_envs=100)
    policy = make_policy(vec_env)
    with torch.no_grad():
        policy.action_net.bias += torch.linspace(-30, 30, 13)  # illegal ones would be all but certain
    obs = vec_env.reset()
    drawn = 0
    while drawn < 10_000:
        actions, _ = policy.predict(obs)
        assert vec_env.envs.action_masks()[np.arange(100), actions].all()
        drawn += len(actions)
        obs, *_ = vec_env.step(actions)


def test_only_the_noop_legal_gives_entropy_zero_and_finite_gradients() -> None:
    vec_env = masked_env(num_envs=4)
    policy = make_policy(vec_env)
    obs = tensors(vec_env.reset())
    obs["mask"] = torch.from_numpy(np.packbits(np.tile(np.arange(13) == 12, (4, 1)), axis=1))
    _, log_prob, entropy = policy.evaluate_actions(obs, torch.full((4,), 12))
    assert torch.equal(entropy, torch.zeros(4))
    (log_prob.sum() + entropy.sum()).backward()
    assert torch.isfinite(policy.action_net.weight.grad).all()


def test_the_log_sum_exp_over_legal_actions_has_second_derivatives() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    legal = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [1] * 7], dtype=torch.bool)
    assert torch.autograd.gradcheck(_LegalLogSumExp.apply, (logits, legal))
    assert torch.autograd.gradgradcheck(_LegalLogSumExp.apply, (logits, legal))


@pytest.mark.parametrize("head", ["linear", "tied"])
def test_trpo_updates_inside_the_mask(head: str) -> None:
    """Its line search needs the curvature of the divergence: second derivatives through the masked categorical."""
    vec_env = masked_env(num_envs=8)
    kwargs = {"head": head, "directions": DIRECTIONS} if head == "tied" else {}
    model = TRPO(MaskedPolicy, vec_env, n_steps=16, batch_size=32, seed=0, device="cpu", policy_kwargs=kwargs)
    before = model.policy.action_net.state_dict()["bias"].clone()
    model.learn(128)
    assert model.logger.name_to_value["train/is_line_search_success"] == 1.0
    assert not torch.equal(model.policy.action_net.state_dict()["bias"], before)
    actions, _ = model.predict(vec_env.reset())
    assert vec_env.envs.action_masks()[np.arange(8), actions].all()


def test_mask_takes_an_eighth_of_a_byte_an_action() -> None:
    actions = 16_385
    vec_env = masked_env(num_envs=2, features=actions - 1)
    model = PPO(MaskedPolicy, vec_env, n_steps=4, batch_size=8, device="cpu", policy_kwargs={"net_arch": [2]})
    mask = model.rollout_buffer.observations["mask"]
    assert mask.nbytes == 4 * 2 * -(-actions // 8)
    model.learn(8)
    assert model.rollout_buffer.observations["mask"].dtype == np.uint8


@pytest.mark.parametrize("head", ["linear", "tied"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_saves_and_loads(head: str, with_mask: bool, tmp_path: Path) -> None:
    vec_env = masked_env() if with_mask else SB3VecEnv(CueVectorEnv())
    kwargs = {"head": head, "directions": DIRECTIONS, "key_dim": 4} if head == "tied" else {}
    model = PPO(MaskedPolicy, vec_env, policy_kwargs=kwargs, **HYPER).learn(64)
    model.save(tmp_path / "model.zip")
    model.policy.save(tmp_path / "policy.pt")
    loaded = PPO.load(tmp_path / "model.zip", env=vec_env, device="cpu")
    alone = MaskedPolicy.load(tmp_path / "policy.pt", device="cpu")
    obs = vec_env.reset()
    wanted, _ = model.predict(obs, deterministic=True)
    for policy in (loaded.policy, alone):
        assert_same_parameters(policy, model.policy)
        np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], wanted)
    loaded.learn(64)  # training goes on


def test_tied_keys_keep_the_geometry() -> None:
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((50, 5)) @ rng.standard_normal((5, 40))  # rank 5: five dimensions lose nothing
    inside[7] = 0.0
    norms = np.linalg.norm(inside, axis=1, keepdims=True)
    cosines = (inside @ inside.T) / np.maximum(norms * norms.T, 1e-12)
    keys = tied_keys(inside, 5)
    assert keys.shape == (50, 5)
    np.testing.assert_allclose(keys @ keys.T, cosines, atol=1e-5)
    untouched = tied_keys(keys, 5)
    np.testing.assert_allclose(untouched, keys, atol=1e-6)
    drawn = tied_keys(inside, 20, "random", seed=1)
    np.testing.assert_array_equal(drawn, tied_keys(inside, 20, "random", seed=1))
    assert not np.array_equal(drawn, tied_keys(inside, 20, "random", seed=2))
    live = np.arange(50) != 7
    np.testing.assert_allclose(np.linalg.norm(drawn[live], axis=1), 1.0, rtol=1e-5)


def test_tied_head_by_hand_and_its_size() -> None:
    head = TiedHead(3, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    with torch.no_grad():
        head.query.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
        head.noop_key.copy_(torch.tensor([[1.0, 1.0]]))
        head.bias.copy_(torch.tensor([0.0, 0.5, -1.0]))
    logits = head(torch.tensor([[3.0, 4.0, 9.0]]))
    assert logits.tolist() == [[3.0, 8.5, 10.0]]
    assert sum(p.numel() for p in head.parameters()) == 3 * 2 + 2 + 3
    assert not head.keys.requires_grad


def test_bad_input_is_named() -> None:
    space = masked_env().observation_space
    action = masked_env().action_space
    box = AimVectorEnv().single_action_space
    cases = [
        ({"action_space": box}, "needs Discrete actions, got Box"),
        ({"head": "round"}, "'round'; known heads: linear, tied"),
        ({"head": "tied"}, "needs directions="),
        ({"head": "tied", "directions": DIRECTIONS[:-1]}, "11 directions for 12 features and a no-op"),
        ({"head": "tied", "directions": DIRECTIONS * np.nan}, "finite"),
        ({"head": "tied", "directions": DIRECTIONS, "key_dim": 0}, "at least 1, got 0"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            MaskedPolicy(space, change.pop("action_space", action), lambda _: 1e-3, **change)
    with pytest.raises(ValueError, match="'umap'"):
        tied_keys(DIRECTIONS, 4, "umap")


def mean_score(model: PPO, vec_env: SB3VecEnv) -> float:
    """Share of right answers in 20 steps of one-step episodes, actions sampled as in training."""
    obs, total = vec_env.reset(), 0.0
    for _ in range(20):
        obs, rewards, _, _ = vec_env.step(model.predict(obs, deterministic=False)[0])
        total += float(rewards.mean())
    return total / 20


def learned(cls: type[CueVectorEnv], mask: str, tokens: int, head: str = "linear") -> tuple[float, float]:
    """Mean scores over three seeds, before and after learning."""
    scores = []
    for seed in range(3):
        masks = {"off": None, "scope": ScopeMask(13), "adaptive": AdaptiveMask(13, seed, width=4, interval=8)}
        vec_env = SB3VecEnv(cls(num_envs=32, horizon=1), masks[mask])
        kwargs = {"head": head, "directions": DIRECTIONS} if head == "tied" else {}
        hyper = {**HYPER, "n_steps": 8, "batch_size": 64, "n_epochs": 4, "learning_rate": 1e-2, "seed": seed}
        model = PPO(MaskedPolicy, vec_env, policy_kwargs={**kwargs, "net_arch": [32]}, **hyper)
        before = mean_score(model, vec_env)
        scores.append((before, mean_score(model.learn(tokens), vec_env)))
    before, after = np.mean(scores, axis=0)
    return before, after


@pytest.mark.parametrize("head", ["linear", "tied"])
@pytest.mark.parametrize(("mask", "chance"), [("off", 1 / 13), ("scope", 1 / 5), ("adaptive", 1 / 5)])
def test_learns_to_read_the_cue(mask: str, chance: float, head: str) -> None:
    """Ceiling 1.00. The adaptive mask opens more than the scope does, so its chance is below that of the scope."""
    half_way = (chance + 1) / 2
    before, after = learned(CueVectorEnv, mask, 2_000, head)
    assert before < half_way / 2
    assert after > half_way


class HiddenCueEnv(CueVectorEnv):
    """The wanted feature is never active: only a mask that widens can find it."""

    def action_masks(self) -> np.ndarray:
        active = self._active.copy()
        active[np.arange(self.num_envs), self._target] = False
        return active


def test_only_the_adaptive_mask_finds_what_is_not_active() -> None:
    """Inside the scope, which hides every right answer, the ceiling is 0; with the mask that widens it is 1.00.

    Chance there is at most 1/13 = 0.08, where it opens all features: half of the way is 0.54.
    """
    assert learned(HiddenCueEnv, "scope", 256) == (0.0, 0.0)
    assert learned(HiddenCueEnv, "adaptive", 2_000)[1] > 0.54
