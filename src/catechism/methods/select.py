"""Which way a fact goes into a model, by rules, each with its reason.

The rules are tried from top to bottom and the first that holds decides. The lower ones are about the model, the upper
ones about the fact: what will soon be false again, or is too much text for a small change, is better left as text.

What makes an edit of one matrix likely to work is that the subject's key there is its own, so that is asked. Where
causal tracing finds a fact says little about where it can be edited (arXiv:2301.04213); on the shipped models hardly
any of a fact's effect sits at one MLP, and rank-one edits work all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from catechism.types import JSON, Fact

EXPLICIT = "explicit"  # no change of the weights: the fact stays beside them as text
SHORT_LIVED_DAYS = 60
BULKY_CHARS = 400  # of the whole statement
LONG_OBJECT_TOKENS = 12  # more than a rank-one value was seen to hold on the shipped models
SEPARABLE = 0.5  # the subject's key less that of other subjects, see `catechism.locate.layers`


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured about a fact on a model.

    Attributes:
        object_tokens: length of the new object.
        closed_form_layer: best layer for a rank-one edit; None where no layer has a dense MLP.
        separability: how much the subject's key is its own there, at most 1; None where it was not measured.
        distill_layer: best block for distillation.
    """

    object_tokens: int
    closed_form_layer: int | None
    separability: float | None
    distill_layer: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A method with its layer (None for `EXPLICIT`), the rule that chose it and the reason in words."""

    method: str
    layer: int | None
    rule: str
    why: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"method": self.method, "layer": self.layer, "rule": self.rule, "why": self.why}


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
    own = "" if evidence.separability is None else f", by {evidence.separability:.2f}"
    why = f"One object for one subject, and in layer {evidence.closed_form_layer} the subject's key is its own{own}."
    return Choice("rome", evidence.closed_form_layer, "atomic", why)


def _days(fact: Fact) -> int | None:
    """Days between the first and the last day on which the fact holds; None where an end is open."""
    if fact.valid_from is None or fact.valid_to is None:
        return None
    return (date.fromisoformat(fact.valid_to[:10]) - date.fromisoformat(fact.valid_from[:10])).days
