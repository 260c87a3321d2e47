"""A test kit for tasks: what every task must keep, as Gymnasium's ``check_env`` does for environments."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from steer_env.tasks import Conversation, Task, Turn

_NONSENSE = ("", "xqzv kkrpt wwvx.")
Final = dict[str, Any]


def check_task(task: Task, items: int | None = 20) -> None:
    """Play some items of a task, right and wrong, without any model.

    The reference reply must score 1. Wrong replies must score 0: an empty one, nonsense, and the reference of another
    item where both it and the ``target`` in the turn's ``info`` differ. Without a reference (a game), nonsense must
    not always score 1. Items must start the same way twice, and end for good. Prompts must not be empty (a game may
    let the model begin), records must be JSON, and ``pay`` must give the return back.

    Args:
        task: The task, made with the arguments that are to be checked.
        items: How many items are played, from the first to the last at equal distances; None plays all.

    Raises:
        AssertionError: The task breaks a rule; the message names the item and the fault.

    Example:
        >>> import steer_env
        >>> check_task(steer_env.TASKS["bbq"](split="test"))
    """
    _require(len(task) > 0, "the split has no items")
    played = range(len(task)) if items is None else np.unique(np.linspace(0, len(task) - 1, items).astype(int)).tolist()
    finals = [final for item in played for final in _check_item(task, item)]
    if all(task.reference(item) is None for item in played):
        _require(any(final["score"] < 1 for final in finals), "nonsense always scores 1: the score ignores the reply")
    _check_other_references(task, played)
    _check_bounds(task)
    _check_records(task, finals)
    _check_instruction(task)


def _check_item(task: Task, item: int) -> list[Final]:
    """Play an item with every reply whose score is known."""
    first, second = task.start(item), task.start(item)
    _require(_shown(first) == _shown(second), "two starts differ: an item must always be the same", item)
    _require(first.opening.strip() or task.turns > 1, "the prompt is empty", item)
    state, shape = np.asarray(first.state()), tuple(task.state_shape)
    _require(state.shape == shape, f"the state's shape is {state.shape}, not {shape}", item)
    _require(((state >= 0) & (state < task.state_levels)).all(), "the state leaves its levels", item)
    gold = task.reference(item)
    _require(gold == task.reference(item), "two references differ", item)
    finals = [_play(task, item, reply, None if gold is None else 0.0) for reply in _NONSENSE]
    if gold is not None:
        _require(not first.choices or gold in first.choices, f"the reference {gold!r} is not among the choices", item)
        finals.append(_play(task, item, gold, 1.0))
    return finals


def _play(task: Task, item: int, reply: str, expected: float | None) -> Final:
    """Play an item twice with one reply at every turn; the final info, checked."""
    (turns, talk), (again, _) = (_converse(task, item, reply) for _ in range(2))
    _require(turns == again, f"the reply {reply!r} is answered in two ways", item)
    score, earned = turns[-1].score, sum(turn.reward for turn in turns)
    _require(score is not None, f"the episode goes on after {task.turns} turns", item)
    assert score is not None
    _require(math.isfinite(score) and math.isfinite(earned), f"score or reward is not finite: {score}, {earned}", item)
    _require(expected in (None, score), f"the reply {reply!r} scores {score}, not {expected}", item)
    _raises(RuntimeError, lambda: talk.respond(reply), "respond after the end must raise RuntimeError", item)
    _require(isinstance(talk.render(), str), "render must give text", item)
    completion = "\n".join([_cut(task, reply)] * len(turns))
    final = {"item": item, "score": score, "return": earned, "completion": completion, **turns[-1].info}
    paid = task.pay(final)
    _require(math.isclose(paid, earned, abs_tol=1e-9), f"pay gives {paid} for {reply!r}, but {earned} was earned", item)
    task.board(final)
    return final


def _converse(task: Task, item: int, reply: str) -> tuple[list[Turn], Conversation]:
    talk = task.start(item)
    turns: list[Turn] = []
    while len(turns) < task.turns and (not turns or turns[-1].score is None):
        turns.append(talk.respond(_cut(task, reply)))
    return turns, talk


def _cut(task: Task, reply: str) -> str:
    """What the environment hands over: the model's turn ends before the first stop string."""
    return reply[: min((reply.find(stop) for stop in task.stop if stop in reply), default=None)]


def _check_other_references(task: Task, items: Sequence[int]) -> None:
    """The reply to an item is wrong for another whose reply and target are different."""
    known = {item: reply for item in items if (reply := task.reference(item)) is not None}
    targets = {item: _converse(task, item, reply)[0][-1].info.get("target", reply) for item, reply in known.items()}
    for item in known:
        other = next((i for i in known if known[i] != known[item] and targets[i] != targets[item]), None)
        if other is not None:
            _play(task, item, known[other], 0.0)


def _check_bounds(task: Task) -> None:
    for item in (-1, len(task)):
        for method in (task.start, task.reference):
            _raises(ValueError, lambda: method(item), f"{method.__name__} must raise ValueError", item)  # noqa: B023


def _check_records(task: Task, finals: Sequence[Final]) -> None:
    record = task.data_record()
    missing = sorted({"data", "split", "items"} - set(record))
    _require(not missing, f"data_record lacks {missing}")
    _require(record["items"] == len(task), f"data_record counts {record['items']} items, not {len(task)}")
    for name, value in (("data_record", record), ("summary", task.summary(finals)), ("summary", task.summary([]))):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{name} is not JSON ({error}): {value!r}") from error


def _check_instruction(task: Task) -> None:
    if task.instruction is None or task.instructed:
        return
    told = copy.copy(task)
    told.instruct()
    plain, opening = task.start(0).opening, told.start(0).opening
    _require(opening.startswith(task.instruction) and opening.endswith(plain), "the instruction is not in front", 0)


def _shown(talk: Conversation) -> Any:
    return talk.opening, talk.choices, talk.render(), np.asarray(talk.state()).tolist()


def _raises(error: type[Exception], call: Callable[[], Any], fault: str, item: int) -> None:
    try:
        call()
    except error:
        return
    _require(False, fault, item)


def _require(good: Any, fault: str, item: int | None = None) -> None:
    if not good:
        raise AssertionError(fault if item is None else f"item {item}: {fault}")
