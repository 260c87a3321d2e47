"""What a linear probe reads off observations: the right rows, the right bar, and nothing where there is nothing."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from steer_env.evaluation import linear_probe as module
from steer_env.evaluation.linear_probe import first_observations, read_off


def test_what_is_seen_first_in_each_item() -> None:
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=4, max_new_tokens=6)
    items = [5, 0, 9, 3, 7, 1, 8]
    seen, topics = first_observations(envs, items, seed=0)
    for place, item in enumerate(items):
        expected, _ = envs.reset(options={"items": [item]})
        np.testing.assert_allclose(seen[place], expected[0], atol=1e-5)
    assert all(len(names) == len(items) for names in topics.values())


@pytest.mark.filterwarnings("ignore:SAE .* was trained at")
@pytest.mark.parametrize(("layer", "low", "high"), [(0, 0.1, 0.45), (None, 0.9, 1.0)])
def test_the_answer_is_read_where_the_model_knows_it(layer: int | None, low: float, high: float) -> None:
    where = {} if layer is None else {"layer": layer}
    train, test = (gym.make_vec("Steer-MMLU-v0", num_envs=64, split=split, **where) for split in ("train", "test"))
    found = read_off(train, test, (range(640), range(256)), seed=0)
    assert found is not None
    assert found.topic == "target"
    assert low < found.accuracy <= high
    assert 0.2 < found.chance < 0.35


def test_where_records_tell_no_topic_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=4)
    assert read_off(envs, envs, (range(8), range(8)), seed=0) is None
    monkeypatch.setattr(module, "topics_of", lambda episodes: {"side": ["x", "o"] * 4})
    found = read_off(envs, envs, (range(8), range(8)), seed=0)
    assert found is not None
    assert (found.topic, found.chance) == ("side", 0.5)
