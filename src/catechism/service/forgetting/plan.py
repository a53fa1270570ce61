"""The plan of a deletion: what is known, who taught it, what is left for the weights, what could be hurt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from catechism.errors import Conflict, Entangled, UsageError
from catechism.evaluate.forgetting import ForgetExam
from catechism.matching import passes
from catechism.methods.forgetting import FORGETTERS, forgetter
from catechism.registry import EditVersion, Registry
from catechism.registry.manifest import forget_key
from catechism.service.forgetting.copies import Copy, find_copies
from catechism.service.forgetting.neighbours import Neighbour, Sizes, Surroundings, candidates, part
from catechism.service.forgetting.target import Sort, Target, find, from_file, key_of, lessons_of, normal
from catechism.service.learning import active_of
from catechism.service.served import Served
from catechism.service.workbench import Workbench
from catechism.types import JSON, Catechism, Fact, Forgetting, How

AUTO, EXACT, NONE = "auto", "exact", "none"
#: Which never-learned model belongs to which shipped one.
CONTROLS = {"almanac": "almanac-control"}
#: Methods in the order in which they are tried, by what is to be said instead. Those that are not there are left out.
PREFERRED: dict[How, tuple[str, ...]] = {
    How.ERASE: ("altpo", "npo", "simnpo", "undial", "memit_forget"),
    How.ABSTAIN: ("idk_dpo", "trace_replace", "memit_forget"),
    How.REPLACE: ("trace_replace", "altpo", "memit_forget"),
}
TRIED = 3  # methods, at most, where nobody names one
PROBED = 12  # tokens of an answer that only shows whether a fact is known
LEAST_SHARE = 3  # a fact is known if its canonical prompt, or one in so many of its phrasings, is answered


@dataclass(frozen=True, slots=True)
class Options:
    """How to forget.

    Attributes:
        how: what is to be said instead. replacement: that answer, for `How.REPLACE`.
        method: a name of `FORGETTERS`, or "auto".
        control: a never-learned model; None takes the shipped one of `CONTROLS`, "none" goes without.
        retain: a file of facts that must stay; None takes what the template bank knows.
        author: on whose behalf. reason: why, in words.
        release: put the deletion into effect if its gates pass. seal: and destroy the way back.
        force: go on where more than half of what must stay depends on the target, or nothing is there to keep.
        sizes: how much is shown and asked. seed: of every draw, and of the method.
    """

    how: How = How.ERASE
    replacement: str = ""
    method: str = AUTO
    control: str | None = None
    retain: Path | None = None
    author: str = "local"
    reason: str = ""
    release: bool = False
    seal: bool = False
    force: bool = False
    sizes: Sizes = Sizes()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """One fact of the target, asked in all its phrasings.

    Attributes:
        lesson: the fact.
        says: the answer to the canonical prompt.
        right, asked: how many phrasings get the fact, and of how many.
        left: how many still do when our own edits that taught it are out.
        canonical, canonical_left: whether the canonical prompt gets it, now and then.
        taught_by: ids of those edits.
    """

    lesson: Catechism
    says: str
    right: int
    asked: int
    left: int
    canonical: bool
    canonical_left: bool
    taught_by: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether the model knows it as it is served, or one of our edits in effect teaches it, or hides it: with the
        edit out it is said again.
        """
        return bool(self.taught_by) or self.canonical or self.right * LEAST_SHARE >= self.asked or self.stays

    @property
    def stays(self) -> bool:
        """Whether the weights know it without those edits, so that taking them out is not enough."""
        return self.canonical_left or self.left * LEAST_SHARE >= self.asked

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "fact": self.lesson.fact.sentence, "digest": forget_key(self.lesson.fact), "says": self.says,
            "right": self.right, "asked": self.asked, "right_without_own_edits": self.left, "known": self.known,
            "taught_by": list(self.taught_by), "needs_weight_change": self.known and self.stays,
        }  # fmt: skip


@dataclass(frozen=True)
class ForgetPlan:
    """What is going to be done, before anything is.

    Attributes:
        target: as it was asked for.
        options: how.
        probes: every fact of the target, known or not.
        own: edits in effect that taught some of it; they are taken out.
        merged: of those that teach other facts too, what is solved again for.
        surroundings: what has to stay.
        methods: those that are tried for what is left, in their order; none if nothing is left.
        copies: where else the facts are written down.
        control: name of the never-learned model; None for none.
    """

    target: Target
    options: Options
    probes: tuple[Probe, ...]
    own: tuple[EditVersion, ...] = ()
    merged: tuple[tuple[EditVersion, tuple[Catechism, ...]], ...] = ()
    surroundings: Surroundings = Surroundings()
    methods: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()
    control: str | None = None

    @property
    def known(self) -> tuple[Probe, ...]:
        """The facts that the model knows."""
        return tuple(probe for probe in self.probes if probe.known)

    @property
    def left(self) -> tuple[Probe, ...]:
        """Those of them that a change of the weights has to take."""
        return tuple(probe for probe in self.known if probe.stays)

    @property
    def entangled(self) -> bool:
        """Whether more than half of what a method is to keep depends on the target."""
        return 2 * len(self.surroundings.dependents) > len(self.surroundings.retain)

    def request(self, probes: Sequence[Probe]) -> Forgetting:
        """The request about some of the facts."""
        forget = tuple(probe.lesson for probe in probes)
        return Forgetting(forget, self.surroundings.retain, self.options.how, self.options.replacement)

    @property
    def exam(self) -> ForgetExam:
        """What is asked before and after."""
        return ForgetExam(self.request(self.known), self.surroundings.neighbours, self.surroundings.utility)

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        around = self.surroundings
        return {
            "target": {"by": self.target.sort.value, "value": self.target.value},
            "how": self.options.how.value, "replacement": self.options.replacement or None,
            "facts": [probe.json() for probe in self.probes],
            "known": len(self.known), "needs_weight_change": len(self.left),
            "own_edits": [edit.id for edit in self.own],
            "solved_again": [{"edit": edit.id, "facts_kept": len(kept)} for edit, kept in self.merged],
            "near": [one.json() for one in around.near[:20]], "near_total": len(around.near),
            "retain": len(around.retain), "retain_dependent": len(around.dependents),
            "asked_neighbours": len(around.neighbours), "asked_utility": len(around.utility),
            "methods": list(self.methods), "control": self.control,
            "copies": [copy.json() for copy in self.copies],
        }  # fmt: skip


class Planner:
    """Makes plans on a model and a store. Changes neither."""

    def __init__(self, bench: Workbench, registry: Registry) -> None:
        self._bench, self._registry = bench, registry

    def plan(self, target: Target, options: Options) -> ForgetPlan:
        """The plan for a target.

        Raises:
            UsageError: an option that makes no sense, or nothing at all goes by the target's name.
            Conflict: the request contradicts itself, or a deletion in effect.
        """
        found = find(target, self._bench.bank, self._registry, seed=options.seed)
        if not found and target.sort in {Sort.SUBJECT, Sort.SOURCE, Sort.AUTHOR}:
            return ForgetPlan(target, options, ())
        self._check(options, found)
        own, merged = self._own({forget_key(lesson.fact) for lesson in found})
        probes = self._probe(found, own)
        plan = ForgetPlan(target, options, probes, own, merged, control=self._control(options))
        if not plan.known:
            return plan
        known = [probe.lesson.fact for probe in plan.known]
        plan = replace(plan, surroundings=self._surroundings(known, own, options))
        copies = find_copies(
            self._registry, self._bench.bank, self._bench.settings.cache, target, [p.lesson for p in plan.known]
        )
        return replace(plan, methods=self._methods(options) if plan.left else (), copies=tuple(copies))

    def check(self, plan: ForgetPlan) -> None:
        """Refuse a plan that would hurt too much, unless it is forced.

        Raises: Entangled; UsageError where nothing is there to keep, or no method to do it with.
        """
        if plan.left and not plan.methods:
            raise UsageError("There is no method that can do this. See `catechism forget --help` for those there are.")
        if plan.options.force or not plan.left:
            return
        around = plan.surroundings
        if not around.retain:
            raise UsageError(
                "Nothing that the model knows is there to keep, so nothing would hold the rest of it in place. Give "
                "facts that must stay with --retain FILE, or go on all the same with --force."
            )
        if plan.entangled:
            raise Entangled(
                f"{len(around.dependents)} of the {len(around.retain)} facts that have to stay depend on what is to be "
                f"forgotten: {_listed(around.dependents)} Narrow the target, give other facts to keep with --retain "
                "FILE, or go on all the same with --force."
            )

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _check(self, options: Options, found: Sequence[Catechism]) -> None:
        if (options.how is How.REPLACE) != bool(options.replacement.strip()):
            raise UsageError(
                f"--how {options.how} {'needs' if options.how is How.REPLACE else 'takes no'} answer. Write "
                "--how replace 'ANSWER', the answer last."
            )
        for lesson in found:
            if options.replacement and passes(options.replacement, lesson.questions[0].accept):
                raise Conflict(
                    f"{options.replacement!r} is what is to be forgotten and what is to be said instead. Give another "
                    "answer, or use --how erase."
                )
        wanted = {forget_key(lesson.fact) for lesson in found}
        for edit in self._registry.active():
            said = str(edit.config.get("replacement") or "")
            if wanted & set(edit.forgets) and said and options.replacement and said != options.replacement:
                raise Conflict(
                    f"{edit.id}, which is in effect, puts {said!r} in the place of the same fact. Roll it back first: "
                    f"`catechism rollback {edit.id}`."
                )

    def _own(
        self, wanted: set[str]
    ) -> tuple[tuple[EditVersion, ...], tuple[tuple[EditVersion, tuple[Catechism, ...]], ...]]:
        """Edits in effect that teach some of what is wanted, and what those of several facts teach besides."""
        own: list[EditVersion] = []
        merged: list[tuple[EditVersion, tuple[Catechism, ...]]] = []
        for edit in self._registry.active():
            if edit.kind == "delete" or edit.sealed:
                continue
            lessons = lessons_of(self._registry, edit)
            kept = tuple(one for one in lessons if key_of(one, self._bench.bank) not in wanted)
            if len(kept) < len(lessons):
                own.append(edit)
                merged += [(edit, kept)] if kept else []
        return tuple(own), tuple(merged)

    def _probe(self, found: Sequence[Catechism], own: Sequence[EditVersion]) -> tuple[Probe, ...]:
        active, gone = self._registry.active(), {edit.id for edit in own}
        teachers: dict[str, list[str]] = {}
        for edit in own:
            for lesson in lessons_of(self._registry, edit):
                teachers.setdefault(key_of(lesson, self._bench.bank), []).append(edit.id)
        now = active_of(self._registry, active)
        with self._bench.serving(now.deltas, now.notes) as served:
            said = _ask(served, found)
        then = said
        if own:
            rest = active_of(self._registry, [edit for edit in active if edit.id not in gone])
            with self._bench.serving(rest.deltas, rest.notes) as served:
                then = _ask(served, found)
        probes: list[Probe] = []
        for lesson, a, b in zip(found, said, then, strict=True):
            right, left = _right(lesson, a), _right(lesson, b)
            taught = tuple(teachers.get(forget_key(lesson.fact), ()))
            probes.append(Probe(lesson, a[0], sum(right), len(right), sum(left), right[0], left[0], taught))
        return tuple(probes)

    def _surroundings(self, targets: Sequence[Fact], own: Sequence[EditVersion], options: Options) -> Surroundings:
        """Facts to keep, as far as the model knows them without the edits that go out.

        What stands beside it as text is not the weights' to keep.
        """
        gone = {edit.id for edit in own}
        rest = [edit for edit in self._registry.active() if edit.id not in gone]
        bank, sizes, seed = self._bench.bank, options.sizes, options.seed
        ours = [edit for edit in rest if edit.kind != "delete" and not edit.sealed and edit.artifact is not None]
        taught = [normal(one, bank, seed).fact for edit in ours for one in lessons_of(self._registry, edit)]
        if options.retain is None:
            facts = candidates(targets, bank, taught, sizes, seed=seed)
        else:
            given = [normal(one, bank, seed).fact for one in from_file(options.retain)]
            keys = {forget_key(fact) for fact in targets}
            if both := [fact for fact in given if forget_key(fact) in keys]:
                raise Conflict(
                    f"{options.retain} holds what is to be forgotten: {both[0].sentence} It cannot be kept and "
                    "forgotten. Take it out of the file."
                )
            facts = list({forget_key(fact): fact for fact in (*given, *taught)}.values())
        active = active_of(self._registry, rest)
        with self._bench.serving(active.deltas, active.notes) as served:
            said = served.generate([fact.prompt for fact in facts], max_new_tokens=PROBED)
        known = [fact for fact, one in zip(facts, said, strict=True) if passes(one.text, (fact.object,))]
        return part(targets, known, taught, bank, sizes, seed=seed)

    def _methods(self, options: Options) -> tuple[str, ...]:
        if options.method != AUTO:
            forgetter(options.method)
            return (options.method,)
        first = [name for name in PREFERRED[options.how] if name in FORGETTERS]
        return tuple(first or sorted(FORGETTERS))[:TRIED]

    def _control(self, options: Options) -> str | None:
        wanted = CONTROLS.get(self._bench.name) if options.control is None else options.control
        return None if wanted == NONE else wanted


def _ask(served: Served, lessons: Sequence[Catechism]) -> list[list[str]]:
    """Free answers to every question of every lesson; a prompt that several share is asked once."""
    prompts = list(dict.fromkeys(question.text for one in lessons for question in (*one.questions, *one.study)))
    said = dict(zip(prompts, (one.text for one in served.generate(prompts)), strict=True)) if prompts else {}
    return [[said[question.text] for question in (*one.questions, *one.study)] for one in lessons]


def _right(lesson: Catechism, said: Sequence[str]) -> list[bool]:
    asked = (*lesson.questions, *lesson.study)
    return [passes(text, question.accept, question.reject) for question, text in zip(asked, said, strict=True)]


def _listed(near: Sequence[Neighbour], most: int = 5) -> str:
    named = " ".join(one.fact.sentence for one in near[:most])
    return f"{named} And {len(near) - most} more." if len(near) > most else named
