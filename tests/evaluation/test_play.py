"""The exact evaluator against the single environment, and trained policies against SB3's own predict."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import steer_env  # noqa: F401  # registers the environments
from agents.algos import make_algo
from agents.policies import policy_of
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.masks import make_mask
from steer_env.evaluation.play import Lanes, play
from steer_env.lm.tokenizer import divergence

ITEMS = [7, 3, 250, 12, 90, 41, 5, 66, 17, 23]
GAME = {"opponent": "random", "illegal": "random_move"}


@pytest.fixture(scope="module")
def make(tiny):
    def build(lanes, env="Steer-TicTacToe-v0", **kwargs):
        return gym.make_vec(env, num_envs=lanes, **{**tiny, **GAME, "coefficient": 2.0, **kwargs})

    return build


def by_state(obs, lanes):
    """A policy that depends on the state alone: the feature least active now."""
    return lanes.envs.encode().argmin(dim=1).numpy(), {}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_item_once_in_order_and_as_the_single_environment_plays_it(make, tiny, temperature):
    played = play(make(4, temperature=temperature), by_state, ITEMS, seed=5)
    assert [episode["item"] for episode in played.episodes] == ITEMS
    assert [episode["index"] for episode in played.episodes] == list(range(len(ITEMS)))
    single = gym.make("Steer-TicTacToe-v0", **tiny, **GAME, coefficient=2.0, temperature=temperature)
    for episode in played.episodes:
        single.reset(seed=5, options={"item": episode["item"]})
        ended, info = False, {}
        while not ended:
            active = single.unwrapped.episode.encode()[0]
            _, _, ended, _, info = single.step(int(active.argmin()))
        for name in ("score", "completion", "moves", "steps", "transcript"):
            assert episode[name] == info[name], (episode["item"], name)


@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_the_number_of_lanes_changes_nothing(make, lanes):
    """16 lanes are more than there are items: the repeats are left out."""
    reference = play(make(4, temperature=1.0), by_state, ITEMS, seed=5)
    other = play(make(lanes, temperature=1.0), by_state, ITEMS, seed=5)
    assert other.episodes == reference.episodes
    assert set(other.tokens) == set(reference.tokens)
    for name in ("episode", "step", "token", "feature", "top_features", "coefficient"):
        np.testing.assert_array_equal(other.tokens[name], reference.tokens[name])


def test_sampling_depends_on_the_seed(make):
    first, again, other = (play(make(4, temperature=1.0), by_state, ITEMS, seed=s) for s in (1, 1, 2))
    assert first.episodes == again.episodes
    assert first.episodes != other.episodes


def test_there_is_one_row_a_token_with_what_was_done(make):
    envs = make(4, compare=True)
    played = play(envs, by_state, ITEMS, seed=0)
    tokens = played.tokens
    steps = [episode["steps"] for episode in played.episodes]
    np.testing.assert_array_equal(tokens["episode"], np.repeat(np.arange(len(ITEMS)), steps))
    np.testing.assert_array_equal(tokens["step"], np.concatenate([np.arange(n) for n in steps]))
    np.testing.assert_array_equal(tokens["item"], np.array(ITEMS)[tokens["episode"]])
    assert (tokens["coefficient"] == envs.unwrapped.episode.scene.actuator.coefficient).all()
    np.testing.assert_array_equal(tokens["changed"], tokens["token"] != tokens["unsteered_token"])
    assert tokens["changed"].any()
    assert tokens["top_features"].shape == (sum(steps), 5)
    assert (np.diff(tokens["top_activations"], axis=1) <= 0).all()
    assert np.isnan(tokens["log_prob"]).all()


@pytest.mark.parametrize("feature", [3, 24])
def test_kl_is_between_the_plain_models_distributions_with_and_without_the_push(make, tiny, feature):
    envs = make(1, compare=True)
    envs.reset(seed=0, options={"items": [7]})
    parts = envs.unwrapped.episode.scene
    _, _, _, _, infos = envs.step(np.array([feature]))
    push = torch.zeros(32) if feature == 24 else parts.actuator.coefficient * envs.unwrapped.directions[feature]
    lm = parts.model.lm
    prompt = torch.tensor([parts.tokenizer.prompt(parts.task.start(7).opening)])

    def steer(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] += push

    with torch.no_grad():
        plain = lm(prompt).logits[0, -1].double().softmax(-1)
        handle = lm.model.layers[tiny["layer"]].register_forward_hook(steer)
        steered = lm(prompt).logits[0, -1].double().softmax(-1)
        handle.remove()
    assert infos["kl"][0] == pytest.approx(float((steered * (steered / plain).log()).sum()), rel=1e-3, abs=1e-6)
    assert (infos["kl"][0] > 0.01) == (feature == 3)


def test_a_token_without_probability_adds_nothing_to_the_kl():
    found = divergence(torch.tensor([[0.0, -torch.inf, 0.0]]), torch.tensor([[0.0, -torch.inf, np.log(3.0)]]))
    np.testing.assert_allclose(found, 0.5 * np.log(2) + 0.5 * np.log(2 / 3), rtol=1e-6)


def test_rewards_are_logged_where_they_are_earned(make):
    tokens = play(make(4, shaping=0.25), by_state, ITEMS, seed=0)
    sums = np.bincount(tokens.tokens["episode"], weights=tokens.tokens["reward"])
    np.testing.assert_allclose(sums, [episode["return"] for episode in tokens.episodes])
    last = np.append(np.diff(tokens.tokens["episode"]) > 0, True)
    assert set(tokens.tokens["reward"][~last]) <= {0.0, 0.25}
    assert (tokens.tokens["reward"][last] != 0).all()


def test_the_no_op_is_recorded_as_no_feature_and_changes_nothing(make):
    tokens = play(make(4, compare=True), lambda obs, lanes: (np.full(4, 24), {}), ITEMS, seed=0).tokens
    assert (tokens["feature"] == -1).all()
    assert (tokens["coefficient"] == 0).all()
    assert not tokens["changed"].any()


def test_of_strengths_the_largest_stands_for_the_feature(make):
    envs = make(2, "AutoSteer-TicTacToe-v0", k=3)
    strengths = np.array([[0.25, -0.5, 0.0]] * 2, dtype=np.float32)
    tokens = play(envs, lambda obs, lanes: (strengths, {}), ITEMS[:4], seed=0).tokens
    assert (tokens["feature"] == envs.unwrapped.features[1]).all()
    np.testing.assert_allclose(tokens["coefficient"], -0.5 * envs.unwrapped.episode.scene.actuator.coefficient)
    np.testing.assert_array_equal(tokens["strengths"], np.tile(strengths[:1], (len(tokens["step"]), 1)))


def test_no_items_are_refused(make):
    with pytest.raises(ValueError, match="no items"):
        play(make(2), by_state, [], seed=0)


@pytest.mark.parametrize("mask_name", ["generation", "adaptive"])
def test_a_masked_policy_sees_the_observation_of_its_training(make, mask_name):
    envs = make(3, mask="generation")
    mask = make_mask(mask_name, 25, seed=4)
    vec_env = SB3VecEnv(envs, mask)
    model = make_algo("ppo", vec_env, seed=0, n_steps=8)
    model.learn(48)
    vec_env.seed(11)
    seen = vec_env.reset()
    before = mask.state_dict()
    actions, details = policy_of(model, mask)(envs.unwrapped.episode.observe(), Lanes.at_reset(envs, 1))
    np.testing.assert_array_equal(actions, model.predict(seen, deterministic=True)[0])
    assert np.take_along_axis(vec_env.mask.legal(envs.action_masks()), actions[:, None], axis=1).all()
    values, log_probs, entropies = model.policy.evaluate_actions(
        model.policy.obs_to_tensor(seen)[0], torch.as_tensor(actions)
    )
    np.testing.assert_allclose(details["log_prob"], log_probs.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(details["value"], values.detach().flatten(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(details["entropy"], entropies.detach(), rtol=1e-5, atol=1e-6)
    play(envs, policy_of(model, mask), ITEMS, seed=0)
    assert mask.frozen
    for name, value in mask.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("algo", "env"),
    [("ppo", "Steer-TicTacToe-v0"), ("dqn", "Steer-TicTacToe-v0")]
    + [(algo, "AutoSteer-TicTacToe-v0") for algo in ("ppo", "sac", "td3")],
)
def test_a_policy_without_mask_acts_as_sb3_predicts(make, algo, env):
    envs = make(3, env, **({"k": 4} if env.startswith("Auto") else {}))
    model = make_algo(algo, SB3VecEnv(envs), seed=0)
    obs, _ = envs.reset(seed=3)
    actions, details = policy_of(model)(obs, Lanes.at_reset(envs, 1))
    np.testing.assert_allclose(actions, model.predict(obs, deterministic=True)[0], rtol=1e-6)
    assert set(details) == {"ppo": {"log_prob", "value", "entropy"}}.get(algo, {"value"})
    assert isinstance(envs.single_action_space, (spaces.Discrete, spaces.Box))
    played = play(envs, policy_of(model), ITEMS, seed=0)
    assert [episode["item"] for episode in played.episodes] == ITEMS


def test_a_missing_or_superfluous_mask_is_refused(make):
    plain = make_algo("ppo", SB3VecEnv(make(2)), seed=0)
    with pytest.raises(ValueError, match="takes none"):
        policy_of(plain, make_mask("generation", 25))
    masked = make_algo("ppo", SB3VecEnv(make(2, mask="current"), make_mask("current", 25)), seed=0)
    with pytest.raises(ValueError, match="needs that mask"):
        policy_of(masked)
