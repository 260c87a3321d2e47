"""Where items come from: the embedded world, a data set on the hub, or files in the hub's or the original layout.

Every row remembers where it stood, so that whatever is wrong with it can be named. Data sets without splits are divided
by hash, and a hash says which items a split holds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steer_env.errors import first_line
from steer_env.tasks.world import world_rows


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        repo: its id on the hub.
        columns: columns that every row must have.
        config: configuration on the hub, where it has several; in a copy of the repository the folder of that name.
        revision: commit, tag or branch on the hub.
        splits: our names of splits, and of others the task reads (``"dev"``), to the data set's.
        whole: the data set's split that holds all items, for seeded splits; ``"all"`` asks for it.
        headerless: columns of CSV files without a header, in order, where the original release has such.
    """

    repo: str
    columns: tuple[str, ...]
    config: str | None = None
    revision: str = "main"
    splits: Mapping[str, str] = field(default_factory=dict)
    whole: str = "test"
    headerless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: by column.
        where: file and line, for messages; lines count from 1.
    """

    values: Mapping[str, Any]
    where: str

    def text(self, column: str) -> str:
        """A column that must hold text.

        Raises:
            ValueError: it does not.
        """
        value = self.values[column]
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{self.where}: {column} must be text, got {value!r}")
        return value


SPLITS = ("train", "validation", "test")
SHARES = (0.4, 0.1, 0.5)
_SPLIT_NAMES = ("auxiliary_train", "train", "validation", "val", "dev", "test")


def load_rows(data: str, split: str, source: Source, task: str) -> list[Row]:
    """All rows of a split.

    Args:
        data: ``"embedded"``, ``"hub"`` (the source's own id), another hub id, or a local file or folder
            (``.jsonl``, ``.json``, ``.csv``, ``.parquet``). In a folder the files of a split carry its name
            (``test.jsonl``, ``data/test-00000-of-00001.parquet``, ``anatomy_test.csv``).
        split: a key of ``source.splits``, or ``"all"`` for the whole data set.
        source: what the task knows about its data set.
        task: the task's key in the task table.

    Raises:
        ValueError: the data cannot be had, a file or line is malformed, or a column is missing (each is named).
    """
    path = Path(data) if isinstance(data, str) and data else None
    if data == "embedded":
        rows = [Row(row, f"embedded:{task}/{split}:{i}") for i, row in enumerate(world_rows(task, split), start=1)]
    elif data == "hub":
        rows = _from_hub(source.repo, split, source)
    elif path is not None and path.exists():
        rows = [row for file in _files(path, split, source) for row in _read(file, source)]
    elif path is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", data) and path.suffix not in _READERS:
        rows = _from_hub(data, split, source)
    else:
        raise ValueError(f"data must be 'embedded', 'hub', a hub id, or a file or folder that exists, got {data!r}")
    if not rows:
        raise ValueError(f"split {split!r} of {data!r} is empty")
    for row in rows:
        missing = [column for column in source.columns if column not in row.values]
        if missing:
            raise ValueError(f"{row.where}: column {missing[0]!r} is missing; there are {sorted(row.values)}")
    return rows


@dataclass(frozen=True)
class Items:
    """The rows of a split, and where they come from.

    Attributes:
        rows: what is asked, in order.
        examples: rows shown solved in every prompt; none of them is asked.
        data: the argument that named the data.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seeded: whether the split is ours and not the data set's.
    """

    rows: Sequence[Row]
    data: str
    split: str
    seeded: bool
    examples: Sequence[Row] = ()


def seeded_items(task: str, source: Source, data: str | None, split: str, group: Callable[[Row], str]) -> Items:
    """A split of a data set that has none; the embedded world comes divided.

    Raises:
        ValueError: there is no such split, or the data cannot be had.
    """
    check_split(split)
    if data is None or data == "embedded":
        return Items(load_rows("embedded", split, source, task), "embedded", split, seeded=False)
    rows = load_rows(data, "all", source, task)
    return Items(seeded_split(rows, split, group), data, split, seeded=True)


def seeded_split(
    rows: Sequence[Row],
    split: str,
    group: Callable[[Row], str],
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> list[Row]:
    """The rows of one split, in their order.

    A row's split follows from the hash of its group alone: other rows and their order do not matter, and rows of one
    group, in whatever letter case and spacing, are never in two splits.

    Args:
        rows: all rows.
        split: one of ``SPLITS``.
        group: from a row to what must stay together.
        seed: another seed, other splits.
        shares: of train, validation and test; they sum to 1.

    Raises:
        ValueError: there is no such split, or no row falls into it.
    """
    check_split(split)
    place = SPLITS.index(split)
    low, high = sum(shares[:place]), sum(shares[: place + 1])
    chosen = [row for row in rows if low <= _place(group(row), seed) < high]
    if not chosen:
        raise ValueError(f"the seeded split {split!r} of {len(rows)} rows is empty")
    return chosen


def split_sha256(rows: Sequence[Row]) -> str:
    """Hash of the rows' values in their order: equal hashes, equal items."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def check_split(split: str) -> None:
    """Refuse a split that no task has.

    Raises:
        ValueError: ``split`` is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")


def _files(path: Path, split: str, source: Source) -> list[Path]:
    """The files of a split; every file where a data set without splits is asked for all of it."""
    if source.config and (path / source.config).is_dir():
        path = path / source.config  # a copy of the hub's repository: other configurations hold the same items again
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"data must be one of {', '.join(_READERS)} or a folder of them, got {str(path)!r}")
        there = [path]
    else:
        there = sorted(file for file in path.rglob("*") if file.suffix in _READERS and file.is_file())
    name = source.whole if split == "all" else source.splits.get(split, split)
    named = [file for file in there if _split_of(file, path) == name]
    others = [file for file in there if not _split_of(file, path)]
    known = sorted({found for file in there if (found := _split_of(file, path))})
    if named:
        return named
    if there and split == "all" and (not known or not source.splits):
        if known and others:
            raise ValueError(
                f"{str(path)!r} has files of {known} and {others[0].name!r} beside them, which may hold the same rows: "
                "name one file"
            )
        return there
    raise ValueError(
        f"{str(path)!r} has no split {name!r}: its files are of {known or 'no split'}; "
        "splits='seeded' divides what there is, where the task takes it"
    )


def _split_of(file: Path, root: Path) -> str:
    """The split in a file's name (``test.jsonl``, ``test-00000-of-00003.parquet``, ``anatomy_test.csv``).

    The name of its folder below ``root`` goes first: ``auxiliary_train/mc_test.csv`` of MMLU's release is for training.
    """
    folder = "" if file.parent in (root, root.parent) else file.parent.name
    for name in (folder, file.stem):
        found = re.search(rf"(?:^|_)({'|'.join(_SPLIT_NAMES)})$", re.sub(r"-\d+-of-\d+$", "", name))
        if found:
            return {"val": "validation"}.get(found[1], found[1])
    return ""


def _read(file: Path, source: Source) -> Iterator[Row]:
    for line, values in _READERS[file.suffix](file, source):
        if not isinstance(values, Mapping):
            raise ValueError(f"{file}:{line}: a row must be an object of columns, got {type(values).__name__}")
        yield Row(values, f"{file}:{line}")


def _lines(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        yield from (_decoded(line, f"{file}:{number}") for number, line in enumerate(stream, start=1))


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error})") from error


def _jsonl(file: Path, source: Source) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(_lines(file), start=1):
        if text.strip():
            yield line, _json_of(text, f"{file}:{line}")


def _json(file: Path, source: Source) -> Iterator[tuple[int, Any]]:
    rows = _json_of("".join(_lines(file)), str(file))
    if not isinstance(rows, list):
        raise ValueError(f"{file}: a .json file must hold a list of rows, got {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _json_of(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error


def _csv(file: Path, source: Source) -> Iterator[tuple[int, Any]]:
    rows = csv.reader(_lines(file), strict=True)
    names: Sequence[str] = source.headerless
    try:
        for number, row in enumerate(row for row in rows if row):  # blank lines are none
            if number == 0 and set(names) <= set(row):
                names = row
                if len(set(names)) < len(names):
                    raise ValueError(f"{file}:{rows.line_num}: two columns of one name among {names}")
                continue
            if len(row) != len(names):
                raise ValueError(f"{file}:{rows.line_num}: expected {len(names)} columns {list(names)}, got {len(row)}")
            yield rows.line_num, {"file": file.name, **dict(zip(names, row, strict=True))}
    except csv.Error as error:
        raise ValueError(f"{file}:{rows.line_num}: not CSV ({error})") from error


def _parquet(file: Path, source: Source) -> Iterator[tuple[int, Any]]:
    import pyarrow  # slow to import, and only some files need it
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file}: not a parquet file ({error})") from error
    yield from enumerate(rows, start=1)


_READERS: dict[str, Callable[[Path, Source], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _from_hub(repo: str, split: str, source: Source) -> list[Row]:
    import datasets  # slow to import, and only the hub needs them
    import huggingface_hub

    name = source.whole if split == "all" else source.splits.get(split)
    if name is None:
        raise ValueError(f"data set {repo!r} has no split {split!r}; it has {sorted(source.splits)}")
    revision = source.revision if repo == source.repo else None
    try:
        # By its folder: offline, `load_dataset` does not find a repository by name although the cache holds it.
        folder = huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision)
        rows = datasets.load_dataset(folder, source.config, split=name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        pinned = f" --revision {revision}" if revision else ""
        raise ValueError(
            f"cannot load data set {repo!r} ({first_line(error)}). If it is gated, accept its terms on the hub and run "
            f"'hf auth login'; with no network, run 'hf download --repo-type dataset {repo}{pinned}' elsewhere "
            "and set HF_HUB_OFFLINE=1, or give data= a local file or folder, or data='embedded'"
        ) from error
    return [Row(row, f"hub:{repo}[{name}]:{i}") for i, row in enumerate(rows, start=1)]


def _place(group: str, seed: int) -> float:
    name = " ".join(group.casefold().split())
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
