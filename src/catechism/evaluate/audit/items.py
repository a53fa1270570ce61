"""What an audit asks about: each fact with its phrasings, wrong answers, and examples from its neighbourhood."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catechism.errors import UsageError
from catechism.matching import name_key, says
from catechism.types import Catechism, Fact, Forgetting, Kind

SHOTS = 4  # examples that a prompt may be given
GIVEN = 2  # wrong answers that the rewrite names, from which on no others are drawn


@dataclass(frozen=True)
class Kept:
    """What has to be left as it was, and what the forgotten is held against.

    Attributes:
        neighbours: facts of the relations that are forgotten from, about other subjects.
        utility: facts of other relations.
        texts: plain text, for the perplexity.
        holdout: facts like the forgotten ones that neither the model nor the control was ever trained on, for
            membership inference. Without them such facts are made up from the names at hand.
    """

    neighbours: Sequence[Catechism]
    utility: Sequence[Catechism]
    texts: Sequence[str]
    holdout: Sequence[Catechism] = ()


@dataclass(frozen=True)
class Item:
    """One fact that was to be forgotten.

    Attributes:
        fact: with the answer that must not come, `Fact.object`.
        accept: all spellings of that answer.
        asked: the prompts of the exam that ask for it, the canonical one first.
        study: phrasings that a method may have been fitted on.
        rivals: wrong answers of the same sort, in a random order; those that the rewrite names, if there are two.
        shots: other facts, of the same relation if there are any, as (prompt, answer); none has the same answer.
    """

    fact: Fact
    accept: tuple[str, ...]
    asked: tuple[str, ...]
    study: tuple[str, ...]
    rivals: tuple[str, ...]
    shots: tuple[tuple[str, str], ...]

    def said_in(self, text: str) -> bool:
        """Whether a text says the answer, in its first line; of a sentence, whether it says what that tells."""
        lines = text.strip().splitlines()
        return bool(lines) and says(lines[0], self.accept, self.fact.prompt)


def items_of(request: Forgetting, kept: Kept, *, rivals: int, seed: int) -> tuple[Item, ...]:
    """The facts of a request with what attacks need.

    Raises: UsageError for a request that names no fact, or for a fact without a phrasing.
    """
    if not request.forget:
        raise UsageError("The request names no fact. Give at least one in `forget`.")
    around = list(dict.fromkeys(one.fact for one in (*kept.neighbours, *request.retain)))
    forgotten = {one.fact for one in request.forget}
    around = [fact for fact in around if fact not in forgotten]
    return tuple(
        _item(one, around, forgotten, rivals, random.Random(f"item-{seed}-{i}")) for i, one in enumerate(request.forget)
    )


def _item(one: Catechism, around: Sequence[Fact], forgotten: Iterable[Fact], rivals: int, rng: random.Random) -> Item:
    fact = one.fact
    asked = one.of(Kind.REWRITE, Kind.PARAPHRASE, Kind.ALIAS)
    if not asked:
        raise UsageError(f"Nothing asks for {fact.prompt!r}. Give its catechism a rewrite question.")
    accept = tuple(dict.fromkeys([fact.object, *(answer for question in asked for answer in question.accept)]))
    own = set(map(name_key, accept))
    alike = [other for other in (*around, *forgotten) if other.relation == fact.relation]
    pool = alike if len({other.object for other in alike}) > 1 else [*around, *forgotten]
    named = sorted({answer for answer in asked[0].reject if name_key(answer) not in own})
    wrong = sorted({other.object for other in pool if name_key(other.object) not in own})
    wrong = named if len(named) >= GIVEN else wrong
    near = [other for other in around if other.subject != fact.subject and name_key(other.object) not in own]
    same = [other for other in near if other.relation == fact.relation]
    examples = same if len(same) >= SHOTS else near
    return Item(
        fact,
        accept,
        tuple(dict.fromkeys(question.text for question in asked)),
        tuple(dict.fromkeys(question.text for question in one.study)),
        tuple(rng.sample(wrong, min(rivals, len(wrong)))),
        tuple((other.prompt, other.object) for other in rng.sample(examples, min(SHOTS, len(examples)))),
    )
