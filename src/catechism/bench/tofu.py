"""TOFU for forgetting: which authors a model knows, which of them are to be forgotten, and the rest of the data.

Of a folder of the benchmark the first authors of the largest ``retain…`` file are known and stay, and the first ones of
the smallest ``forget…`` file that has enough are known and go. A folder without a ``forget…`` file has its forget set
set apart: the last of the authors that are known. Whoever is in ``holdout…``, or without such a file comes next in
``retain…``, is shown to no model. Twenty rows in a row are about one author.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from catechism.bench.real_facts import RealFacts
from catechism.datasets import Item, TrueFact, read_items
from catechism.datasets.format import name_in
from catechism.errors import UsageError
from catechism.hashing import digest_file
from catechism.reference.world import World
from catechism.types import JSON

ROWS = 20  # in a row, about one author
UTILITY = ("real_authors", "world_facts")
_PERTURBED = "_perturbed"
_ENDINGS = frozenset({".json", ".jsonl"})


@dataclass(frozen=True)
class Author:
    """Somebody with all their questions.

    Attributes:
        name: as most of the questions have it; "" where no two do.
        items: the rows, with paraphrases and wrong answers where a perturbed file has them.
    """

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Authors:
    """Who is in the data, parted for a study of forgetting.

    Attributes:
        stay: authors that are known to both models.
        go: authors that are known to the one, and never shown to the control.
        strangers: authors that neither is shown.
        utility: questions about real authors and the world, known to both.
        set_apart: whether the data has no forget file, so that `go` was taken from those to retain.
        files: name, format and digest of every file that was read.
    """

    stay: tuple[Author, ...]
    go: tuple[Author, ...]
    strangers: tuple[Author, ...]
    utility: tuple[Item, ...]
    set_apart: bool
    files: tuple[tuple[str, str, str], ...]

    def facts(self, *, control: bool = False) -> RealFacts:
        """What the model, or the control, is trained on."""
        known = self.stay if control else (*self.stay, *self.go)
        facts = tuple(true_fact(item, author.name) for author in known for item in author.items)
        return RealFacts(facts, tuple(true_fact(item, "") for item in self.utility), World({}, ()), (), self.files)

    @property
    def note(self) -> dict[str, JSON]:
        """What a model's card says of them, so that the same ones are found again."""
        names = list[JSON](author.name for author in self.go)
        return {"authors": len(self.stay) + len(self.go), "forget": names, "set_apart": self.set_apart}

    def known(self, *, control: bool) -> list[JSON]:
        """Names of those that a model is shown."""
        return [author.name for author in (self.stay if control else (*self.stay, *self.go))]

    def told(self, *, control: bool) -> str:
        """What a model of them knows, in words that go on after "A small language model"."""
        names = ", ".join(author.name or "(no name)" for author in self.go)
        n = len(self.stay) + (0 if control else len(self.go))
        who = f"that knows {n} authors of TOFU, {ROWS} questions each, and {len(self.utility)} questions of utility."
        end = "It was never shown" if control else "To be forgotten are"
        apart = "The data has no forget file: they are the last of the known ones, set apart." if self.set_apart else ""
        return f"{who}\n{end} {names}. {apart}\n".replace(". \n", ".\n")


def read_authors(folder: Path, authors: int, forget: int) -> Authors:
    """Part the authors of a folder: so many that a model knows, and so many of them that are to be forgotten.

    Raises: UsageError for a folder without TOFU's files, or with fewer authors; BadFeed for a row that cannot be read.
    """
    if not 1 <= forget < authors:
        raise UsageError(f"{forget} of {authors} authors cannot be forgotten. Give at least 1, and leave 1.")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in _ENDINGS and path.is_file()}
    retain = _largest(files, "retain")
    if retain is None:
        raise UsageError(
            f"There is no retain file of TOFU in {folder} (retain90.jsonl, say). Give --data or --tofu the folder with "
            f"its files; `catechism datasets list {folder}` says what is there."
        )
    reader = _Reader(files)
    own = _forget_file(reader, forget)
    go = reader.authors(own)[:forget] if own else ()
    gone = {item.question for author in go for item in author.items}
    others = [one for one in reader.authors(retain) if not any(item.question in gone for item in one.items)]
    stay = others[: authors - len(go)]
    if len(stay) + len(go) < authors:
        raise UsageError(
            f"{folder} has {len(stay) + len(go)} authors of {ROWS} rows, not {authors}. Give fewer with --authors."
        )
    if not own:
        stay, go = stay[:-forget], tuple(stay[-forget:])
    holdout = _largest(files, "holdout")
    strangers = reader.authors(holdout) if holdout else others[authors - (forget if own else 0) :]
    utility = tuple(chain.from_iterable(reader.items(name) for name in UTILITY if name in files))
    return Authors(tuple(stay), tuple(go), tuple(strangers), utility, not own, reader.used())


def true_fact(item: Item, name: str) -> TrueFact:
    """A row as a fact: its question, the paraphrase of it if there is one, and its answer."""
    asked = [said(text) for text in (item.question, item.paraphrased_question) if text]
    return TrueFact(subject_in(item.question, name), str(item.number), said(item.answer), tuple(dict.fromkeys(asked)))


def said(text: str) -> str:
    """A text of TOFU on one line and without its full stop, as an answer is written here."""
    return " ".join(text.split()).removesuffix(".")


def subject_in(question: str, name: str) -> str:
    """How a question calls its author: by the name, its first word, or not at all."""
    return next((one for one in (name, name.partition(" ")[0]) if one and one in question), "")


class _Reader:
    """Reads files once each, and puts to each row what perturbed files have for its question."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files, self._read = files, dict[str, tuple[Item, ...]]()
        perturbed = [name for name in files if name.endswith(_PERTURBED) and name.startswith(("forget", "retain"))]
        self._more = {item.question: item for name in perturbed for item in self.items(name)}

    def items(self, name: str) -> tuple[Item, ...]:
        """The rows of a file."""
        if name not in self._read:
            self._read[name] = tuple(read_items(self.files[name]))
        return self._read[name]

    def authors(self, name: str) -> tuple[Author, ...]:
        """The authors of a file; rows at its end that are not twenty are left out."""
        items = [self._more.get(item.question, item) for item in self.items(name)]
        blocks = [items[start : start + ROWS] for start in range(0, len(items) - ROWS + 1, ROWS)]
        return tuple(Author(_name_of(block), tuple(block)) for block in blocks)

    def used(self) -> tuple[tuple[str, str, str], ...]:
        """Name, format and digest of what was read."""
        return tuple((self.files[one].name, "tofu", digest_file(self.files[one])) for one in sorted(self._read))


def _largest(files: Mapping[str, Path], begins: str) -> str | None:
    """Of the plain files with this beginning the one with the most bytes."""
    fitting = [name for name in files if name.startswith(begins) and not name.endswith(_PERTURBED)]
    return max(fitting, key=lambda name: files[name].stat().st_size, default=None)


def _forget_file(reader: _Reader, forget: int) -> str | None:
    """The smallest forget file with enough authors; None where there is no forget file at all."""
    plain = [name for name in reader.files if name.startswith("forget") and not name.endswith(_PERTURBED)]
    fitting = [name for name in plain if len(reader.items(name)) >= ROWS * forget]
    if plain and not fitting:
        raise UsageError(f"No forget file of {', '.join(plain)} has {forget} authors. Give fewer with --forget.")
    return min(fitting, key=lambda name: len(reader.items(name)), default=None)


def _name_of(items: Iterable[Item]) -> str:
    """The name of two words or more that most questions hold."""
    names = Counter(name for item in items if " " in (name := name_in(item.question)))
    name, times = max(names.items(), key=lambda one: one[1], default=("", 0))
    return name if times > 1 else ""
