"""Labels against the definition, worked out by hand on a head whose rows are known."""

from types import SimpleNamespace

import pytest
import torch

from steer_env.labels import promoted_tokens

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
