"""Results of steps in one ``.npz`` file each: JSON, and the arrays that it names. Read again, they are what they were.

Unlike a pickle such a file holds no code; of classes it names those of ``CLASSES`` alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.compare.results import ArmResult, Gain, ItemOracle, Layer, Strength, Test, UsedFeatures
from agents.finetune import FineTuned
from agents.runs.agent_files import read_arrays
from steer_env.evaluation.controls import FixedSearch
from steer_env.evaluation.corrsteer import CorrSteer
from steer_env.evaluation.linear_probe import Reading, ReadOff
from steer_env.evaluation.play import Played

CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(ArmResult, CorrSteer, FineTuned, FixedSearch, Gain, ItemOracle, Layer),
        *(Played, ReadOff, Reading, Strength, Test, UsedFeatures),
    )
}
"""What may be kept, beside plain values and arrays: dataclasses, whose fields are written."""
_TREE = "json"
_AS_THEY_ARE = (type(None), bool, int, float, str)

Arrays = dict[str, npt.NDArray[Any]]


def write_plain(path: Path, value: Any) -> None:
    """Write a value, whole or not at all.

    Raises:
        TypeError: It holds something else than plain values, paths, arrays and ``CLASSES``.
    """
    arrays: dict[str, Any] = {}
    tree = json.dumps(_plain(value, arrays)).encode()
    arrays[_TREE] = np.frombuffer(tree, dtype=np.uint8)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)


def read_plain(path: Path) -> Any:
    """What :func:`write_plain` wrote.

    Raises:
        ValueError: The file is none of these.
    """
    try:
        arrays = read_arrays(path)
        return _value(json.loads(arrays.pop(_TREE).tobytes()), arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no result of a step ({error}): without it the step is done again") from error


def _plain(value: Any, arrays: Arrays) -> Any:
    """``value`` as JSON; a dictionary with one key that begins with ``$`` says what else stood there."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, np.generic):
        return {"$number": [value.dtype.str, value.item()]}
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {"$objects": [list(value.shape), [_plain(each, arrays) for each in value.ravel()]]}
        arrays[str(len(arrays))] = value
        return {"$array": str(len(arrays) - 1)}
    if isinstance(value, list):
        return [_plain(each, arrays) for each in value]
    if isinstance(value, tuple):
        return {"$tuple": [_plain(each, arrays) for each in value]}
    if isinstance(value, dict):
        pairs = {key: _plain(each, arrays) for key, each in value.items()}
        named = all(type(key) is str and not key.startswith("$") for key in pairs)
        return pairs if named else {"$dict": [[_plain(key, arrays), each] for key, each in pairs.items()]}
    if isinstance(value, Path):
        return {"$path": str(value)}
    if CLASSES.get(type(value).__name__) is type(value):
        return {f"${type(value).__name__}": _plain(vars(value), arrays)}
    raise TypeError(f"a result of a step cannot hold a {type(value).__name__}: add it to CLASSES")


def _value(tree: Any, arrays: Arrays) -> Any:
    if isinstance(tree, list):
        return [_value(each, arrays) for each in tree]
    if not isinstance(tree, dict):
        return tree
    [*first] = tree
    if len(first) != 1 or not first[0].startswith("$"):
        return {key: _value(each, arrays) for key, each in tree.items()}
    kind, held = first[0][1:], tree[first[0]]
    if kind == "array":
        return arrays[held]
    if kind == "number":
        return np.dtype(held[0]).type(held[1])
    if kind == "objects":
        flat = np.empty(len(held[1]), dtype=object)
        for place, each in enumerate(held[1]):
            flat[place] = _value(each, arrays)
        return flat.reshape(held[0])
    if kind == "tuple":
        return tuple(_value(each, arrays) for each in held)
    if kind == "dict":
        return {_value(key, arrays): _value(each, arrays) for key, each in held}
    return Path(held) if kind == "path" else CLASSES[kind](**_value(held, arrays))
