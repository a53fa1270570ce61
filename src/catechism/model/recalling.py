"""Texts that a model recalls when it is asked for them: the retriever's gate, fitted on what there is to study."""

from __future__ import annotations

from collections.abc import Sequence

from catechism.delta import Recall
from catechism.errors import BadSpec
from catechism.model.address import Addresses, Reach
from catechism.model.background import Background
from catechism.model.encoding import check_length, rows
from catechism.model.live import LiveModel
from catechism.types import Catechism


def recall(
    live: LiveModel,
    background: Background,
    catechisms: Sequence[Catechism],
    texts: Sequence[str],
    *,
    layer: int,
    reach: Reach,
) -> Recall:
    """A text for each fact, put before the prompts that ask for it and no others.

    The gate is the address of conditional memory: it knows the fact's prompt and the phrasings to study, and its
    threshold is what the questions that must not move, and mentions of the subject, leave.

    Args:
        live: the model.
        background: its background.
        catechisms: the facts.
        texts: what is put before their prompts, in their order.
        layer: the block whose input the gate reads.
        reach: what the gate is fitted on.

    Raises: BadSpec without facts; WrongBase for the background of another model; BadFact if a prompt does not hold its
        subject or an object is empty; UnknownName for a block that is not there; UsageError for a text that leaves no
        room for its prompt in the model's window.
    """
    if not catechisms:
        raise BadSpec("There is nothing to fit. Give at least one catechism.")
    background.check(live)
    facts = [catechism.fact for catechism in catechisms]
    live.encode_pairs([fact.prompt for fact in facts], [fact.object for fact in facts])
    for fact in facts:
        live.subject_last(fact.prompt, fact.subject)
    joined = [f"{text} {fact.prompt} {fact.object}" for text, fact in zip(texts, facts, strict=True)]
    check_length(rows(live.tokenizer, joined), live.max_tokens)
    return Recall(Addresses(live, background, layer, reach).table(catechisms), tuple(texts))
