"""Which way a fact goes into a model, by rules, each with its reason.

The rules are tried from top to bottom and the first that holds decides. The lower ones are about the model, the upper
ones about the fact: what will soon be false again, or is too much text for a small change, is better left as text.

What makes an edit of one matrix likely to work is that the subject's key there is its own, so that is asked. Where
causal tracing finds a fact says little about where it can be edited (arXiv:2301.04213); on the shipped models hardly
any of a fact's effect sits at one MLP, and rank-one edits work all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from catechism.types import JSON, Fact

EXPLICIT = "explicit"  # no change of the weights: the fact stays beside them as text
SHORT_LIVED_DAYS = 60
BULKY_CHARS = 400  # of the whole statement
LONG_OBJECT_TOKENS = 12  # more than a rank-one value was seen to hold on the shipped models
SEPARABLE = 0.5  # the subject's key less that of other subjects, see `catechism.locate.layers`
CROWDED = 30  # edits in effect from which closed forms disturb each other, docs/benchmarks.md

#: Methods that write one matrix in closed form, where a subject's key is most its own.
CLOSED_FORM = frozenset({"alphaedit", "emmet", "memit", "rome"})

#: Why a method was not taken for a fact that goes into a model by itself. Figures: docs/benchmarks.md.
NOT_TAKEN: Mapping[str, str] = {
    "alphaedit": "for batches: one fact gets rome's solution, projected",
    "distill": "takes seconds where a closed form takes a fraction of one",
    "emmet": "for batches: for one fact it is rome",
    "ft_bf": "needs many facts at once to spare what is near",
    "ft_l": "moves what is near the fact",
    "ft_m": "moves what is near the fact",
    "grace": "recognises the prompt that it was given and few other phrasings",
    "ice": "puts the fact before the prompt as text, which is what leaving it explicit does",
    "ike": "puts the fact before the prompt as text, which is what leaving it explicit does",
    "lora": "learns the sentence and moves what is near it",
    "malmen": "needs a network that is trained for the model first",
    "memit": "for batches: for one fact it spreads rome's solution over layers",
    "memoir": "stands beside the matrix: it does not leave as an adapter that other servers load",
    "mend": "needs a network that is trained for the model first",
    "rome": "writes one object for one subject into one matrix",
    "sequential": "for streams: its edits are solved together, not one by one",
    "ultraedit": "for long streams: coarse for one fact",
    "wise": "keeps a copy of the matrix for a stream of edits",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured about a fact on a model.

    Attributes:
        object_tokens: length of the new object.
        closed_form_layer: best layer for a rank-one edit; None where no layer has a dense MLP.
        separability: how much the subject's key is its own there, at most 1; None where it was not measured.
        distill_layer: best block for distillation, and for a memory beside its MLP.
        in_effect: edits that are on the model already.
    """

    object_tokens: int
    closed_form_layer: int | None
    separability: float | None
    distill_layer: int
    in_effect: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A method with its layer (None for `EXPLICIT`), the rule that chose it and the reason in words."""

    method: str
    layer: int | None
    rule: str
    why: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        others: JSON = {name: why for name, why in NOT_TAKEN.items() if name != self.method}
        return {"method": self.method, "layer": self.layer, "rule": self.rule, "why": self.why, "not_taken": others}


def select(fact: Fact, evidence: Evidence) -> Choice:
    """The method for a fact, and why."""
    if fact.volatile:
        return Choice(EXPLICIT, None, "volatile", "It is marked volatile: text can change as often as the fact does.")
    if (days := _days(fact)) is not None and days < SHORT_LIVED_DAYS:
        return Choice(
            EXPLICIT,
            None,
            "short-lived",
            f"It holds for {days} days, less than {SHORT_LIVED_DAYS}: text expires by itself.",
        )
    if len(fact.sentence) > BULKY_CHARS:
        return Choice(
            EXPLICIT, None, "bulky", f"Its statement has {len(fact.sentence)} characters, more than {BULKY_CHARS}: "
            "a small change does not hold a whole text."
        )  # fmt: skip
    distilled = f"layer {evidence.distill_layer} gains most from the fact in the context"
    if evidence.closed_form_layer is None:
        return Choice("distill", evidence.distill_layer, "no-dense-mlp", f"No layer has a dense MLP; {distilled}.")
    if evidence.object_tokens > LONG_OBJECT_TOKENS:
        why = f"The object has {evidence.object_tokens} tokens, more than {LONG_OBJECT_TOKENS}; {distilled}."
        return Choice("distill", evidence.distill_layer, "many-tokens", why)
    if evidence.separability is not None and evidence.separability < SEPARABLE:
        why = (
            f"In layer {evidence.closed_form_layer} the subject's key is its own by {evidence.separability:.2f} only, "
            f"less than {SEPARABLE}: an edit of one matrix would spill; {distilled}."
        )
        return Choice("distill", evidence.distill_layer, "contextual", why)
    if evidence.in_effect >= CROWDED:
        why = (
            f"{evidence.in_effect} edits are in effect. From {CROWDED} on closed forms begin to disturb each other; a "
            "memory beside the matrix acts only where its own question is recognised."
        )
        return Choice("memoir", evidence.distill_layer, "crowded", why)
    own = "" if evidence.separability is None else f", by {evidence.separability:.2f}"
    why = f"One object for one subject, and in layer {evidence.closed_form_layer} the subject's key is its own{own}."
    return Choice("rome", evidence.closed_form_layer, "atomic", why)


def instead(first: Choice, evidence: Evidence) -> list[Choice]:
    """What is tried where a choice fails its gates, in this order: a memory of its own, then a trained block."""
    if first.method == EXPLICIT:
        return []
    others = ["distill"] if evidence.closed_form_layer is None else ["memoir", "distill"]
    why = f"{first.method} was tried first and failed its gates."
    return [Choice(name, evidence.distill_layer, "second", why) for name in others if name != first.method]


def _days(fact: Fact) -> int | None:
    """Days between the first and the last day on which the fact holds; None where an end is open."""
    if fact.valid_from is None or fact.valid_to is None:
        return None
    return (date.fromisoformat(fact.valid_to[:10]) - date.fromisoformat(fact.valid_from[:10])).days
