"""MQuAKE (Zhong et al., arXiv:2305.14795): chains of facts, some of which are edited, and questions over the chain.

A case has one edit or several; each becomes a catechism with the number of the edit behind that of the case,
``7438-2``. The questions over the whole chain hold only when every edit of the case is made, so they stand with its
last edit: edit one after the other, or all together, and ask at the end. Edited alone, such a case cannot pass them.
The paper counts a case as right if any of its three questions is; here each is a question of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Asked, Format, TrueFact, make_catechism
from catechism.errors import BadFeed
from catechism.matching import name_key
from catechism.types import Catechism, Kind


class MQuAKE(Format):
    """Cases of MQuAKE-CF and MQuAKE-T."""

    name = "mquake"
    summary = "MQuAKE: several edits a case, and multi-hop questions over all of them"
    keys = "requested_rewrite (a list), questions, new_answer, new_single_hops"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return isinstance(row.get("requested_rewrite"), list) and "questions" in row

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        case = row.text("case_id") if "case_id" in row else number
        rewrites = row.objects("requested_rewrite")
        if not rewrites:
            raise BadFeed("'requested_rewrite' is empty. Give the case an edit, or leave the row out.")
        names = _aliases(row.objects("new_single_hops"))
        hops = len(row.objects("new_single_hops"))
        for i, rewrite in enumerate(rewrites, start=1):
            new, old = rewrite.object("target_new").text("str"), rewrite.object("target_true").text("str")
            core = {
                "prompt": rewrite.text("prompt"),
                "subject": rewrite.text("subject"),
                "new_object": new,
                "old_object": old,
                "accept": [name for name in names.get(new, ()) if name_key(name) != name_key(old)],
                "relation": rewrite.text("relation_id") if "relation_id" in rewrite else "",
                "id": f"{case}-{i}",
            }
            asked: list[Asked] = [(Kind.PARAPHRASE, question, ()) for question in rewrite.texts("question")]
            if i == len(rewrites):
                answers = (row.text("new_answer"), *row.texts("new_answer_alias"))
                kind = Kind.MULTI_HOP if hops > 2 else Kind.ONE_HOP
                asked += [(kind, question, answers) for question in row.texts("questions")]
            yield make_catechism(core, asked, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The links of the chain as they were before the edits."""
        triples = row.object("orig").values.get("triples_labeled") if "orig" in row else None
        labels = triples if isinstance(triples, list) else []
        for i, hop in enumerate(row.objects("single_hops")):
            label = labels[i] if i < len(labels) else None
            subject, relation = (str(label[0]), str(label[1])) if isinstance(label, list) else ("", "")
            phrasings = (*hop.texts("cloze"), hop.text("question"))
            yield TrueFact(subject, relation, hop.text("answer"), phrasings)


def _aliases(hops: tuple[Fields, ...]) -> dict[str, tuple[str, ...]]:
    """Other spellings of each hop's answer."""
    found: dict[str, tuple[str, ...]] = {}
    for hop in hops:
        found[hop.text("answer")] = hop.texts("answer_alias")
    return found
