"""A task becomes an environment: one call gives it a row in the task table and an id in Gymnasium's registry."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import gymnasium as gym

from steer_env.envs.settings import Settings
from steer_env.tasks import TASKS, Task, find_task


def register_task(env_id: str, task: type[Task], **defaults: Any) -> None:
    """Make a task playable as ``gym.make(env_id)`` and ``gym.make_vec(env_id)``.

    Call it at the top level of a module. Another process (a spawned worker, ``steer train``) finds the id through
    Gymnasium's module syntax, which imports that module first: ``gym.make("my_package.tasks:Steer-Mine-v0")``.

    Args:
        env_id: Gymnasium id, for example ``"Steer-Mine-v0"``.
        task: Class of the task, with a ``name`` of its own; its constructor takes ``split``, by default ``"train"``.
            The same class may have several ids.
        **defaults: Arguments of ``gym.make`` that this id comes with: those of `Settings` and of the task.

    Raises:
        ValueError: The id or the name is taken, the class is no complete task, or a default is no argument.

    Example:
        >>> import steer_env
        >>> from steer_env.tasks.tictactoe import TicTacToe
        >>> steer_env.register_task("Steer-EasyTicTacToe-v0", TicTacToe, opponent="random")
    """
    if env_id in gym.registry:
        raise ValueError(f"environment id {env_id!r} is registered already: take another")
    _check_task(task)
    if TASKS.get(task.name, task) is not task:
        raise ValueError(f"task name {task.name!r} is taken by {_where(TASKS[task.name])}: give {_where(task)} another")
    own, settings = set(inspect.signature(task).parameters), {field.name for field in fields(Settings)}
    if own & settings:
        raise ValueError(
            f"argument {min(own & settings)!r} of task {task.name!r} is one of the environment's own: rename it"
        )
    if unknown := sorted(set(defaults) - (own | settings - {"task"})):
        raise ValueError(f"default {unknown[0]!r} is no argument of {env_id!r}; there are {sorted(own | settings)}")
    gym.register(
        env_id,
        entry_point="steer_env.envs.registry:make_env",
        vector_entry_point="steer_env.envs.registry:make_vector_env",
        kwargs={"task": task.name, **defaults},
    )
    TASKS[task.name] = task


def task_of(env_id: str) -> type[Task]:
    """The task class of a registered id, which may name the module that registers it (``"my_package.tasks:..."``).

    Raises:
        ValueError: The id is not one of a task.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        __import__(module)
    spec = gym.registry.get(name)
    if spec is None or "task" not in spec.kwargs:
        raise ValueError(f"{env_id!r} is no registered environment of a task; 'steer list' shows those that are")
    return find_task(spec.kwargs["task"])


def _check_task(task: Any) -> None:
    """Refuse what is no class of a task, or one that lacks something."""
    if not (inspect.isclass(task) and issubclass(task, Task)):
        raise ValueError(f"a task must be a subclass of steer_env.Task, got {task!r}")
    missing = sorted(getattr(task, "__abstractmethods__", ()))
    if missing:
        raise ValueError(f"task {_where(task)} must define {', '.join(missing)}")
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not name:
        raise ValueError(f"task {_where(task)} must have a name, a text that is not empty, got {name!r}")
    split = inspect.signature(task).parameters.get("split")
    if split is None or split.default != "train":
        raise ValueError(f"the constructor of task {_where(task)} must take split='train'")


def _where(task: type[Task]) -> str:
    return f"{task.__module__}.{task.__qualname__}"
