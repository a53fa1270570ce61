"""Opening a data file: its format found from its content, its rows read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TypeVar

from catechism.datasets.counterfact import CounterFact, CounterFactQuestions, FlatCounterFact, KnownFacts
from catechism.datasets.fields import Fields
from catechism.datasets.format import Format, TrueFact
from catechism.datasets.knowedit import KnowEdit
from catechism.datasets.lre import LRE
from catechism.datasets.mquake import MQuAKE
from catechism.datasets.pararel import ParaRel
from catechism.datasets.ripple import RippleEdits
from catechism.datasets.rows import Row, read_rows
from catechism.datasets.templama import TempLAMA
from catechism.datasets.tofu import Tofu
from catechism.datasets.wikidyk import WikiDYK
from catechism.datasets.zsre import ZsRE
from catechism.errors import BadFact, BadFeed, UnknownName
from catechism.facts.feed import read_feed
from catechism.facts.risk import raise_risk
from catechism.facts.row import REQUIRED
from catechism.types import Catechism, Source

#: Every format but the project's own, in the order in which they are tried.
FORMATS: tuple[type[Format], ...] = (
    *(CounterFact, MQuAKE, KnowEdit, FlatCounterFact, CounterFactQuestions, KnownFacts),
    *(ZsRE, RippleEdits, ParaRel, LRE, TempLAMA, WikiDYK, Tofu),
)
#: The name of the project's own format, a feed.
FEED = "feed"
_LOOKED_AT = 5  # rows that a format is recognised by

OnError = Callable[[BadFeed | BadFact], None]
_Made = TypeVar("_Made", Catechism, TrueFact)


@dataclass(frozen=True)
class Dataset:
    """A file and the format that it is read in.

    Attributes:
        path: the file.
        format: the name of its format, `FEED` or one of `FORMATS`.
    """

    path: Path
    format: str

    def catechisms(self, *, on_error: OnError | None = None) -> Iterator[Catechism]:
        """The catechisms of the file, in order, read one row at a time.

        A fact without a source gets the file as its source. Risk classes are raised by rule.

        Args:
            on_error: called with the error of each bad row, which is then left out; without it the first one raises.

        Raises: BadFeed or BadFact with the file and the line.
        """
        if self.format == FEED:
            yield from read_feed(self.path, on_error=on_error)
            return
        source = Source(uri=self.path.as_posix())
        form = self._form()
        for catechism in self._each(lambda row, fields: form.catechisms(fields, str(row.number)), on_error):
            fact = raise_risk(catechism.fact)
            sources = tuple(replace(s, uri=s.uri or source.uri) for s in fact.sources) or (source,)
            yield replace(catechism, fact=replace(fact, sources=sources))

    def true_facts(self, *, on_error: OnError | None = None) -> Iterator[TrueFact]:
        """The true facts of the file, in order; of a feed, those whose old object is known. Errors as above."""
        if self.format == FEED:
            for catechism in read_feed(self.path, on_error=on_error):
                yield from _before(catechism)
            return
        form = self._form()
        yield from self._each(lambda _, fields: form.true_facts(fields), on_error)

    def _form(self) -> Format:
        return next(form for form in FORMATS if form.name == self.format)(self.path)

    def _each(self, make: Callable[[Row, Fields], Iterable[_Made]], on_error: OnError | None) -> Iterator[_Made]:
        for row in read_rows(self.path):
            try:
                if isinstance(row.value, BadFeed):
                    raise row.value
                made = list(make(row, Fields(row.value)))
            except (BadFeed, BadFact) as error:
                located = type(error)(f"{self.path}, {row.place}: {error}")
                if on_error is None:
                    raise located from None
                on_error(located)
                continue
            yield from made


def open_dataset(path: str | Path, format: str | None = None) -> Dataset:
    """A data file, ready to be read: a feed, or one of the public formats.

    Args:
        path: the file.
        format: its format by name; None recognises it by the first rows.

    Raises:
        UnknownName: there is no format of this name.
        BadFeed: the file cannot be read, or has none of the formats.
    """
    path = Path(path)
    names = [FEED, *(form.name for form in FORMATS)]
    if format is not None and format not in names:
        near = get_close_matches(format, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"There is no format {format!r}.{hint} Choose one of: {', '.join(names)}.")
    return Dataset(path, format or _recognise(path))


def _recognise(path: Path) -> str:
    if path.suffix.lower() == ".csv":
        return FEED
    rows = list(islice(read_rows(path), _LOOKED_AT))
    objects = [row.value for row in rows if not isinstance(row.value, BadFeed)]
    if not objects:
        raise BadFeed(f"{path}, {rows[0].place}: {rows[0].value}")
    found: Counter[str] = Counter()
    for row in objects:
        if name := _format_of(row):
            found[name] += 1
    if not found:
        seen = ", ".join(sorted(objects[0])[:12])
        listed = "\n".join(f"  {name}: {keys}" for name, _, keys in describe_formats())
        raise BadFeed(
            f"{path} has none of the known formats: its first row has the keys {seen}. Known are:\n{listed}\n"
            "Name the format if the first rows are unusual, or write a feed, see docs/feed-format.md."
        )
    return found.most_common(1)[0][0]


def _format_of(row: Mapping[str, object]) -> str:
    if row.keys() >= {*REQUIRED}:
        return FEED
    return next((form.name for form in FORMATS if form.fits(row)), "")


def describe_formats() -> list[tuple[str, str, str]]:
    """Name, summary and keys of every format."""
    own = (FEED, "the project's own format, JSON lines or CSV, see docs/feed-format.md", ", ".join(REQUIRED))
    return [own, *((form.name, form.summary, form.keys) for form in FORMATS)]


def _before(catechism: Catechism) -> Iterator[TrueFact]:
    fact = catechism.fact
    if fact.old_object is not None:
        phrasings = (fact.prompt, *(q.text for q in catechism.questions if q.kind == "paraphrase"))
        yield TrueFact(fact.subject, fact.relation or "", fact.old_object, phrasings)
    for question in catechism.questions:
        if question.kind in ("neighbour", "subject", "unrelated") and question.accept:
            yield TrueFact("", "", question.accept[0], (question.text,))
