"""Finished rows of ``catechism bench forget`` on disk, a file for each, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from catechism.delta.file import write_atomically
from catechism.errors import UsageError
from catechism.types import JSON

#: A row and its audit.
Finished = tuple[dict[str, JSON], JSON]


@dataclass(frozen=True, slots=True)
class SavedRows:
    """Where finished rows are kept. Two runs may share a folder, each with methods of its own.

    Attributes:
        folder: of these rows alone; None keeps nothing.
        about: what the rows are of; they are taken only for the same.
        defaults: of every method, as text.
    """

    folder: Path | None
    about: Mapping[str, JSON]
    defaults: Mapping[str, str]

    def find(self, name: str) -> Finished | None:
        """A row that is finished; None where it is not.

        Raises: UsageError if what is there is of another run, or cannot be read.
        """
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        try:
            held = json.loads(file.read_bytes())
            row, audit, about = held["row"], held["audit"], cast("dict[str, JSON]", held["about"])
            mine = self._about(name)
            wrong = [key for key in {*about, *mine} if about.get(key) != mine.get(key)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{file} cannot be read: {error}. Delete it, and {name} is measured again.") from error
        if wrong:
            raise UsageError(
                f"{file} was measured with different {' and '.join(sorted(wrong))}. Give the same command as before, "
                "or another folder to --resume."
            )
        return row, audit

    def keep(self, name: str, row: Mapping[str, JSON], audit: JSON) -> None:
        """Write a row that is finished."""
        if (file := self._file(name)) is not None:
            held: dict[str, JSON] = {"about": self._about(name), "row": dict(row), "audit": audit}
            write_atomically(file, json.dumps(held, allow_nan=False).encode())  # columns stay in their order

    def _about(self, name: str) -> dict[str, JSON]:
        return {**self.about, "defaults": self.defaults.get(name)}

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.json"
