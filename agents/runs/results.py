"""What result files hold: one dataclass a file, read and written as JSON, with a version."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from agents.runs.folder import write_json


@dataclass(frozen=True)
class ResultFile:
    """Base of the dataclasses that stand for a result file; fields are its keys.

    Attributes:
        VERSION: Raised when the meaning of a field changes, or a field without a default is added.
        MADE_BY: The command that makes the file, for messages.
    """

    VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = "steer"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            FileNotFoundError: It is not there (the message says which command makes it).
            ValueError: It is not JSON, of another version, or a field is missing or of another type (named).
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {cls.MADE_BY} makes it")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): {cls.MADE_BY} makes it anew") from error
        version = found.pop("version", None) if isinstance(found, dict) else None
        if version != cls.VERSION:
            raise ValueError(f"{path} is of version {version}, this is {cls.VERSION}: {cls.MADE_BY} makes it anew")
        return cls.from_dict(found, str(path))

    @classmethod
    def from_dict(cls, found: dict[str, Any], name: str = "the result") -> Self:
        """The dataclass of plain values, checked; ``name`` is what messages call them."""
        from pydantic import ValidationError  # a third of a second to import: only where files are read

        try:
            result: Self = _adapter(cls).validate_python(found)  # type: ignore[arg-type]  # classes are hashable
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{name}: {where or 'the whole'}: {first['msg']}, got {first['input']!r}") from error
        return result

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; numbers that JSON lacks (NaN, infinite) become null."""
        write_json(path, {"version": self.VERSION, **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are written."""
        return dataclasses.asdict(self)


@cache
def _adapter(cls: type[Any]) -> Any:
    from pydantic import TypeAdapter  # as above

    return TypeAdapter(cls)
