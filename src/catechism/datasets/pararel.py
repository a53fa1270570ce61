"""ParaRel (Elazar et al., arXiv:2102.01017): true triples of T-REx, and the patterns that each relation is put in.

A row is a triple. Its phrasings come from the patterns of its relation, ``[X] works in the field of [Y].``, as far as
they end in the object; the others cannot be continued and are left out. They are looked for beside the triples:
``patterns.jsonl`` with a `relation` in each row, or the published layout, ``pattern_data/graphs_json/P101.jsonl`` in a
folder above. As a catechism a triple teaches its true object, since the data names no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from catechism.datasets.fields import Fields
from catechism.datasets.format import Format, TrueFact, has_texts, make_catechism
from catechism.datasets.rows import read_rows
from catechism.errors import BadFact, BadFeed
from catechism.types import Catechism, Kind

_PATTERN = re.compile(r"(?P<prompt>.*\[X\].*?)\s*\[Y\]\s*[.?!]?\s*")
_SPACES = re.compile(r"\s+")


class ParaRel(Format):
    """Triples with the patterns beside them."""

    name = "pararel"
    summary = "ParaRel: true triples with several phrasings for each relation"
    keys = "sub_label, obj_label, relation (or predicate_id, or the file's name); patterns.jsonl beside the file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._patterns = read_patterns(path)

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return has_texts(row, "sub_label", "obj_label")

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        (fact,) = self.true_facts(row)
        core = {
            "prompt": fact.phrasings[0],
            "subject": fact.subject,
            "new_object": fact.object,
            "relation": fact.relation,
            "id": row.text("uuid") if "uuid" in row else number,
        }
        yield make_catechism(core, [(Kind.PARAPHRASE, text, ()) for text in fact.phrasings[1:]], number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The triple. Raises BadFact if its relation has no pattern that ends in the object."""
        subject, relation, answer = read_triple(row, self._path)
        patterns = self._patterns.get(relation, ())
        if not patterns:
            raise BadFact(f"No pattern of relation {relation!r} ends in its object. Add one, or leave the row out.")
        phrasings = tuple(dict.fromkeys(pattern.replace("[X]", subject) for pattern in patterns))
        yield TrueFact(subject, relation, answer, phrasings)


def read_triple(row: Fields, path: Path) -> tuple[str, str, str]:
    """Subject, relation and object of a row; the relation is the file's name where the row does not say.

    Raises: BadFeed if one is missing.
    """
    named = next((key for key in ("relation", "predicate_id") if key in row), None)
    return row.text("sub_label"), row.text(named) if named else path.stem, row.text("obj_label")


def read_patterns(triples: Path) -> dict[str, tuple[str, ...]]:
    """Prompts with ``[X]`` for the subject, by relation, of the patterns that belong to a file of triples.

    Raises: BadFeed if there are none, or for a row that is no pattern.
    """
    found: dict[str, list[str]] = {}
    for file in _pattern_files(triples):
        for row in read_rows(file):
            if isinstance(row.value, BadFeed):
                raise BadFeed(f"{file}, {row.place}: {row.value}")
            fields = Fields(row.value)
            relation = fields.text("relation") if "relation" in fields else file.stem
            if match := _PATTERN.fullmatch(fields.text("pattern")):
                prompt = _SPACES.sub(" ", match["prompt"]).strip()
                prompts = found.setdefault(relation, [])
                if prompt not in prompts:
                    prompts.append(prompt)
    return {relation: tuple(prompts) for relation, prompts in found.items()}


def _pattern_files(triples: Path) -> list[Path]:
    beside = triples.with_name("patterns.jsonl")
    if beside.is_file():
        return [beside]
    for folder in triples.resolve().parents[:3]:
        if files := sorted((folder / "pattern_data" / "graphs_json").glob("*.jsonl")):
            return files
    raise BadFeed(
        f"There are no patterns for {triples}. Put patterns.jsonl beside it, or keep the published layout with "
        "pattern_data/graphs_json in a folder above."
    )
