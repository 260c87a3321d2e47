"""Callbacks that hand plain rows to a sink; where they go (file, wandb) is the sink's matter."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback

Row = dict[str, Any]
_NOT_LOGGED = {"terminal_observation", "TimeLimit.truncated", "episode"}


class EpisodeLog(BaseCallback):
    """One row an ended episode: number, time, lane, return, steps and all of its final info."""

    def __init__(self, write: Callable[[Row], None], episodes: int = 0) -> None:
        """Args: the sink, and how many episodes were logged before (when a run is resumed)."""
        super().__init__()
        self.write = write
        self.episodes = episodes

    def _on_step(self) -> bool:
        for lane, info in enumerate(self.locals["infos"]):
            if "episode" in info:
                self.episodes += 1
                self.write(self._row(lane, info))
        return True

    def _row(self, lane: int, info: Row) -> Row:
        told = {key: value for key, value in info.items() if key not in _NOT_LOGGED}
        return told | {  # what the agent received has the last word
            "episode": self.episodes,
            "num_timesteps": self.num_timesteps,
            "lane": lane,
            "return": info["episode"]["r"],
            "steps": info["episode"]["l"],
        }


class UpdateLog(BaseCallback):
    """One row after each update: SB3's training scalars and rolling results.

    Rows hold ``num_timesteps``; means over the last ``window`` episodes (``score``, ``return``,
    ``episode_length``; None before the first); since the last row ``distinct_features``,
    ``noop_share`` (None where the environment does not say which feature) and
    ``steps_per_second``; and SB3's logger scalars (``train/loss``, ...).
    """

    def __init__(
        self, write: Callable[[Row], None], window: int = 200, every: int = 1, earlier: Iterable[Row] = ()
    ) -> None:
        """Args: the sink; episodes to average; least steps between rows (for SAC, DQN, TD3); rows of EpisodeLog
        written before (when a run is resumed)."""
        super().__init__()
        self.write = write
        self.every = every
        names = ("score", "return", "steps")
        self.recent: deque[Row] = deque(({name: row.get(name) for name in names} for row in earlier), maxlen=window)
        self._features: list[npt.NDArray[np.int64]] = []
        self._last_step, self._last_time = 0, 0.0

    def _on_training_start(self) -> None:
        self._last_step, self._last_time = self.model.num_timesteps, time.perf_counter()

    def _on_step(self) -> bool:
        self.recent.extend(
            {"score": info.get("score"), "return": info["episode"]["r"], "steps": info["episode"]["l"]}
            for info in self.locals["infos"]
            if "episode" in info
        )
        step_info = getattr(self.training_env.unwrapped, "step_info", {})
        if "feature" in step_info:
            self._features.append(np.array(step_info["feature"]))
        return True

    # SB3 has no hook after an update: the next roll-out starts, or training ends, right after it.
    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self._last_step >= self.every:
            self._emit()

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._last_step:
            self._emit()

    def _emit(self) -> None:
        now, step = time.perf_counter(), self.model.num_timesteps
        features = np.concatenate(self._features) if self._features else None
        scalars = self.logger.name_to_value.items()
        self.write(
            {
                "num_timesteps": step,
                "score": _mean(row["score"] for row in self.recent),
                "return": _mean(row["return"] for row in self.recent),
                "episode_length": _mean(row["steps"] for row in self.recent),
                "distinct_features": None if features is None else len(np.unique(features[features >= 0])),
                "noop_share": None if features is None else float(np.mean(features < 0)),
                "steps_per_second": (step - self._last_step) / max(now - self._last_time, 1e-9),
                **{k: float(v) for k, v in scalars if isinstance(v, (int, float, np.number))},
            }
        )
        self._features.clear()
        self._last_step, self._last_time = step, now


def _mean(values: Iterable[float | None]) -> float | None:
    listed = [value for value in values if value is not None]
    return float(np.mean(listed)) if listed else None
