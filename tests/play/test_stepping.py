"""Steps by hand are the environment's own, and tell what somebody who debugs a task asks."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from agents.play.stepping import Stepping
from steer_env import SteeringError, evaluate, unwrap


@pytest.fixture
def stepping(games):
    stepped = Stepping(games.make("test"))
    stepped.reset(5)
    return stepped


def test_steps_are_those_of_gym(stepping):
    env = gym.make("Steer-TicTacToe-v0", split="test", compare=True)
    observation, _ = env.reset(seed=0, options={"item": 5})
    features = iter((135, -1, 7, 135, 211))
    while stepping.final is None:
        [seen] = stepping.seen
        np.testing.assert_allclose(seen.numbers[3], np.linalg.norm(observation), rtol=1e-5)
        assert seen.shape == observation.shape
        feature = next(features)
        stepped = stepping.step(feature)
        observation, reward, ended, _, info = env.step(np.int64(256 if feature < 0 else feature))
        assert (stepped.text, stepped.reward, stepped.said.push.feature) == (info["token_text"], reward, feature)
        assert (stepped.unsteered, stepped.changed) == (info["unsteered_token_text"], info["changed"])
        np.testing.assert_allclose(stepped.kl, info["kl"], atol=1e-5)
        assert ended == (stepping.final is not None)
    assert stepping.total == info["return"] == sum(step.reward for step in stepping.steps)
    assert stepping.final["score"] == info["score"]
    said = "".join(f"[{text}]" if steered else text for text, steered in stepping.transcript)
    assert info["transcript"] == f"{stepping.picture}\n{said}"


def test_the_agents_own_steps_are_those_it_plays(run, trained):
    envs = run.envs("test", num_envs=1)
    item = unwrap(envs).dealt[2]
    tokens = evaluate(envs, run.policy, [item]).tokens
    stepped = Stepping(trained.make("test"), trained.agent)
    stepped.reset(item)
    while stepped.final is None:
        wanted = tokens["feature"][len(stepped.steps)]
        assert stepped.choice.push.feature == wanted
        np.testing.assert_allclose(stepped.choice.value, tokens["value"][len(stepped.steps)], atol=1e-4)
        legal = {each.feature for each in stepped.legal}
        assert wanted in legal | {-1}
        assert {each.feature for each in stepped.choice.alternatives} <= legal | {-1}
        by_hand = len(stepped.steps) % 2 == 0  # a remembering agent sees steps by hand as its own
        assert stepped.step(int(wanted) if by_hand else None).said.by_hand == by_hand
    assert [step.said.push.feature for step in stepped.steps] == tokens["feature"].tolist()
    assert stepped.choice is None


def test_what_is_legal_is_what_is_active_in_scope(games):
    envs = games.make("test", mask="current")
    stepped = Stepping(envs)
    stepped.reset(0)
    active = unwrap(stepped.env).encode()[0]
    assert {each.feature for each in stepped.legal} == set(active.nonzero().flatten().tolist())
    numbers = [each.number for each in stepped.legal]
    assert numbers == sorted(numbers, reverse=True)
    assert stepped.features == 256


def test_strengths_are_stepped_one_feature_at_a_time():
    envs = unwrap(gym.make_vec("AutoSteer-TicTacToe-v0", num_envs=1, split="test"))
    stepped = Stepping(envs)
    stepped.reset(0)
    assert stepped.strengths == 1.0
    [seen] = stepped.seen
    assert seen.values == tuple(envs_board(stepped))
    feature = stepped.legal[0].feature
    done = stepped.step(feature, -0.5)
    assert done.said.push.feature == feature
    np.testing.assert_allclose(done.said.push.strength, -0.5 * envs.coefficient)
    stepped.reset(1)
    with pytest.raises(SteeringError, match=r"strengths must be in \[-1.0, 1.0\]"):
        stepped.step(feature, 2.0)


def envs_board(stepped):
    return stepped.env.episode.conversations[0].state().tolist()


def test_what_cannot_be_is_refused(stepping, games):
    with pytest.raises(SteeringError, match="feature 256 is behind none of the 256 actions"):
        stepping.step(256)
    with pytest.raises(SteeringError, match="there is no policy to choose: name a feature"):
        stepping.step()
    with pytest.raises(ValueError, match=r"item must be in \[0, 10000\), got 10000"):
        stepping.reset(10_000)
    with pytest.raises(SteeringError, match="the episode is over: reset the environment"):
        Stepping(games.make("test")).step(1)
    stepping.reset(5)
    while stepping.final is None:
        stepping.step(-1)
    with pytest.raises(SteeringError, match="the episode is over"):
        stepping.step(-1)
