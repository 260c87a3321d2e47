"""Everything a training run needs to go on: saved by a callback between two updates, put back by ``restore``.

Lanes are not saved: a resumed run starts new episodes, from a seed of its own so that it does not meet the
same items in the same order again.
"""

import pickle
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from agents.runs.loading import load_mask, save_mask
from steer_env.evaluation.masks import ActionMask


def save_state(folder: Path, model: BaseAlgorithm, mask: ActionMask | None) -> None:
    """Write the agent, its replay buffer if it has one, the mask and all random states into ``folder``."""
    model.save(folder / "model.zip")
    if isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(folder / "replay_buffer.pkl")
    if mask is not None:
        save_mask(mask, folder)
    (folder / "random.pkl").write_bytes(pickle.dumps(random_states(model)))


def restore(
    folder: Path, cls: type[BaseAlgorithm], vec_env: VecEnv, mask: ActionMask | None, device: str
) -> BaseAlgorithm:
    """The agent of :func:`save_state` on ``vec_env``; the mask and the random states are put back in place."""
    model = cls.load(folder / "model.zip", env=vec_env, device=device)
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(folder / "replay_buffer.pkl")
    if mask is not None:
        load_mask(mask, folder)
    set_random_states(model, pickle.loads((folder / "random.pkl").read_bytes()))
    return model


def random_states(model: BaseAlgorithm) -> dict[str, Any]:
    """State of every generator that training draws from, the lanes' own aside."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        # Draws the first actions of off-policy algorithms.
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def set_random_states(model: BaseAlgorithm, states: Mapping[str, Any]) -> None:
    """Put back :func:`random_states`; of the states of CUDA devices, those of the devices that are here."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)
    model.action_space.np_random.bit_generator.state = states["action_space"]


def lane_seed(seed: int, num_timesteps: int) -> int:
    """Seed of the lanes of a run that starts or goes on at ``num_timesteps``.

    Lane ``i`` gets this plus ``i``, so that runs with neighbouring seeds must not have neighbouring lane seeds.
    """
    return int(np.random.SeedSequence([seed, num_timesteps]).generate_state(1)[0])


class Checkpointer(BaseCallback):
    """Calls ``save`` at least every ``every`` time steps, always between two updates.

    Transitions collected but not learned from would be lost, so it waits for the end of an update.
    """

    def __init__(self, save: Callable[[], None], every: int):
        super().__init__()
        self.save, self.every = save, every
        self._last = 0

    def _on_training_start(self) -> None:
        self._last = self.model.num_timesteps

    # SB3 has no hook after an update: the next roll-out starts right after it.
    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self._last >= self.every:
            self._last = self.model.num_timesteps
            self.save()

    def _on_step(self) -> bool:
        return True


class Progress(BaseCallback):
    """One line: time steps, time steps a second, and the mean score of the latest episodes.

    Args:
        total: Time steps of the whole run.
        recent: The latest episodes, with their ``score``.
    """

    def __init__(self, total: int, recent: deque[dict[str, Any]]):
        super().__init__()
        self.total, self.recent = total, recent
        self._bar: Any = None
        self._shown = 0.0

    def _on_training_start(self) -> None:
        at = self.model.num_timesteps
        self._bar = tqdm(total=self.total, initial=at, unit="step", dynamic_ncols=True, mininterval=0.5)

    def _on_step(self) -> bool:
        if time.perf_counter() - self._shown > 0.5 and self.recent:
            self._shown = time.perf_counter()
            scores = [row["score"] for row in self.recent if row["score"] is not None]
            self._bar.set_postfix(score=f"{np.mean(scores or [np.nan]):.3f}", refresh=False)
        # The last roll-out may go past the total.
        self._bar.update(min(self.num_timesteps, self.total) - self._bar.n)
        return True

    def _on_training_end(self) -> None:
        self._bar.close()


@dataclass
class StopRequest:
    """Whether somebody asked the run to stop."""

    signals: list[int] = field(default_factory=list)


class StopOnRequest(BaseCallback):
    """Ends training after the current step once ``request`` holds a signal; must come last in the list.

    Not at the next update, which may be minutes away: the agent does not learn from the roll-out under way (PPO, A2C)
    or from its last step (the others).
    """

    def __init__(self, request: StopRequest):
        super().__init__()
        self.request = request

    def _on_step(self) -> bool:
        return not self.request.signals


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second acts as it always does."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can have handlers
        yield request
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        request.signals.append(number)
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
