"""Carrying out the plan of a deletion: own edits out, the weights changed for what is left, judged, released, sealed.

A deletion is one edit version. It takes our own edits that taught the facts out of effect in the same step in which it
comes into effect, so that going either way is one change of what is served.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, cast, get_type_hints

from catechism.delta import Delta
from catechism.errors import BadSpec, Denied, SolveError, WrongState
from catechism.evaluate import Gate, Status, judge, wilson
from catechism.evaluate.forgetting import ForgetExam, Sitting, forget_gates, forget_report, kept_lesson, recall
from catechism.facts.bank import TemplateBank
from catechism.matching import passes
from catechism.methods.forgetting import Forgetter, forgetter
from catechism.reference import open_model
from catechism.registry import Draft, EditVersion, Registry, Seal, State
from catechism.registry.manifest import forget_key
from catechism.registry.policy import ENDED, is_lower
from catechism.service.examine import RETAINED, Active, Trial
from catechism.service.forgetting.copies import Copy, Place, clear_cache, deletions, goes_too, teachers, with_done
from catechism.service.forgetting.outcome import ForgetEnding, Forgotten
from catechism.service.forgetting.plan import EXACT, ForgetPlan, Planner
from catechism.service.forgetting.target import FORGET, NEIGHBOUR, RETAIN, TAUGHT, UTILITY, read_part, rows_of
from catechism.service.learning import active_of
from catechism.service.served import Served
from catechism.service.workbench import Workbench
from catechism.types import JSON, Catechism, Fact, Forgetting, How, Kind


@dataclass(frozen=True)
class Try:
    """One change on trial; `delta` is None where taking our own edits out is all."""

    method: str
    spec: dict[str, JSON]
    delta: Delta | None
    trial: Trial


class Eraser:
    """Forgets on one model and one store."""

    def __init__(self, bench: Workbench, registry: Registry) -> None:
        self._bench, self._registry = bench, registry
        self._seconds: dict[str, float] = {}

    def forget(self, plan: ForgetPlan) -> Forgotten:
        """Do what a plan says.

        Raises: Entangled or UsageError for a plan that is refused; what the registry raises.
        """
        if not plan.known:
            return Forgotten(ForgetEnding.UNKNOWN, _not_known(plan), plan)
        Planner(self._bench, self._registry).check(plan)
        gone = {edit.id for edit in plan.own}
        rest = [edit for edit in self._registry.active() if edit.id not in gone]
        after = active_of(self._registry, rest)
        with self._at("solve again"):
            again = solve_again(self._bench, plan.merged)
        done, attempts = self._try_all(plan, after, again)
        if done is None:
            reason = f"No method found a change. {' '.join(attempts)}"
            return Forgotten(ForgetEnding.FAILED, reason, plan, attempts=attempts, seconds=self._seconds)
        edit = self._keep(plan, done)
        made = Forgotten(
            ForgetEnding.VALIDATED, edit.why, plan, edit, done.trial, attempts, (), plan.copies, self._seconds
        )
        if done.trial.verdict.status is not Status.PASS:
            return replace(made, ending=ForgetEnding.REFUSED, reason="; ".join(failed(done.trial)))
        return self._release(made, edit) if plan.options.release else made

    # -- the change --------------------------------------------------------------------------------------------------

    def _try_all(self, plan: ForgetPlan, after: Active, again: Delta | None) -> tuple[Try | None, tuple[str, ...]]:
        """The first change that passes its gates, else the one that leaves least; and what was tried beside it."""
        control = self._control(plan)
        trials = Judge(self._bench, active_of(self._registry, self._registry.active()), after, plan.exam, control)
        if not plan.left:
            with self._at("validate"):
                return Try(EXACT, {}, again, trials.trial(again)), ()
        best: Try | None = None
        attempts: list[str] = []
        for name in plan.methods:
            try:
                with self._at("fit"):
                    method = forgetter(name)(self._bench.background)
                    spec, delta = self._fit(method, plan, after.deltas_with(again))
            except (SolveError, BadSpec) as error:
                attempts.append(f"{name}: {error}")
                continue
            whole = delta if again is None else delta + again
            with self._at("validate"):
                tried = Try(name, spec, whole, trials.trial(whole))
            if best is None or tried.trial.verdict.status is Status.PASS:
                best = tried
            if tried.trial.verdict.status is Status.PASS:
                break
            attempts.append(f"{name}: {', '.join(failed(tried.trial))}")
        return best, tuple(attempts)

    def _fit(self, method: Forgetter, plan: ForgetPlan, beside: Sequence[Delta]) -> tuple[dict[str, JSON], Delta]:
        """Fitted where it will be served: beside what stays in effect."""
        spec = method.Spec(seed=plan.options.seed)
        with self._bench.serving(beside) as served:
            delta = method.fit(served.live, plan.request(plan.left), spec)
        return (asdict(spec) if is_dataclass(spec) and not isinstance(spec, type) else {}), delta

    def _control(self, plan: ForgetPlan) -> Sitting | None:
        """The answers of the never-learned model; None where there is none, or it knows the target too."""
        if plan.control is None:
            return None
        with self._at("control"):
            live = open_model(plan.control, device_map=self._bench.settings.device)
            said = plan.exam.sit(Served(live))
        return said if is_control(plan.exam, said) else None

    # -- the registry ------------------------------------------------------------------------------------------------

    def _keep(self, plan: ForgetPlan, done: Try) -> EditVersion:
        request = plan.request(plan.known)
        facts = [lesson.fact for lesson in request.forget]
        taught: list[dict[str, JSON]] = rows_of(TAUGHT, [one for _, kept in plan.merged for one in kept])
        rows = [
            {"part": "target", "by": plan.target.sort.value, "value": plan.target.value},
            *rows_of(FORGET, request.forget),
            *rows_of(RETAIN, request.retain),
            *rows_of(NEIGHBOUR, plan.exam.neighbours),
            *rows_of(UTILITY, plan.exam.utility),
            *taught,
        ]
        options = plan.options
        draft = Draft(
            catechism=summary(request),
            base=self._bench.live.base,
            method=done.method,
            kind="delete",
            config={
                "how": options.how.value, "replacement": options.replacement, "by": plan.target.sort.value,
                "asked_by": options.author, "reason": options.reason, "spec": done.spec,
            },
            seed=options.seed,
            locus={"forgets": [forget_key(fact) for fact in facts], "removes": [edit.id for edit in plan.own]},
            why=_why(plan, done),
            delta=done.delta,
            training=rows,
            author=options.author,
            risk=reduce(lambda a, b: b if is_lower(a, b) else a, (fact.risk for fact in facts)),
        )  # fmt: skip
        edit = self._registry.add_edit(draft)
        return self._registry.add_report(edit.id, done.trial.json(), done.trial.verdict.json())

    def _release(self, made: Forgotten, edit: EditVersion) -> Forgotten:
        try:
            self._registry.promote(edit.id, made.plan.options.author)
        except Denied as error:
            return replace(made, ending=ForgetEnding.WAITING, reason=str(error))
        made = replace(made, ending=ForgetEnding.RELEASED, edit=self._registry.edit(edit.id))
        if not made.plan.options.seal:
            return made
        seals, copies = seal(
            self._registry,
            self._bench.bank,
            self._bench.settings.cache,
            edit.id,
            made.plan.options.author,
            made.plan.copies,
        )
        return replace(made, edit=self._registry.edit(edit.id), seals=tuple(seals), copies=tuple(copies))

    @contextmanager
    def _at(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - started


class Judge:
    """Asks the questions of a deletion without and with a change, beside everything else that is in effect."""

    def __init__(
        self, bench: Workbench, before: Active, after: Active, exam: ForgetExam, control: Sitting | None
    ) -> None:
        self._bench, self._after, self._exam, self._control = bench, after, exam, control
        with bench.serving(before.deltas, before.notes) as served:
            self._before = self._sit(served)
            self._right = self._retained(served)

    def trial(self, change: Delta | None) -> Trial:
        """What the model says with the change in the place of the edits that go out, and what the gates say to it."""
        with self._bench.serving(self._after.deltas_with(change), self._after.notes) as served:
            now, still = self._sit(served), self._retained(served)
        found = forget_report(self._exam, self._before, now, self._control)
        level = None if self._control is None else recall(self._exam.request.forget, self._control)
        gates: tuple[Gate, ...] = forget_gates(self._exam, level)
        kept = [b for a, b in zip(self._right, still, strict=True) if a]
        if kept:
            found, gates = (
                found.with_metrics({"retained": wilson(sum(kept), len(kept), before=1.0)}),
                (*gates, RETAINED),
            )
        first = self._exam.request.forget[0].questions[0].text
        return Trial(found, judge(found, gates), self._before.said[first], now.said[first])

    def _sit(self, served: Served) -> Sitting:
        return self._exam.sit(served, perplexity=served.perplexity(self._bench.held_out))

    def _retained(self, served: Served) -> list[bool]:
        """Whether the edits that stay are answered right."""
        asked = [lesson.of(Kind.REWRITE)[0] for lesson in self._after.lessons]
        said = served.generate([question.text for question in asked]) if asked else []
        return [passes(one.text, q.accept, q.reject) for q, one in zip(asked, said, strict=True)]


def solve_again(bench: Workbench, merged: Sequence[tuple[EditVersion, tuple[Catechism, ...]]]) -> Delta | None:
    """What merged solves are for the facts that stay: exactly what they would be had the others never come.

    None where there is nothing to solve.
    """
    deltas: list[Delta] = []
    for edit, kept in merged:
        method = bench.method(edit.method)
        deltas.append(method.fit(bench.live, kept, _spec(method.Spec, edit.config)))
    return reduce(lambda one, other: one + other, deltas) if deltas else None


def _spec(kind: Any, held: Mapping[str, Any]) -> Any:
    """Settings from the JSON that an edit keeps of them."""
    hints, given = get_type_hints(kind), dict[str, Any]()
    for one in fields(kind):
        if one.name in held:
            value = held[one.name]
            if is_dataclass(hints[one.name]) and isinstance(value, dict):
                value = _spec(hints[one.name], cast("dict[str, Any]", value))
            given[one.name] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
    return kind(**given)


def is_control(exam: ForgetExam, said: Sitting) -> bool:
    """Whether a model can stand for one that never learned: it does not answer half of the canonical prompts."""
    level = recall(exam.request.forget, said, canonical=True)
    return level is not None and level.value < 0.5


def stored_request(registry: Registry, edit: EditVersion) -> tuple[Forgetting, ForgetExam]:
    """The request of a deletion with its exam, as it was kept. Raises WrongState for another edit; Sealed."""
    if edit.kind != "delete":
        raise WrongState(f"{edit.id} forgets nothing. Name a deletion: `catechism list` shows what each edit does.")
    rows = registry.training(edit.id)
    said = str(edit.config.get("replacement") or "")
    request = Forgetting(read_part(rows, FORGET), read_part(rows, RETAIN), How(str(edit.config["how"])), said)
    return request, ForgetExam(request, read_part(rows, NEIGHBOUR), read_part(rows, UTILITY))


def judge_again(bench: Workbench, registry: Registry, edit: EditVersion) -> Trial:
    """Judge a deletion again, beside all that is in effect now. Without a control, the bound is the stated one."""
    _, exam = stored_request(registry, edit)
    others = [other for other in registry.active() if other.id != edit.id]
    gone = {*edit.removes}
    before = others if edit.state is not State.PRODUCTION else [*others, *map(registry.edit, edit.removes)]
    rest = active_of(registry, [other for other in others if other.id not in gone])
    trials = Judge(bench, active_of(registry, before), rest, exam, None)
    return trials.trial(registry.delta(edit.id))


def seal(
    registry: Registry, bank: TemplateBank, cache: Path, ref: str, by: str, copies: Sequence[Copy] = ()
) -> tuple[list[Seal], list[Copy]]:
    """Destroy the way back from a deletion in effect: its text, every edit that taught the facts, and the caches.

    Other deletions of the facts hold them too and go with it, but for one that forgets others as well and is in effect
    or waits to be. What was never in effect is ended first.

    Raises: WrongState unless it is a deletion in effect.
    """
    edit = registry.edit(ref)
    if edit.kind != "delete" or edit.state is not State.PRODUCTION:
        raise WrongState(
            f"{edit.id} is {edit.state} and no deletion in effect. Forget first, with `catechism forget ... --release`."
        )
    keys = {*edit.forgets}
    holding = [*teachers(registry, bank, keys), *(one for one in deletions(registry, keys) if goes_too(one, keys))]
    holding += [one for ref in edit.removes if not (one := registry.edit(ref)).sealed and one not in holding]
    for one in holding:
        if one.kind == "delete" and one.state is State.PRODUCTION:
            continue
        if one.state in (State.DRAFT, State.VALIDATED):
            registry.reject(one.id, by, "the facts that it holds are to be forgotten")
        elif one.state not in ENDED:
            registry.rollback(one.id, by=by, reason="the facts that it holds are to be forgotten")
    seals = registry.seal([edit.id, *(one.id for one in holding)], by, reason="no way back from a deletion")
    clear_cache(cache)
    done = {(copy.place, copy.name): "destroyed; only its hashes are left" for copy in copies if copy.name in {
        seal.edit for seal in seals
    }}  # fmt: skip
    done |= {(copy.place, copy.name): "removed" for copy in copies if copy.place is Place.CACHE}
    return seals, with_done(copies, done)


def summary(request: Forgetting) -> Catechism:
    """One catechism for all facts of a request, as the deletion keeps it: its first fact stands for the others."""
    lessons = [kept_lesson(one, request) for one in request.forget]
    first = lessons[0].fact
    names = list(dict.fromkeys(one.fact.subject for one in lessons))
    about = names[0] if len(names) == 1 else f"{len(names)} subjects"
    n = len(lessons)
    stated = f"Forgotten: {n} fact{'s' * (n != 1)} about {about or 'what is asked'}."
    fact = Fact(
        first.prompt, first.subject, first.object, first.old_object, first.relation, statement=stated, risk=first.risk
    )
    others = [replace(q, kind=Kind.PARAPHRASE) for one in lessons[1:] for q in one.questions]
    return Catechism(fact, (*lessons[0].questions, *others))


def failed(trial: Trial) -> list[str]:
    """The gates that did not pass, each with its reason."""
    return [f"{r.gate.metric}: {r.reason}" for r in trial.verdict.results if r.status is not Status.PASS]


def _not_known(plan: ForgetPlan) -> str:
    n = len(plan.probes)
    if not n:
        return f"Nothing goes by the {plan.target.sort} {plan.target.value!r}, so there is nothing to forget."
    asked = sum(probe.asked for probe in plan.probes)
    return (
        f"The model does not know it: {n} fact{'s' * (n != 1)} asked in {asked} ways, "
        f"{sum(probe.right for probe in plan.probes)} answered. Nothing was done."
    )


def _why(plan: ForgetPlan, done: Try) -> str:
    """The reason for the edit, in words that do not say what is forgotten."""
    words: list[str] = []
    if n := len(plan.own):
        words.append(f"{n} of our own edits {'is' if n == 1 else 'are'} taken out")
    if n := len(plan.merged):
        words.append(f"{n} merged solve{' is' if n == 1 else 's are'} solved again without the facts")
    if n := len(plan.left):
        words.append(f"{done.method} changes the weights for {n} fact{'s' * (n != 1)} that they know by themselves")
    return f"{'; '.join(words)}."
