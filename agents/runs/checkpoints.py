"""Everything a training run needs to go on: saved by a callback between two updates, put back by ``restore``.

Lanes are not saved: a resumed run starts new episodes, from a seed of its own so that it does not meet the
same items in the same order again.
"""

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
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from agents.runs.agent_files import fill, read_agent, read_arrays, save_agent
from agents.runs.folder import read_json, write_json
from agents.runs.loading import load_mask, save_mask
from agents.runs.pickles import UntrustedPickleError, restore_pickled, trusted
from steer_env.evaluation.masks import ActionMask

Array = npt.NDArray[Any]
RANDOM, REPLAY = "random.json", "replay_buffer.npz"


def save_state(folder: Path, model: BaseAlgorithm, mask: ActionMask | None) -> None:
    """Write the agent, its replay buffer if it has one, the mask and all random states into ``folder``."""
    save_agent(model, folder)
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        save_replay_buffer(buffer, folder)
    if mask is not None:
        save_mask(mask, folder)
    write_json(folder / RANDOM, random_states(model))


def restore(folder: Path, model: BaseAlgorithm, mask: ActionMask | None) -> BaseAlgorithm:
    """The agent of :func:`save_state`: a fresh ``model`` is filled, and mask and random states are put back in place.

    Raises:
        ValueError: What was saved is of another agent.
        UntrustedPickleError: An older version saved it.
    """
    if (folder / "model.zip").is_file():
        if not trusted():
            raise UntrustedPickleError(folder, "was saved as pickles by an older version")
        assert model.env is not None
        model, states = restore_pickled(folder, type(model), model.env, str(model.device))
    else:
        fill(model, read_agent(folder))
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            load_replay_buffer(buffer, folder)
        states = read_json(folder / RANDOM)
    if mask is not None:
        load_mask(mask, folder)
    set_random_states(model, states)
    return model


def save_replay_buffer(buffer: ReplayBuffer, folder: Path) -> None:
    """Write the transitions that a buffer holds into ``replay_buffer.npz``."""
    rows = buffer.buffer_size if buffer.full else buffer.pos
    held: dict[str, Any] = {name: array[:rows] for name, array in _columns(buffer).items()}
    np.savez(folder / REPLAY, pos=buffer.pos, full=buffer.full, **held)


def load_replay_buffer(buffer: ReplayBuffer, folder: Path) -> None:
    """Fill a new buffer of the same settings.

    Raises:
        ValueError: It is of another kind or size.
    """
    path, columns = folder / REPLAY, _columns(buffer)
    saved = read_arrays(path)
    if saved.keys() != {"pos", "full", *columns}:
        raise ValueError(f"{path} is of another buffer than {type(buffer).__name__}")
    pos, full = int(saved["pos"]), bool(saved["full"])
    rows = buffer.buffer_size if full else pos
    for name, column in columns.items():
        held, shape = saved[name], (rows, *column.shape[1:])
        if (held.shape, held.dtype) != (shape, column.dtype) or not 0 <= pos < buffer.buffer_size:
            found = f"{held.dtype} {list(held.shape)}"
            raise ValueError(f"{path}: {name} is {found} up to row {pos}, expected {column.dtype} {list(shape)}")
        column[:rows] = held
    buffer.pos, buffer.full = pos, full


def _columns(buffer: ReplayBuffer) -> dict[str, Array]:
    """The arrays of a buffer, one row a step; those of a dictionary of observations by both names."""
    if buffer.optimize_memory_usage:
        raise ValueError("optimize_memory_usage keeps no whole transitions: leave it off, and checkpoints can be made")
    columns = {}
    for name, value in vars(buffer).items():
        if isinstance(value, np.ndarray):
            columns[name] = value
        elif isinstance(value, dict):
            columns |= {f"{name}.{part}": array for part, array in value.items() if isinstance(array, np.ndarray)}
    return columns


def random_states(model: BaseAlgorithm) -> dict[str, Any]:
    """State of every generator that training draws from, the lanes' own aside, in plain values."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        # Draws the first actions of off-policy algorithms.
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def set_random_states(model: BaseAlgorithm, states: Mapping[str, Any]) -> None:
    """Put back :func:`random_states`; of the states of CUDA devices, those of the devices that are here."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.as_tensor(states["torch"], dtype=torch.uint8))
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(torch.as_tensor(state, dtype=torch.uint8), device)
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
