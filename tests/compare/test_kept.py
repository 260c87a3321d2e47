"""What a step came to is read again as it was, and a file that somebody made up is refused before it runs anything."""

import json
import pickle
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from agents.compare.kept import Kept
from agents.compare.plain_files import CLASSES, read_plain, write_plain
from agents.runs.pickles import TRUST
from steer_env.evaluation.controls import FixedSearch
from steer_env.evaluation.linear_probe import ReadOff
from steer_env.evaluation.play import Played


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert all(map(same, one.ravel().tolist(), other.ravel().tolist()))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert all(same(one[key], other[key]) for key in one)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        assert all(map(same, one, other))
    elif is_dataclass(one):
        assert all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    else:
        assert one == other or (np.isnan(one) and np.isnan(other))
    return True


RESULTS = [
    None,
    [3, 1, 2],
    0.1 + 0.2,
    {4: {"name": "sae", "quality": {"l0": np.float32(0.1), "fvu": float("nan")}}},
    {"$tuple": [1], ("a", 2): True},
    {"$tuple": [1]},
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(["a", "bc"]),
    np.array([None, "a", [1, (2,)]], dtype=object),
    np.array([[None, [1, 2]], [[3, 4], "b"]], dtype=object),
    np.zeros((2, 0), dtype=np.int16),
    Path("runs/a"),
    Played([{"score": np.float64(1.0), "board": np.array([1, 2]), "said": "x"}], {"token": np.array([5, 6])}),
    FixedSearch(3, [{"round": 0, "score": 0.5, "n": np.int64(4), "strength": -1}]),
    [ReadOff("target", 0.5, 0.25)],
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_read_again_as_it_was(result, tmp_path):
    kept = Kept(tmp_path)
    made, seconds = kept.timed("a step", lambda: result)
    assert made is result
    again, before = kept.timed("a step", lambda: pytest.fail("done twice"))
    assert before == seconds
    same(again, result)
    assert [path.name for path in tmp_path.iterdir()] == ["a-step.npz"]


def test_what_may_be_kept_is_read_by_its_fields():
    assert all(is_dataclass(cls) and cls.__name__ == name for name, cls in CLASSES.items())


def test_what_is_no_result_is_not_written(tmp_path):
    @dataclass
    class Other:
        a: int

    for value in (Other(1), {1, 2}, lambda: 0):
        with pytest.raises(TypeError, match="a result of a step cannot hold a"):
            write_plain(tmp_path / "a.npz", [value])
    assert list(tmp_path.iterdir()) == []


class Marker:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_a_foreign_file_is_not_run(tmp_path, monkeypatch):
    marker, kept = tmp_path / "marker", Kept(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.pickle").write_bytes(pickle.dumps((Marker(marker), 1.0)))
    with pytest.raises(ValueError, match=r"a\.pickle is of an older version .* can run any code.*--trust-pickle"):
        kept.get("a", lambda: 1)
    np.savez(tmp_path / "kept" / "b.npz", json=np.array([Marker(marker)], dtype=object))
    (tmp_path / "kept" / "c.npz").write_bytes(pickle.dumps(Marker(marker)))
    tree = np.frombuffer(json.dumps({"$Path": {"a": 1}}).encode(), dtype=np.uint8)
    np.savez(tmp_path / "kept" / "d.npz", json=tree)
    (tmp_path / "kept" / "e.npz").write_bytes(b"")
    for name in "bcde":
        with pytest.raises(ValueError, match=rf"{name}\.npz holds no result of a step"):
            kept.get(name, lambda: 1)
    with pytest.raises(ValueError, match="holds no result"):
        read_plain(tmp_path / "kept" / "b.npz")
    assert not marker.exists()
    monkeypatch.setenv(TRUST, "1")
    kept.get("a", lambda: 1)
    assert marker.exists()
