"""LRE (Hernandez et al., arXiv:2308.09124): subjects and objects of 47 relations, with prompts for each.

Read are the published files, one JSON object a relation with its `samples`, and flattened rows with one sample each. As
a catechism a sample teaches its true object, since the data names no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Format, TrueFact, has_texts, make_catechism
from catechism.errors import BadFeed
from catechism.types import Catechism, Kind


class LRE(Format):
    """Relations with their samples."""

    name = "lre"
    summary = "LRE: subjects and objects of 47 relations, factual, commonsense, linguistic and bias"
    keys = "subject, object, relation, templates, templates_zs; or name, prompt_templates, samples"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        sample = has_texts(row, "subject", "object") and "templates" in row
        return sample or {"prompt_templates", "samples"} <= row.keys()

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        for i, fact in enumerate(self.true_facts(row), start=1):
            core = {
                "prompt": fact.phrasings[0],
                "subject": fact.subject,
                "new_object": fact.object,
                "relation": fact.relation,
                "id": f"{fact.relation}-{i}" if "samples" in row else number,
            }
            yield make_catechism(core, [(Kind.PARAPHRASE, text, ()) for text in fact.phrasings[1:]], number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The samples."""
        whole = "samples" in row
        templates = [*row.texts("prompt_templates" if whole else "templates")]
        templates += row.texts("prompt_templates_zs" if whole else "templates_zs")
        if not templates:
            raise BadFeed("The relation has no template. Give at least one, '{} is part of' for instance.")
        relation = row.text("name" if whole else "relation")
        for sample in row.objects("samples") if whole else (row,):
            subject = sample.text("subject")
            phrasings = tuple(dict.fromkeys(template.replace("{}", subject) for template in templates))
            yield TrueFact(subject, relation, sample.text("object"), phrasings)
