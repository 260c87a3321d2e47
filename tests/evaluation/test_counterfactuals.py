"""Counterfactual episodes against a plain loop over single environments, one action at a time."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import steer_env  # noqa: F401  # registers the environments
from agents.algos import make_algo
from agents.policies import policy_of
from agents.vec_env import SB3VecEnv
from steer_env.evaluation.counterfactuals import (
    Alternatives,
    Branch,
    play_branches,
    play_trajectories,
    play_without,
    spread,
)
from steer_env.evaluation.masks import make_mask
from steer_env.evaluation.play import Lanes

GAME = {"opponent": "random", "illegal": "random_move", "coefficient": 2.0}
ITEMS = [7, 3, 250, 12]
PLANTED = [3, 20, 55, 77]  # features of the locked model's conditions for requests, by its card
EVERYTHING = Alternatives(next_best=1000, draws=1000)


@pytest.fixture(scope="module")
def make(tiny):
    def build(lanes, env="Steer-TicTacToe-v0", **kwargs):
        return gym.make_vec(env, num_envs=lanes, **{**tiny, **GAME, **kwargs})

    return build


def agent(envs, algo="ppo", mask=None, **kwargs):
    """An untrained agent whose choices depend on what it sees."""
    torch.manual_seed(0)
    model = make_algo(algo, SB3VecEnv(envs, mask), seed=1, **kwargs)
    head = model.q_net if algo == "dqn" else model.policy.action_net
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.5)
    return model


class Loop:
    """Episodes of one single environment: a list of actions, then the agent's."""

    def __init__(self, env, model, seed):
        self.env, self.model, self.seed = env, model, seed

    def play(self, item, script=(), forbidden=None, instead=None):
        """Final info, and of each token the action, the agent's logits and the active features."""
        obs, info = self.env.reset(seed=self.seed, options={"item": item})
        course, ended = [], False
        while not ended:
            with torch.no_grad():
                logits = self.model.policy.get_distribution(torch.as_tensor(obs)[None]).distribution.logits[0].numpy()
            action = int(script[len(course)]) if len(course) < len(script) else int(logits.argmax())
            if action == forbidden:
                others = np.where(np.arange(len(logits)) == forbidden, -np.inf, logits)
                action = len(logits) - 1 if instead == "no_op" else int(others.argmax())
            course.append((action, logits, info["active_features"]))
            obs, _, ended, _, info = self.env.step(action)
        return info, course


def deciding(loop, items, arms):
    """By trying every alternative of ``arms`` by itself: (place, step, arm) of those that turn the score."""
    found, tried = set(), 0
    for place, item in enumerate(items):
        end, course = loop.play(item)
        chosen = [action for action, _, _ in course]
        for step, (action, logits, active) in enumerate(course):
            no_op = len(logits) - 1
            alternatives = {
                "no_op": [no_op],
                "next_best": [a for a in np.argsort(-logits, kind="stable") if a not in (no_op, action)],
                "random_active": np.flatnonzero(np.isin(loop.env.unwrapped.episode.scene.actuator.features, active)),
            }
            for arm, most in arms.items():
                for other in [int(a) for a in alternatives[arm] if a != action][:most]:
                    tried += 1
                    score = loop.play(item, [*chosen[:step], other])[0]["score"]
                    if (score > 0.5) != (end["score"] > 0.5):
                        found.add((place, step, arm, other))
    return found, tried


def flips(envs, model, items, wanted, seed):
    ranked = policy_of(model).rank
    trajectories = play_trajectories(envs, ranked, items, seed, wanted)
    finals = play_branches(envs, ranked, trajectories, trajectories.branches)
    right = trajectories.played.scores > 0.5
    turned = {
        tuple(branch)
        for branch, final in zip(trajectories.branches, finals, strict=True)
        if (final["score"] > 0.5) != right[branch.place]
    }
    return turned, len(finals)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_branch_points_are_those_of_an_exhaustive_search(make, tiny, temperature):
    kwargs = {"temperature": temperature, "features": list(range(6))}
    envs = make(5, **kwargs)
    model = agent(envs)
    loop = Loop(gym.make("Steer-TicTacToe-v0", **tiny, **GAME, **kwargs), model, 5)
    expected = deciding(loop, ITEMS[:3], {"no_op": 1, "next_best": 1000, "random_active": 1000})
    assert flips(envs, model, ITEMS[:3], EVERYTHING, 5) == expected
    assert 0 < len(expected[0]) < expected[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("task", "kwargs", "most", "wanted"),
    [
        ("MMLU", {}, {"no_op": 1, "next_best": 1000}, Alternatives(next_best=1000, draws=0)),
        ("XSTest", {"features": PLANTED}, {"no_op": 1, "next_best": 1000}, Alternatives(next_best=1000, draws=0)),
        ("TicTacToe", {}, {"no_op": 1, "next_best": 1, "random_active": 1000}, Alternatives(next_best=1, draws=1000)),
    ],
)
def test_branch_points_of_the_embedded_models_are_those_of_an_exhaustive_search(task, kwargs, most, wanted):
    """Every feature at the one token of a choice, and of the four planted ones at each token of a sentence.

    Next-best, active and no feature at each move of a game.
    """
    items = list(range(50))
    envs = gym.make_vec(f"Steer-{task}-v0", num_envs=64, **kwargs)
    model = agent(envs)
    found, tried = flips(envs, model, items, wanted, 0)
    assert (found, tried) == deciding(Loop(gym.make(f"Steer-{task}-v0", **kwargs), model, 0), items, most)
    assert 0 < len(found) < tried
    assert (max(step for _, step, _, _ in found) > 0) == (task != "MMLU"), "not at the first token alone"


@pytest.mark.parametrize("env", ["Steer-TicTacToe-v0", "AutoSteer-TicTacToe-v0"])
def test_a_branch_that_does_what_was_done_is_the_same_episode(make, env):
    envs = make(3, env, temperature=1.0, **({"k": 4} if env.startswith("Auto") else {}))
    ranked = policy_of(agent(envs) if env.startswith("Steer") else make_algo("ppo", SB3VecEnv(envs), seed=1)).rank
    trajectories = play_trajectories(envs, ranked, ITEMS, 3, Alternatives())
    same = [
        Branch(i, step, "same", own[step]) for i, own in enumerate(trajectories.actions) for step in range(len(own))
    ]
    for branch, final in zip(same, play_branches(envs, ranked, trajectories, same), strict=True):
        factual = trajectories.played.episodes[branch.place]
        assert {**final, "index": 0} == {**factual, "index": 0}


@pytest.mark.parametrize("instead", ["next_best", "no_op"])
def test_without_a_feature_is_the_policy_that_may_not_choose_it(make, tiny, instead):
    envs = make(4)
    model = agent(envs)
    loop = Loop(gym.make("Steer-TicTacToe-v0", **tiny, **GAME), model, 0)
    pairs = [(item, action) for item in ITEMS for action in {a for a, _, _ in loop.play(item)[1]} - {24}]
    items, removed = zip(*pairs, strict=True)
    played = play_without(envs, policy_of(model).rank, items, removed, instead, 0)
    changed = 0
    for (item, action), final in zip(pairs, played.episodes, strict=True):
        expected, course = loop.play(item, forbidden=action, instead=instead)
        assert action not in {a for a, _, _ in course}
        assert (final["completion"], final["score"]) == (expected["completion"], expected["score"])
        changed += final["completion"] != loop.play(item)[0]["completion"]
    assert changed > 0
    with pytest.raises(ValueError, match="instead must be"):
        play_without(envs, policy_of(model).rank, items, removed, "random", 0)


def test_without_a_strength_it_is_zero(make):
    envs = make(2, "AutoSteer-TicTacToe-v0", k=3)
    ranked = policy_of(make_algo("ppo", SB3VecEnv(envs), seed=1)).rank
    applied = []
    step = envs.step
    envs.step = lambda actions: applied.append(np.array(actions)) or step(actions)
    play_without(envs, ranked, ITEMS[:2], [0, 2], "no_op", 0)
    assert applied[0][0, 0] == applied[0][1, 2] == 0
    assert np.count_nonzero(applied[0]) == 4


@pytest.mark.parametrize(("algo", "mask"), [("ppo", None), ("ppo", "generation"), ("a2c", None), ("dqn", None)])
def test_the_largest_preference_is_the_choice_and_illegal_ones_have_none(make, algo, mask):
    envs = make(6, **({"mask": mask} if mask else {}))
    mask = make_mask(mask, 25, seed=0) if mask else None
    ranked = policy_of(agent(envs, algo, mask), mask).rank
    obs, _ = envs.reset(seed=0)
    lanes, seen = Lanes.at_reset(envs, 6), set()
    for _ in range(4):
        actions, preferences = ranked(obs, lanes)
        np.testing.assert_array_equal(preferences.argmax(axis=1), actions)
        legal = np.ones_like(preferences, bool) if mask is None else envs.action_masks()
        np.testing.assert_array_equal(np.isfinite(preferences), legal)
        seen |= set(actions.tolist())
        obs, _, _, _, _ = envs.step(actions)
    assert len(seen) > 1


def test_a_policy_that_remembers_is_asked_at_every_token(make):
    """Were it silent while a prefix is replayed, one lane and several would part."""
    branches = {}
    for lanes in (1, 4):
        envs = make(lanes)
        ranked = policy_of(agent(envs, "recurrent_ppo", n_steps=8, batch_size=8)).rank
        trajectories = play_trajectories(envs, ranked, ITEMS[:2], 0, Alternatives(1, 1))
        finals = play_branches(envs, ranked, trajectories, trajectories.branches)
        branches[lanes] = [
            (branch, final["completion"]) for branch, final in zip(trajectories.branches, finals, strict=True)
        ]
    assert branches[1] == branches[4]


def test_branches_that_are_one_episode_are_played_once(make):
    envs = make(1)
    ranked = policy_of(agent(envs)).rank
    trajectories = play_trajectories(envs, ranked, ITEMS[:1], 0, EVERYTHING)
    model = envs.unwrapped.episode.scene.model

    def passes(branches):
        before = model.forward_passes
        finals = play_branches(envs, ranked, trajectories, branches)
        return model.forward_passes - before, finals

    twin = trajectories.branches[1]._replace(arm="twin")
    once, (final,) = passes(trajectories.branches[1:2])
    assert passes([trajectories.branches[1], twin]) == (once, [final, final])
    assert play_branches(envs, ranked, trajectories, []) == []


def test_alternatives_to_a_choice():
    preferences = np.array([0.5, 3.0, -np.inf, 2.0, 1.0, 9.0])
    wanted = Alternatives(next_best=2, draws=2)
    found = wanted.to_choice(1, preferences, np.array([0, 1, 3, 4]), (0, 0))
    assert found[:3] == [("no_op", 5), ("next_best", 3), ("next_best", 4)]
    assert [arm for arm, _ in found[3:]] == ["random_active"] * 2
    drawn = {
        action for place in range(50) for _, action in wanted.to_choice(1, preferences, np.arange(4), (place, 0))[3:]
    }
    assert drawn == {0, 2, 3}, "active, not the choice; the mask is for the policy"
    assert found == wanted.to_choice(1, preferences, np.array([0, 1, 3, 4]), (0, 0))
    idle = wanted.to_choice(5, preferences, np.array([], dtype=int), (0, 0))
    assert idle == [("next_best", 1), ("next_best", 3)], "nothing to undo"
    assert EVERYTHING.to_choice(3, preferences, np.array([3]), (0, 0)) == [
        ("no_op", 5),
        *(("next_best", action) for action in (1, 4, 0)),
    ]


def test_alternatives_to_strengths():
    space = spaces.Box(-0.5, 0.5, (3,), np.float32)
    action = np.array([0.2, -0.4, 0.1], dtype=np.float32)
    found = Alternatives(draws=40).to_strengths(action, space, (0, 0))
    assert [arm for arm, _ in found] == ["no_op", "without_strongest", *["random_strengths"] * 40]
    np.testing.assert_array_equal(found[0][1], 0)
    np.testing.assert_array_equal(found[1][1], np.array([0.2, 0.0, 0.1], dtype=np.float32))
    drawn = np.stack([strengths for _, strengths in found[2:]])
    assert drawn.min() >= -0.5
    assert drawn.max() <= 0.5
    assert len(np.unique(drawn)) == 120
    assert len(Alternatives(draws=2).to_strengths(np.zeros(3, np.float32), space, (0, 0))) == 2


@pytest.mark.parametrize("name", ["next_best", "draws", "seed"])
def test_what_cannot_be_tried_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        Alternatives(**{name: -1})


def test_tokens_are_spread_over_the_episode():
    branches = [Branch(place, step, "no_op", 0) for place, length in enumerate((9, 2)) for step in range(length)]
    kept = spread(branches, [9, 2], 3)
    assert [(branch.place, branch.step) for branch in kept] == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 1)]
    assert spread(branches, [9, 2], 9) == branches
