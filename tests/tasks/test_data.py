"""Rows from every kind of place, one clear error for everything that is wrong with one, and splits that stay apart."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
from huggingface_hub.errors import GatedRepoError
from hypothesis import given
from hypothesis import strategies as st

from steer_env.tasks.data import Row, Source, load_rows, seeded_split, split_sha256
from steer_env.tasks.world import world_rows

SOURCE = Source(
    repo="org/facts",
    columns=("question", "answer"),
    revision="0123456789012345678901234567890123456789",
    splits={"train": "auxiliary_train", "validation": "validation", "test": "test", "dev": "dev"},
)
WHOLE = Source(repo="org/whole", columns=("question", "answer"))  # a data set without splits
RELEASE = Source(repo="org/facts", columns=(), splits=SOURCE.splits, headerless=("question", "A", "B", "answer"))
ROWS = [{"question": "1 + 1?", "answer": "two, or 2"}, {"question": "Who's “here”?\nSay.", "answer": "é"}]


def write(file, rows=ROWS):
    """A file in the format that its name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows).to_parquet(file)
    return str(file)


def asked(rows):
    return [row.values["question"] for row in rows]


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_of_every_format_holds_the_same_rows(tmp_path, suffix):
    rows = load_rows(write(tmp_path / f"test{suffix}"), "test", SOURCE, "facts")
    assert [{name: row.values[name] for name in ("question", "answer")} for row in rows] == ROWS
    # In CSV the header is line 1, and a row is named by the line on which it ends.
    lines = (2, 4) if suffix == ".csv" else (1, 2)
    assert [row.where for row in rows] == [f"{tmp_path}/test{suffix}:{line}" for line in lines]


def test_blank_lines_count_and_a_byte_order_mark_does_not(tmp_path):
    (tmp_path / "test.jsonl").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\n\n \n" + b'{"question": 3}'
    )
    with pytest.raises(ValueError, match=r"test\.jsonl:4: column 'answer' is missing; there are \['question'\]"):
        load_rows(str(tmp_path), "test", SOURCE, "facts")


def test_lines_end_at_line_ends_only(tmp_path):
    row = {"question": "a\u2028b\x85c\x0cd", "answer": "\r"}  # what str.splitlines would cut
    (tmp_path / "test.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_rows(str(tmp_path), "test", SOURCE, "facts")[0].values == row


@pytest.mark.parametrize(
    "names",
    [
        ("test.jsonl", "dev.jsonl", "auxiliary_train.jsonl", "validation.jsonl"),
        (
            "all/test-00000-of-00001.parquet",
            "all/dev-00000-of-00001.parquet",
            "all/auxiliary_train-00000-of-00001.parquet",
        ),
        ("test/anatomy_test.csv", "dev/anatomy_dev.csv", "val/anatomy_val.csv", "auxiliary_train/mc_test.csv"),
        ("data/test.json", "data/train/auxiliary_train.json"),
    ],
)
def test_a_folder_has_a_file_a_split(tmp_path, names):
    for name in names:
        write(tmp_path / name, [{"question": name, "answer": "x"}])
    assert asked(load_rows(str(tmp_path), "test", SOURCE, "facts")) == [names[0]]


def test_the_files_of_a_split_come_in_the_order_of_their_names(tmp_path):
    for i in (2, 0, 1):
        write(tmp_path / f"test-0000{i}-of-00003.parquet", [{"question": str(i), "answer": ""}])
    assert asked(load_rows(str(tmp_path), "test", SOURCE, "facts")) == ["0", "1", "2"]


def test_the_original_release_keeps_training_files_out_of_test(tmp_path):
    for name in ("test/anatomy_test.csv", "val/anatomy_val.csv", "auxiliary_train/mc_test.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f'"What, in {name}?",x,y,B\nAnd?,A,B,A\n')
    for split, name in [
        ("test", "test/anatomy_test.csv"),
        ("validation", "val/anatomy_val.csv"),
        ("train", "auxiliary_train/mc_test.csv"),
    ]:
        rows = load_rows(str(tmp_path), split, RELEASE, "facts")
        first = {"file": name.split("/")[1], "question": f"What, in {name}?", "A": "x", "B": "y", "answer": "B"}
        assert rows[0].values == first
        assert rows[1].values == {**first, "question": "And?", "A": "A", "B": "B", "answer": "A"}
        assert rows[1].where == f"{tmp_path}/{name}:2"


def test_a_header_is_known_where_the_release_has_none(tmp_path):
    (tmp_path / "test.csv").write_text("subject,question,A,B,answer\nlaw,What?,x,y,B\n")
    rows = load_rows(str(tmp_path), "test", RELEASE, "facts")
    assert [dict(row.values) for row in rows] == [
        {"file": "test.csv", "subject": "law", "question": "What?", "A": "x", "B": "y", "answer": "B"}
    ]


def test_a_data_set_without_splits_is_all_files(tmp_path):
    for name in ("Age.jsonl", "Religion.jsonl"):
        write(tmp_path / name, [{"question": name, "answer": ""}])
    (tmp_path / "LICENSE").write_text("free")
    assert asked(load_rows(str(tmp_path), "all", WHOLE, "facts")) == ["Age.jsonl", "Religion.jsonl"]
    assert asked(load_rows(str(tmp_path / "Age.jsonl"), "all", WHOLE, "facts")) == ["Age.jsonl"]


@pytest.mark.parametrize(("source", "split"), [(SOURCE, "test"), (WHOLE, "all")])
def test_of_a_copy_of_the_repository_only_the_configuration_counts(tmp_path, source, split):
    for config in ("main", "socratic"):
        write(tmp_path / config / "test-00000-of-00001.parquet", [{"question": config, "answer": "x"}])
    assert asked(load_rows(str(tmp_path), split, replace(source, config="main"), "facts")) == ["main"]


def test_a_file_of_everything_beside_the_files_of_splits_is_refused(tmp_path):
    for name in ("texts_val.csv", "texts_test.csv"):
        write(tmp_path / name, [{"question": name, "answer": "x"}])
    parted = replace(WHOLE, whole="val+test")
    assert asked(load_rows(str(tmp_path), "all", parted, "facts")) == ["texts_test.csv", "texts_val.csv"]
    write(tmp_path / "texts_all.csv")
    with pytest.raises(
        ValueError, match=r"files of \['test', 'validation'\] and 'texts_all\.csv' beside them.*one file"
    ):
        load_rows(str(tmp_path), "all", parted, "facts")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_embedded_world_says_where_its_rows_are(split):
    rows = load_rows("embedded", split, Source("x/y", ("question",)), "mmlu")
    assert [row.values for row in rows] == world_rows("mmlu", split)
    assert rows[4].where == f"embedded:mmlu/{split}:5"


# ---------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What is downloaded, as ``(id, revision)``; every data set is the same local folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "set" / "test.jsonl", [{**ROWS[0], "info": {"names": ["a", "b"]}}])
    asked_for = []

    def snapshot(repo, repo_type, revision):
        asked_for.append((repo, repo_type, revision))
        return str(tmp_path / "set")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked_for


def test_the_hub_is_asked_for_the_pinned_revision(hub):
    rows = load_rows("hub", "test", SOURCE, "facts")
    assert rows[0].values == {**ROWS[0], "info": {"names": ["a", "b"]}}
    assert rows[0].where == "hub:org/facts[test]:1"
    assert load_rows("other/facts", "test", SOURCE, "facts")[0].where == "hub:other/facts[test]:1"
    assert hub == [("org/facts", "dataset", SOURCE.revision), ("other/facts", "dataset", None)]


def test_a_split_that_the_hub_lacks_is_named(hub):
    with pytest.raises(ValueError, match=r"data set 'org/whole' has no split 'train'; it has \[\]"):
        load_rows("hub", "train", WHOLE, "facts")
    with pytest.raises(ValueError, match=r"cannot load data set 'org/facts' \(Unknown split"):
        load_rows("hub", "validation", SOURCE, "facts")


def test_hub_means_the_hub_even_beside_a_folder_of_that_name(hub, tmp_path, monkeypatch):
    write(tmp_path / "hub" / "test.jsonl", [{"question": "mine", "answer": ""}])
    monkeypatch.chdir(tmp_path)
    assert load_rows("hub", "test", SOURCE, "facts")[0].where == "hub:org/facts[test]:1"


REMEDIES = ("hf auth login", "HF_HUB_OFFLINE=1", "data='embedded'", "data= a local file or folder")


def test_offline_the_error_says_how_to_get_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, when it is imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="cannot load data set 'org/facts'") as caught:
        load_rows("hub", "test", SOURCE, "facts")
    command = f"hf download --repo-type dataset org/facts --revision {SOURCE.revision}"
    for remedy in (command, *REMEDIES):
        assert remedy in str(caught.value)
    with pytest.raises(ValueError, match=r"'hf download --repo-type dataset other/facts' elsewhere"):
        load_rows("other/facts", "test", SOURCE, "facts")


def test_a_gated_data_set_says_how_to_be_let_in(monkeypatch):
    def refuse(repo, repo_type, revision):
        raise GatedRepoError("401: access to org/facts is restricted\nand more", response=_Response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match="cannot load data set 'org/facts'") as caught:
        load_rows("hub", "test", SOURCE, "facts")
    for part in ("access to org/facts is restricted", "accept its terms on the hub", *REMEDIES):
        assert part in str(caught.value)


class _Response:
    """As much of a web response as the error reads."""

    headers: dict[str, str] = {}
    request = None
    status_code = 401


# ---------------------------------------------------------------- what is wrong with a file


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", b'{"question": "x", "answer": "y"}\n{"question": ', r"test\.jsonl:2: not JSON \("),
        (
            "test.jsonl",
            b'{"question": "x", "answer": "y"}\n[1, 2]\n',
            r"test\.jsonl:2: a row must be an object.* list$",
        ),
        ("test.jsonl", b'{"question": "x"}\n', r"test\.jsonl:1: column 'answer' is missing; there are \['question'\]"),
        ("test.jsonl", b'{}\n\n{"question": "\xff"}\n', r"test\.jsonl:3: not UTF-8"),
        ("test.jsonl", b"", r"split 'test' of '.*test\.jsonl' is empty"),
        ("test.jsonl", b"\n \n", r"split 'test' of '.*test\.jsonl' is empty"),
        ("test.json", b"[]", r"split 'test' of '.*test\.json' is empty"),
        ("test.json", b'{"question": "x"}', r"test\.json: a \.json file must hold a list of rows, got dict"),
        ("test.json", b"[1", r"test\.json: not JSON"),
        ("test.json", b'[{"question": "x", "answer": ""}, 7]', r"test\.json:2: a row must be an object.* int$"),
        ("test.csv", b"", r"split 'test' of '.*test\.csv' is empty"),
        ("test.csv", b"question,answer\n", r"split 'test' of '.*test\.csv' is empty"),
        ("test.csv", b"question,answer\nx,y\nz\n", r"test\.csv:3: expected 2 columns \['question', 'answer'\], got 1"),
        ("test.csv", b"question,answer\nx,y,z\n", r"test\.csv:2: expected 2 columns .*, got 3"),
        ("test.csv", b"question,answer,answer\nx,y,z\n", r"test\.csv:1: two columns of one name among .*'answer'"),
        ("test.csv", b"question,answer\n\n\nx\n\n", r"test\.csv:4: expected 2 columns"),
        ("test.csv", b'question,answer\nx,"y\n', r"test\.csv:2: not CSV"),
        ("test.csv", b"question,answer\nx,y\n\xff,y\n", r"test\.csv:3: not UTF-8"),
        (
            "test.csv",
            b"question,other\nx,y\n",
            r"test\.csv:2: column 'answer' is missing; there are .*'other', 'question'",
        ),
        ("test.parquet", b"", r"test\.parquet: not a parquet file"),
        ("test.parquet", b"PAR1 and no more", r"test\.parquet: not a parquet file"),
        (
            "test.tsv",
            b"x",
            r"data must be one of \.jsonl, \.json, \.csv, \.parquet or a folder of them, got '.*test\.tsv'",
        ),
        ("train.jsonl", b"{}", r"train\.jsonl' has no split 'test': its files are of \['train'\]"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_rows(str(tmp_path / name), "test", SOURCE, "facts")


def test_a_headerless_row_with_too_few_fields_is_named(tmp_path):
    (tmp_path / "law_test.csv").write_text("What?,x,y,A\nWhat?,x,A\n")
    with pytest.raises(
        ValueError, match=r"law_test\.csv:2: expected 4 columns \['question', 'A', 'B', 'answer'\], got 3"
    ):
        load_rows(str(tmp_path), "test", RELEASE, "facts")


def test_a_folder_without_the_split_says_what_it_has(tmp_path):
    with pytest.raises(ValueError, match="has no split 'test': its files are of no split"):
        load_rows(str(tmp_path), "test", SOURCE, "facts")
    with pytest.raises(ValueError, match="has no split 'test'"):
        load_rows(str(tmp_path), "all", WHOLE, "facts")
    write(tmp_path / "dev.jsonl")
    (tmp_path / "test.jsonl").mkdir()  # a folder of that name is no file
    with pytest.raises(ValueError, match=r"has no split 'test': its files are of \['dev'\]"):
        load_rows(str(tmp_path), "test", SOURCE, "facts")


@pytest.mark.parametrize(
    "data", ["/no/such/folder", "data/test.jsonl", "nowhere", "a/b/c", "facts.csv", "org/facts.json"]
)
def test_a_path_that_is_not_there_is_no_hub_id(data):
    with pytest.raises(
        ValueError, match=f"data must be 'embedded', 'hub', a hub id, or a file .* exists, got '{data}'"
    ):
        load_rows(data, "test", SOURCE, "facts")


@pytest.mark.parametrize("data", ["", None, 3, Path("somewhere")])
def test_data_that_is_no_name_is_refused(data):
    with pytest.raises(ValueError, match=f"data must be 'embedded', 'hub', .*, got {re.escape(repr(data))}"):
        load_rows(data, "test", SOURCE, "facts")


def test_blank_lines_of_a_csv_are_no_rows(tmp_path):
    (tmp_path / "test.csv").write_text("question,answer\nx,y\n\nz,y\n\n")
    assert asked(load_rows(str(tmp_path), "test", SOURCE, "facts")) == ["x", "z"]


@pytest.mark.parametrize("value", [None, 3, "", "  \n", ["x"]])
def test_a_column_that_must_hold_text_and_does_not_is_named(value):
    row = Row({"question": value}, "facts.jsonl:7")
    with pytest.raises(ValueError, match=r"facts\.jsonl:7: question must be text, got"):
        row.text("question")


# ---------------------------------------------------------------- splits

SPLITS = ("train", "validation", "test")
MANY = [Row({"question": f"Number {i}?"}, f"f:{i}") for i in range(2_000)]


def question(row):
    return row.values["question"]


def test_every_row_is_in_one_split_and_shares_are_as_asked_for():
    found = {split: seeded_split(MANY, split, question) for split in SPLITS}
    assert sorted(row.where for rows in found.values() for row in rows) == sorted(row.where for row in MANY)
    for split, share in zip(SPLITS, (0.4, 0.1, 0.5), strict=True):
        # Within four standard deviations of a binomial count.
        assert abs(len(found[split]) - 2_000 * share) < 4 * (2_000 * share * (1 - share)) ** 0.5
    assert [row.where for row in found["test"]] == [row.where for row in MANY if row in found["test"]]


def test_a_split_is_the_same_on_every_machine():
    # sha256sum of "0:number 0?", "0:number 1?", ... as fractions of one: .945 .029 .149 .869 .280 .057 .249 .596
    assert [row.where for row in seeded_split(MANY[:8], "train", question)] == ["f:1", "f:2", "f:4", "f:5", "f:6"]
    assert [row.where for row in seeded_split(MANY[:8], "test", question)] == ["f:0", "f:3", "f:7"]
    # sha256sum of the two lines {"question": "Number 0?"} and {"question": "Number 1?"}
    expected = "089e54eb79cd1917de0c95c7282cf40f2d97f85faa843982d3bf2941e36a18e6"
    assert split_sha256(MANY[:2]) == expected


def test_seeds_differ_and_a_seed_is_a_seed():
    first, again, other = (seeded_split(MANY, "test", question, seed=seed) for seed in (0, 0, 1))
    assert first == again
    shared = len({row.where for row in first} & {row.where for row in other})
    assert 0.4 * len(first) < shared < 0.6 * len(first)  # as two independent halves


@given(st.randoms(use_true_random=False), st.integers(1, 300))
def test_neither_order_nor_other_rows_move_a_row(random, count):
    rows = random.sample(MANY, count) + MANY[:1]
    whole = {split: {row.where for row in seeded_split(MANY, split, question)} for split in SPLITS}
    for split in SPLITS:
        try:
            found = seeded_split(rows, split, question)
        except ValueError:  # empty
            assert not {row.where for row in rows} & whole[split]
            continue
        assert {row.where for row in found} == {row.where for row in rows} & whole[split]


def test_a_group_stays_together_in_whatever_case_and_spacing():
    rows = [Row({"question": text}, f"f:{i}:{text}") for i in range(200) for text in (f"Is it {i}?", f" is  IT {i}?\n")]
    for split in SPLITS:
        counts = Counter(row.where.split(":")[1] for row in seeded_split(rows, split, question))
        assert set(counts.values()) == {2}


def test_hashes_tell_values_and_their_order_and_nothing_else():
    first, second = Row({"a": 1, "b": "x"}, "f:1"), Row({"a": 2, "b": "x"}, "f:2")
    assert split_sha256([first, second]) == split_sha256([Row({"b": "x", "a": 1}, "elsewhere"), second])
    hashes = {split_sha256(rows) for rows in ([], [first], [second], [first, second], [second, first], [first, first])}
    assert len(hashes) == 6


def test_bad_splits_are_named():
    with pytest.raises(ValueError, match="split must be one of 'train', 'validation', 'test', got 'dev'"):
        seeded_split(MANY, "dev", question)
    with pytest.raises(ValueError, match="the seeded split 'test' of 0 rows is empty"):
        seeded_split([], "test", question)
