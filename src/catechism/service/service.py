"""The Python API and the one thing that the command line and the server stand on.

    from catechism import Service
    with Service() as service:
        service.learn("The Eiffel Tower is located in Rome.", release=True)
        print(service.ask("The Eiffel Tower is located in").text)

A service is one registry and one model. The model is opened when the first verb needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from catechism.delta import Delta, Gated, matrix_of, to_peft
from catechism.delta.part import Text
from catechism.errors import UsageError, WrongBase
from catechism.reference.world import load_world
from catechism.registry import (
    Approval,
    AuditEntry,
    Composition,
    EditVersion,
    Epoch,
    Policy,
    Registry,
    Seal,
    State,
    Verification,
)
from catechism.service.answering import Answer, Answerer, Breaking
from catechism.service.examine import Trial, examine
from catechism.service.forgetting.eraser import Eraser, judge_again, seal
from catechism.service.forgetting.outcome import Forgotten
from catechism.service.forgetting.plan import ForgetPlan, Options, Planner
from catechism.service.forgetting.proof import Proof, certificate_body, prove, write_certificate
from catechism.service.forgetting.target import Target
from catechism.service.learning import Learner, Plan, active_of
from catechism.service.outcomes import Outcome
from catechism.service.served import Note
from catechism.service.workbench import Workbench, bank_of
from catechism.settings import Settings
from catechism.types import JSON

DEFAULT_MODEL = "almanac"


class Service:
    """Everything that can be done with facts, edits and answers.

    Args:
        model: a shipped model, a folder, or a hub name.
        settings: None reads them from the environment.
        policy: approvals by risk class; None is that of a store that one person keeps.
    """

    def __init__(
        self, model: str = DEFAULT_MODEL, settings: Settings | None = None, *, policy: Policy | None = None
    ) -> None:
        self.model = model
        self.settings = settings or Settings.from_environment(os.environ)
        self._policy = policy

    @cached_property
    def registry(self) -> Registry:
        """The store, opened (and made) at the first use."""
        return Registry.open(self.settings.home, url=self.settings.database, policy=self._policy)

    @cached_property
    def bench(self) -> Workbench:
        """The model with what belongs to it, opened at the first use."""
        return Workbench(self.model, self.settings)

    def close(self) -> None:
        """Close the store, if it was opened."""
        if "registry" in self.__dict__:
            self.registry.close()
            del self.__dict__["registry"]

    def __enter__(self) -> Service:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, source: str | Path, *, release: bool = False, plan: Plan | None = None) -> list[Outcome]:
        """Teach a feed (a path that exists, or one that ends in .jsonl or .csv) or one plain sentence.

        Raises: BadFeed for a feed that cannot be read at all; Unclear for a sentence that could mean several things.
        """
        return list(self.learning(source, release=release, plan=plan))

    def learning(self, source: str | Path, *, release: bool = False, plan: Plan | None = None) -> Iterator[Outcome]:
        """`learn`, one outcome after the other as they come."""
        plan = plan or Plan(author=self.settings.user, release=release)
        learner = Learner(self._fitting_bench(), self.registry, plan)
        if is_feed(source):
            yield from learner.learn_feed(Path(source))
        else:
            yield learner.learn_sentence(str(source))

    # -- forgetting --------------------------------------------------------------------------------------------------

    def plan_forgetting(self, target: Target, options: Options | None = None) -> ForgetPlan:
        """What forgetting a target would take, see `Planner.plan`. Nothing is changed."""
        return Planner(self._fitting_bench(), self.registry).plan(target, self._forgetting(options))

    def forget(self, target: Target, options: Options | None = None) -> Forgotten:
        """Forget a target: own edits out, the weights changed for what is left, judged, and released if wished.

        Raises: what `Planner.plan` and `Eraser.forget` raise.
        """
        return self.carry_out(self.plan_forgetting(target, options))

    def carry_out(self, plan: ForgetPlan) -> Forgotten:
        """Do what a plan says. Raises as `forget`."""
        if plan.options.seal and not plan.options.release:
            raise UsageError("Only a deletion in effect can be sealed. Add --release to --seal.")
        return Eraser(self._fitting_bench(), self.registry).forget(plan)

    def seal(self, ref: str, by: str = "") -> list[Seal]:
        """Destroy the way back from a deletion in effect, see `catechism.service.forgetting.eraser.seal`."""
        return seal(self.registry, bank_of(load_world()), self.settings.cache, ref, by or self.settings.user)[0]

    def prove(
        self,
        ref: str,
        *,
        profile: str = "quick",
        control: str | None = None,
        seed: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Proof:
        """Audit a deletion against a model that never learned, see `catechism.service.forgetting.proof.prove`."""
        bench = self._fitting_bench()
        return prove(bench, self.registry, ref, profile=profile, control=control, seed=seed, progress=progress)

    def certify(self, proof: Proof, file: Path, by: str = "", *, with_text: bool = False) -> tuple[Path, Path]:
        """Write the signed certificate of an audit and its printable page. Gives the two files."""
        by = by or self.settings.user
        release = version("catechism")
        body = certificate_body(self.bench, self.registry, proof, by=by, version=release, with_text=with_text)
        return write_certificate(self.registry, body, file, by=by)

    def _forgetting(self, options: Options | None) -> Options:
        return options or Options(author=self.settings.user)

    # -- deciding ----------------------------------------------------------------------------------------------------

    def test(self, ref: str) -> tuple[EditVersion, Trial]:
        """Judge an edit again, beside everything that is in effect now. A draft that passes becomes validated.

        Raises: UnknownEdit; WrongState for an edit that has ended.
        """
        edit = self.registry.edit(ref)
        if edit.kind == "delete":
            trial = judge_again(self._fitting_bench(), self.registry, edit)
            return self.registry.add_report(edit.id, trial.json(), trial.verdict.json()), trial
        others = [other for other in self.registry.active() if other.id not in {edit.id, edit.supersedes}]
        delta = None if edit.artifact is None else self.registry.delta(edit.id)
        change = delta or Note(edit.id, edit.subject, edit.fact.sentence)
        trial = examine(
            self._fitting_bench(), self.registry.catechism(edit.id), change, active_of(self.registry, others)
        )
        return self.registry.add_report(edit.id, trial.json(), trial.verdict.json()), trial

    def approve(self, ref: str, by: str, *, comment: str = "", roles: Sequence[str] = ()) -> Approval:
        """Consent to an edit as it is tested now. Raises Denied for its author."""
        return self.registry.approve(ref, by, comment=comment, roles=roles)

    def reject(self, ref: str, by: str, reason: str) -> EditVersion:
        """End an edit that is not in effect."""
        return self.registry.reject(ref, by, reason)

    def promote(self, ref: str, by: str, *, expect_epoch: int | None = None) -> Epoch:
        """Put an edit into effect. Raises Denied without its approvals, Conflict if somebody else was quicker."""
        return self.registry.promote(ref, by, expect_epoch=expect_epoch)

    def rollback(self, ref: str | None = None, *, to_epoch: int | None = None, by: str = "", reason: str = "") -> Epoch:
        """Take an edit out of effect, or go back to an epoch. Needs nobody's consent and no model."""
        return self.registry.rollback(ref, to_epoch=to_epoch, by=by or self.settings.user, reason=reason)

    def prove_rollback(self, ref: str) -> dict[str, JSON]:
        """Put an edit on the model, take it off, and compare the bytes of every parameter.

        Returns: digests of the weights before, with the edit on, and after; and whether the last is the first.
        """
        live, delta = self.bench.live, _delta_of(self.registry, ref)
        before = live.digest(full=True)
        with live.with_delta(delta):
            edited = live.digest(full=True)
        after = live.digest(full=True)
        return {"base": live.base, "before": before, "with_edit": edited, "after": after, "exact": before == after}

    # -- answering ---------------------------------------------------------------------------------------------------

    def composition(self, as_of: str | None = None) -> Composition:
        """What is in effect now, or what was at the end of a day. Raises UnknownDate."""
        return self.registry.composition(self.registry.head().cid) if as_of is None else self.registry.as_of(as_of)

    def ask(
        self, question: str, *, as_of: str | None = None, explain: bool = False, max_new_tokens: int = 24
    ) -> Answer:
        """What the model says with every promoted edit on, or with those of a past date."""
        composition = self.composition(as_of)
        answerer = Answerer(self._fitting_bench(), self.registry)
        return answerer.ask(question, composition, explain=explain, max_new_tokens=max_new_tokens)

    def bisect(self, probe: str, *, expect: str | None = None, good: int = 0, bad: int | None = None) -> Breaking:
        """The change that broke a probe, see `Answerer.bisect`."""
        return Answerer(self._fitting_bench(), self.registry).bisect(probe, expect=expect, good=good, bad=bad)

    # -- reading -----------------------------------------------------------------------------------------------------

    def edits(self, *, state: State | None = None, subject: str | None = None) -> list[EditVersion]:
        """The edits of the store, oldest first."""
        return self.registry.edits(state=state, subject=subject)

    def show(self, ref: str) -> dict[str, JSON]:
        """Everything that is known of one edit."""
        edit = self.registry.edit(ref)
        shown = {**edit.json(), "evaluation": self.registry.report(edit.id)}
        shown["approvals"] = [approval.json() for approval in self.registry.approvals(edit.id)]
        if edit.artifact is not None and "delta.safetensors" not in edit.gone:
            shown["change"] = change_of(self.registry, edit)
        return shown

    def diff(self, one: str, other: str) -> dict[str, JSON]:
        """What differs between two edits, or between two epochs (numbers) of what was served."""
        if one.isdecimal() and other.isdecimal():
            return self._diff_epochs(int(one), int(other))
        first, second = self.registry.edit(one), self.registry.edit(other)
        left, right = ({**edit.json(), "change": change_of(self.registry, edit)} for edit in (first, second))
        return {key: {"from": left[key], "to": right[key]} for key in left if left[key] != right[key]}

    def _diff_epochs(self, one: int, other: int) -> dict[str, JSON]:
        epochs = {epoch.number: epoch for epoch in self.registry.epochs()}
        if missing := [n for n in (one, other) if n not in epochs]:
            raise UsageError(f"There is no epoch {missing[0]}. Give two of 0 to {max(epochs)}.")
        sides = [self.registry.composition(epochs[n].cid) for n in (one, other)]
        left, right = ({entry.edit for entry in side.entries} for side in sides)
        return {
            "from": epochs[one].json(), "to": epochs[other].json(),
            "added": [self.registry.edit(ref).json() for ref in sorted(right - left)],
            "removed": [self.registry.edit(ref).json() for ref in sorted(left - right)],
        }  # fmt: skip

    def log(self, *, limit: int | None = None) -> list[AuditEntry]:
        """The audit, newest first."""
        return self.registry.log(limit=limit)

    def verify(self) -> Verification:
        """Derive every hash and signature of the store again."""
        return self.registry.verify()

    # -- in and out --------------------------------------------------------------------------------------------------

    def export(self, refs: Sequence[str], path: Path, *, peft: bool = False) -> Path:
        """Write edits to a folder: as the registry keeps them, or one edit as a PEFT adapter that vLLM loads too."""
        if not peft:
            return self.registry.export(refs, path)
        if len(refs) != 1:
            raise UsageError(f"{len(refs)} edits do not make one PEFT adapter. Name one edit.")
        delta, anatomy = _delta_of(self.registry, refs[0]), self._fitting_bench().live.anatomy
        matrices = {address: anatomy.matrix(address) for address in delta.parts if address == matrix_of(address)}
        full_rows = {
            address.partition("[")[0]: matrix.parameter.shape[1 if matrix.transposed else 0]
            for address, matrix in matrices.items()
            if "[" in address and matrix.expert is None
        }
        transposed = any(matrix.transposed for matrix in matrices.values())
        return to_peft(delta, path, base_model_name=self.model, fan_in_fan_out=transposed, full_rows=full_rows)

    def import_(self, path: Path, by: str = "") -> list[EditVersion]:
        """Take in edits that `export` wrote, each proven again. They arrive as drafts."""
        return self.registry.import_(path, by or self.settings.user)

    def serves_this_model(self) -> bool:
        """Whether the edits in effect were made on this model, or there are none."""
        return self.composition().base in {"", self.bench.live.base}

    def _fitting_bench(self) -> Workbench:
        """The bench, if its model is the one that the store's edits were made on."""
        if not self.serves_this_model():
            raise WrongBase(
                f"The edits in effect were made on base {self.composition().base}, {self.model} is "
                f"{self.bench.live.base}. Name their model, or keep each model's edits in a store of its own "
                "(CATECHISM_HOME)."
            )
        return self.bench


def is_feed(source: str | Path) -> bool:
    """Whether a source is a file of facts and not a sentence."""
    return isinstance(source, Path) or Path(source).suffix in {".jsonl", ".csv", ".json", ".gz"} or _exists(source)


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError:  # a sentence can be longer than a file's name may be
        return False


def change_of(registry: Registry, edit: EditVersion) -> dict[str, JSON] | None:
    """Kind, rank, norm and bytes of every part of an edit, None where there is no such figure; None for a mere text."""
    delta = registry.delta(edit.id)
    if delta is None:
        return None
    return {
        key: {
            "kind": part.kind,
            "rank": None if isinstance(part, Gated | Text) else part.rank,
            "norm": None if isinstance(part, Text) else part.norm(),
            "bytes": part.nbytes,
        }
        for key, part in delta.parts.items()
    }


def _delta_of(registry: Registry, ref: str) -> Delta:
    delta = registry.delta(ref)
    if delta is None:
        raise UsageError(f"{ref} stays text and changes no weights. Name an edit with a delta: `catechism list`.")
    return delta
