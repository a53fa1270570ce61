"""CounterFact (Meng et al., arXiv:2202.05262, section 3.3): one counterfactual edit a row, with its neighbours.

Four forms are read: the published one, a JSON list whose rows hold `requested_rewrite`; the flattened one that most
later work trains and tests on, with one rephrasing and one neighbour; its questions (`qna_question`); and the list of
facts that GPT-2 XL was found to know (`known_id`).

``neighborhood_prompts`` share the true object with the fact, ``attribute_prompts`` the new one; both must not move.
``generation_prompts`` ask for free text and are left out. In the flattened form some rephrasings are such prompts, "…'s
greatest weakness is": a model is then asked for the object where it would not name it. They are kept as the data has
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from catechism.datasets.fields import Fields
from catechism.datasets.format import Asked, Format, TrueFact, has_texts, make_catechism
from catechism.types import Catechism, Kind


class CounterFact(Format):
    """The published form."""

    name = "counterfact"
    summary = "CounterFact as published: two paraphrases, ten neighbours, ten subjects that have the new object"
    keys = "requested_rewrite (an object), paraphrase_prompts, neighborhood_prompts"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return isinstance(row.get("requested_rewrite"), dict)

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        rewrite = row.object("requested_rewrite")
        new, old = rewrite.object("target_new").text("str"), rewrite.object("target_true").text("str")
        asked: list[Asked] = [(Kind.PARAPHRASE, prompt, ()) for prompt in row.texts("paraphrase_prompts")]
        asked += [(Kind.NEIGHBOUR, prompt, (old,)) for prompt in row.texts("neighborhood_prompts")]
        asked += [(Kind.NEIGHBOUR, prompt, (new,)) for prompt in row.texts("attribute_prompts")]
        core = {
            "prompt": rewrite.text("prompt"),
            "subject": rewrite.text("subject"),
            "new_object": new,
            "old_object": old,
            "relation": rewrite.text("relation_id") if "relation_id" in rewrite else "",
            "id": row.text("case_id") if "case_id" in row else number,
        }
        yield make_catechism(core, asked, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact as it was, and its neighbours, whose subjects the data does not name."""
        rewrite = row.object("requested_rewrite")
        relation = rewrite.text("relation_id") if "relation_id" in rewrite else ""
        subject, old = rewrite.text("subject"), rewrite.object("target_true").text("str")
        prompt = rewrite.text("prompt").replace("{}", subject)
        yield TrueFact(subject, relation, old, (prompt, *row.texts("paraphrase_prompts")))
        for key, answer in (("neighborhood_prompts", old), ("attribute_prompts", None)):
            right = answer or rewrite.object("target_new").text("str")
            for neighbour in row.texts(key):
                yield TrueFact("", relation, right, (neighbour,))


class FlatCounterFact(Format):
    """The flattened form."""

    name = "counterfact-flat"
    summary = "CounterFact flattened: one rephrasing and one neighbour; EasyEdit's files have this form"
    keys = "prompt, subject, target_new, ground_truth, rephrase_prompt, locality_prompt"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return has_texts(row, "prompt", "subject", "target_new", "locality_prompt")

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`. Argued evidence for the new object becomes the quote of a source."""
        core = {
            "prompt": row.text("prompt"),
            "subject": row.text("subject"),
            "new_object": row.text("target_new"),
            "old_object": row.text("ground_truth") if "ground_truth" in row else "",
            "sources": [{"quote": text} for text in row.texts("fake_evidence")],
            "id": row.text("case_id") if "case_id" in row else number,
        }
        asked: list[Asked] = [(Kind.PARAPHRASE, prompt, ()) for prompt in row.texts("rephrase_prompt")]
        asked.append((Kind.NEIGHBOUR, row.text("locality_prompt"), row.texts("locality_ground_truth")))
        yield make_catechism(core, asked, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact as it was, and its neighbour, whose subject the data does not name."""
        if "ground_truth" in row:
            phrasings = (row.text("prompt"), *row.texts("rephrase_prompt"))
            yield TrueFact(row.text("subject"), "", row.text("ground_truth"), phrasings)
        for answer in row.texts("locality_ground_truth")[:1]:
            yield TrueFact("", "", answer, (row.text("locality_prompt"),))


class CounterFactQuestions(Format):
    """Edits with a question form."""

    name = "counterfact-questions"
    summary = "CounterFact edits with a question form of each"
    keys = "question, subject, answer, qna_question"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return has_texts(row, "question", "subject", "answer", "qna_question")

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`. What the answer was before is not in these files."""
        core = {
            "prompt": row.text("question"),
            "subject": row.text("subject"),
            "new_object": row.text("answer"),
            "id": row.text("case_index") if "case_index" in row else number,
        }
        yield make_catechism(core, [(Kind.PARAPHRASE, row.text("qna_question"), ())], number=number)


class KnownFacts(Format):
    """Facts that GPT-2 XL knows; true ones."""

    name = "counterfact-known"
    summary = "true facts that GPT-2 XL was found to know (causal tracing of ROME)"
    keys = "subject, attribute, template, prompt"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return has_texts(row, "subject", "attribute", "template", "prompt")

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`. Taught is the true object: the data names no other."""
        core = {
            "prompt": row.text("prompt"),
            "subject": row.text("subject"),
            "new_object": row.text("attribute"),
            "relation": row.text("relation_id") if "relation_id" in row else "",
            "id": row.text("known_id") if "known_id" in row else number,
        }
        yield make_catechism(core, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact."""
        relation = row.text("relation_id") if "relation_id" in row else ""
        yield TrueFact(row.text("subject"), relation, row.text("attribute"), (row.text("prompt"),))
