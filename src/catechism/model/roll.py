"""The roll of a memory: which edits it holds, in the order of its entries, and what becomes of a question asked again.

It is kept in the delta's `info` under ``edits``, so that a delta alone says which entry belongs to which fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadFact
from catechism.hashing import digest_json
from catechism.types import JSON, Catechism, Fact

#: What to do when a question that has an answer gets another one.
Again = Literal["newest", "refuse"]


@dataclass(frozen=True)
class Roll:
    """Edits by entry: objects with the digests of a ``fact`` and of its ``question``, and the ``subject``."""

    edits: tuple[Mapping[str, JSON], ...] = ()

    @staticmethod
    def of(delta: Delta | None) -> Roll:
        """That of a delta; empty for none."""
        listed = None if delta is None else delta.info.get("edits")
        return Roll(tuple(cast("list[dict[str, JSON]]", listed))) if isinstance(listed, list) else Roll()

    @property
    def subjects(self) -> list[str]:
        """Of every edit."""
        return [str(edit["subject"]) for edit in self.edits]

    def json(self) -> list[JSON]:
        """For the `info` of a delta."""
        return [dict(edit) for edit in self.edits]

    def admit(self, catechisms: Sequence[Catechism], again: Again) -> tuple[list[Catechism], Int[Tensor, " s"]]:
        """Which facts are written, and which entries stay: one answer for every question, the newest.

        Raises: BadFact if a question has an answer already, or two of them, where that is refused.
        """
        newest = {question_of(catechism.fact): catechism for catechism in catechisms}
        kept = [i for i, edit in enumerate(self.edits) if edit["question"] not in newest]
        twice = len(catechisms) - len(newest) + len(self.edits) - len(kept)
        if twice and again == "refuse":
            raise BadFact(
                f"{twice} of {len(catechisms)} facts answer a question that has an answer already. Take the earlier "
                "fact out first, or use again='newest'."
            )
        return list(newest.values()), torch.tensor(kept, dtype=torch.int64)

    def without(self, facts: Sequence[Fact]) -> Int[Tensor, " s"]:
        """The entries of all other facts. Raises BadFact for a fact that is not there."""
        gone = {digest_json(asdict(fact)): fact for fact in facts}
        missing = gone.keys() - {str(edit["fact"]) for edit in self.edits}
        if missing:
            names = ", ".join(repr(gone[digest].prompt) for digest in sorted(missing))
            raise BadFact(f"The memory holds no edit of {names} with this answer. Name facts as they were written.")
        return torch.tensor([i for i, edit in enumerate(self.edits) if edit["fact"] not in gone], dtype=torch.int64)

    def select(self, entries: Int[Tensor, " s"]) -> Roll:
        """These edits, in this order."""
        return Roll(tuple(self.edits[i] for i in entries.tolist()))

    def extended(self, facts: Sequence[Fact], found: Sequence[Mapping[str, JSON]]) -> Roll:
        """With these facts at the end, each with what is to be said of how it was found."""
        new = [
            {"fact": digest_json(asdict(fact)), "question": question_of(fact), "subject": fact.subject, **more}
            for fact, more in zip(facts, found, strict=True)
        ]
        return Roll((*self.edits, *new))


def question_of(fact: Fact) -> str:
    """Digest of what a fact answers: subject and relation where the relation is known, else the prompt."""
    return digest_json([fact.subject, fact.relation] if fact.relation else [fact.prompt])
