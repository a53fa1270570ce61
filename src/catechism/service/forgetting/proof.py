"""Auditing a deletion, and the certificate about it: every figure with its control, and a verdict in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from catechism.errors import UnknownName, UsageError
from catechism.evaluate.audit import FULL, QUICK, Audit, Auditor, Kept, Profile, Progress
from catechism.evaluate.forgetting import ForgetExam
from catechism.hashing import digest_bytes
from catechism.matching import contains, name_key
from catechism.model import LiveModel
from catechism.page.certificate import CertificatePage, Measure, Section, certificate_html
from catechism.reference import open_model
from catechism.registry import EditVersion, Registry, State
from catechism.registry.certificate import issue, page_of
from catechism.registry.times import micros, text, utc_now
from catechism.service.forgetting.copies import find_copies
from catechism.service.forgetting.eraser import is_control, solve_again, stored_request
from catechism.service.forgetting.plan import CONTROLS, EXACT, NONE
from catechism.service.forgetting.target import Sort, Target, key_of, lessons_of
from catechism.service.learning import active_of
from catechism.service.served import Served
from catechism.service.workbench import Workbench
from catechism.types import JSON, Fact, Forgetting, How

PROFILES = {profile.name: profile for profile in (QUICK, FULL)}

MEANINGS = {
    "removed": "What had taught it is out, exactly: the weights are, byte for byte, those that never had it.",
    "erased": "Nothing that was tried tells this model from one that never learned it.",
    "suppressed": "It is not said any more, but something that was tried tells the model from one that never learned.",
    "failed": "It is still said, or what had to stay was damaged.",
}
_INSTEAD = {"erase": "nothing", "abstain": "that it is not known", "replace": "another answer"}
_HIDDEN = "(hidden)"


@dataclass(frozen=True)
class Proof:
    """An audit of a deletion with what it was made on.

    Attributes:
        edit: the deletion.
        request: what it forgets.
        audit: what was found.
        control: name of the never-learned model; None where there was none.
        note: why there was none, in words; "" where there was one.
        cid: digest of the composition that was in effect. is_served: whether the deletion was part of it.
        model, base: of what was audited.
    """

    edit: EditVersion
    request: Forgetting
    audit: Audit
    control: str | None
    note: str
    cid: str
    is_served: bool
    model: str
    base: str

    @property
    def limits(self) -> list[str]:
        """What the audit does not show, in sentences."""
        found = list(self.audit.not_shown)
        if self.note:
            found.append(self.note)
        if self.edit.artifact is not None and self.edit.method != EXACT:
            found.append(
                "The deletion is a change beside the base checkpoint. The base checkpoint itself still holds what was "
                "forgotten: whoever has it and leaves the change out has it back."
            )
        if not self.is_served:
            found.append("The deletion was not in effect when it was audited.")
        return found

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            **self.audit.json(), "edit": self.edit.id, "method": self.edit.method, "model_name": self.model,
            "base": self.base, "control_name": self.control, "composition": self.cid, "limits": [*self.limits],
        }  # fmt: skip


def profile_of(name: str) -> Profile:
    """A profile by its name. Raises UnknownName."""
    if name not in PROFILES:
        raise UnknownName(f"There is no profile {name!r}. Choose one of: {', '.join(PROFILES)}.")
    return PROFILES[name]


def prove(
    bench: Workbench,
    registry: Registry,
    ref: str,
    *,
    profile: str = "quick",
    control: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Proof:
    """Audit a deletion, beside everything that is in effect.

    Args:
        bench, registry: the model and the store.
        ref: the deletion; it need not be in effect yet.
        profile: a name of `PROFILES`.
        control: a model that never learned; None takes the shipped one, "none" goes without.
        seed: of every draw.
        progress: told what is being measured.

    Raises: UnknownName, UnknownEdit; WrongState for an edit that is no deletion; Sealed for one whose text is gone.
    """
    chosen, edit = profile_of(profile), registry.edit(ref)
    request, exam = stored_request(registry, edit)
    live_control, name, note = _control(bench, exam, control)
    kept = Kept(exam.neighbours, exam.utility, bench.held_out)
    auditor = Auditor(live_control, request, kept, profile=chosen, seed=seed, progress=progress)
    in_effect = registry.active()
    others = [other for other in in_effect if other.id not in {edit.id, *edit.removes}]
    rest = active_of(registry, others)
    removed = active_of(registry, [one for ref in edit.removes if not (one := registry.edit(ref)).sealed])
    change = registry.delta(edit.id)
    with bench.serving((*rest.deltas, *removed.deltas)) as served:
        before = auditor.measure_before(served.live)
    exact = edit.method == EXACT and _is_exact(bench, registry, edit)
    with bench.serving(rest.deltas_with(change)) as served:
        found = auditor.audit(served.live, before=before, exact=exact)
    is_served = edit.state is State.PRODUCTION
    cid = registry.head().cid
    return Proof(edit, request, found, name, note, cid, is_served, bench.name, bench.live.base)


def _is_exact(bench: Workbench, registry: Registry, edit: EditVersion) -> bool:
    """Whether nothing but the removal is in the deletion: no delta, or the very one that solving again gives."""
    change = registry.delta(edit.id)
    if change is None:
        with bench.serving(()) as served:
            return served.live.digest(full=True) == served.live.base
    gone = {*edit.forgets}
    merged: list[tuple[EditVersion, Any]] = []
    for ref in edit.removes:
        removed = registry.edit(ref)
        lessons = lessons_of(registry, removed)
        kept = tuple(one for one in lessons if key_of(one, bench.bank) not in gone)
        merged += [(removed, kept)] if kept else []
    again = solve_again(bench, merged)
    return again is not None and again.digest == change.digest


def _control(bench: Workbench, exam: ForgetExam, wanted: str | None) -> tuple[LiveModel | None, str | None, str]:
    """The never-learned model with its name, and why there is none."""
    name = CONTROLS.get(bench.name) if wanted is None else wanted
    if name is None or name == NONE:
        why = "left out" if name == NONE else f"not known for {bench.name}: name it with --control"
        return None, None, f"There was no control: it was {why}. What a model says that never learned is not known."
    live = open_model(name, device_map=bench.settings.device)
    if is_control(exam, exam.sit(Served(live))):
        return live, name, ""
    return None, None, f"There was no control: {name} answers what was to be forgotten itself, so it is none for this."


# -- the certificate -------------------------------------------------------------------------------------------------


def certificate_body(
    bench: Workbench, registry: Registry, proof: Proof, *, by: str, version: str, with_text: bool = False
) -> dict[str, JSON]:
    """What the certificate says, section by section. Without `with_text` no section holds a forgotten fact."""
    edit, facts = proof.edit, [lesson.fact for lesson in proof.request.forget]
    target = next((row for row in registry.training(edit.id) if row.get("part") == "target"), {})
    wanted = Target(Sort(str(target.get("by", "edit"))), str(target.get("value", edit.id)))
    head = registry.log(limit=1)[0]
    said = proof.request.replacement
    cache, forgot = bench.settings.cache, proof.request.forget
    copies = find_copies(registry, bench.bank, cache, wanted, forgot, of=edit.id)
    body: dict[str, JSON] = {
        "request": {
            "how": proof.request.how.value, "by": wanted.sort.value,
            "target_sha256": digest_bytes(wanted.value.encode()), "facts": [*edit.forgets],
            "replacement_sha256": digest_bytes(said.encode()) if proof.request.how is How.REPLACE else None,
            "asked_by": edit.config.get("asked_by"), "reason": edit.config.get("reason"), "at": edit.created_at,
        },
        "edit": {
            "id": edit.id, "manifest": edit.digest, "method": edit.method, "delta": edit.artifact,
            "state": edit.state.value, "author": edit.author, "seed": edit.seed, "sealed": sorted(edit.gone),
            "removes": [_removed(registry.edit(ref)) for ref in edit.removes],
            "approved_by": [one.by for one in registry.approvals(edit.id)],
        },
        "model": {
            "name": proof.model, "base": proof.base, "composition": proof.cid, "audited_weights": proof.audit.model,
            "control": proof.control, "control_weights": proof.audit.control,
        },
        "audit": cast("JSON", proof.audit.json()),
        "limits": [*proof.limits],
        "copies": [copy.json() for copy in copies],
        "chain": {"entry": head.seq, "digest": head.digest},
        "issued": {"by": by, "at": text(micros(utc_now())), "version": version},
    }  # fmt: skip
    if with_text:
        return {**body, "texts": [*(fact.sentence for fact in facts)]}
    return {**cast("dict[str, JSON]", hide(body, [wanted.value, *_names(facts)])), "texts": None}


def write_certificate(registry: Registry, body: Mapping[str, JSON], file: Path, *, by: str) -> tuple[Path, Path]:
    """Sign a certificate and write it with its printable page beside it. The audit keeps its digest.

    Raises: UsageError for a file that does not end in .json.
    """
    if file.suffix != ".json":
        raise UsageError(f"{file} does not end in .json. Write --certificate {file.with_suffix('.json')}.")
    page = certificate_html(_page(body, registry.keys.own_id()))
    raw = issue(registry.keys, body, page, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    page_of(file).write_bytes(page)
    file.write_bytes(raw)
    edit, audit = cast("dict[str, Any]", body["edit"]), cast("dict[str, Any]", body["audit"])
    registry.certified(str(edit["id"]), digest_bytes(raw), str(audit["verdict"]), by)
    return file, page_of(file)


def hide(value: JSON, names: Sequence[str]) -> JSON:
    """A JSON value whose texts say none of these names; a text that does is hidden as a whole."""
    keys = {name_key(name) for name in names} - {""}
    if isinstance(value, str):
        is_named = name_key(value) in keys or any(contains(value, name) for name in names if name.strip())
        return _HIDDEN if is_named else value
    if isinstance(value, list):
        return [hide(one, names) for one in value]
    if isinstance(value, dict):
        return {name: hide(one, names) for name, one in value.items()}
    return value


def _names(facts: Sequence[Fact]) -> list[str]:
    return [name for fact in facts for name in (fact.subject, fact.object, fact.prompt, fact.sentence)]


def _removed(edit: EditVersion) -> dict[str, JSON]:
    return {"id": edit.id, "manifest": edit.digest, "delta": edit.artifact, "sealed": sorted(edit.gone)}


def _page(body: Mapping[str, Any], signer: str) -> CertificatePage:
    request, edit, model, audit = (cast("dict[str, Any]", body[name]) for name in ("request", "edit", "model", "audit"))
    texts = cast("list[str] | None", body["texts"])
    verdict = str(audit["verdict"])
    n = len(request["facts"])
    asked = [
        ("what", f"{n} fact{'s' * (n != 1)}, named by {request['by']}"),
        ("in their place", _INSTEAD[str(request["how"])]),
        ("asked by", str(request["asked_by"])), ("reason", str(request["reason"] or "not given")),
        ("asked at", str(request["at"])), ("target", str(request["target_sha256"])),
        *((f"fact {n}", text) for n, text in enumerate(texts or request["facts"], start=1)),
    ]  # fmt: skip
    done = [
        ("edit", str(edit["id"])), ("method", str(edit["method"])), ("state", str(edit["state"])),
        ("manifest", str(edit["manifest"])), ("delta", str(edit["delta"] or "none: own edits taken out")),
        ("own edits taken out", ", ".join(one["id"] for one in edit["removes"]) or "none"),
        ("sealed", ", ".join(edit["sealed"]) or "no"), ("author", str(edit["author"])),
        ("approved by", ", ".join(edit["approved_by"]) or "nobody: the policy asked for none"),
    ]  # fmt: skip
    made = [
        ("model", str(model["name"])), ("base", str(model["base"])), ("composition", str(model["composition"])),
        ("control", str(model["control"] or "none")), ("profile", str(audit["profile"])),
        ("audit chain", f"entry {body['chain']['entry']}"), ("its digest", str(body["chain"]["digest"])),
        ("issued by", str(body["issued"]["by"])), ("issued at", str(body["issued"]["at"])), ("key", f"sha256:{signer}"),
    ]  # fmt: skip
    copies = [(f"{one['place']} {one['name']}", f"{one['what']}: {one['done']}") for one in body["copies"]]
    return CertificatePage(
        title="Certificate of forgetting",
        intro=f"About edit {edit['id']} of {model['name']}. Facts are named by digests, unless text was asked for.",
        verdict=verdict,
        meaning=MEANINGS[verdict],
        reasons=audit["reasons"],
        sections=(
            Section("What was asked", asked), Section("What was done", done), Section("What was audited", made),
            *([Section("Copies besides the weights", copies)] if copies else []),
        ),
        rows=[_measure(row) for row in audit["rows"]],
        limits=body["limits"] or ["Nothing was left out of this audit."],
        check="catechism certificate verify FILE.json --key PUBLIC_KEY needs no network, no store and no model. It "
        "names whatever was changed, in the certificate or on this page.",
    )  # fmt: skip


def _measure(row: Mapping[str, Any]) -> Measure:
    interval = "" if row["low"] is None else f"{_figure(row['low'])} to {_figure(row['high'])}"
    tells = {True: "yes", False: "no"}.get(row["tells"], "cannot say") if row["decides"] else "not asked"
    return Measure(
        str(row["name"]), _figure(row["value"]), interval, _figure(row["control"]), _figure(row["before"]),
        str(row["n"]), tells,
    )  # fmt: skip


def _figure(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3g}"
