"""What a linear probe reads off observations: the right rows, the right bar, and nothing where there is nothing."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from steer_env.evaluation import linear_probe as module
from steer_env.evaluation.linear_probe import best_ridge, first_observations, linear_probe, question_groups, read_off


def test_what_is_seen_first_in_each_item() -> None:
    envs = gym.make_vec("Steer-XSTest-v0", num_envs=4, max_new_tokens=6)
    items = [5, 0, 9, 3, 7, 1, 8]
    seen, records = first_observations(envs, items, seed=0)
    for place, item in enumerate(items):
        expected, _ = envs.reset(options={"items": [item]})
        np.testing.assert_allclose(seen[place], expected[0], atol=1e-5)
    assert [record["item"] for record in records] == items
    assert {record["label"] for record in records} == {"safe", "unsafe"}


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
    monkeypatch.setattr(module, "TOPICS", ("item",))
    monkeypatch.setattr(module, "ITEMS_A_TOPIC", 1)
    found = read_off(envs, envs, (range(8), range(8)), seed=0)
    assert found is not None
    assert (found.topic, found.chance) == ("item", 1 / 8)


def noisy(rng: np.random.Generator, n: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Three names, told by the first three of ``wide`` columns, the rest of which is noise."""
    place = rng.integers(3, size=n)
    seen = rng.normal(size=(n, wide))
    seen[:, :3] += 2 * np.eye(3)[place]
    return seen, place


@pytest.mark.parametrize(("n", "wide"), [(200, 150), (60, 150)])
def test_the_ridges_tried_at_once_are_those_tried_one_by_one(n: int, wide: int) -> None:
    """Oracle: the probe that is reported, whichever of the two matrices is smaller."""
    rng = np.random.default_rng(0)
    (train, place), (test, _) = noisy(rng, n, wide), noisy(rng, 20, wide)
    truth = np.eye(3)[place]
    path = module._ridge_path(train, truth, test)
    for ridge, scores in zip(module.RIDGES, path, strict=True):
        for column in range(3):
            np.testing.assert_allclose(scores[:, column], linear_probe(train, truth[:, column], test, ridge), atol=1e-8)


def test_the_ridge_is_one_that_tells_what_was_not_seen() -> None:
    rng = np.random.default_rng(1)
    (train, place), (test, truth) = noisy(rng, 300, 250), noisy(rng, 2_000, 250)

    def right(ridge: float) -> float:
        scores = [linear_probe(train, place == name, test, ridge) for name in range(3)]
        return float((np.argmax(scores, axis=0) == truth).mean())

    chosen = best_ridge(train, place, np.arange(300), seed=0)
    assert right(chosen) > right(1e-2) + 0.05
    assert right(chosen) > max(map(right, module.RIDGES)) - 0.02
    assert best_ridge(train, place, np.zeros(300, dtype=np.int64), seed=0) == 1e-2, "one question makes no folds"


def test_versions_of_a_question_are_on_one_side() -> None:
    """Ten versions of each question: whoever remembers the question knows its answer, and nothing else does."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), 10)
    place = rng.integers(2, size=30)[groups]
    seen = rng.normal(size=(30, 60))[groups] + 0.01 * rng.normal(size=(300, 60))
    assert best_ridge(seen, place, np.arange(300), seed=0) < 1, "remembering pays where versions are on both sides"
    assert best_ridge(seen, place, groups, seed=0) != best_ridge(seen, place, np.arange(300), seed=0)


def test_the_groups_are_what_the_records_say() -> None:
    assert question_groups([{}, {}, {}]).tolist() == [0, 1, 2]
    records = [{"question_group": name} for name in ("b/1", "a/1", "b/1")]
    assert question_groups(records).tolist() == [1, 0, 1]
    assert question_groups([*records, {}]).tolist() == [0, 1, 2, 3]
