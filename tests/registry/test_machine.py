"""The registry against a model of a few lines: whatever is asked in whatever order, both give the same."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from catechism.errors import CatechismError, Conflict, Denied, WrongState
from catechism.registry import Policy, Registry, State
from catechism.registry.failpoints import NAMES, VARIABLE, Failpoint
from catechism.registry.policy import ENDED, role_of
from catechism.types import Risk
from tests.registry.sample import FAIL, PASS, Clock, draft

PLACES = st.sampled_from(["France", "Spain"])
OBJECTS = st.sampled_from(["Lyon", "Nice"])
RISKS = st.sampled_from([Risk.LOW, Risk.STANDARD, Risk.HIGH, Risk.MEDICAL])
PEOPLE = st.sampled_from(["bo", "Bo", "cy", "ann"])
ACTIVE = (State.PRODUCTION,)


@dataclass
class Known:
    """What the model remembers of one edit."""

    key: tuple[Any, ...]
    place: str
    object: str
    risk: Risk
    supersedes: str | None
    state: State = State.DRAFT
    passed: bool = False
    tests: int = 0
    approvals: dict[str, tuple[int, bool]] = field(default_factory=dict)  # who -> after which test, whether an expert
    replaced: str | None = None


class RegistryMachine(RuleBasedStateMachine):
    edits = Bundle("edits")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.policy = Policy.team()
        self.registry = Registry.open(self.folder / "home", now=self.clock, policy=self.policy)
        self.model: dict[str, Known] = {}
        self.effect: list[str] = []
        self.epochs: list[list[str]] = [[]]
        self.audit = len(self.registry.log())

    def teardown(self) -> None:
        try:
            verification = self.registry.verify()
            assert verification.ok, verification.problems
            self.registry.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def move(self, effect: list[str]) -> None:
        self.effect = effect
        self.epochs.append(effect)

    @rule(target=edits, place=PLACES, object=OBJECTS, risk=RISKS, of=st.none() | edits)
    def add(self, place: str, object: str, risk: Risk, of: str | None) -> str:
        key = (place, object, risk, of)
        living = [i for i, known in self.model.items() if known.key == key and known.state not in ENDED]
        edit = self.registry.add_edit(draft(place, object, risk=risk, supersedes=of))
        assert (edit.id in self.model) == bool(living)
        if not living:
            self.model[edit.id] = Known(key, place, object, risk, of)
            self.audit += 1
        return edit.id

    @rule(edit=edits, passes=st.booleans())
    def report(self, edit: str, passes: bool) -> None:
        known = self.model[edit]
        report, verdict = {"test": known.tests + 1}, PASS if passes else FAIL
        if known.state in ENDED:
            with pytest.raises(WrongState):
                self.registry.add_report(edit, report, verdict)
            return
        self.registry.add_report(edit, report, verdict)
        self.audit += 1
        known.tests, known.passed = known.tests + 1, passes
        if passes and known.state is State.DRAFT:
            known.state = State.VALIDATED

    @rule(edit=edits, who=PEOPLE, expert=st.booleans())
    def approve(self, edit: str, who: str, expert: bool) -> None:
        known = self.model[edit]
        roles = [role_of(known.risk) or "x"] if expert else []
        if known.state is not State.VALIDATED or who == "ann":
            with pytest.raises(WrongState if known.state is not State.VALIDATED else Denied):
                self.registry.approve(edit, who, roles=roles)
            return
        before = len(self.registry.approvals(edit))
        self.registry.approve(edit, who, roles=roles)
        self.audit += len(self.registry.approvals(edit)) - before
        if len(self.registry.approvals(edit)) > before:
            known.approvals[who.lower()] = (known.tests, expert)

    @rule(edit=edits)
    def reject(self, edit: str) -> None:
        known = self.model[edit]
        if known.state in (State.DRAFT, State.VALIDATED):
            self.registry.reject(edit, "bo", "no")
            known.state, self.audit = State.REJECTED, self.audit + 1
        elif known.state is not State.REJECTED:
            with pytest.raises(WrongState):
                self.registry.reject(edit, "bo", "no")

    def refusal(self, known: Known) -> type[CatechismError] | None:
        if known.state is not State.VALIDATED:
            return WrongState
        counting = [expert for test, expert in known.approvals.values() if test == known.tests]
        needed = self.policy.approvals[known.risk]
        if not known.passed or len(counting) < needed or (needed and role_of(known.risk) and not any(counting)):
            return Denied
        others = [self.model[i] for i in self.effect if i != known.supersedes]
        return Conflict if any(o.place == known.place and o.object != known.object for o in others) else None

    @rule(edit=edits)
    def promote(self, edit: str) -> None:
        known = self.model[edit]
        if refused := self.refusal(known):
            with pytest.raises(refused):
                self.registry.promote(edit, "ann")
            return
        with pytest.raises(Conflict):
            self.registry.promote(edit, "ann", expect_epoch=len(self.epochs))
        self.registry.promote(edit, "ann")
        self.audit += 1
        known.state = State.PRODUCTION
        if known.supersedes in self.effect:
            known.replaced = known.supersedes
            self.model[known.replaced].state = State.RETIRED
            self.move([edit if i == known.replaced else i for i in self.effect])
        else:
            self.move([*self.effect, edit])

    @rule(edit=edits)
    def rollback(self, edit: str) -> None:
        known = self.model[edit]
        if known.state in (State.ROLLED_BACK, State.RETIRED):
            assert self.registry.rollback(edit, by="ann", reason="no").number == len(self.epochs) - 1
            return
        if known.state not in ACTIVE:
            with pytest.raises(WrongState):
                self.registry.rollback(edit, by="ann", reason="no")
            return
        self.registry.rollback(edit, by="ann", reason="no")
        self.audit += 1
        known.state = State.ROLLED_BACK
        back = known.replaced if known.replaced and self.model[known.replaced].state is State.RETIRED else None
        others = [self.model[i] for i in self.effect if i != edit]
        if back and any(o.place == self.model[back].place and o.object != self.model[back].object for o in others):
            back = None
        if back:
            self.model[back].state = State.PRODUCTION
        self.move([i for i in (back if i == edit else i for i in self.effect) if i is not None])

    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.epochs) - 1))
        wanted = [i for i in self.epochs[number] if self.model[i].state is not State.ROLLED_BACK]
        epoch = self.registry.rollback(to_epoch=number, by="ann", reason="no")
        if wanted == self.effect:
            assert epoch.number == len(self.epochs) - 1
            return
        self.audit += 1
        for identity in set(self.effect) - set(wanted):
            self.model[identity].state = State.ROLLED_BACK
        for identity in set(wanted) - set(self.effect):
            self.model[identity].state = State.PRODUCTION
        if wanted == self.epochs[number]:
            assert epoch.cid == self.registry.epochs()[number].cid
        self.move(wanted)

    @rule(edit=edits, point=st.sampled_from(NAMES[2:4]))
    def interrupt(self, edit: str, point: str) -> None:
        """Whatever is interrupted before its commit has not been."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, f"{point}:raise")
            for act in (
                lambda: self.registry.promote(edit, "ann"),
                lambda: self.registry.rollback(edit, by="ann", reason="no"),
                lambda: self.registry.reject(edit, "bo", "no"),
            ):
                with suppress(Failpoint, CatechismError):
                    act()

    @rule()
    def reopen(self) -> None:
        self.registry.close()
        self.registry = Registry.open(self.folder / "home", now=self.clock, policy=self.policy)
        assert self.registry.damage == ()

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        assert {edit.id: edit.state for edit in self.registry.edits()} == {i: k.state for i, k in self.model.items()}
        assert [edit.id for edit in self.registry.active()] == self.effect
        assert len(self.registry.log()) == self.audit
        epochs = self.registry.epochs()
        assert [epoch.number for epoch in epochs] == list(range(len(self.epochs)))
        assert self.registry.head() == epochs[-1]

    @invariant()
    def nothing_is_active_twice_or_contradicts(self) -> None:
        known = [self.model[i] for i in self.effect]
        assert len(set(self.effect)) == len(self.effect)
        assert {(k.place, k.object) for k in known} == {(k.place, k.object) for k in known if k.state in ACTIVE}
        assert all(len({k.object for k in known if k.place == place}) <= 1 for place in ("France", "Spain"))


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
