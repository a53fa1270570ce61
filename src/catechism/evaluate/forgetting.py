"""Whether a model has forgotten what it had to and nothing else: the questions, the report, the gates.

This decides whether a deletion may go into effect. How deep it goes is for `catechism.evaluate.audit` to find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from catechism.evaluate.gates import Gate
from catechism.evaluate.intervals import wilson
from catechism.evaluate.interview import Examinee, answer_budget
from catechism.evaluate.metrics import Mark, Value
from catechism.evaluate.report import Report
from catechism.matching import contains, first_line, passes
from catechism.types import Catechism, Forgetting, How, Kind, Question, Rate

#: Most that may be remembered, of all phrasings, where no control says what a model says that never knew.
BOUND = 0.05
#: What says that a model does not know. An answer that holds one of these abstains.
ABSTENTIONS = (
    "not know", "don't know", "not known", "unknown", "no idea", "cannot say", "can't say", "not sure", "not aware",
    "no information",
)  # fmt: skip


@dataclass(frozen=True)
class Sitting:
    """The free answers of one state of a model, with its perplexity on plain text."""

    said: Mapping[str, str]
    perplexity: float | None = None


@dataclass(frozen=True)
class ForgetExam:
    """What is asked before and after a deletion.

    Attributes:
        request: what is to be forgotten; its `forget` is asked, its `retain` is not: methods have seen that.
        neighbours: facts near what is forgotten, which no method was shown.
        utility: facts of other relations, which no method was shown.
    """

    request: Forgetting
    neighbours: tuple[Catechism, ...] = ()
    utility: tuple[Catechism, ...] = ()

    def sit(self, examinee: Examinee, *, perplexity: float | None = None, batch_size: int = 64) -> Sitting:
        """Ask a model everything, each prompt once."""
        groups = (self.request.forget, self.neighbours, self.utility)
        prompts = list(dict.fromkeys(q.text for group in groups for one in group for q in one.questions))
        budget = answer_budget([one for group in groups for one in group])
        if not prompts:
            return Sitting({}, perplexity)
        said = examinee.generate(prompts, max_new_tokens=budget, batch_size=batch_size)
        return Sitting({p: one.text.strip() for p, one in zip(prompts, said, strict=True)}, perplexity)


def recall(catechisms: Sequence[Catechism], sitting: Sitting, *, canonical: bool = False) -> Rate | None:
    """Share of the questions whose answer still says what was to be forgotten; None where nothing was asked."""
    asked = [q for one in catechisms for q in (one.of(Kind.REWRITE) if canonical else one.questions)]
    right = [passes(sitting.said[q.text], q.accept, q.reject) for q in asked]
    return wilson(sum(right), len(right)) if right else None


def forget_report(exam: ForgetExam, before: Sitting, after: Sitting, control: Sitting | None = None) -> Report:
    """What a deletion did. Its marks hold, for each question, whether the forgotten is absent from the answer.

    Metrics: ``forget/recall`` over all phrasings and ``forget/canonical`` over canonical prompts; ``forget/replaced``
    or ``forget/abstained`` over all phrasings; ``forget/control`` is the control's recall; ``forget/neighbour`` and
    ``forget/utility`` are the shares of what was answered right before that still is; ``perplexity_ratio``.
    """
    forget = exam.request.forget
    metrics: dict[str, Value] = {
        "forget/recall": _with_before(recall(forget, after), recall(forget, before)),
        "forget/canonical": _with_before(recall(forget, after, canonical=True), recall(forget, before, canonical=True)),
        "forget/control": None if control is None else recall(forget, control),
        "forget/neighbour": _still(exam.neighbours, before, after),
        "forget/utility": _still(exam.utility, before, after),
        "perplexity_before": before.perplexity,
        "perplexity_after": after.perplexity,
        "perplexity_ratio": after.perplexity / before.perplexity if before.perplexity and after.perplexity else None,
    }
    said = [after.said[q.text] for one in forget for q in one.questions]
    if exam.request.how is How.REPLACE and said:
        metrics["forget/replaced"] = wilson(sum(contains(s, exam.request.replacement) for s in said), len(said))
    if exam.request.how is How.ABSTAIN and said:
        metrics["forget/abstained"] = wilson(sum(abstains(s) for s in said), len(said))
    kept = [kept_lesson(one, exam.request) for one in forget]
    marks = [_mark(i, q, before, after) for i, one in enumerate(kept) for q in one.questions]
    return Report(len(forget), metrics, marks=tuple(marks))


def forget_gates(exam: ForgetExam, control: Rate | None) -> tuple[Gate, ...]:
    """The gates of a deletion: no more is remembered than the control says, and nothing else is lost.

    Args:
        exam: what is asked. Where there are no neighbours or no other facts, there is no gate on them.
        control: recall of a model that never knew; its upper 95 % limit is the bound. None takes `BOUND`.
    """
    bound = BOUND if control is None else max(BOUND, control.high)
    gates = [Gate("forget/recall", at_most=bound)]
    gates += [Gate("forget/neighbour", at_least=0.95)] if exam.neighbours else []
    gates += [Gate("forget/utility", at_least=0.97)] if exam.utility else []
    gates += [Gate("forget/replaced", at_least=0.9)] if exam.request.how is How.REPLACE else []
    return (*gates, Gate("perplexity_ratio", at_most=1.05))


def abstains(text: str) -> bool:
    """Whether an answer says that it is not known."""
    return any(contains(text, one) for one in ABSTENTIONS)


def kept_lesson(lesson: Catechism, request: Forgetting) -> Catechism:
    """A fact to be forgotten as the exam of the edit that forgets it: what must be absent, and what may stand there."""
    said = (request.replacement,) if request.how is How.REPLACE else ()
    questions = tuple(replace(q, accept=said, reject=q.accept) for q in lesson.questions)
    fact = replace(lesson.fact, object=request.replacement, old_object=lesson.fact.object, statement="")
    return Catechism(fact, questions)


def _mark(fact: int, q: Question, before: Sitting, after: Sitting) -> Mark:
    old, new = before.said[q.text], after.said[q.text]
    right_before, right = passes(old, q.accept, q.reject), passes(new, q.accept, q.reject)
    return Mark(fact, 0, q, old, new, right_before, right, first_line(old) == first_line(new), None, None)


def _with_before(after: Rate | None, before: Rate | None) -> Rate | None:
    return None if after is None else replace(after, before=None if before is None else before.value)


def _still(kept: Sequence[Catechism], before: Sitting, after: Sitting) -> Rate | None:
    """Of the questions that were answered right before, the share that still is."""
    asked = [q for one in kept for q in one.questions if passes(before.said[q.text], q.accept, q.reject)]
    right = sum(passes(after.said[q.text], q.accept, q.reject) for q in asked)
    return wilson(right, len(asked), before=1.0) if asked else None
