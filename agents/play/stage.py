"""What is played: a run's agent, or fixed features of any model with an SAE."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym

import steer_env  # noqa: F401  # registers the environments
from agents.play.choosing import Push, nothing
from agents.play.features import Features
from steer_env.envs.base import SteerBase, unwrap
from steer_env.errors import SteeringError
from steer_env.evaluation.play import Policy
from steer_env.lm.presets import find_preset
from steer_env.steered import SteeredLM

GAME = "Steer-TicTacToe-v0"
SHOWCASE = "Steer-HarmBench-v0"
STORIES = "Steer-Stories-v0"
SHOWN = {
    "harmbench": (20, "Request: Can you help me carry a pelom?\nResponse:"),
    "tictactoe": (135, "5"),
}
"""Features of the embedded models that show at once what steering does, by task, and a prompt where they do."""

Make = Callable[..., SteerBase]


@dataclass(eq=False)
class Stage:
    """A model, its SAE and what chooses among its features. All sessions share it; nothing in it remembers them.

    Attributes:
        name: Of what is played.
        env: Environment id.
        make: From a split and arguments of ``gym.make_vec`` to a fresh environment of one lane.
        agent: The trained policy, if there is one.
        first: A feature and a prompt to begin with, if some are known to show something.
        embedded: Whether it is the embedded model with nothing of the user's.
        boardbound: Why the agent writes no texts, if it sees more than there is in one.
    """

    name: str
    env: str
    make: Make
    agent: Policy | None = None
    first: tuple[int, str] | None = None
    embedded: bool = False
    boardbound: str = ""

    @cached_property
    def steered(self) -> SteeredLM:
        """The model for texts of any kind. Its own policy does nothing."""
        try:
            return SteeredLM.of(self.make("test"), nothing)
        except SteeringError:  # what agents see there is not in a text, but features can still be fixed
            return SteeredLM.of(self.make("test", observation="normalized", mask="off"), nothing)

    @cached_property
    def features(self) -> Features:
        """The SAE's features by name; a thread of its own looks them up."""
        steered = self.steered
        found = Features(steered.labels, steered.lm, steered.tokenizer, steered.steering.dictionary.directions)
        threading.Thread(target=found.read_all, daemon=True).start()
        return found

    @property
    def coefficient(self) -> float:
        """The strength that the environment gives a feature, in residual units."""
        return float(self.steered.steering.actuator.coefficient)

    @cached_property
    def openings(self) -> list[str]:
        """A few prompts of the task, of its test split."""
        task = unwrap(self.make("test")).task
        own = [] if self.first is None else [self.first[1]]
        return list(dict.fromkeys(own + [task.start(item).opening for item in range(min(3, len(task)))]))

    def push(self, feature: int | None, strength: float | None) -> Push | None:
        """A push at every token, at the environment's strength where none is given; None without a feature."""
        if feature is None:
            return None
        return Push(feature, self.coefficient if strength is None else strength)


def stage_of_run(path: Path) -> Stage:
    """The stage of a training run.

    Raises:
        FileNotFoundError: There is no run, or its training has not finished.
        RuntimeError: The language model or what actions mean is not as in training.
    """
    from agents.runs.loading import load_run  # Stable-Baselines3 takes seconds to import, and only runs need it

    run = load_run(path)
    boardbound = ""
    try:
        run.steered()
    except SteeringError as error:
        boardbound = str(error)

    def make(split: str, **overrides: Any) -> SteerBase:
        return unwrap(run.envs(split, num_envs=1, **overrides))

    return Stage(run.path.name, run.config["env"], make, run.policy, boardbound=boardbound)


def stage_of_model(env: str | None, settings: Mapping[str, Any]) -> Stage:
    """The stage of a model and its SAE, steered by fixed features.

    Args:
        env: Environment id; by default one with prompts that the model knows: the embedded model's, or stories.
        settings: Arguments of ``gym.make``, such as ``preset``, or ``model`` and ``sae``.

    Raises:
        ValueError: An argument is unknown or its value cannot be used.
    """
    embedded = not {"preset", "model", "sae"} & set(settings)
    chosen = env or (SHOWCASE if embedded else STORIES)

    def make(split: str, **overrides: Any) -> SteerBase:
        return unwrap(gym.make_vec(chosen, num_envs=1, split=split, **{**settings, **overrides}))

    name = str(settings.get("preset") or settings.get("model") or "the embedded model")
    task = unwrap(make("test")).task.name
    return Stage(name, chosen, make, first=SHOWN.get(task) if embedded else None, embedded=embedded)


def embedded_stages() -> list[str]:
    """Ids of the environments that an embedded model plays, one feature a token."""
    found = []
    for env_id, spec in gym.registry.items():
        kwargs = spec.kwargs or {}
        if "task" in kwargs and kwargs.get("action", "choice") == "choice":
            try:
                find_preset("embedded", kwargs["task"])
            except ValueError:
                continue
            found.append(env_id)
    return found
