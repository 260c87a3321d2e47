"""Recordings on disk: a folder of chunks, tensors as safetensors and columns as parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from agents.inside.recording import Recording, RolloutConfig, join

_ACTIVATION, _OBSERVATION = "activation/", "observation/"


def save_recording(folder: Path, chunks: Iterable[Recording], cfg: RolloutConfig) -> dict[str, int]:
    """Write chunks as they come; at most one is in memory.

    Args:
        folder: made here.
        chunks: of :func:`agents.inside.recording.record`.
        cfg: kept beside them, in ``recording.json``.

    Returns:
        How many ``rows``, ``trajectories`` and ``chunks`` there are.

    Raises:
        FileExistsError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"rows": 0, "trajectories": 0, "chunks": 0}
    for chunk in chunks:
        path = folder / f"chunk-{counts['chunks']:05}"
        tensors = {_ACTIVATION + name: rows.contiguous() for name, rows in chunk.activations.items()}
        tensors |= {_OBSERVATION + key: torch.from_numpy(np.array(rows)) for key, rows in chunk.observations.items()}
        save_file(tensors, path.with_suffix(".safetensors"))
        pq.write_table(pa.table(chunk.steps), path.with_suffix(".parquet"))
        counts["rows"] += len(chunk)
        counts["trajectories"] += len(np.unique(chunk.steps["trajectory"]))
        counts["chunks"] += 1
    (folder / "recording.json").write_text(json.dumps({**asdict(cfg), **counts}, indent=2) + "\n")
    return counts


def read_chunks(folder: Path, modules: Sequence[str] | None = None) -> Iterator[Recording]:
    """The chunks of a folder one by one, with the activations of these modules, all by default.

    Raises:
        FileNotFoundError: the folder holds no complete recording.
        ValueError: a module was not recorded; those that were are named.
    """
    if not (folder / "recording.json").is_file():
        raise FileNotFoundError(f"{folder} holds no complete recording")
    for path in sorted(folder.glob("chunk-*.safetensors")):
        table = pq.read_table(path.with_suffix(".parquet"))
        steps = {name: table[name].to_numpy() for name in table.column_names}
        with safe_open(path, framework="pt") as tensors:
            keys = list(tensors.keys())
            known = [key.removeprefix(_ACTIVATION) for key in keys if key.startswith(_ACTIVATION)]
            for name in modules or ():
                if name not in known:
                    raise ValueError(f"module {name!r} was not recorded; these were: {', '.join(known)}")
            wanted = known if modules is None else modules
            activations = {name: tensors.get_tensor(_ACTIVATION + name) for name in wanted}
            seen = [key for key in keys if key.startswith(_OBSERVATION)]
            observations = {key.removeprefix(_OBSERVATION): tensors.get_tensor(key).numpy() for key in seen}
        yield Recording(activations, observations, steps)


def read_recording(folder: Path, modules: Sequence[str] | None = None) -> Recording:
    """A whole folder at once; see :func:`read_chunks`."""
    return join(list(read_chunks(folder, modules)))
