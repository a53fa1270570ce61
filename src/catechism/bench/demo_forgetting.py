"""The demo's deletion: a person's record is forgotten, attacked, and certified."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from catechism.reference.world import World, load_world
from catechism.registry.certificate import verify
from catechism.service import Service
from catechism.service.forgetting.outcome import ForgetEnding
from catechism.service.forgetting.plan import Options
from catechism.service.forgetting.tables import forgotten_view, proof_view
from catechism.service.forgetting.target import Sort, Target
from catechism.types import JSON


def forget_person(service: Service, certificate: Path, console: Console) -> dict[str, JSON]:
    """Forget everything about one of the town's people whom the control never knew, and prove it.

    Returns: what became of the request; the audit's verdict with its reasons; the certificate's files and whether it
        holds.
    """
    person = record_of(load_world())
    console.print(f"\nForget everything about [bold]{person}[/bold], an invented person of the Almanac:")
    options = Options(author="demo", reason="the demo shows a deletion", release=True)
    done = service.forget(Target(Sort.SUBJECT, person), options)
    console.print(forgotten_view(done))
    found: dict[str, JSON] = {"subject": person, "ending": done.ending.value, "reason": done.reason}
    if done.edit is None or done.ending is not ForgetEnding.RELEASED:
        return found
    prompt = done.plan.probes[0].lesson.fact.prompt
    said = service.ask(prompt).text
    console.print(f"{prompt} [green]{done.plan.probes[0].says}[/green] → [green]{said}[/green]")
    console.print("Attacking what is left, beside a model that never knew the person:")
    proof = service.prove(done.edit.id, profile="quick", progress=lambda name, *_: console.print(f"  {name}"))
    console.print(proof_view(proof))
    file, page = service.certify(proof, certificate, "demo")
    key = service.registry.keys.folder / f"{service.registry.keys.own_id()}.pub"
    checked = verify(file, key=key.read_bytes())
    holds = "holds" if checked.ok else "does NOT hold"
    console.print(f"The certificate [bold]{holds}[/bold]: {file}, to print: {page}")
    console.print(f"Verify it:  catechism certificate verify {file} --key {key}", markup=False)
    audit = proof.audit.json()
    verdict: dict[str, JSON] = {"verdict": audit["verdict"], "reasons": audit["reasons"]}
    return {**found, "edit": done.edit.id, **verdict, "certificate": str(file), "page": str(page), "holds": checked.ok}


def record_of(world: World) -> str:
    """The last person of the forget set, whom the demo's feed says nothing about."""
    return [fact.subject for fact in world.facts if fact.forget][-1]
