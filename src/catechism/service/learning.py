"""From a feed to edits: read, checked, written out as a catechism, located, fitted, judged, released or refused.

Every row ends somewhere, and says where and why. Nothing of one row depends on how another one failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from catechism.delta import Delta
from catechism.errors import BadFact, BadFeed, Denied, SolveError
from catechism.evaluate import DEFAULT_GATES, Gate, Status
from catechism.facts.belief import believes
from catechism.facts.conflicts import Finding, FindingKind, Ledger, judge_belief
from catechism.facts.feed import read_rows, utc_now
from catechism.facts.sentence import read_sentence
from catechism.facts.synthesis import lesson_of, synthesise
from catechism.facts.teacher import check_with_teacher
from catechism.facts.templates import Amounts
from catechism.locate.locate import Budget, Ranking, locate
from catechism.methods.select import CLOSED_FORM, EXPLICIT, Choice, Evidence, instead, select
from catechism.registry import Draft, EditVersion, Registry
from catechism.registry.manifest import forget_key
from catechism.service.examine import Active, Trial, examine
from catechism.service.outcomes import Ending, Outcome
from catechism.service.served import Note
from catechism.service.workbench import Workbench
from catechism.types import JSON, Catechism, Fact, Kind

#: Of each sort. Relations whose objects are all different have one sort only, and the gates want ten neighbours.
NEIGHBOURS = 12

_REPEATS = frozenset(
    {FindingKind.EXACT_DUPLICATE, FindingKind.SEMANTIC_DUPLICATE, FindingKind.ACTIVE_DUPLICATE}
)  # fmt: skip
_CONTRADICTIONS = frozenset({FindingKind.CONTRADICTION, FindingKind.ACTIVE_CONTRADICTION})


@dataclass(frozen=True, slots=True)
class Plan:
    """How to learn.

    Attributes:
        author: who brings the facts; a row's own author goes first.
        method: one method for all facts; None lets the selector choose and try another one where its gates fail.
        release: promote what passes its gates.
        supersede: let a fact replace an active edit that it contradicts.
        gates: what an edit has to reach.
        budget: how much is measured to locate a fact.
        seed: of everything random.
    """

    author: str = ""
    method: str | None = None
    release: bool = False
    supersede: bool = False
    gates: tuple[Gate, ...] = DEFAULT_GATES
    budget: Budget = Budget(confirm=4)
    seed: int = 0


@dataclass
class _Clock:
    """Seconds by stage of one row."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


class Learner:
    """Takes the rows of one feed, or one sentence, through the whole way."""

    def __init__(self, bench: Workbench, registry: Registry, plan: Plan) -> None:
        self._bench, self._registry, self._plan = bench, registry, plan

    def learn_feed(self, path: Path) -> Iterator[Outcome]:
        """One outcome for each row, in the order of the feed. The file is read twice, a row at a time.

        Raises: BadFeed if the file cannot be read at all.
        """
        disputed = self._disputed(path)
        with Ledger(self._bench.bank, self._active_facts()) as ledger:
            rows = read_rows(path)
            while True:
                clock = _Clock()
                with clock.at("read"):
                    row = next(rows, None)
                if row is None:
                    return
                yield self._learn(row, ledger, disputed, clock)

    def learn_sentence(self, text: str) -> Outcome:
        """The outcome of one plain sentence. Raises Unclear with a question where it can be read in several ways."""
        fact = replace(read_sentence(text, self._bench.bank, now=utc_now()), id="sentence")
        with Ledger(self._bench.bank, self._active_facts()) as ledger:
            return self._learn(lesson_of(fact), ledger, {}, _Clock())

    # -- the stations ------------------------------------------------------------------------------------------------

    def _learn(
        self, row: Catechism | BadFeed | BadFact, ledger: Ledger, disputed: dict[str, str], clock: _Clock
    ) -> Outcome:
        if isinstance(row, BadFeed | BadFact):
            return Outcome(_line(row), Ending.MALFORMED, str(row), seconds=clock.seconds)
        author = row.fact.author or self._plan.author
        lesson = replace(row, fact=replace(row.fact, author=author))
        with clock.at("check"):
            found = self._check(lesson.fact, ledger, disputed)
        if found is not None:
            ending, reason, before = found
            return Outcome(lesson.fact.id, ending, reason, lesson, before=before, seconds=clock.seconds)
        with clock.at("synthesise"):
            written = synthesise(
                lesson,
                bank=self._bench.bank,
                writers=self._bench.writers,
                amounts=Amounts(neighbours=NEIGHBOURS, seed=self._plan.seed),
            )
            synthesis = check_with_teacher(self._bench.live, written)
        dropped = {str(kind): sum(counts.values()) for kind, counts in synthesis.dropped.items()}
        done = self._teach(synthesis.catechism, clock, teachable=synthesis.is_teachable)
        return replace(done, dropped=dropped, seconds=clock.seconds)

    def _check(self, fact: Fact, ledger: Ledger, disputed: dict[str, str]) -> tuple[Ending, str, str | None] | None:
        """Why a fact goes no further, with what the model says to it; None if it goes on."""
        findings = ledger.add(fact)
        for finding in findings:
            if finding.kind in _REPEATS:
                return Ending.DUPLICATE, _said(finding), None
            if finding.kind in _CONTRADICTIONS and not self._may_supersede(finding):
                return Ending.CONTRADICTION, _said(finding), None
        if (said := disputed.get(_name(fact))) is not None:
            return Ending.CONTRADICTION, said, None
        if (said := self._forgotten(fact)) is not None:
            return Ending.CONTRADICTION, said, None
        active = self._active()
        with self._bench.serving(active.deltas, active.notes) as served:
            belief = believes(served, fact, self._bench.bank)
        finding = judge_belief(fact, belief)
        if finding is not None and finding.kind is FindingKind.KNOWN:
            return Ending.KNOWN, _said(finding), belief.answer
        return None

    def _forgotten(self, fact: Fact) -> str | None:
        """What speaks against teaching what a deletion in effect forgets; None where nothing does."""
        relation = self._bench.bank.relation_of(fact)
        keys = {forget_key(fact), forget_key(replace(fact, relation=relation.name if relation else None))}
        for edit in self._registry.active():
            if keys & set(edit.forgets):
                way = "It is sealed" if edit.sealed else f"`catechism rollback {edit.id}` takes that back"
                return f"{edit.id} forgot this fact at somebody's request on {edit.created_at[:10]}. {way}."
        return None

    def _teach(self, lesson: Catechism, clock: _Clock, *, teachable: bool) -> Outcome:
        """Locate, fit and judge; where the gates refuse the selector's method, the other one gets its chance."""
        with clock.at("locate"):
            bench = self._bench
            ranking = locate(bench.live, lesson, bench.background, budget=self._plan.budget, layers=bench.layers)
            choices = self._choices(lesson.fact, ranking)
        replaced = self._superseded(lesson.fact)
        active, attempts = self._active(without=replaced), list[str]()
        if not teachable and self._plan.method is None and any(choice.method == "distill" for choice in choices):
            choices = [choice for choice in choices if choice.method != "distill"]
            attempts.append("distill: the model does not read the fact from its context, so there is no teacher.")
        best: tuple[Choice, Delta | None, Trial] | None = None
        for choice in choices:
            try:
                with clock.at("fit"):
                    change = self._fit(lesson, choice)
            except SolveError as error:
                attempts.append(f"{choice.method}: {error}")
                continue
            with clock.at("validate"):
                tried = change or Note("", lesson.fact.subject, lesson.fact.sentence)
                trial = examine(self._bench, lesson, tried, active, self._plan.gates)
            if best is None or trial.verdict.status is Status.PASS:
                best = (choice, change, trial)
            if trial.verdict.status is Status.PASS:
                break
            attempts.append(f"{choice.method} @ {choice.layer}: {', '.join(_failed(trial))}")
        if best is None:
            reason = f"No method found a change. {' '.join(attempts)}"
            return Outcome(lesson.fact.id, Ending.FAILED, reason, lesson, loci=ranking.loci, attempts=tuple(attempts))
        choice, change, trial = best
        with clock.at("validate"):
            edit = self._keep(lesson, choice, change, trial, supersedes=replaced, ranking=ranking)
        outcome = Outcome(
            lesson.fact.id, Ending.VALIDATED, choice.why, lesson, edit, choice, ranking.loci, trial.before, trial.after,
            trial.report, trial.verdict, attempts=tuple(attempts),
        )  # fmt: skip
        if trial.verdict.status is not Status.PASS:
            return replace(outcome, ending=Ending.REFUSED, reason=f"{', '.join(_failed(trial))}.")
        with clock.at("release"):
            return self._release(outcome, edit) if self._plan.release else outcome

    def _release(self, outcome: Outcome, edit: EditVersion) -> Outcome:
        try:
            self._registry.promote(edit.id, self._plan.author)
        except Denied as error:
            return replace(outcome, ending=Ending.WAITING, reason=str(error))
        return replace(outcome, ending=Ending.RELEASED, edit=self._registry.edit(edit.id))

    def _choices(self, fact: Fact, ranking: Ranking) -> list[Choice]:
        layer = None if ranking.closed_form is None else ranking.closed_form.site.layer
        tokens = self._bench.live.encode_pairs([fact.prompt], [fact.object]).spans[0]
        separable = None if ranking.closed_form is None else ranking.closed_form.score
        in_effect = len(self._registry.active())
        evidence = Evidence(tokens[1] - tokens[0], layer, separable, ranking.distill, in_effect)
        if self._plan.method is not None:
            name = self._plan.method
            by_hand = None if name == EXPLICIT else layer if name in CLOSED_FORM else ranking.distill
            return [Choice(name, by_hand, "asked", "It was asked for by name.")]
        first = select(fact, evidence)
        return [first, *instead(first, evidence)]

    def _fit(self, lesson: Catechism, choice: Choice) -> Delta | None:
        if choice.method == EXPLICIT:
            return None
        one = self._bench.method(choice.method)
        return one.fit(self._bench.live, [lesson], one.Spec(layer=choice.layer, seed=self._plan.seed))

    def _keep(
        self,
        lesson: Catechism,
        choice: Choice,
        change: Delta | None,
        trial: Trial,
        *,
        supersedes: str | None,
        ranking: Ranking,
    ) -> EditVersion:
        """Into the registry: first the edit, then what was found about it."""
        training: list[dict[str, JSON]] = [
            {"prompt": question.text, "kind": question.kind.value, "answers": list(question.accept)}
            for question in (*lesson.of(Kind.REWRITE), *lesson.study)
        ]
        spec = change.info.get("spec") if change is not None else None
        draft = Draft(
            catechism=lesson,
            base=self._bench.live.base,
            method=choice.method,
            kind="insert" if lesson.fact.old_object is None else "correct",
            config=spec if isinstance(spec, dict) else {},
            seed=self._plan.seed,
            locus={"choice": choice.json(), "ranking": ranking.json()},
            why=choice.why,
            delta=change,
            training=training,
            author=lesson.fact.author,
            supersedes=supersedes,
        )
        edit = self._registry.add_edit(draft)
        return self._registry.add_report(edit.id, trial.json(), trial.verdict.json())

    # -- what is in effect -------------------------------------------------------------------------------------------

    def _active(self, *, without: str | None = None) -> Active:
        return active_of(self._registry, [edit for edit in self._registry.active() if edit.id != without])

    def _active_facts(self) -> list[Fact]:
        return [replace(edit.fact, id=edit.id) for edit in self._registry.active() if edit.kind != "delete"]

    def _may_supersede(self, finding: Finding) -> bool:
        return self._plan.supersede and finding.kind is FindingKind.ACTIVE_CONTRADICTION

    def _superseded(self, fact: Fact) -> str | None:
        """The active edit that a fact replaces, if it may."""
        if not self._plan.supersede:
            return None
        with Ledger(self._bench.bank, self._active_facts()) as ledger:
            others = [f.other for f in ledger.add(fact) if f.kind is FindingKind.ACTIVE_CONTRADICTION]
        return others[0].id if others and others[0] is not None else None

    def _disputed(self, path: Path) -> dict[str, str]:
        """Rows that a later row of the same feed contradicts, with what is said of it. Nobody knows which is right."""
        found: dict[str, str] = {}
        with Ledger(self._bench.bank) as ledger:
            for row in read_rows(path):
                if isinstance(row, Catechism):
                    for finding in ledger.add(row.fact):
                        if finding.kind is FindingKind.CONTRADICTION and finding.other is not None:
                            found[_name(finding.other)] = (
                                f"A later row ({row.fact.id}) says {row.fact.object!r}, this one says "
                                f"{finding.other.object!r}, and both hold at the same time. {finding.advice}"
                            )
        return found


def active_of(registry: Registry, edits: Sequence[EditVersion]) -> Active:
    """Deltas, notes and lessons of edits, proven by their hashes as they are read."""
    deltas = tuple(delta for edit in edits if (delta := registry.delta(edit.id)) is not None)
    taught = [edit for edit in edits if edit.kind != "delete"]
    notes = tuple(Note(edit.id, edit.subject, edit.fact.sentence) for edit in taught if edit.artifact is None)
    return Active(deltas, notes, tuple(registry.catechism(edit.id) for edit in edits if not edit.sealed))


def _failed(trial: Trial) -> list[str]:
    return [f"{r.gate.metric}: {r.reason}" for r in trial.verdict.results if r.status is not Status.PASS]


def _said(finding: Finding) -> str:
    return f"{finding.reason} {finding.advice}"


def _name(fact: Fact) -> str:
    return f"{fact.id}\0{fact.prompt}\0{fact.object}"


def _line(error: BadFeed | BadFact) -> str:
    """The line that an error of a feed names."""
    _, _, rest = str(error).partition(", line ")
    return f"line {rest.partition(':')[0]}" if rest else "line ?"
