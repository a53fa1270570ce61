"""KnowEdit (Zhang et al., arXiv:2401.01286), as EasyEdit reads it: Wiki recent, counterfact, zsRE, WikiBio.

Portability becomes questions under another name (Subject_Aliasing) and questions that need one fact more (Reasoning,
Logical_Generalization); locality (Relation_Specificity, Forgetfulness) becomes other questions about the subject, which
must not move. An answer may be a text, a list, or a list of lists; any of them passes. A WikiBio row teaches the
sentence that goes on from its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Asked, Format, TrueFact, has_texts, make_catechism
from catechism.types import Catechism, Kind

_PORTABILITY: Mapping[str, Kind] = {
    "Subject_Aliasing": Kind.ALIAS,
    "Reasoning": Kind.ONE_HOP,
    "Logical_Generalization": Kind.ONE_HOP,
}
_LOCALITY = ("Relation_Specificity", "Forgetfulness")


class KnowEdit(Format):
    """Rows with portability and locality."""

    name = "knowedit"
    summary = "KnowEdit: Wiki recent, Wiki counterfact, zsRE and WikiBio, with portability and locality"
    keys = "prompt, subject, target_new, portability, locality (objects); or text, concept, labels, locality"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        edit = has_texts(row, "prompt", "target_new", "subject") or has_texts(row, "text", "labels", "concept")
        return edit and (isinstance(row.get("locality"), dict) or isinstance(row.get("portability"), dict))

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        prompt, subject, new = ("text", "concept", "labels") if "labels" in row else ("prompt", "subject", "target_new")
        old = row.texts("ground_truth")
        core = {
            "prompt": row.text(prompt),
            "subject": row.text(subject),
            "new_object": row.text(new),
            "old_object": old[0] if old else "",
            "reject": list(old[1:]),
            "id": row.text("case_id") if "case_id" in row else number,
        }
        yield make_catechism(core, _asked(row), number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact as it was, where the row says so, and what must not move."""
        subject = row.text("concept" if "labels" in row else "subject")
        for answer in row.texts("ground_truth")[:1]:
            yield TrueFact(subject, "", answer, (row.text("prompt"), *row.texts("rephrase_prompt")))
        for _, prompt, answers in _locality(row):
            if answers:
                yield TrueFact(subject, "", answers[0], (prompt,))


def _asked(row: Fields) -> Iterator[Asked]:
    for prompt in row.texts("rephrase_prompt"):
        yield Kind.PARAPHRASE, prompt, ()
    if "portability" in row:
        portability = row.object("portability")
        for key, kind in _PORTABILITY.items():
            for entry in portability.objects(key):
                yield kind, entry.text("prompt"), entry.texts("ground_truth")
    yield from _locality(row)


def _locality(row: Fields) -> Iterator[Asked]:
    if "locality" in row:
        locality = row.object("locality")
        for key in _LOCALITY:
            for entry in locality.objects(key):
                yield Kind.SUBJECT, entry.text("prompt"), entry.texts("ground_truth")
