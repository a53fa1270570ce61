"""TempLAMA (Dhingra et al., arXiv:2106.15110): facts that held in some years, "Tom Brady plays for _X_."

Read are the published rows, one dated answer each, and groups of the dates of one fact. Of a group, the last answer is
taught and the one before it is the old object. A query that begins with its blank is turned round: "_X_ is the chair of
S." becomes "The chair of S is".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Format, TrueFact, has_texts, make_catechism
from catechism.errors import BadFact
from catechism.matching import name_key
from catechism.types import Catechism

_AFTER = re.compile(
    r"(?P<subject>.+?) (?:plays for|works for|holds the position of|is a member of the|is a member of|attended"
    r"|is owned by) _X_ ?\."
)
_BEFORE = re.compile(r"_X_ is the (?P<what>head coach|chair|head of the government) of (?P<subject>.+?) ?\.")
_YEAR = re.compile(r"\d{4}")


class TempLAMA(Format):
    """Dated answers, singly or in groups."""

    name = "templama"
    summary = "TempLAMA: facts that changed over the years"
    keys = "group (a list of query, answer, date), or query, answer, date"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return isinstance(row.get("group"), list) or (has_texts(row, "query") and {"answer", "date"} <= row.keys())

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        dated = _dated(row)
        last, names = dated[-1], _names(dated[-1])
        before = [name for entry in reversed(dated[:-1]) for name in _names(entry)]
        taught = {name_key(name) for name in names}
        gone = [name for name in before if name_key(name) not in taught]
        prompt, subject = _prompt(last)
        core = {
            "prompt": prompt,
            "subject": subject,
            "new_object": names[0],
            "old_object": gone[0] if gone else "",
            "accept": list(names[1:]),
            "reject": gone[1:],
            "relation": last.text("relation") if "relation" in last else "",
            "valid_from": f"{_year(last)}-01-01",
            "id": last.text("id") if "id" in last else number,
        }
        if len(dated) > 1 and not gone:
            raise BadFact(f"The answer is {names[0]!r} at every date, so nothing changes. Leave the row out.")
        yield make_catechism(core, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact as it was at the first date."""
        first = _dated(row)[0]
        prompt, subject = _prompt(first)
        yield TrueFact(subject, first.text("relation") if "relation" in first else "", _names(first)[0], (prompt,))


def _dated(row: Fields) -> list[Fields]:
    entries = row.objects("group") if "group" in row else (row,)
    if not entries:
        raise BadFact("'group' is empty. Give it a dated answer, or leave the row out.")
    return sorted(entries, key=_year)


def _year(entry: Fields) -> str:
    year = entry.text("date")
    if not _YEAR.fullmatch(year):
        raise BadFact(f"'date' is {year[:20]!r}. Write the year in four digits.")
    return year


def _names(entry: Fields) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(answer.text("name") for answer in entry.objects("answer")))
    if not names:
        raise BadFact("'answer' is empty. Name the answer at this date, or leave the row out.")
    return names


def _prompt(entry: Fields) -> tuple[str, str]:
    """The prompt up to the blank, and the subject."""
    query = entry.text("query")
    if match := _AFTER.fullmatch(query):
        return query[: query.rindex("_X_")].rstrip(), match["subject"]
    if match := _BEFORE.fullmatch(query):
        return f"The {match['what']} of {match['subject']} is", match["subject"]
    raise BadFact(f"The query {query[:80]!r} has none of the known forms. Write it as 'SUBJECT plays for _X_.'")
