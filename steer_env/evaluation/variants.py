"""Arms that are unsteered play of another environment: what the same model does without steering, asked otherwise."""

from __future__ import annotations

from typing import Any

from steer_env.tasks import find_task


def unsteered_variants(task: str) -> dict[str, dict[str, Any]]:
    """The arms of a task, each with what to give ``gym.make_vec`` beyond the agent's own arguments.

    ``prompt_only`` has the task's instruction in front of every prompt. Where there are options, ``constrained_only``
    and ``free_only`` show what constrained decoding does by itself: one of them is the agent's own environment.

    Args:
        task: Key of the task table.
    """
    cls = find_task(task)
    arms: dict[str, dict[str, Any]] = {f"{way}_only": {"decode": way} for way in cls.variants.get("decode", ())}
    return arms | ({"prompt_only": {"instruction": True}} if cls.instruction is not None else {})
