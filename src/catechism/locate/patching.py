"""Activation patching from a teacher to a student: where the answer enters the network.

The student is the model with the prompt alone. The teacher knows the answer: it is the same model with the fact's
sentence in front of the prompt, or, to see where an edit acts, the same model with that edit on it. One activation of
the student is replaced by the teacher's, and what this does to the answer's probability is that place's gain.

A cheap estimate of all gains at once is the first-order one, gradient x activation towards the teacher:

    gain in nats ~ sum over the positions t of  dL/dy_t . (y_t of the teacher - y_t of the student)

Both rows end with the same tokens, so positions are counted from the end. Where an activation is replaced:

    subject  the last token of the subject
    last     where the answer is said: the last token of the prompt, and of a longer answer every token but its last
    prompt   every token of the prompt, and these

Source: the patching of arXiv:2202.05262, Sec. 2, with a teacher in place of its clean run and nothing corrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadFact, UsageError
from catechism.locate.answers import answer_gradients, answer_logprobs, select_rows
from catechism.model import BlockSite, LiveModel, Pairs, Part, Patch, Recording, patch, record
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
    places = _all_places(live) if places is None else places
    gains: list[tuple[Gain, ...]] = []
    for group in _groups(facts, batch_size):
        rows = _rows(live, group, delta)
        before = answer_logprobs(live, rows.student).double()
        states, teacher = _teach(live, rows, places, delta)
        jobs = [(i, place, where) for i in range(len(group)) for place in places for where in wheres]
        after = [
            logprob
            for start in range(0, len(jobs), batch_size)
            for logprob in _patched(live, rows, states, jobs[start : start + batch_size])
        ]
        was, could = before.tolist(), teacher.double().tolist()
        found = [
            Gain(place, where, math.exp(now) - math.exp(was[i]), now - was[i], math.exp(was[i]), math.exp(could[i]))
            for (i, place, where), now in zip(jobs, after, strict=True)
        ]
        each = len(places) * len(wheres)
        gains += [tuple(found[i * each : (i + 1) * each]) for i in range(len(group))]
    return gains


def estimate_gains(
    live: LiveModel,
    facts: Sequence[Fact],
    *,
    places: Sequence[BlockSite] | None = None,
    wheres: Sequence[Where] = tuple(Where),
    delta: Delta | None = None,
    batch_size: int = 32,
) -> list[tuple[float, ...]]:
    """What `patch_gains` will find, in nats to first order, from one backward pass instead of one row for each gain.

    Arguments, order and errors are those of `patch_gains`.
    """
    places = _all_places(live) if places is None else places
    estimates: list[tuple[float, ...]] = []
    for group in _groups(facts, batch_size):
        rows = _rows(live, group, delta)
        with record(live, list(places), what="output") as own:
            _, gradients = answer_gradients(live, rows.student, dict.fromkeys(places, live.anatomy.d_model))
        with torch.no_grad():
            states, _ = _teach(live, rows, places, delta)
        for i in range(len(group)):
            found: list[float] = []
            for place in places:
                for where in wheres:
                    at = rows.tokens[i][where]
                    step = states[place][i, [t + rows.shift[i] for t in at]] - own[place][i, at].detach()
                    found.append(float((gradients[place][i, at].to(step.device) * step).sum()))
            estimates.append(tuple(found))
    return estimates


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


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of student and teacher; `tokens` are the student's positions, the teacher's lie `shift` later."""

    student: Pairs
    teacher: Pairs
    tokens: list[dict[Where, list[int]]]
    shift: list[int]


def _all_places(live: LiveModel) -> list[BlockSite]:
    return [BlockSite(layer, part) for layer in range(live.anatomy.n_layers) for part in Part]


def _groups(facts: Sequence[Fact], batch_size: int) -> Iterator[Sequence[Fact]]:
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small. Use 1 or more.")
    for start in range(0, len(facts), batch_size):
        yield facts[start : start + batch_size]


def _rows(live: LiveModel, facts: Sequence[Fact], delta: Delta | None) -> _Rows:
    answers = [fact.object for fact in facts]
    student = live.encode_pairs([fact.prompt for fact in facts], answers)
    prompts = [fact.prompt if delta else f"{fact.sentence} {fact.prompt}" for fact in facts]
    teacher = live.encode_pairs(prompts, answers)
    tokens = [_positions(live, fact, student, teacher, i) for i, fact in enumerate(facts)]
    shift = [after - own for (_, own), (_, after) in zip(student.spans, teacher.spans, strict=True)]
    return _Rows(student, teacher, tokens, shift)


def _positions(live: LiveModel, fact: Fact, student: Pairs, teacher: Pairs, row: int) -> dict[Where, list[int]]:
    """The student's positions by group, all of which the teacher's row has as well."""
    subject = live.subject_last(fact.prompt, fact.subject)
    answer, end = student.spans[row]
    ids = student.input_ids[row, :end].tolist()
    taught = teacher.input_ids[row, : teacher.spans[row][1]].tolist()
    same = next((n for n, (a, b) in enumerate(zip(ids[::-1], taught[::-1], strict=False)) if a != b), len(ids))
    first = end - same
    if first > min(subject + 1, answer - 1):
        raise BadFact(
            f"The tokenizer cuts the prompt {fact.prompt!r} otherwise after {fact.sentence!r}, so that its tokens "
            "cannot be compared. Give the fact a statement that ends with a full stop."
        )
    said = list(range(answer - 1, end - 1))
    return {Where.SUBJECT: [subject], Where.LAST: said, Where.PROMPT: list(range(first, end - 1))}


def _teach(
    live: LiveModel, rows: _Rows, places: Sequence[BlockSite], delta: Delta | None
) -> tuple[Recording, Float[Tensor, " b"]]:
    """The teacher's outputs at the places, and what it makes of the answers."""
    on = nullcontext() if delta is None else live.with_delta(delta)
    with on, record(live, list(places), what="output") as states:
        logprobs = answer_logprobs(live, rows.teacher)
    return states, logprobs


def _patched(
    live: LiveModel, rows: _Rows, states: Recording, jobs: Sequence[tuple[int, BlockSite, Where]]
) -> list[float]:
    """Log-probability of the answer under each patch; every patch has a row of its own in one pass."""
    patches: list[Patch] = []
    for place in dict.fromkeys(place for _, place, _ in jobs):
        row_of: list[int] = []
        tokens: list[int] = []
        values: list[Tensor] = []
        for row, (i, other, where) in enumerate(jobs):
            if other == place:
                at = rows.tokens[i][where]
                row_of += [row] * len(at)
                tokens += at
                values.append(states[place][i, [t + rows.shift[i] for t in at]])
        patches.append(Patch(place, row_of, tokens, torch.cat(values), mode="replace"))
    with patch(live, *patches):
        return answer_logprobs(live, select_rows(rows.student, [i for i, _, _ in jobs])).double().tolist()
