"""Many facts taught to one model: batch after batch, and all of them asked together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from catechism.bench.before import answer_sheet, answers_before
from catechism.bench.stage import Stage
from catechism.delta import Delta, LowRank
from catechism.delta.dense import Dense
from catechism.errors import BadFact, CatechismError, NoConvergence, UsageError
from catechism.evaluate import Report, report, wilson
from catechism.evaluate.divergence import mean_kl, neighbour_prompts
from catechism.evaluate.effect import InEffect, in_effect
from catechism.evaluate.interview import Answers, Sheet, answer_budget, gather, hand_out, interview_of
from catechism.fanout import Executor
from catechism.matching import passes
from catechism.methods.registry import SUBJECTLESS
from catechism.methods.stream import Stream
from catechism.model import LiveModel, encoding
from catechism.model.sharing import Work, here
from catechism.model.writing import standing
from catechism.types import Catechism, Kind, Rate


@dataclass(frozen=True, slots=True)
class Failure:
    """A fact that a method could not take in, and why."""

    fact: str
    message: str


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the facts so far.

    Attributes:
        report: every metric, over the facts that are in effect.
        effect: which facts and questions these are.
        first_decile: efficacy of the first tenth of the facts; None if none of them is in effect.
    """

    report: Report
    effect: InEffect
    first_decile: Rate | None


@dataclass(frozen=True)
class Course:
    """A model and the facts to be taught to it, with everything that is asked about them.

    Attributes:
        stage: the model with its texts.
        catechisms: in the order of the edits.
        executor: where sheets are answered.
        cache: folder for what the model says before.
        seed: of the intervals.
    """

    stage: Stage
    catechisms: Sequence[Catechism]
    executor: Executor
    cache: Path
    seed: int = 0

    @cached_property
    def taught(self) -> tuple[Catechism, ...]:
        """What the methods are given: nothing in the study may hold still what another edit changes."""
        clean = dict(zip((effect := in_effect(self.catechisms)).places, effect.catechisms, strict=True))
        return tuple(clean.get(place, one) for place, one in enumerate(self.catechisms))

    @cached_property
    def sheets(self) -> list[Sheet]:
        """Everything that is asked."""
        return hand_out(self.catechisms, answer_budget(self.catechisms))

    @cached_property
    def before(self) -> Answers:
        """What the model says before any edit."""
        return answers_before(self.stage, self.sheets, self.executor, self.cache)

    @cached_property
    def perplexity_before(self) -> float | None:
        """Of the held-out text, if there is any."""
        return self.stage.live.perplexity(self.stage.held_out) if self.stage.held_out else None

    def is_right(self, delta: Delta | None, batch: Sequence[Catechism]) -> list[bool]:
        """Whether each fact's canonical prompt is answered right with this delta on the model."""
        rewrites = [one.of(Kind.REWRITE)[0] for one in batch]
        with standing(self.stage.live, delta):
            said = self.stage.live.generate([q.text for q in rewrites], max_new_tokens=answer_budget(self.catechisms))
        return [passes(one.text.strip(), q.accept, q.reject) for one, q in zip(said, rewrites, strict=True)]

    def score(self, delta: Delta | None, n: int) -> Scored:
        """Ask everything about the first `n` facts, with a delta that holds them on the model."""
        live, effect = self.stage.live, in_effect(self.catechisms[:n])
        prompts = neighbour_prompts(effect.catechisms)
        before = interview_of(effect.catechisms, self.before)
        perplexity, kl = self.perplexity_before, None
        expected = live.next_logprobs(prompts) if prompts else None
        with standing(live, delta):
            said = self.executor.map(answer_sheet, self._sheets(n), shared=delta)
            after = interview_of(effect.catechisms, gather(said, self.sheets[0].max_new_tokens))
            if expected is not None:
                kl = mean_kl(expected, live.next_logprobs(prompts))
            perplexity_after = None if perplexity is None else live.perplexity(self.stage.held_out)
        found = report(
            effect.catechisms,
            before,
            after,
            perplexity_before=perplexity,
            perplexity_after=perplexity_after,
            figures={"kl_neighbour": kl, "norm_growth": norm_growth(live, delta)},
            seed=self.seed,
        )
        return Scored(found, effect, _first_decile(found, effect, n))

    def _sheets(self, n: int) -> list[Sheet]:
        """The sheets that hold what is asked about the first `n` facts, each of them whole."""
        first = hand_out(self.catechisms[:n], self.sheets[0].max_new_tokens)
        return self.sheets[: len(first)]


def _first_decile(found: Report, effect: InEffect, n: int) -> Rate | None:
    early = [
        mark
        for mark in found.marks
        if mark.question.kind is Kind.REWRITE and effect.places[mark.fact] < math.ceil(n / 10)
    ]
    if not early:
        return None
    before = sum(mark.right_before is True for mark in early) / len(early)
    return wilson(sum(mark.right is True for mark in early), len(early), before=before)


def norm_growth(live: LiveModel, delta: Delta | None) -> float | None:
    """The largest ratio of a change's norm to that of its matrix; None where no weight is changed, as by a memory."""
    ratios = [
        part.norm() / float(live.anatomy.matrix(address).read().double().norm())
        for address, part in (delta.parts if delta is not None else {}).items()
        if isinstance(part, (LowRank, Dense))
    ]
    return max(ratios, default=None)


def askable(live: LiveModel, catechisms: Sequence[Catechism]) -> tuple[list[Catechism], list[Failure]]:
    """The facts that the model can be asked about at all, and those that no method could be tried on."""
    try:
        _check(live, catechisms)
        return list(catechisms), []
    except (BadFact, UsageError):
        good: list[Catechism] = []
        refused: list[Failure] = []
        for one in catechisms:
            try:
                _check(live, [one])
                good.append(one)
            except (BadFact, UsageError) as error:
                refused.append(Failure(one.fact.id, str(error)))
        return good, refused


def _check(live: LiveModel, catechisms: Sequence[Catechism]) -> None:
    for sheet in hand_out(catechisms, 1):
        encoding.check_length(encoding.rows(live.tokenizer, sheet.prompts), live.max_tokens)
        pairs = sheet.pairs
        rows, _ = encoding.target_spans(live.tokenizer, [prompt for prompt, _ in pairs], [said for _, said in pairs])
        encoding.check_length(rows, live.max_tokens)


@dataclass
class Learner:
    """A stream of a method that does not stop at facts it cannot take in.

    Attributes:
        stream: the method's.
        again: another stream from where this one stands, to try things on.
        delta: everything that was learned so far.
        failed: facts that were left out.
        seconds: spent on learning, without the search for what fails.
    """

    stream: Stream
    again: Callable[[], Stream]
    delta: Delta | None = None
    failed: list[Failure] = field(default_factory=list[Failure])
    seconds: float = 0.0

    def add(self, batch: Sequence[Catechism]) -> None:
        """Learn a batch. If it fails, the facts that fail by themselves are found by halving, and the rest is learned.

        Raises: an error that is not about a fact.
        """
        try:
            self._timed(batch)
        except CatechismError as error:
            if not _is_about_a_fact(error):
                raise
            bad = self._bad(batch, error) if len(batch) > 1 else {0: error}
            self.failed += [Failure(batch[i].fact.id, _told(batch[i], why)) for i, why in bad.items()]
            rest = [one for i, one in enumerate(batch) if i not in bad]
            if not rest:
                return
            try:
                self._timed(rest)
            except CatechismError as together:  # each could be learned alone
                if not _is_about_a_fact(together):
                    raise
                self.failed += [Failure(one.fact.id, str(together)) for one in rest]

    def _timed(self, batch: Sequence[Catechism]) -> None:
        started = time.perf_counter()
        self.delta = self.stream.add(batch)
        self.seconds += time.perf_counter() - started

    def _bad(self, batch: Sequence[Catechism], error: CatechismError) -> dict[int, CatechismError]:
        """Places of the facts that fail by themselves in a batch that fails."""
        if len(batch) == 1:
            return {0: error}
        bad: dict[int, CatechismError] = {}
        half = len(batch) // 2
        for start, part in ((0, batch[:half]), (half, batch[half:])):
            try:
                self.again().add(part)
            except CatechismError as why:
                if not _is_about_a_fact(why):
                    raise
                bad |= {start + i: found for i, found in self._bad(part, why).items()}
        return bad


def _told(one: Catechism, error: CatechismError) -> str:
    """What the error says; of a fact without a subject, which methods need none."""
    if one.fact.subject or not isinstance(error, BadFact):
        return str(error)
    return f"{error} The fact has no subject; these methods need none: {', '.join(sorted(SUBJECTLESS))}."


def _is_about_a_fact(error: CatechismError) -> bool:
    return isinstance(error, (BadFact, NoConvergence)) or type(error) is UsageError


@dataclass(frozen=True, slots=True)
class SharedOut:
    """Does the parts of a search wherever an executor says; see `catechism.model.sharing.Share`."""

    executor: Executor

    def __call__(self, live: LiveModel, work: Work, parts: Sequence[Any], asked: Any) -> list[Any]:
        """See `Share.__call__`. One part alone stays here: it would only travel."""
        if len(parts) == 1:
            return here(live, work, parts, asked)
        on = tuple(one.delta for one in live.applied)
        return self.executor.map(do_part, parts, shared=(work, asked, on))


def do_part(stage: Stage, shared: tuple[Work, Any, tuple[Delta, ...]], part: Any) -> Any:
    """Work for an executor: a part of a search, on the model with what was learned before."""
    work, asked, deltas = shared
    stage.wear(*deltas)
    return work(stage.live, asked, part)
