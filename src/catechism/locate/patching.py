"""Activation patching from a teacher to a student: where the answer enters the network.

The student is the model with the prompt alone. The teacher knows the answer: it is the same model with the fact's
sentence in front of the prompt, or, to see where an edit acts, the same model with that edit on it. One activation of
the student is replaced by the teacher's, and what this does to the answer's probability is that place's gain.

Both rows end with the same tokens, so positions are counted from the end. What an activation is replaced at:

    subject  the last token of the subject
    last     where the answer is said: the last token of the prompt, and of a longer answer every token but its last
    prompt   every token of the prompt, and these

Source: the patching of arXiv:2202.05262, Sec. 2, with a teacher in place of its clean run and nothing corrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadFact, UsageError
from catechism.locate.answers import answer_logprobs, select_rows
from catechism.model import BlockSite, LiveModel, Pairs, Part, Patch, Place, patch, record
from catechism.types import JSON, Fact


class Where(StrEnum):
    """The positions at which an activation is replaced."""

    SUBJECT = "subject"
    LAST = "last"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Gain:
    """What one activation of the teacher does to the answer in the student.

    Attributes:
        place: whose output was replaced: a block's, an attention's, an MLP's.
        where: at which positions.
        gain: probability of the answer with the teacher's activation, less `before`.
        logprob_gain: the same in nats.
        before: probability of the answer in the student.
        teacher: probability of the answer in the teacher.
    """

    place: BlockSite
    where: Where
    gain: float
    logprob_gain: float
    before: float
    teacher: float

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "layer": self.place.layer,
            "part": self.place.part.value,
            "where": self.where.value,
            "gain": self.gain,
            "logprob_gain": self.logprob_gain,
            "before": self.before,
            "teacher": self.teacher,
        }


@dataclass(frozen=True, slots=True)
class _Student:
    """One fact's rows. `tokens` are the student's positions; the teacher's are later by `shift`."""

    tokens: dict[Where, list[int]]
    shift: int


@torch.no_grad()
def patch_gains(
    live: LiveModel,
    facts: Sequence[Fact],
    *,
    places: Sequence[BlockSite] | None = None,
    wheres: Sequence[Where] = tuple(Where),
    delta: Delta | None = None,
    batch_size: int = 128,
) -> list[tuple[Gain, ...]]:
    """For every fact the gain of every place at every group of positions, in the order given.

    Args:
        places: outputs to patch; None is every layer's block, attention and MLP.
        delta: makes the teacher the model with this change on it; None makes it the model with the fact in its context.
        batch_size: rows of one forward pass.

    Raises: BadFact for an empty object, a prompt without its subject, or one that a tokenizer cuts otherwise after the
        fact's sentence; UsageError for a batch size below 1 or a row longer than the model's window.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small. Use 1 or more.")
    if places is None:
        places = [BlockSite(layer, part) for layer in range(live.anatomy.n_layers) for part in Part]
    found: list[tuple[Gain, ...]] = []
    for start in range(0, len(facts), batch_size):
        found += _gains(live, facts[start : start + batch_size], places, wheres, delta, batch_size)
    return found


def mean_gains(rows: Sequence[Sequence[Gain]]) -> list[Gain]:
    """The mean over facts, place by place."""
    n = len(rows)
    return [
        Gain(
            same[0].place,
            same[0].where,
            sum(g.gain for g in same) / n,
            sum(g.logprob_gain for g in same) / n,
            sum(g.before for g in same) / n,
            sum(g.teacher for g in same) / n,
        )
        for same in zip(*rows, strict=True)
    ]


def _gains(
    live: LiveModel,
    facts: Sequence[Fact],
    places: Sequence[BlockSite],
    wheres: Sequence[Where],
    delta: Delta | None,
    batch_size: int,
) -> list[tuple[Gain, ...]]:
    answers = [fact.object for fact in facts]
    pairs = live.encode_pairs([fact.prompt for fact in facts], answers)
    contexts = ["" if delta else f"{fact.sentence} " for fact in facts]
    taught = live.encode_pairs([f + fact.prompt for f, fact in zip(contexts, facts, strict=True)], answers)
    students = [_student(live, fact, pairs, taught, i) for i, fact in enumerate(facts)]
    before = answer_logprobs(live, pairs)
    on = nullcontext() if delta is None else live.with_delta(delta)
    watched: list[Place] = list(places)
    with on, record(live, watched, what="output") as seen:
        teacher = answer_logprobs(live, taught)
    jobs = [(i, place, where) for i in range(len(facts)) for place in places for where in wheres]
    after = [
        logprob
        for start in range(0, len(jobs), batch_size)
        for logprob in _patched(live, pairs, students, seen, jobs[start : start + batch_size])
    ]
    gains: list[list[Gain]] = [[] for _ in facts]
    for (i, place, where), logprob in zip(jobs, torch.tensor(after), strict=True):
        was, is_, could = before[i].cpu().double(), logprob.double(), teacher[i].double()
        gains[i].append(
            Gain(place, where, float(is_.exp() - was.exp()), float(is_ - was), float(was.exp()), float(could.exp()))
        )
    return [tuple(row) for row in gains]


def _student(live: LiveModel, fact: Fact, pairs: Pairs, taught: Pairs, row: int) -> _Student:
    """The positions of one fact, and how far behind the teacher's the student's row is."""
    subject = live.subject_last(fact.prompt, fact.subject)
    (answer, end), (_, taught_end) = pairs.spans[row], taught.spans[row]
    ids, taught_ids = pairs.input_ids[row, :end].tolist(), taught.input_ids[row, :taught_end].tolist()
    same = 0
    while same < len(ids) and ids[-1 - same] == taught_ids[-1 - same]:
        same += 1
    first = end - same
    if first > min(subject + 1, answer - 1):
        raise BadFact(
            f"The tokenizer cuts the prompt {fact.prompt!r} otherwise after {fact.sentence!r}, so that its tokens "
            "cannot be compared. Give the fact a statement that ends with a full stop."
        )
    tokens = {
        Where.SUBJECT: [subject],
        Where.LAST: list(range(answer - 1, end - 1)),
        Where.PROMPT: list(range(first, end - 1)),
    }
    return _Student(tokens, taught_end - end)


def _patched(
    live: LiveModel,
    pairs: Pairs,
    students: Sequence[_Student],
    seen: dict[Place, Tensor],
    jobs: Sequence[tuple[int, BlockSite, Where]],
) -> list[float]:
    """Log-probability of the answer under each patch; every patch has a row of its own in one pass."""
    patches: list[Patch] = []
    for place in dict.fromkeys(place for _, place, _ in jobs):
        rows, tokens, values = [], [], []
        for row, (i, other, where) in enumerate(jobs):
            if other == place:
                at = students[i].tokens[where]
                rows += [row] * len(at)
                tokens += at
                values.append(seen[place][i, [t + students[i].shift for t in at]])
        patches.append(Patch(place, rows, tokens, torch.cat(values), mode="replace"))
    with patch(live, *patches):
        return answer_logprobs(live, select_rows(pairs, [i for i, _, _ in jobs])).tolist()
