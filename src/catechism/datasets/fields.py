"""Typed access to the values of a row. Every refusal names the key and what should stand there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from catechism.errors import BadFeed
from catechism.facts.checks import kind_of


@dataclass(frozen=True, slots=True)
class Fields:
    """The values of one object of a row.

    Attributes:
        values: the object.
        name: what it is called in the row, with a full stop behind it; "" for the row itself.
    """

    values: Mapping[str, object]
    name: str = ""

    def __contains__(self, key: str) -> bool:
        """Whether there is a value other than null."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """A text; a number is taken as its digits. Raises BadFeed if it is missing or something else."""
        value = self.values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, at any depth: ``["a", ["b", "c"]]`` is three. A single text is a list of one, null of none.

        Raises: BadFeed for anything else.
        """
        return tuple(self._flat(key, self.values.get(key)))

    def object(self, key: str) -> Fields:
        """An object. Raises BadFeed if it is missing or something else."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return Fields(cast("dict[str, object]", value), f"{self.name}{key}.")

    def objects(self, key: str) -> tuple[Fields, ...]:
        """A list of objects; empty if the key is missing or null. Raises BadFeed for anything else."""
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._wrong(key, "a list of objects", value)
        found: list[Fields] = []
        for i, item in enumerate(cast("list[object]", value)):
            if not isinstance(item, dict):
                raise self._wrong(f"{key}[{i}]", "an object", item)
            found.append(Fields(cast("dict[str, object]", item), f"{self.name}{key}[{i}]."))
        return tuple(found)

    def _flat(self, key: str, value: object) -> Iterator[str]:
        if value is None:
            return
        if isinstance(value, str):
            yield value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield str(value)
        elif isinstance(value, list):
            for item in cast("list[object]", value):
                yield from self._flat(key, item)
        else:
            raise self._wrong(key, "a list of texts", value)

    def _wrong(self, key: str, wanted: str, value: object) -> BadFeed:
        at = f"{self.name}{key}"
        if value is None:
            return BadFeed(f"There is no value for {at!r}; {wanted} is needed. Fill it in, or leave the row out.")
        return BadFeed(f"{at!r} must be {wanted}, got {kind_of(value)}. Correct it, or leave the row out.")
