"""One edit on trial: asked before and after, beside everything that is in effect, and judged by the gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catechism.delta import Delta
from catechism.evaluate import DEFAULT_GATES, Gate, Interview, Report, Verdict, interview, judge, report, wilson
from catechism.evaluate.interview import answer_budget
from catechism.matching import passes
from catechism.service.served import Note, Served
from catechism.service.workbench import Workbench
from catechism.types import JSON, Catechism, Kind

#: What was learned before has to stay learned. Asked for where there is something to lose.
RETAINED = Gate("retained", at_least=1.0)


@dataclass(frozen=True)
class Trial:
    """What an edit did, with what was said to the canonical prompt without and with it."""

    report: Report
    verdict: Verdict
    before: str
    after: str

    def json(self) -> dict[str, JSON]:
        """The report with every question and its two answers, as it is kept."""
        questions: list[JSON] = [
            {
                "kind": mark.question.kind.value, "text": mark.question.text, "origin": mark.question.origin,
                "accept": list(mark.question.accept), "before": mark.before, "after": mark.after, "miss": mark.is_miss,
            }
            for mark in self.report.marks
        ]  # fmt: skip
        return {**self.report.json(), "questions": questions}


@dataclass(frozen=True)
class Active:
    """What is in effect: the deltas on the model, the notes beside it, and the facts that they teach."""

    deltas: tuple[Delta, ...] = ()
    notes: tuple[Note, ...] = ()
    lessons: tuple[Catechism, ...] = ()

    def deltas_with(self, change: Delta | None) -> tuple[Delta, ...]:
        """The deltas with a change put on after them, where there is one."""
        return self.deltas if change is None else (*self.deltas, change)


def examine(
    bench: Workbench, lesson: Catechism, change: Delta | Note, active: Active, gates: Sequence[Gate] = DEFAULT_GATES
) -> Trial:
    """Ask every question of a lesson without and with a change, on top of what is active.

    The canonical prompts of all active edits are asked again as well, and those that were right have to stay so.
    """
    with bench.serving(active.deltas, active.notes) as served:
        was = _ask(bench, served, lesson, active, answer_budget([lesson]))
        if isinstance(change, Note):
            now = _ask(bench, served.with_note(change), lesson, active, was.answers.max_new_tokens)
        else:
            with bench.live.with_delta(change):
                now = _ask(bench, served, lesson, active, was.answers.max_new_tokens)
    found = report(
        [lesson], was.answers, now.answers, perplexity_before=was.perplexity, perplexity_after=now.perplexity
    )
    still = [right for right, before in zip(now.retained, was.retained, strict=True) if before]
    if still:
        found = found.with_metrics({"retained": wilson(sum(still), len(still), before=1.0)})
        gates = (*gates, RETAINED)
    rewrite = next(i for i, question in enumerate(lesson.questions) if question.kind is Kind.REWRITE)
    return Trial(found, judge(found, gates), was.answers.answers[0][rewrite], now.answers.answers[0][rewrite])


@dataclass(frozen=True)
class _Asked:
    """One state of the model: its answers, whether it still knows the active edits, and its perplexity."""

    answers: Interview
    retained: tuple[bool, ...]
    perplexity: float


def _ask(bench: Workbench, served: Served, lesson: Catechism, active: Active, budget: int) -> _Asked:
    answers = interview(served, [lesson], max_new_tokens=budget)
    asked = [one.of(Kind.REWRITE)[0] for one in active.lessons]
    said = served.generate([question.text for question in asked]) if asked else []
    retained = tuple(passes(one.text, q.accept, q.reject) for one, q in zip(said, asked, strict=True))
    return _Asked(answers, retained, served.perplexity(bench.held_out))
