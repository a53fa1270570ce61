"""RippleEdits (Cohen et al., arXiv:2307.12976): one edit a row, and six lists of what follows from it.

| list | becomes |
|---|---|
| Logical_Generalization, Compositionality_I, Compositionality_II | questions that need one fact more |
| Subject_Aliasing | the subject under another name |
| Relation_Specificity (also spelled Relation_Specifity), Forgetfulness | other questions about the subject, unmoved |

A row holds the edit as one sentence, and neither the subject nor the object by name. The object is what the sentence
and the original fact's do not share, or, of a recent fact, what follows the last "is". The subject is what the prompts
about it have in common; where they have nothing, it stays empty.

Not kept is a test's condition: the paper leaves a test out if the model failed its `condition_queries` before the edit.
They are among the true facts. Of a test with several queries each is asked, though the paper lets one of them suffice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from catechism.datasets.fields import Fields
from catechism.datasets.format import Asked, Format, TrueFact, make_catechism
from catechism.errors import BadFact
from catechism.types import Catechism, Kind

_LISTS: Mapping[str, Kind] = {
    "Logical_Generalization": Kind.ONE_HOP,
    "Subject_Aliasing": Kind.ALIAS,
    "Compositionality_I": Kind.ONE_HOP,
    "Compositionality_II": Kind.ONE_HOP,
    "Relation_Specificity": Kind.SUBJECT,
    "Relation_Specifity": Kind.SUBJECT,
    "Forgetfulness": Kind.SUBJECT,
}
_SMALL = frozenset({"a", "an", "as", "by", "for", "from", "in", "is", "of", "the", "to", "was", "with"})


class RippleEdits(Format):
    """Rows of the RECENT, RANDOM and POPULAR files."""

    name = "ripple-edits"
    summary = "RippleEdits: one edit and six criteria of what follows from it"
    keys = "edit (an object), Relation_Specificity, Logical_Generalization, Subject_Aliasing, ..."

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        return isinstance(row.get("edit"), dict) and any(key in row for key in _LISTS)

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        edit = row.object("edit")
        prompt, new, old = _parts(edit)
        asked: list[Asked] = []
        for key, kind in _LISTS.items():
            asked += [(kind, query.text("prompt"), _answers(query)) for query in _queries(row, key, "test_queries")]
        core = {
            "prompt": prompt,
            "subject": _subject(row, edit, prompt),
            "new_object": new,
            "old_object": old,
            "relation": edit.text("relation") if "relation" in edit else "",
            "id": number,
        }
        yield make_catechism(core, [one for one in asked if one[1].strip() != prompt], number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The fact as it was, and what the tests presuppose."""
        edit = row.object("edit")
        prompt, _, old = _parts(edit)
        if old:
            relation = edit.text("relation") if "relation" in edit else ""
            yield TrueFact(_subject(row, edit, prompt), relation, old, (prompt,))
        for key in _LISTS:
            for query in _queries(row, key, "condition_queries"):
                if answers := _answers(query):
                    relation = query.text("relation") if "relation" in query else ""
                    yield TrueFact("", relation, answers[0], (query.text("prompt"),))


def _queries(row: Fields, key: str, which: str) -> Iterator[Fields]:
    for test in row.objects(key):
        yield from test.objects(which)


def _answers(query: Fields) -> tuple[str, ...]:
    found: list[str] = []
    for answer in query.objects("answers"):
        found += [name for name in (answer.text("value"), *answer.texts("aliases")) if name.strip()]
    return tuple(found)


def _parts(edit: Fields) -> tuple[str, str, str]:
    """Prompt, new object and old object ("" if there was none) of the edit's sentences."""
    words = edit.text("prompt").strip().removesuffix(".").split(" ")
    if "original_fact" in edit:
        before = edit.object("original_fact").text("prompt").strip().removesuffix(".").split(" ")
        shared = _shared(words, before)
        # what both objects begin with belongs to them, not to the prompt
        end = max((i + 1 for i in range(shared) if words[i] in ("is", "are", "was", "by", "in")), default=shared)
        if not 0 < end < min(len(words), len(before)):
            raise BadFact(f"The edit {' '.join(words)!r} shares no beginning with its original fact. Correct one.")
        return " ".join(words[:end]), " ".join(words[end:]), " ".join(before[end:])
    ends = [i + 1 for i, word in enumerate(words) if word == "is"]
    if not ends or ends[-1] == len(words):
        raise BadFact(f"The edit {' '.join(words)!r} has no object after an 'is'. Write it as 'The R of S is O.'")
    return " ".join(words[: ends[-1]]), " ".join(words[ends[-1] :]), ""


def _subject(row: Fields, edit: Fields, prompt: str) -> str:
    """What the prompt shares with most other prompts about the same subject, at its end or else at its beginning."""
    identity = edit.text("subject_id") if "subject_id" in edit else ""
    others = {
        query.text("prompt").strip()
        for key in _LISTS
        if key not in ("Subject_Aliasing", "Forgetfulness")  # other names, and sentences of another build
        for query in _queries(row, key, "test_queries")
        if "subject_id" in query and query.text("subject_id") == identity
    }
    words = prompt.split(" ")
    found: Counter[str] = Counter()
    for other in others - {prompt}:
        their = other.split(" ")
        tail, head = _shared(words[::-1], their[::-1]), _shared(words, their)
        name = _without_small(words[len(words) - tail :]) or _without_small(words[:head])
        found[" ".join(name)] += 1
    del found[""]
    return min(found, key=lambda name: (-found[name], len(name)), default="")


def _without_small(words: Sequence[str]) -> list[str]:
    """Without small words at the ends: of "of The Lord of the Rings is" stays "The Lord of the Rings"."""
    kept = list(words)
    while kept and kept[0] in _SMALL:
        kept.pop(0)
    while kept and kept[-1] in _SMALL:
        kept.pop()
    return kept


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words both begin with."""
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n
