"""``list show log diff verify export import``: what the store holds, and how it proves itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from catechism.cli.edits import ByOption, EditArgument, ModelOption, service
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for name, function in (
        ("list", list_),
        ("show", show),
        ("log", log),
        ("diff", diff),
        ("verify", verify),
        ("export", export),
        ("import", import_),
    ):
        verb(app, name)(function)


def list_(
    state: Annotated[str | None, typer.Option(help="Only those in this state, production for instance.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only those about this subject.")] = None,
) -> Result:
    """List the edits."""
    from catechism.errors import UnknownName
    from catechism.registry import Registry, State

    if state is not None and state not in {known.value for known in State}:
        raise UnknownName(f"There is no state {state!r}. Choose one of: {', '.join(known.value for known in State)}.")
    settings = Settings.from_environment(os.environ)
    with Registry.open(settings.home, url=settings.database) as registry:
        edits = registry.edits(state=state and State(state), subject=subject)
    rows = [
        {"edit": e.id, "state": e.state.value, "fact": e.fact.sentence, "by": f"{e.method}, {e.author}"} for e in edits
    ]
    return Result({"rows": [e.json() for e in edits]}, table(rows) if rows else "No edits.")


def show(edit: EditArgument) -> Result:
    """Show all that is known of an edit."""
    with service() as opened:
        shown = opened.show(edit)
    rows = [{"field": key, "value": _short(value)} for key, value in shown.items() if value not in (None, [], {})]
    return Result(shown, table(rows))


def log(limit: Annotated[int | None, typer.Option(min=1, help="Only the latest.")] = None) -> Result:
    """Show the audit, newest first."""
    from catechism.registry import Registry

    settings = Settings.from_environment(os.environ)
    with Registry.open(settings.home, url=settings.database) as registry:
        entries = registry.log(limit=limit)
    lines = [f"{e.seq:>5}  {e.at[:19]}  {e.actor or '-'}  {e.action}  {e.object}" for e in entries]
    return Result({"rows": [e.json() for e in entries]}, "\n".join(lines) or "Nothing has happened.")


def diff(
    one: Annotated[str, typer.Argument(help="An edit, or the number of an epoch.")],
    other: Annotated[str, typer.Argument(help="Another one of the same kind.")],
) -> Result:
    """Show what differs between two edits or two epochs."""
    with service() as opened:
        found = opened.diff(one, other)
    if "added" in found:
        lines = [
            f"{sign} {e['edit']}  {e['prompt']} {e['object']}"
            for sign, key in (("-", "removed"), ("+", "added"))
            for e in found[key]
        ]
        return Result(found, "\n".join(lines) or "The same edits.")
    rows = [{"field": key, "from": _short(two["from"]), "to": _short(two["to"])} for key, two in found.items()]
    return Result(found, table(rows) if rows else "No difference.")


def verify() -> Result:
    """Prove the store: derive every hash and signature again.

    Exit code 1 if anything does not prove itself.
    """
    with service() as opened:
        found = opened.verify()
    counted = ", ".join(f"{n} {what}" for what, n in found.checked.items())
    sealed = [f"Sealed by {s.by} on {s.at[:10]}: {s.edit}, without {', '.join(s.gone)}." for s in found.sealed]
    if found.ok:
        return Result(found.json(), "\n".join([f"Everything proves itself: {counted}.", *sealed]))
    rows = [problem.json() for problem in found.problems]
    return Result(found.json(), table(rows, title=f"{len(rows)} problems ({counted})"), 1)


def export(
    edits: Annotated[list[str], typer.Argument(metavar="EDIT...", help="Edits by id.")],
    to: Annotated[Path, typer.Option(help="A folder that does not exist yet, or a .tar file.")],
    peft: Annotated[bool, typer.Option(help="One edit as a PEFT adapter, for transformers and vLLM.")] = False,
    model: ModelOption = "almanac",
) -> Result:
    """Write edits to a folder or archive that can be taken elsewhere."""
    with service(model) as opened:
        path = opened.export(edits, to, peft=peft)
    return Result({"path": str(path), "edits": edits}, f"Written to {path}.")


def import_(
    path: Annotated[Path, typer.Argument(help="What `export` wrote.", exists=True)],
    by: ByOption = "",
) -> Result:
    """Take in exported edits.

    Each of them is proven again, by hash and signature, and arrives as a draft.
    """
    with service() as opened:
        taken = opened.import_(path, by)
    return Result({"rows": [e.json() for e in taken]}, f"{len(taken)} edits: {', '.join(e.id for e in taken)}.")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 400 else f"{text[:400]}…"
