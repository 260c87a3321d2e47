"""The faults of the published code bases, each as a test that fails if we had it too.

AutoSteer (numbers as in the docstrings): steering never applied, policy never loaded, noise logged as action, rewards
lost, bonus judged after the move, different budgets. The first public code for control by reinforcement learning: a
policy gradient of exactly zero, the decoder bias added with every action.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import steer_env  # noqa: F401
from agents.algos import make_algo
from agents.policies import policy_of
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.controls import CONTROLS, Setting, controls_for
from steer_env.evaluation.masks import make_mask
from steer_env.evaluation.play import play
from tests.conftest import FEATURES

LANES = 4
ITEMS = list(range(12))
IDS = ["Steer-TicTacToe-v0", "AutoSteer-TicTacToe-v0"]


def make(env_id: str, tiny, **kwargs):
    extra = {"k": 5} if env_id.startswith("Auto") else {}
    return gym.make_vec(env_id, num_envs=LANES, **{**tiny, **extra, "illegal": "random_move", **kwargs})


def agent(envs, seed: int = 0):
    return make_algo("ppo", SB3VecEnv(envs), seed=seed, n_steps=16, device="cpu")


@pytest.fixture
def spy(tiny):
    """Everything the block above the site receives at the last position, pass by pass."""
    from steer_env.lm.loading import load_language_model

    received: list[torch.Tensor] = []
    block = load_language_model(tiny["model"]).model.layers[tiny["layer"] + 1]
    handle = block.register_forward_pre_hook(lambda module, args: received.append(args[0][:, -1].clone()))
    yield received
    handle.remove()


@pytest.mark.parametrize("env_id", IDS)
def test_autosteer_1_steering_is_applied_in_evaluation_and_is_what_the_log_says(env_id, tiny, spy):
    """Its evaluation loop used up the iterator of features in the line that logged them."""
    envs = make(env_id, tiny)
    policy = policy_of(agent(envs))
    hidden, logged = [], []

    def watched(obs, lanes):
        hidden.append(lanes.envs.residual.clone())
        actions, details = policy(obs, lanes)
        logged.append(actions.copy())
        return actions, details

    spy.clear()
    played = play(envs, watched, ITEMS, seed=0)
    scene = envs.unwrapped.episode.scene
    rows = scene.dictionary.directions[scene.actuator.features]
    assert len(spy) == len(hidden)
    for before, after, actions in zip(hidden, spy, logged, strict=True):
        strengths = np.eye(FEATURES + 1)[actions][:, :-1] if env_id.startswith("Steer") else actions
        expected = scene.actuator.coefficient * torch.tensor(strengths, dtype=torch.float32) @ rows
        assert torch.allclose(after - before, expected, atol=1e-4)
        steered = torch.tensor(strengths).any(dim=1)
        assert steered.any()
        assert (after - before)[steered].norm(dim=1).min() > 1e-3
    first = played.tokens["step"] == 0
    if env_id.startswith("Steer"):
        assert set(played.tokens["feature"][first]) <= set(np.concatenate(logged))


def test_autosteer_2_the_policy_that_plays_is_the_one_that_was_saved(tiny, tmp_path):
    """It called ``model.load`` and dropped the result, so a fresh policy was tested."""
    envs = make("Steer-TicTacToe-v0", tiny)
    model = agent(envs, seed=1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save(tmp_path / "policy.zip")
    loaded = PPO.load(tmp_path / "policy.zip", device="cpu")
    features = [
        play(envs, policy_of(each), ITEMS, seed=0).tokens["feature"].tolist()
        for each in (model, loaded, agent(envs, seed=1))
    ]
    assert features[0] == features[1]
    assert features[0] != features[2]


def test_autosteer_3_the_log_holds_the_policys_strengths_and_not_noise(tiny):
    """Its published manipulations have the distribution of clipped Gaussian noise."""
    envs = make("AutoSteer-TicTacToe-v0", tiny)
    model = agent(envs)
    first, second = (play(envs, policy_of(model), ITEMS, seed=seed).tokens for seed in (0, 1))
    assert np.array_equal(first["strengths"], second["strengths"])
    boards, _ = envs.reset(seed=0, options={"items": ITEMS})
    means, _ = model.predict(boards, deterministic=True)
    opening = first["strengths"][first["step"] == 0][:LANES]
    assert np.allclose(opening, means, atol=1e-6)


@pytest.mark.parametrize("env_id", IDS)
def test_autosteer_4_every_terminal_reward_reaches_the_agent(env_id, tiny):
    """Its rewards for win, draw and loss were earned in a nested call whose result was discarded."""
    envs = make(env_id, tiny, opponent="random")
    model = agent(envs)
    returns = []

    class Ended:
        """Adds up what ended episodes say they earned."""

        def __call__(self, local, _):
            returns.extend((lane, info["return"]) for lane, info in enumerate(local["infos"]) if "return" in info)
            return True

    model.learn(16 * LANES, callback=Ended())
    buffer = model.rollout_buffer
    assert len(returns) >= 8
    assert {value for _, value in returns} >= {-1.0, 1.0}
    for lane in range(LANES):
        earned = [value for owner, value in returns if owner == lane]
        assert buffer.rewards[:, lane].sum() == pytest.approx(sum(earned)), "an unfinished game has earned nothing yet"


def test_autosteer_5_the_bonus_is_judged_on_the_board_before_the_move(tiny):
    """Its bonus asked whether the move was best once it had been played, which nothing is."""
    envs = make("Steer-TicTacToe-v0", tiny, shaping=0.25)
    played = play(envs, CONTROLS["random_feature"](Setting(seed=0)), list(range(60)), seed=0)
    outcome = {"win": 1.0, "draw": 0.5, "loss": -1.0}
    for episode in played.episodes:
        assert episode["return"] == pytest.approx(outcome[episode["outcome"]] + 0.25 * episode["optimal_moves"])
    assert sum(episode["optimal_moves"] for episode in played.episodes) > 10


@pytest.mark.parametrize("env_id", IDS)
def test_autosteer_6_every_arm_has_the_same_budget(env_id, tiny):
    """Its baseline and its steered arm had different numbers of retries: here one token is one move, in every arm."""
    envs = make(env_id, tiny)
    for name in controls_for(envs):
        played = play(envs, CONTROLS[name](Setting(seed=0, best=1)), ITEMS, seed=0)
        assert [episode["item"] for episode in played.episodes] == ITEMS
        for number, episode in enumerate(played.episodes):
            tokens = int((played.tokens["episode"] == number).sum())
            assert tokens == episode["steps"] == len(episode["moves"]) // 2


@pytest.mark.parametrize("env_id", IDS)
def test_the_policy_gradient_is_not_zero(env_id, tiny):
    """A ratio that mixed a categorical log-probability with a Gaussian one underflowed to zero."""
    model = agent(make(env_id, tiny, opponent="random"))
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(32 * LANES)
    moved = {name for name, value in model.policy.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in moved if name.startswith("action_net")}
    gradient = sum(p.grad.norm() for name, p in model.policy.named_parameters() if name.startswith("action_net"))
    assert float(gradient) > 1e-6


def test_the_no_op_adds_nothing_and_no_action_adds_the_decoder_bias(tiny, spy):
    """``decode(one_hot)`` would have added ``b_dec`` to every steered token."""
    envs = make("Steer-TicTacToe-v0", tiny, coefficient=0.0)
    envs.reset(seed=0)
    hidden = envs.unwrapped.episode.hidden.clone()
    spy.clear()
    envs.step(np.array([0, 3, 7, FEATURES]))
    assert torch.equal(spy[0], hidden)


def test_evaluation_teaches_the_adaptive_mask_nothing(tiny):
    envs = make("Steer-TicTacToe-v0", tiny, mask="generation")
    mask = make_mask("adaptive", FEATURES + 1, seed=0, interval=2)
    model = make_algo("ppo", SB3VecEnv(envs, mask), seed=0, n_steps=16, device="cpu")
    model.learn(16 * LANES)
    before = {name: value.copy() for name, value in mask.state_dict().items()}
    model.set_env(SB3VecEnv(envs, mask))
    policy = policy_of(model, mask)
    play(envs, policy, ITEMS, seed=0)
    mask.update(np.zeros(LANES, dtype=np.int64), np.ones(LANES, dtype=bool), np.ones(LANES))
    assert all(np.array_equal(before[name], value) for name, value in mask.state_dict().items())
