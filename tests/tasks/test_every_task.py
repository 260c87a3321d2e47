"""Every task of the table, in every way to play it, keeps what `check_task` asks; tasks that do not are refused."""

import dataclasses

import numpy as np
import pytest

from steer_env.tasks import TASKS, Turn
from steer_env.tasks.data import SPLITS, Items, Row
from steer_env.tasks.multiple_choice import MultipleChoice, Question
from steer_env.tasks.single_turn import SingleTurn, TextTask
from steer_env.tasks.tictactoe import TicTacToe
from steer_env.testing import check_task
from tests.toys import MISSING

OURS = sorted(name for name, task in TASKS.items() if task.__module__.startswith("steer_env.") and name not in MISSING)
WAYS = [(name, {arg: way}) for name in OURS for arg, ways in TASKS[name].variants.items() for way in ways]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_task_on_every_split(name, split):
    check_task(TASKS[name](split=split))


@pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-{way}" for name, way in WAYS])
def test_every_variant(name, way):
    check_task(TASKS[name](split="validation", **way))


@pytest.mark.parametrize("name", OURS)
def test_variants_are_refused_by_name(name):
    for argument in TASKS[name].variants:
        with pytest.raises(ValueError, match=f"{argument} must be one of .*, got 'nonsense'"):
            TASKS[name](**{argument: "nonsense"})


class Sums(TextTask):
    """Sums of two digits: a sound task that the tests below break in one place each."""

    name = "sums"

    def __init__(self, split: str = "train"):
        rows = [Row({"a": a, "b": b}, f"sums:{a}{b}") for a in range(1, 4) for b in range(1, 4)]
        super().__init__(Items(rows, "generated", split, seeded=False), max_new_tokens=4)

    def ask(self, row):
        return SingleTurn(f"{row.values['a']} + {row.values['b']} =", "a sum", lambda said: self.grade(row, said))

    def right_reply(self, row):
        return str(row.values["a"] + row.values["b"])

    def grade(self, row, said):
        target = self.right_reply(row)
        right = said.strip() == target
        info = {"outcome": "correct" if right else "incorrect", "answer": said, "target": target}
        return Turn.end(right, info)


class WrongGold(Sums):
    def right_reply(self, row):
        return "7" if row.where == "sums:22" else super().right_reply(row)

    def grade(self, row, said):
        right = said.strip() == str(row.values["a"] + row.values["b"])
        return Turn.end(right, {"outcome": "correct", "answer": said, "target": "4"})


class Lenient(Sums):
    def grade(self, row, said):
        return dataclasses.replace(super().grade(row, said), score=1.0, reward=1.0)


class TakesAnyNumber(Sums):
    def grade(self, row, said):
        turn = super().grade(row, said)
        return Turn.end(said.strip().isdigit(), turn.info)


class TakesSilence(Sums):
    def grade(self, row, said):
        turn = super().grade(row, said)
        return Turn.end(turn.score or not said, turn.info)


class Fickle(Sums):
    draws = np.random.default_rng(0)

    def ask(self, row):
        talk = super().ask(row)
        talk.opening = f"{self.draws.random()} {talk.opening}"
        return talk


class FickleGrade(Sums):
    draws = np.random.default_rng(0)

    def grade(self, row, said):
        turn = super().grade(row, said)
        return Turn.end(turn.score, {**turn.info, "coin": self.draws.random()})


class NoPrompt(Sums):
    def ask(self, row):
        return SingleTurn("", "a sum", lambda said: self.grade(row, said))


class PaysElse(Sums):
    def grade(self, row, said):
        turn = super().grade(row, said)
        return dataclasses.replace(turn, reward=turn.score * 2)


class NoBounds(Sums):
    def start(self, item):
        return super().start(item % len(self))


class ArrayRecord(Sums):
    def data_record(self):
        return {**super().data_record(), "weights": np.zeros(2)}


class NotANumber(Sums):
    def summary(self, finals):
        return {"mean": float(np.mean([final["score"] for final in finals])) if finals else float("nan")}


class DeafToInstruction(Sums):
    instruction = "Add."

    def start(self, item):
        talk = super().start(item)
        talk.opening = talk.opening.removeprefix("Add.\n\n")
        return talk


class AnswersTwice(Sums):
    def ask(self, row):
        talk = super().ask(row)
        talk.respond = lambda said: self.grade(row, said)
        return talk


class NeverEnds(Sums):
    def grade(self, row, said):
        return Turn(text=" go on", info={"outcome": "", "answer": "", "target": ""})


class WinsAnyway(TicTacToe):
    def start(self, item):
        game = super().start(item)
        respond = game.respond

        def lucky(said):
            turn = respond(said)
            return turn if turn.score is None else dataclasses.replace(turn, score=1.0)

        game.respond = lucky
        return game


class OffTheLetters(MultipleChoice):
    """A reference that constrained decoding cannot choose."""

    name = "letters"

    def __init__(self, split: str = "train"):
        super().__init__(Items([Row({}, "letters:1")], "generated", split, seeded=False))

    def question(self, row):
        return Question("Which?", ("this", "that"), 0, row.where)

    def right_reply(self, row):
        return "this"


def test_a_sound_task_passes():
    check_task(Sums())
    check_task(Sums(), items=None)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (WrongGold(), r"item 4: the reply ' 7' scores 0\.0, not 1"),
        (Lenient(), r"item 0: the reply '' scores 1\.0, not 0"),
        (TakesSilence(), r"item 0: the reply '' scores 1\.0, not 0"),
        (TakesAnyNumber(), r"item 0: the reply ' 3' scores 1\.0, not 0"),
        (Fickle(), "item 0: two starts differ"),
        (FickleGrade(), "item 0: the reply '' is answered in two ways"),
        (NoPrompt(), "item 0: the prompt is empty"),
        (PaysElse(), r"item 0: pay gives 1\.0 for ' 2', but 2\.0 was earned"),
        (NoBounds(), "item -1: start must raise ValueError"),
        (ArrayRecord(), "data_record is not JSON"),
        (NotANumber(), "summary is not JSON"),
        (DeafToInstruction(), "item 0: the instruction is not in front"),
        (AnswersTwice(), "item 0: respond after the end must raise RuntimeError"),
        (NeverEnds(), "item 0: the episode goes on after 1 turns"),
        (WinsAnyway(), "nonsense always scores 1"),
        (OffTheLetters(), "item 0: the reference ' this' is not among the choices"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_task_is_refused_by_item_and_fault(broken, fault):
    with pytest.raises(AssertionError, match=fault):
        check_task(broken)
