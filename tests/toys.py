"""Tiny vector environments with a known optimum for the agents' tests, and a tiny task for the episode's."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from steer_env.tasks import Task, Turn

MISSING = frozenset() if find_spec("reasoning_gym") else frozenset({"reasoning_gym"})
"""Tasks of libraries that are not installed."""

torch.set_num_threads(1)  # the networks here are so small that threads only cost


class CueVectorEnv(VectorEnv):
    """Read the cue, choose its feature: ``horizon`` steps an episode, a new cue at each.

    Feature ``f`` has a unit direction; a step shows the direction of the wanted feature plus noise. The
    return, paid at the end, is the share of steps with the wanted feature. Ceiling 1; chance ``1 / A``, or
    ``1 / (distractors + 2)`` inside the mask, where the wanted feature, ``distractors`` others and the no-op
    are legal. Observations live in one buffer that is overwritten, as an unkind environment would do.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["ansi"]}

    def __init__(
        self,
        num_envs: int = 4,
        features: int = 12,
        width: int = 6,
        horizon: int = 2,
        distractors: int = 3,
        limit: int | None = None,
    ) -> None:
        """With ``limit``, lanes are truncated after that many steps."""
        self.num_envs, self.features, self.horizon = num_envs, features, horizon
        self.distractors, self.limit = distractors, limit
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = spaces.Discrete(features + 1)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        directions = np.random.default_rng(7).standard_normal((features, width))
        self.directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
        self.calls: list[tuple[Any, Any]] = []
        self._obs = np.zeros((num_envs, width), np.float32)
        self._active = np.zeros((num_envs, features + 1), bool)
        self._target = np.zeros(num_envs, np.int64)
        self._right = np.zeros(num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._item = np.zeros(num_envs, np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.calls.append((seed, options))
        everyone = np.ones(self.num_envs, bool)
        self._begin(everyone)
        self._show(everyone)
        return self._obs, {"item": self._item.copy()}

    def step(self, actions: Any) -> Any:
        actions = np.asarray(actions)
        self._right += actions == self._target
        self._steps += 1
        terminated = self._steps >= self.horizon
        truncated = np.zeros(self.num_envs, bool) if self.limit is None else self._steps >= self.limit
        ended = terminated | truncated
        score = self._right / self._steps
        info = {"feature": np.where(actions == self.features, -1, actions)}
        self._show(np.ones(self.num_envs, bool))
        if ended.any():
            info |= self._final(ended, score)
            self._begin(ended)
            self._show(ended)
        return self._obs, np.where(ended, score, 0.0), terminated, truncated, {**info, "item": self._item.copy()}

    def _final(self, ended: np.ndarray, score: np.ndarray) -> dict[str, Any]:
        final_obs = np.full(self.num_envs, None, dtype=object)
        for lane in np.flatnonzero(ended):
            final_obs[lane] = self._obs[lane].copy()
        words = np.array([f"lane {lane}" if ended[lane] else None for lane in range(self.num_envs)], dtype=object)
        final = {"item": self._item.copy(), "score": score, "return": score, "steps": self._steps.copy()}
        final |= {"completion": words, "outcome": words, "_outcome": np.zeros(self.num_envs, bool)}
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final, "_final_info": ended}

    def _begin(self, lanes: np.ndarray) -> None:
        self._right[lanes] = 0.0
        self._steps[lanes] = 0
        self._item[lanes] = self.np_random.integers(1_000, size=int(lanes.sum()))

    def _show(self, lanes: np.ndarray) -> None:
        count = int(lanes.sum())
        target = self.np_random.integers(self.features, size=count)
        noise = 0.05 * self.np_random.standard_normal((count, self._obs.shape[1]))
        active = np.zeros((count, self.features + 1), bool)
        others = self.np_random.random((count, self.features)).argsort(axis=1)[:, : self.distractors]
        np.put_along_axis(active, others, True, axis=1)
        active[np.arange(count), target] = active[:, -1] = True
        self._target[lanes], self._active[lanes] = target, active
        self._obs[lanes] = self.directions[target] + noise

    def action_masks(self) -> np.ndarray:
        return self._active


class AimVectorEnv(VectorEnv):
    """One-step episodes: answer the observation itself. Return ``1 - mean |action - observation|``, ceiling 1."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(self, num_envs: int = 4, width: int = 2, nested: bool = False) -> None:
        """``nested`` gives the observation as ``{"left", "right"}``, both the same."""
        self.num_envs, self.nested = num_envs, nested
        box = spaces.Box(-1.0, 1.0, (width,), np.float32)
        self.single_observation_space = spaces.Dict({"left": box, "right": box}) if nested else box
        self.single_action_space = spaces.Box(-1.0, 1.0, (width,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._goal = np.zeros((num_envs, width), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        rewards = 1.0 - np.abs(np.asarray(actions) - self._goal).mean(axis=1)
        ended = np.ones(self.num_envs, bool)
        final_obs = np.full(self.num_envs, None, dtype=object)
        for lane in range(self.num_envs):
            goal = self._goal[lane].copy()
            final_obs[lane] = {"left": goal, "right": goal} if self.nested else goal
        infos = {"final_obs": final_obs, "_final_obs": ended, "final_info": {"score": rewards}, "_final_info": ended}
        return self._observe(), rewards, ended, np.zeros(self.num_envs, bool), infos

    def _observe(self) -> Any:
        self._goal = self.np_random.uniform(-0.8, 0.8, self._goal.shape).astype(np.float32)
        return {"left": self._goal, "right": self._goal} if self.nested else self._goal


class Quiz(Task):
    """A task whose turns offer options: digits in, digits out, in the words of the tiny model's tokenizer.

    Item ``i`` asks a random row of digits. ``kind`` says what the turn may be: ``"single"`` options of one token each,
    ``"long"`` ones of one to three that often begin alike, ``"mixed"`` either or, at every third item, no options. With
    two ``turns`` the first answer is taken and the world says ``9 8`` before the second; ``replace`` puts other words
    in the place of the first answer.
    """

    name = "quiz"
    max_new_tokens = 1

    def __init__(
        self,
        split: str = "train",
        data: str | None = None,
        kind: str = "single",
        turns: int = 1,
        replace: str | None = None,
    ) -> None:
        self.split, self.data, self.kind, self.turns, self.replace = split, data, kind, turns, replace

    def __len__(self) -> int:
        return 64

    def start(self, item: int) -> QuizTalk:
        return QuizTalk(self, np.random.default_rng([item, ord(self.split[0])]), item)

    def reference(self, item: int) -> str:
        return f" {self.start(item).key}"

    def data_record(self) -> dict[str, Any]:
        return {"data": self.data or "embedded", "split": self.split, "items": len(self)}


class QuizTalk:
    """One question of `Quiz`; the score is whether the last answer's first word is the key."""

    def __init__(self, task: Quiz, rng: np.random.Generator, item: int) -> None:
        self.task, self.rng, self.turn = task, rng, 0
        self.opening = " ".join(map(str, rng.integers(1, 10, size=int(rng.integers(2, 14)))))
        kinds = {"mixed": ("single", "long", "free")}.get(task.kind, (task.kind,))
        self.kind = kinds[item % len(kinds)]
        self.choices = self._choices()
        self.key = str(rng.integers(1, 10))

    def _choices(self) -> tuple[str, ...]:
        if self.kind == "free":
            return ()
        if self.kind == "single":
            return tuple(f" {digit}" for digit in self.rng.permutation(9)[: self.rng.integers(2, 6)] + 1)
        shared = self.rng.integers(1, 10)
        return f" {shared} 3", f" {shared} 5 2", f" {shared} 4", f" {shared % 9 + 1}", f" {(shared + 1) % 9 + 1} 7 7"

    def respond(self, utterance: str) -> Any:
        self.turn += 1
        if self.turn < self.task.turns:
            self.choices = self._choices()
            return Turn(text=" 9 8", replace=self.task.replace)
        right = utterance.split()[:1] == [self.key]
        return Turn(reward=float(right), score=float(right), info={"answer": utterance.strip(), "target": self.key})

    def render(self) -> str:
        return self.opening

    def state(self) -> np.ndarray:
        return np.zeros(0, dtype=np.int64)
