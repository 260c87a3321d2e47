"""Kinds of tokens and features on hand-made texts with known answers, and on the embedded models' own."""

import math

import gymnasium as gym
import numpy as np
import pytest

import steer_env  # noqa: F401  # registers the environments
from agents.analysis.feature_kinds import (
    TaskTexts,
    activations,
    along_each,
    among_all,
    describe,
    feature_kinds,
    information,
    levels,
    read_texts,
    topics_of,
)
from agents.analysis.token_kinds import FRAME, FUNCTION_WORDS, KINDS, frame_words, token_kinds, word_kind
from steer_env.evaluation.controls import Setting, unsteered
from steer_env.evaluation.play import play

# ---------------------------------------------------------------- information


def by_hand(levels, labels):
    """Plug-in mutual information in bits, summed cell by cell."""
    n, total = len(levels), 0.0
    for level in set(levels):
        for label in set(labels):
            both = sum(a == level and b == label for a, b in zip(levels, labels, strict=True))
            if both:
                apart = sum(a == level for a in levels) * sum(b == label for b in labels)
                total += both / n * math.log2(both * n / apart)
    return total


def test_independent_variables_tell_nothing_on_average():
    rng = np.random.default_rng(0)
    found = information(rng.integers(3, size=(300, 400)), labels := rng.integers(8, size=300), among_all(labels), 0)
    plug_in = np.mean([by_hand(column.tolist(), labels.tolist()) for column in rng.integers(3, size=(20, 300))])
    assert plug_in > 0.025, "what the correction is for: about 14 / (2 n ln 2)"
    assert abs(found.bits.mean()) < 0.002
    assert np.quantile(np.abs(found.bits), 0.95) < 0.04
    assert 0.01 < (found.p <= 0.05).mean() < 0.1


def test_the_estimate_is_the_plug_in_less_its_mean_over_shuffles():
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=60)
    column = np.where(rng.random(60) < 0.5, labels % 3, rng.integers(3, size=60))
    found = information(column[:, None], labels, among_all(labels), seed=5, shuffles=7)
    draws = np.random.default_rng(5)
    by_chance = [by_hand(column.tolist(), draws.permutation(labels).tolist()) for _ in range(7)]
    whole = by_hand(column.tolist(), labels.tolist())
    assert found.bits[0] == pytest.approx(whole - np.mean(by_chance))
    assert found.p[0] == (1 + sum(each >= whole for each in by_chance)) / 8
    shares = np.bincount(column) / 60
    assert found.entropy[0] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_a_variable_tells_all_of_itself_and_a_constant_nothing():
    labels = np.arange(800) % 4
    columns = np.stack([labels, np.zeros(800, dtype=int), 3 - labels], axis=1)
    found = information(columns, labels, among_all(labels), 0)
    assert found.bits == pytest.approx([2, 0, 2], abs=0.02)
    assert found.entropy == pytest.approx([2, 0, 2])
    assert found.p == pytest.approx([1 / 101, 1, 1 / 101])


def test_sequences_are_turned_round_each_within_itself():
    labels, lengths = np.array([0, 1, 2, 3, 7, 8, 9]), np.array([4, 0, 3])
    shuffled, rng = along_each(labels, lengths), np.random.default_rng(0)
    drawn = {tuple(shuffled(rng).tolist()) for _ in range(200)}
    turns = [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]
    assert drawn == {(*first, *then) for first in turns for then in ([7, 8, 9], [8, 9, 7], [9, 7, 8])}


def test_runs_of_neighbours_are_no_evidence_of_position():
    """Few texts, a run of activity at a random place of each: shuffled freely, most would look significant."""
    texts, length, features = 12, 48, 600
    bins = np.tile(np.arange(length) // 6, texts)
    begins = np.random.default_rng(2).integers(length, size=(texts, 1, features))
    active = (((np.arange(length)[:, None] - begins) % length) < 12).astype(int).reshape(-1, features)
    fair = information(active, bins, along_each(bins, np.full(texts, length)), 0)
    naive = information(active, bins, among_all(bins), 0)
    assert (naive.p <= 0.05).mean() > 0.5
    assert (fair.p <= 0.05).mean() < 0.1
    assert abs(fair.bits.mean()) < 3 * fair.bits.std() / math.sqrt(features)


@pytest.mark.parametrize(
    ("rows", "labels", "shuffles", "message"),
    [(0, 0, 5, "got 0 and 0"), (3, 2, 5, "got 3 and 2"), (3, 3, 0, "shuffles must be at least 1, got 0")],
)
def test_samples_that_do_not_fit_are_named(rows, labels, shuffles, message):
    labels = np.zeros(labels, dtype=int)
    with pytest.raises(ValueError, match=message):
        information(np.zeros((rows, 1), dtype=int), labels, among_all(labels), 0, shuffles)


# ---------------------------------------------------------------- kinds of tokens


class Pieces:
    """A tokenizer whose tokens are numbered pieces of text; the first is special, ``▁`` stands for a space."""

    def __init__(self, *pieces):
        self.pieces, self.hf, self.all_special_ids = pieces, self, [0]

    def decode(self, token):
        return "" if token == 0 else self.pieces[token].removeprefix("▁")

    def convert_ids_to_tokens(self, token):
        return self.pieces[token]


def kinds_of(pieces, prompt=None):
    words = Pieces("<s>", *pieces)
    row = list(range(len(pieces) + 1))
    return token_kinds([row], [len(row) if prompt is None else prompt], words)[0]


def test_a_token_is_of_the_kind_of_its_word():
    pieces = ["Al", "ice", "▁the", "ory", "▁the", "▁ory", ",", "▁12", "\n", "▁don", "'", "t", "_", "▁"]
    assert kinds_of(pieces, prompt=1) == [
        *("format", "content", "content", "content", "content", "function", "content"),
        *("punctuation", "digits", "punctuation", "content", "punctuation", "function", "punctuation", "punctuation"),
    ]


def test_the_frame_is_what_nearly_all_prompts_have():
    prompts = [["Question", "the", "A", "ship"]] * 19 + [["Question", "A", "moon"]]
    assert frame_words(prompts) == {"Question", "the", "A", "ship"}
    assert frame_words(prompts[:9] + [["Question"]] * 2) == {"Question"}
    assert FRAME == 0.9


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("", "punctuation"),
        ("7th", "digits"),
        ("The", "function"),
        ("A", "format"),
        ("Answer", "format"),
        ("answer", "content"),
        ("I", "function"),
    ],
)
def test_a_word_is_of_one_kind(word, kind):
    assert word_kind(word, frozenset({"A", "Answer", "the"})) == kind
    assert kind in KINDS


def test_the_letter_of_an_option_is_an_article_elsewhere():
    assert word_kind("A", frozenset()) == "function"
    assert word_kind("B", frozenset({"B"})) == "format"
    assert word_kind("B", frozenset()) == "content"


def test_function_words_are_lower_case_and_no_content():
    assert {"the", "of", "not", "which", "would", "because"} <= FUNCTION_WORDS
    assert all(word == word.lower() and word.isalpha() for word in FUNCTION_WORDS)
    assert not {"ship", "answer", "time", "people", "make", "good", "two"} & FUNCTION_WORDS


def test_no_texts_have_no_kinds():
    with pytest.raises(ValueError, match="no texts"):
        token_kinds([], [], Pieces("<s>"))


# ---------------------------------------------------------------- kinds of features

LENGTH, TEXTS = 9, 64  # the first position is not read
ORDER = ["format", "content", "punctuation", "function", "content", "punctuation", "digits", "content", "punctuation"]


@pytest.fixture
def texts():
    topics = {"subject": ["sea", "sky", "sea", "war"] * (TEXTS // 4)}
    return TaskTexts([[0] * LENGTH] * TEXTS, [ORDER] * TEXTS, topics)


def active_where(*columns):
    """Activations of the read tokens: each column a function of text and position."""
    grid = [[[column(text, place) for column in columns] for place in range(1, LENGTH)] for text in range(TEXTS)]
    return np.array(grid, dtype=np.float32).reshape(TEXTS * (LENGTH - 1), len(columns))


def test_what_a_feature_fires_on_is_its_kind(texts):
    rng = np.random.default_rng(0)
    noise = rng.random((TEXTS, LENGTH))
    active = active_where(
        lambda text, place: ORDER[place] == "punctuation" and 1 + noise[text, place],
        lambda text, place: ORDER[place] == "content" and 1 + noise[text, place],
        lambda text, place: ORDER[place] in ("function", "digits", "content"),
        lambda text, place: 0.0,
        # Everywhere a little, on one digit in each text the most: only the strongest tokens count.
        lambda text, place: 5.0 if ORDER[place] == "digits" else noise[text, place],
    )
    found = describe(active, texts)
    assert [row["kind"] for row in found] == ["punctuation", "content", "content", "silent", "digits"]
    assert found[0]["kind_shares"] == {kind: float(kind == "punctuation") for kind in KINDS}
    assert found[3]["kind_shares"] is None
    assert found[4]["kind_shares"]["digits"] == 1.0
    assert [row["activity"] for row in found] == [3 / 8, 3 / 8, 4 / 8 + 1 / 8, 0.0, 1.0]
    assert texts.token_shares() == pytest.approx(
        {"punctuation": 3 / 8, "function": 1 / 8, "digits": 1 / 8, "format": 0, "content": 3 / 8}
    )


def test_no_kind_has_half_of_a_mixed_feature(texts):
    heights = {"function": 1.0, "digits": 1.0, "content": 1.0}
    (row,) = describe(active_where(lambda text, place: text < 10 and heights.get(ORDER[place], 0)), texts)
    assert row["kind"] == "content", "three of its five tokens a text are content words"
    places = {2: 1.0, 3: 1.0, 6: 1.0}
    (row,) = describe(active_where(lambda text, place: text < 10 and places.get(place, 0)), texts)
    assert row["kind"] == "mixed"
    assert row["kind_shares"]["digits"] == pytest.approx(1 / 3)


def test_what_a_features_activity_tells(texts):
    rng = np.random.default_rng(3)
    heights = rng.random((TEXTS, LENGTH))
    topics = np.array(texts.topics["subject"])
    active = active_where(
        lambda text, place: place == 4,  # locked to a position
        lambda text, place: topics[text] == "sea",  # to a topic, at any position
        lambda text, place: heights[text, place] < 0.3,  # to neither
        lambda text, place: 1.0 + (topics[text] == "sea"),  # always active, stronger with a topic
    )
    rows = describe(active, texts)
    position = [row["information"]["position"] for row in rows]
    subject = [row["information"]["subject"] for row in rows]
    one_of_eight = -(1 / 8 * math.log2(1 / 8) + 7 / 8 * math.log2(7 / 8))
    assert position[0]["entropy"] == pytest.approx(one_of_eight)
    assert position[0]["bits"] == pytest.approx(one_of_eight, abs=0.02)
    assert position[1]["bits"] == pytest.approx(0, abs=1e-6)
    assert subject[1]["bits"] == pytest.approx(1, abs=0.05)
    assert subject[3]["bits"] == pytest.approx(1, abs=0.05)
    assert [abs(subject[0]["bits"]) < 1e-6, abs(position[3]["bits"]) < 1e-6] == [True, True]
    assert abs(position[2]["bits"]) < 0.02
    assert abs(subject[2]["bits"]) < 0.05
    assert [row["p"] < 0.02 for row in position] == [True, False, False, False]
    assert [row["p"] < 0.02 for row in subject] == [False, True, False, True]


def test_activity_has_three_levels():
    active = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]])
    assert levels(active).T.tolist() == [[0, 1, 1, 2, 2], [0, 0, 0, 0, 0]]


def test_topics_are_shared_by_items():
    finals = [{"subject": "ab"[i % 2], "target": str(i), "label": "same"} for i in range(16)]
    assert topics_of(finals) == {"subject": [final["subject"] for final in finals]}
    assert topics_of([{"answer": "a"}] * 4) == {}


def test_activations_that_do_not_fit_the_texts_are_named(texts):
    with pytest.raises(ValueError, match="512 tokens behind their first ones, got 3 rows"):
        describe(np.zeros((3, 1)), texts)


# ---------------------------------------------------------------- the embedded models


@pytest.fixture(scope="module")
def mmlu():
    return gym.make_vec("Steer-MMLU-v0", num_envs=8)


def test_texts_are_prompts_and_what_the_model_writes(mmlu):
    texts = read_texts(mmlu, range(40))
    parts = mmlu.unwrapped.episode.scene
    for item in (0, 7, 39):
        opening = parts.task.start(item).opening
        assert parts.tokenizer.decode(*texts.rows[item][:-1]) == opening
        assert parts.tokenizer.decode(texts.rows[item][-1]).strip() in "ABCD"
        words = dict(zip([parts.tokenizer.decode(token) for token in texts.rows[item]], texts.kinds[item], strict=True))
        assert (words["A"], words["."], words[" the"], words[" options"]) == (
            *("format", "punctuation", "function", "format"),
        )
        assert sum(kind == "content" for kind in texts.kinds[item]) >= 5, "four words and what is asked for"
    assert set(texts.topics) == {"subject", "target"}


@pytest.mark.parametrize("illegal", ["loss", "random_move"])
def test_of_a_game_the_moves_are_read_as_the_model_reads_them(illegal):
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=4, illegal=illegal, temperature=5.0)
    texts, words = read_texts(envs, range(20), seed=3), envs.unwrapped.tokenizer
    finals = play(envs, unsteered(Setting()), range(20), 3, tokens=False).episodes
    for row, kinds, final in zip(texts.rows, texts.kinds, finals, strict=True):
        said = [words.decode(token).strip() for token in row[1:]]
        # The last move of a lost game is the teacher's, behind which nobody writes; an illegal one is no move.
        known = min(len(said), len(final["moves"]))
        assert "".join(said)[:known] == final["moves"][:known]
        assert len(final["moves"]) - 1 <= len(said) <= len(final["moves"]) + 1
        assert kinds == ["format"] + ["digits"] * (len(row) - 1)
    assert any(final["illegal_moves"] for final in finals)
    assert texts.topics == {}


def test_activations_are_those_that_the_environment_sees(mmlu):
    texts = read_texts(mmlu, range(8))
    mmlu.reset(seed=0, options={"items": list(range(8))})
    seen = mmlu.unwrapped.encode()
    found = activations(mmlu, texts.rows, [5, 160, 7])
    last = np.cumsum([len(row) - 1 for row in texts.rows]) - 2  # behind the prompt's last token one is written
    np.testing.assert_allclose(found[last], seen[:, [5, 160, 7]].numpy(), atol=1e-3)


def test_features_keep_their_numbers(mmlu):
    texts = read_texts(mmlu, range(24))
    pair, alone = feature_kinds(mmlu, texts, [160, 4]), feature_kinds(mmlu, texts, [4])
    assert list(pair) == [160, 4]
    assert pair[4]["kind_shares"] == alone[4]["kind_shares"] != pair[160]["kind_shares"]
    for name, told in alone[4]["information"].items():
        assert pair[4]["information"][name] == pytest.approx(told)
    assert feature_kinds(mmlu, texts, []) == {}
