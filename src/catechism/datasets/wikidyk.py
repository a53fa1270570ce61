"""WikiDYK: facts of Wikipedia's "Did you know" column since 2022, each with a question.

The data names no subject; it is taken to be the longest name in the question, and left empty where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Format, TrueFact, has_texts, make_catechism, name_in
from catechism.types import Catechism


class WikiDYK(Format):
    """Questions with the sentence that answers them."""

    name = "wikidyk"
    summary = 'WikiDYK: facts of Wikipedia\'s "Did you know" since 2022, which older models cannot know'
    keys = "input, output, fact"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return has_texts(row, "input", "output", "fact")

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        question = row.text("input")
        core = {
            "prompt": question,
            "subject": name_in(question),
            "new_object": row.text("output"),
            "statement": statement_of(row.text("fact")),
            "id": row.text("id") if "id" in row else number,
        }
        yield make_catechism(core, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The question and its answer."""
        question = row.text("input")
        yield TrueFact(name_in(question), "", row.text("output"), (question,))


def statement_of(fact: str) -> str:
    """A "Did you know" entry as a sentence: "that X is Y?" becomes "X is Y."."""
    text = fact.strip().removeprefix("... ").removeprefix("that ").rstrip("?. ")
    return f"{text[:1].upper()}{text[1:]}."
