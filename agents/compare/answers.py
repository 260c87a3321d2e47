"""Arms that answer without steering: what a linear probe reads off, one answer to everything, and guesses.

They are for tasks whose right answers are few, such as letters: the ceiling of what a policy can know from its first
observation, and the floors below which nothing counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agents.compare.bench import Arm, Bench
from steer_env.evaluation.linear_probe import ANSWER, Reading, records_of, topics_of
from steer_env.evaluation.play import Played

GUESSES = 10  # times that chance answers everything: one time would be as uncertain as an arm with a seed
_LOOKED_AT = 500


def are_few(bench: Bench) -> bool:
    """Whether the task asks once and the right answer is among few."""
    if bench.parts.task.turns != 1:
        return False
    some = records_of(bench.envs(), bench.drawn[:_LOOKED_AT], bench.seed)
    return ANSWER in topics_of(some) and all(reading and reading.topic == ANSWER for reading in bench.readings)


def linear_read_off(bench: Bench) -> Arm:
    """What a linear probe of the first observation names, fitted on what each training seed learns from."""
    readings = _readings(bench)
    arm = Arm([answered(bench, reading, reading.named) for reading in readings])
    return Arm(arm.played, about={"ridges": [reading.ridge for reading in readings]})


def best_constant(bench: Bench) -> Arm:
    """The commonest right answer of train, whatever is asked."""
    readings = _readings(bench)
    played = [answered(bench, reading, [reading.commonest] * len(reading.truth)) for reading in readings]
    return Arm(played, about={"answers": [reading.commonest for reading in readings]})


def chance(bench: Bench) -> Arm:
    """Answers drawn at random, several times: of the item's options where it has some, else of train's right ones."""
    reading, rng = _readings(bench)[0], np.random.default_rng(bench.seed)
    offered = [[choice.strip() for choice in bench.parts.task.start(item).choices] for item in bench.drawn]
    played = []
    for _ in range(GUESSES):
        pairs = zip(offered, reading.truth, strict=True)
        named = [_guess(rng, options or reading.known, truth) for options, truth in pairs]
        played.append(answered(bench, reading, named))
    return Arm(played)


def _guess(rng: np.random.Generator, options: Sequence[str], truth: str) -> str:
    """One of the options; where these are the answers in other words than the record's, the right one or none."""
    place = int(rng.integers(len(options)))
    if truth in options:
        return options[place]
    return truth if place == 0 else ""


ANSWERED: dict[str, Callable[[Bench], Arm]] = {
    "chance": chance,
    "best_constant": best_constant,
    "linear_read_off": linear_read_off,
}


def answered(bench: Bench, reading: Reading, named: Sequence[str]) -> Played:
    """The episodes of whoever answers ``named``, without tokens."""
    task, item = bench.parts.task, bench.drawn[0]
    right = task.start(item).respond(task.reference(item) or "").info
    episodes = []
    for record, answer, truth in zip(reading.records, named, reading.truth, strict=True):
        # Some tasks call the outcome by the answer's name: it is right where it is the one that was wanted.
        outcome = answer if right["outcome"] == right[ANSWER] else "correct" if answer == truth else "incorrect"
        own = {"outcome": outcome, "answer": answer, "score": float(answer == truth), "completion": f" {answer}"}
        coherent = {"coherence": 1.0} if "coherence" in record else {}  # what is named is a sound answer
        episodes.append(record | own | coherent)
    return Played(episodes, {})


def _readings(bench: Bench) -> list[Reading]:
    return [reading for reading in bench.readings if reading is not None]
