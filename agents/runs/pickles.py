"""Pickles of other people: what Stable-Baselines3's ``save`` wrote is read without them, and the rest is refused.

Unpickling runs whatever code a file names. Nothing here or elsewhere does it unless it is asked for by name:
``--trust-pickle`` on a command line, ``trust_pickle=True`` of :func:`agents.load_run`.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from zipfile import ZipFile

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv

from agents.runs.agent_files import COUNTERS, SavedAgent

TRUST = "STEER_TRUST_PICKLE"
"""Environment variable by which the command's flag reaches the processes that it starts."""
_SAFE_TORCH = (2, 6)  # before it, weights_only could be got round (CVE-2025-32434)


class UntrustedPickleError(ValueError):
    """A file can only be read by unpickling it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} {why}, and unpickling a file can run any code: if you trust whoever made it, give --trust-pickle "
            "(trust_pickle=True of load_run)"
        )


def trusted(asked: bool = False) -> bool:
    """Whether pickles may be read: ``asked``, or by the command's flag."""
    return asked or os.environ.get(TRUST) == "1"


def read_zip(path: Path) -> SavedAgent:
    """The tensors and counters of an agent that Stable-Baselines3's ``save`` wrote; nothing is unpickled.

    Raises:
        UntrustedPickleError: They cannot be read otherwise.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
        raise UntrustedPickleError(path, f"is not safe to read with PyTorch {torch.__version__} (2.6 is)")
    try:
        _, states, variables = load_from_zip_file(path, load_data=False, device="cpu")
        with ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        counters = {name: data[name] for name in COUNTERS if type(data.get(name)) in (int, float)}
        found = {name: value for name, value in (variables or {}).items() if value is not None}
        return SavedAgent(path, {name: dict(state) for name, state in states.items()}, found, counters)
    except Exception as error:  # a file that somebody made up can fail in any way
        raise UntrustedPickleError(path, f"holds more than tensors ({type(error).__name__})") from error


def restore_pickled(folder: Path, cls: type[BaseAlgorithm], vec_env: VecEnv, device: str) -> tuple[BaseAlgorithm, dict]:
    """The agent of a checkpoint as they once were, and the random states; the caller trusts it."""
    model = cls.load(folder / "model.zip", env=vec_env, device=device)
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(folder / "replay_buffer.pkl")
    return model, pickle.loads((folder / "random.pkl").read_bytes())
