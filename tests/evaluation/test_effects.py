"""Features by effect: what each makes the model say, and the few that bring about all of it."""

import gymnasium as gym
import numpy as np
import pytest

from steer_env.envs.base import unwrap
from steer_env.evaluation.effects import Effects, find_effects
from steer_env.evaluation.masks import EffectMask


def effects(words, alone) -> Effects:
    return Effects(np.array(words, dtype=object), np.array(alone, dtype=object), tokens=0)


def test_features_that_change_nothing_are_not_listed():
    found = effects([["A", None], ["B", "B"], ["A", None]], ["A", "A"])
    assert found.changed.tolist() == [False, True, False]
    assert found.cover(each=3) == [1]
    assert effects([["A"], ["B"], ["A"]], ["A"]).cover(each=3) == [1]


def test_the_cover_brings_about_all_that_any_feature_does():
    words = [["A", "B"], ["B", "A"], ["B", "B"], ["C", "A"], ["B", "B"]]
    found = effects(words, ["A", "A"])
    for each in (1, 2, 5):
        chosen = found.cover(each)
        for state in range(2):
            for said in {row[state] for row in words}:
                able = [feature for feature, row in enumerate(words) if row[state] == said and found.changed[feature]]
                assert len(set(able) & set(chosen)) >= min(each, len(able))


def test_nothing_is_listed_where_nothing_changes_anything():
    assert effects([["A"], ["A"]], ["A"]).cover(each=2) == []


@pytest.mark.parametrize("env_id", ["Steer-TicTacToe-v0", "Steer-BBQ-v0", "Steer-SimpleQA-v0"])
def test_what_is_found_is_what_an_environment_of_one_lane_says(env_id):
    """In tasks of one step, of one turn and of many turns."""
    envs = gym.make_vec(env_id, num_envs=5)
    found = find_effects(envs, [0, 7], [3], each=20, seed=0)
    assert found.words.shape == (len(unwrap(envs).features), 3)
    alone = gym.make(env_id)
    for feature in (0, 9, 255, *found.cover(each=1)[:3]):
        for column, item in enumerate((0, 7, 3)):
            if found.words[feature, column] is None:
                assert column == 2
                assert feature not in found.cover(each=20)
                continue
            alone.reset(seed=0, options={"item": item})
            assert alone.step(feature)[4]["token_text"] == found.words[feature, column]
    tried = np.not_equal(found.words, None).sum()
    assert found.tokens == tried + found.words.shape[1]


def test_a_mask_lists_what_changes_something_and_leaves_the_no_op():
    envs = gym.make_vec("Steer-BBQ-v0", num_envs=8)
    mask = EffectMask(int(envs.single_action_space.n), states=4, each=2)
    assert mask.look(envs) == mask.tokens
    legal = mask.legal(envs.unwrapped.action_masks())
    assert 2 <= legal[0].sum() <= 32
    assert legal[:, -1].all()
    assert mask.tokens > 2 * 256
    said = find_effects(envs, [1], [], each=1, seed=0).words[mask.listed, 0]
    assert {" A", " B", " C"} <= set(said)


def test_where_replies_are_sentences_all_features_stay_legal_and_nothing_is_spent():
    envs = gym.make_vec("Steer-SimpleQA-v0", num_envs=2)
    mask = EffectMask(int(envs.single_action_space.n))
    assert mask.look(envs) == 0
    assert mask.legal(envs.unwrapped.action_masks()).all()
    assert mask.tokens == 0


def test_where_nothing_changes_anything_nothing_is_closed():
    envs = gym.make_vec("Steer-BBQ-v0", num_envs=8, coefficient=1e-9)
    mask = EffectMask(int(envs.single_action_space.n), states=2)
    assert mask.look(envs) == mask.tokens == 2 * 256 + 2
    assert mask.legal(envs.unwrapped.action_masks()).all()


def test_the_environment_goes_back_to_its_own_order():
    envs = gym.make_vec("Steer-BBQ-v0", num_envs=4, limit=20)
    find_effects(envs, [0], [], each=1, seed=0)
    envs.reset(seed=3)
    items = envs.unwrapped.playing
    assert (items["index"] == -1).all()
    assert set(items["item"]) <= set(unwrap(envs).dealt)


def test_no_item_to_begin_with_is_refused():
    with pytest.raises(ValueError, match="at least one item"):
        find_effects(gym.make_vec("Steer-BBQ-v0", num_envs=2), [], [], each=1, seed=0)
