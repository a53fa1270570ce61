"""Where the facts of a benchmark come from: the Almanac, a feed, or a file of a public benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from catechism.bench.cases import draw_catechisms
from catechism.datasets import FEED, open_dataset
from catechism.errors import BadFact, BadFeed
from catechism.evaluate.interview import answer_budget
from catechism.matching import passes
from catechism.model import LiveModel
from catechism.reference.world import load_world
from catechism.types import JSON, Catechism

ALMANAC = "almanac"
_ASKED_AT_ONCE = 64


@dataclass
class Source:
    """The facts of one file, or of the Almanac.

    A bad row of a feed is an error, since a feed was written to be used. The bad rows of a public benchmark are left
    out and kept in `bad`.

    Attributes:
        format: `ALMANAC`, or the format of the file.
        path: the file; None for the Almanac.
        bad: bad rows so far, with their places.
        read: how many facts have been read so far.
    """

    format: str
    path: Path | None = None
    bad: list[str] = field(default_factory=list[str])
    read: int = 0

    def catechisms(self, n: int, *, seed: int = 0) -> Iterator[Catechism]:
        """The facts in the order of the file; of the Almanac `n` of them, drawn by the seed.

        Raises: BadFeed or BadFact for a file that cannot be read, or a bad row of a feed.
        """
        if self.path is None:
            found: Iterable[Catechism] = draw_catechisms(load_world(), n, seed=seed)
        else:
            found = open_dataset(self.path, self.format).catechisms(
                on_error=None if self.format == FEED else self._left_out
            )
        for catechism in found:
            self.read += 1
            yield catechism

    def describe(self) -> dict[str, JSON]:
        """What was read and what was left out."""
        return {
            "format": self.format,
            "file": None if self.path is None else self.path.as_posix(),
            "read": self.read,
            "bad_rows": len(self.bad),
            "first_bad": list(self.bad[:5]),
        }

    def _left_out(self, error: BadFeed | BadFact) -> None:
        self.bad.append(str(error))


def open_source(data: Path | None) -> Source:
    """The facts of a file, its format recognised by its content; None is the Almanac. Raises BadFeed."""
    return Source(ALMANAC) if data is None else Source(open_dataset(data).format, data)


def known_to(live: LiveModel, catechisms: Iterable[Catechism], n: int) -> list[Catechism]:
    """The first `n` facts whose old object the model says when it is asked for them, by free greedy decoding."""
    stream, known = iter(catechisms), list[Catechism]()
    while len(known) < n and (chunk := list(islice(stream, _ASKED_AT_ONCE))):
        prompts = [catechism.fact.prompt for catechism in chunk]
        said = live.generate(prompts, max_new_tokens=answer_budget(chunk))
        for catechism, completion in zip(chunk, said, strict=True):
            old = catechism.fact.old_object
            if old is not None and passes(completion.text, (old,), ()):
                known.append(catechism)
    return known[:n]
