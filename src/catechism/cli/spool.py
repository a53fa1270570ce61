"""Rows for ``--json`` that wait on the disk, so that a feed of a million lines needs no more memory than one of ten."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

from catechism.types import JSON


class Spool(list[JSON]):
    """A list that JSON can be written from, whose items are in a temporary file. It can only grow and be gone through.

    It is a list by name alone, since the encoder of the standard library takes nothing else for one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed in __del__
        self._rows = 0

    def __del__(self) -> None:
        self._file.close()  # the result that holds the rows has no end of its own

    def append(self, row: JSON) -> None:
        """Add a row at the end."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._rows += 1

    def __len__(self) -> int:
        return self._rows

    def __bool__(self) -> bool:
        return self._rows > 0

    def __iter__(self) -> Iterator[JSON]:
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)
        self._file.seek(0, 2)
