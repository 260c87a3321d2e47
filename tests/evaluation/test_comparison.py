"""Policies side by side: the numbers worked out by hand, pairs by seed, and what is refused."""

import doctest
import json

import gymnasium as gym
import pytest

import steer_env  # noqa: F401  # registers the environments
from steer_env.evaluation import comparison
from steer_env.evaluation.comparison import compare
from steer_env.evaluation.controls import CONTROLS, Setting, fixed
from steer_env.evaluation.play import Played, drawn_items, evaluate, play
from steer_env.evaluation.statistics import holm, mcnemar, runs_interval, score_interval, wilson


def played(*scores: float, first: int = 0) -> Played:
    return Played([{"item": first + place, "score": score} for place, score in enumerate(scores)], {})


ALONE = played(0, 0, 0, 0, 1)
SEEDS = [played(1, 1, 1, 1, 1), played(1, 1, 0, 0, 0)]


def test_scores_intervals_and_tests_are_those_of_the_items():
    found = compare({"unsteered": ALONE, "fixed": played(1, 0, 0, 0, 1), "trained": SEEDS})
    trained = found.arms["trained"]
    assert (trained.n, trained.scores, trained.score) == (5, [1.0, 0.4], 0.7)
    assert trained.ci95 == runs_interval([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert (trained.corrected, trained.broken) == (3.0, 0.5), "4 and 2, 0 and 1"
    raw = {"fixed": mcnemar(1, 0), "trained": max(mcnemar(4, 0), mcnemar(2, 1))}
    assert {name: found.arms[name].p_mcnemar for name in raw} == raw
    assert {name: found.arms[name].p_holm for name in raw} == holm(raw)
    alone = found.arms["unsteered"]
    assert (alone.ci95, alone.p_mcnemar, alone.p_holm) == (wilson(1, 5), None, None)
    assert json.loads(json.dumps(found.to_dict()))["arms"]["fixed"]["corrected"] == 1


def test_seeds_are_paired_in_order():
    """Seed 0 against seed 0 is a draw and so is seed 1 against seed 1; crosswise nothing would be."""
    pairs = {"lora": [played(1, 1, 1, 1), played(0, 0, 0, 0)], "trained": [played(1, 1, 1, 1), played(0, 0, 0, 0)]}
    assert compare(pairs, "lora").arms["trained"].p_mcnemar == 1.0
    crosswise = compare({**pairs, "trained": pairs["trained"][::-1]}, "lora")
    assert crosswise.arms["trained"].p_mcnemar == mcnemar(4, 0)


def test_a_graded_score_is_right_above_one_half():
    found = compare({"unsteered": played(0.5, 0.4, 0.9), "trained": played(0.6, 0.5, 0.5)})
    assert (found.arms["trained"].corrected, found.arms["trained"].broken) == (1, 1)


def test_it_prints_as_a_table():
    results = doctest.testmod(comparison)
    assert (results.failed, results.attempted) == (0, 3)
    head, *lines = str(compare({"unsteered": ALONE, "a longer name": SEEDS})).splitlines()
    assert [line.index(" to ") for line in lines] == [head.index("95 %") + 5] * 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (played(1, 1, 1, 1, 1, first=1), "arm 'trained' played other items than 'unsteered' (5 and 5 of them)"),
        ([ALONE, played(1, 1)], "arm 'trained' played other items than 'unsteered' (2 and 5 of them)"),
        ([], "arm 'trained' played nothing"),
    ],
)
def test_arms_of_other_items_are_refused(other, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        compare({"unsteered": ALONE, "trained": other})
    with pytest.raises(ValueError, match="reference arm 'unsteered' is not among the arms: trained"):
        compare({"trained": ALONE})


@pytest.mark.parametrize("items", [None, 5, [7, 3, 250]])
def test_any_policy_is_evaluated_on_exact_items(tiny, items):
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=4, **tiny, opponent="random", limit=12, split="train")
    found = {
        "unsteered": evaluate(envs, CONTROLS["unsteered"](Setting()), items, 3),
        "fixed": evaluate(envs, fixed(2), items, 3),
    }
    dealt = envs.unwrapped.dealt
    wanted = {None: dealt, 5: drawn_items(dealt, 5, 3)}.get(items, items) if not isinstance(items, list) else items
    assert [episode["item"] for episode in found["fixed"].episodes] == wanted
    again = play(envs, fixed(2), wanted, 3)
    assert found["fixed"].score == again.scores.mean() == compare(found).arms["fixed"].score
    assert found["fixed"].interval == score_interval(again.scores.tolist())


def test_the_number_of_items_must_be_there(tiny):
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=4, **tiny, limit=12, split="train")
    for items in (0, 13):
        with pytest.raises(ValueError, match=rf"items must be in \[1, 12\], .*; got {items}"):
            evaluate(envs, fixed(2), items)


def test_some_items_are_drawn():
    items = list(range(100, 200))
    assert drawn_items(items, None, seed=0) == items
    some = drawn_items(items, 20, seed=0)
    assert len(set(some)) == 20
    assert set(some) <= set(items)
    assert sum(item < 150 for item in some) in range(5, 16)  # not one end of the data
    assert some == drawn_items(items, 20, seed=0) != drawn_items(items, 20, seed=1)
    assert sorted(drawn_items(items, 500, seed=0)) == items


def test_to_compare_and_to_play_needs_no_heavy_library():
    """Whoever only compares waits for NumPy and Gymnasium, not for PyTorch and SciPy."""
    import subprocess
    import sys

    names = ("comparison", "play", "controls", "masks", "linear_probe")
    code = f"import sys; {'; '.join(f'import steer_env.evaluation.{name}' for name in names)}"
    code += "; print([name for name in ('torch', 'scipy', 'transformers', 'pandas', 'pyarrow') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
