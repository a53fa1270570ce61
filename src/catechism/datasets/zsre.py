"""zsRE as the editors use it (Mitchell et al., arXiv:2110.11309): questions, a rephrasing, an unrelated question.

Taught is `alt`, the answer that the data sets against the right one in `answers`, as EasyEdit does; MEMIT's evaluation
teaches the right answer instead. The unrelated question comes from Natural Questions and is asked as it stands,
``nq question:`` included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Asked, Format, TrueFact, has_texts, make_catechism
from catechism.types import Catechism, Kind


class ZsRE(Format):
    """Rows of the MEND form."""

    name = "zsre"
    summary = "zsRE: a question, a rephrasing, an unrelated question"
    keys = "subject, src, alt, answers, rephrase, loc, loc_ans"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return has_texts(row, "subject", "src", "alt", "loc")

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`. Argued evidence for the new answer becomes the quote of a source."""
        answers = row.texts("answers")
        core = {
            "prompt": row.text("src"),
            "subject": row.text("subject"),
            "new_object": row.text("alt"),
            "old_object": answers[0] if answers else "",
            "reject": list(answers[1:]),
            "sources": [{"quote": text} for text in row.texts("fake_evidence")],
            "id": number,
        }
        asked: list[Asked] = [(Kind.PARAPHRASE, prompt, ()) for prompt in row.texts("rephrase")]
        asked.append((Kind.UNRELATED, row.text("loc"), row.texts("loc_ans")))
        yield make_catechism(core, asked, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact as it is, and the unrelated question."""
        for answer in row.texts("answers")[:1]:
            yield TrueFact(row.text("subject"), "", answer, (row.text("src"), *row.texts("rephrase")))
        for answer in row.texts("loc_ans")[:1]:
            yield TrueFact("", "", answer, (row.text("loc"),))
