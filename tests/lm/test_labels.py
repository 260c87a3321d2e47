"""Labels against the definition, worked out by hand on a head whose rows are known; and those read from files."""

import gzip
import json
from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch

import steer_env  # noqa: F401
from steer_env.errors import SteeringError
from steer_env.lm.labels import feature_labels, label_source, promoted_tokens, read_labels

WORDS = ["<s>", "one", " two", "three", ""]


@pytest.fixture
def lm():
    rows = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.5], [8.0, 8.0]])
    return SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(weight=rows))


@pytest.fixture
def words():
    return SimpleNamespace(decode=lambda token: "" if token == 0 else WORDS[token])


def test_a_direction_is_named_by_the_written_tokens_it_promotes_most(lm, words):
    directions = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert promoted_tokens(lm, words, directions, k=2) == ["one three", "two three", "two three"]
    assert promoted_tokens(lm, words, directions, k=9)[0] == "one three two"


def test_many_directions_are_labelled_in_order(lm, words):
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(300, 1)
    assert promoted_tokens(lm, words, directions, k=1) == ["one", "two"] * 300
    assert promoted_tokens(lm, words, directions[:0], k=1) == []


def exported(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_a_neuronpedia_export_names_features_and_promoted_tokens_the_rest(tmp_path, lm, words):
    """Rows as Neuronpedia writes them: more fields than are read, indices as text, batches out of order."""
    common = {"modelId": "gemma-2-2b", "layer": "12-gemmascope-res-16k", "typeName": "oai_token-act-pair"}
    exported(tmp_path / "batch-1.jsonl.gz", [{**common, "index": "2", "description": " cows "}])
    rows = [{**common, "index": "0", "description": text} for text in ("numbers", "small numbers", "numbers")]
    exported(tmp_path / "batch-0.jsonl.gz", rows)
    directions = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    labels = feature_labels(str(tmp_path), lm, words, directions, [2, 0, 1])
    assert labels == ["cows", "numbers; small numbers", "one three two"]
    one = feature_labels(str(tmp_path / "batch-1.jsonl.gz"), lm, words, directions, [2])
    assert one == ["cows"]


def test_a_json_file_of_ones_own_names_features(tmp_path, lm, words):
    (tmp_path / "own.json").write_text('{"1": "lines\\u2028and quotes"}', encoding="utf-8")
    assert read_labels(str(tmp_path / "own.json"), 2) == {1: "lines\u2028and quotes"}
    exported(tmp_path / "own.jsonl", [{"index": 1, "description": "a\u2028b"}])
    assert read_labels(str(tmp_path / "own.jsonl"), 2) == {1: "a\u2028b"}


def test_without_a_source_every_feature_has_its_promoted_tokens(lm, words):
    directions = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert feature_labels(None, lm, words, directions, [1]) == promoted_tokens(lm, words, directions[1:])
    assert feature_labels(None, lm, words, directions, []) == []
    assert (label_source(None), label_source("/a/b")) == ("promoted tokens", "/a/b")


GOOD = {"index": "1", "description": "fine"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"index": "7"}], r"labels.jsonl:2: no 'description'"),
        ([{"description": "x"}], r"labels.jsonl:1: no 'index'"),
        ([GOOD, {"index": 24, "description": "x"}], r"labels.jsonl:2: index must be in \[0, 24\), got 24"),
        ([{"index": "-1", "description": "x"}], r"labels.jsonl:1: index must be a whole number, got '-1'"),
        ([{"index": True, "description": "x"}], r"labels.jsonl:1: index must be a whole number, got True"),
        ([GOOD, GOOD, {"index": 3, "description": None}], r"labels.jsonl:3: the label must be text, got None"),
        ([5], r"labels.jsonl:1: no 'description'"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path, rows, message):
    source = exported(tmp_path / "labels.jsonl", rows)
    with pytest.raises(SteeringError, match=message):
        read_labels(source, 24)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"index": 1, "desc', "x.jsonl:1: no JSON"),
        ("x.jsonl.gz", b"not gzip", "x.jsonl.gz: cannot be read"),
        ("x.json", b"[1]", "x.json: a JSON object of index and label is wanted, got list"),
        ("x.json", b"{", "x.json: no JSON"),
        ("x.jsonl", b"\xff\xfe", "x.jsonl: cannot be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SteeringError, match=message):
        read_labels(str(tmp_path / name), 24)


def test_labels_are_read_before_anything_is_played(tiny, tmp_path):
    """A bad source is refused when the environment is made, not after a run."""
    with pytest.raises(ValueError, match="labels '/no/such/file': no such file or folder"):
        gym.make("Steer-TicTacToe-v0", labels="/no/such/file", **tiny)
    with pytest.raises(ValueError, match=r"no batch-\*.jsonl.gz in this folder"):
        gym.make("Steer-TicTacToe-v0", labels=str(tmp_path), **tiny)
    source = exported(tmp_path / "batch-0.jsonl.gz", [GOOD])
    env = gym.make("Steer-TicTacToe-v0", labels=source, **tiny)
    assert env.unwrapped.episode.scene.labels == source
