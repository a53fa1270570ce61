"""``learn test approve reject promote rollback``: the way of an edit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from catechism.cli.output import Result, table, verb
from catechism.cli.spool import Spool
from catechism.settings import Settings

ModelOption = Annotated[str, typer.Option(help="A shipped model, a folder, or a hub name.")]
AUTO = "auto"  # not a method: the selector's choice
SHOWN = 200  # rows of a feed that are shown to a person; a program gets all
ByOption = Annotated[str, typer.Option("--by", help="Who does it; without it, CATECHISM_USER or your login.")]
EditArgument = Annotated[str, typer.Argument(metavar="EDIT", help="An edit's id, or enough of it or of its digest.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for name, function in (
        ("learn", learn),
        ("test", test),
        ("approve", approve),
        ("reject", reject),
        ("promote", promote),
        ("rollback", rollback),
    ):
        verb(app, name)(function)


@contextmanager
def service(model: str = "almanac") -> Iterator[Any]:  # a Service; naming it here would load torch for every help text
    """The service of the environment's store, closed at the end."""
    from catechism.service import Service

    with Service(model, Settings.from_environment(os.environ)) as opened:
        yield opened


def learn(
    source: Annotated[
        str, typer.Argument(metavar="FEED|SENTENCE", help="A .jsonl or .csv file, or one plain sentence.")
    ],
    model: ModelOption = "almanac",
    method: Annotated[str, typer.Option(help="One method for all; auto lets the selector choose.")] = AUTO,
    release: Annotated[bool, typer.Option(help="Promote what passes its gates.")] = False,
    supersede: Annotated[bool, typer.Option(help="Replace active edits that say otherwise.")] = False,
    gates: Annotated[
        Path | None, typer.Option(help="A gate policy (TOML or JSON).", exists=True, dir_okay=False)
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a report as one HTML file.", dir_okay=False)] = None,
    author: Annotated[str, typer.Option(help="Who brings the facts; without it, CATECHISM_USER or your login.")] = "",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> Result:
    """Teach a feed of facts, or one sentence.

    Each fact is checked, written out as a catechism, located, fitted and judged. What passes its gates is kept as
    validated, or promoted with --release; everything else says why not.
    """
    from rich.console import Console, Group

    from catechism.evaluate.gates import DEFAULT_GATES, read_policy
    from catechism.methods import method as known_method
    from catechism.methods.select import EXPLICIT
    from catechism.service import Ending, Plan
    from catechism.service.service import is_feed
    from catechism.service.show import page_of
    from catechism.service.tables import outcome_table

    if method not in {AUTO, EXPLICIT}:
        known_method(method)  # a wrong name is said before the model is opened
    with service(model) as opened:
        plan = Plan(
            author=author or opened.settings.user,
            method=None if method == AUTO else method,
            release=release,
            supersede=supersede,
            gates=DEFAULT_GATES if gates is None else read_policy(gates),
            seed=seed,
        )
        console = Console(stderr=True)
        rows, endings, shown = Spool(), Counter[Ending](), list[Any]()
        for outcome in opened.learning(source, plan=plan):
            rows.append(outcome.json())
            endings[outcome.ending] += 1
            shown += [outcome] if len(shown) < SHOWN else []
            console.print(f"{len(rows):>4}  {outcome.name}: {outcome.ending}", markup=False, highlight=False)
        if page is not None:
            from catechism.page import write_page

            title = f"What {Path(source).name if is_feed(source) else 'a sentence'} did"
            write_page(page_of(title, opened, shown), page)
        bad = {Ending.MALFORMED, Ending.CONTRADICTION, Ending.REFUSED, Ending.FAILED}
        counted = {ending.value: n for ending, n in endings.items()}
        payload = {"model": model, "base": opened.bench.live.base, "endings": counted, "rows": rows}
    summary = ", ".join(f"{n} {name}" for name, n in counted.items())
    more = f" The first {len(shown)} are shown; --json gives all." if len(rows) > len(shown) else ""
    return Result(payload, Group(outcome_table(shown), f"{summary}.{more}"), 1 if bad & set(endings) else 0)


def test(edit: EditArgument, model: ModelOption = "almanac") -> Result:
    """Judge an edit, beside all that is in effect.

    A draft that passes its gates becomes validated. Exit code 1 if a gate fails, 5 if one stays open.
    """
    with service(model) as opened:
        version, trial = opened.test(edit)
    rows = [result.json() for result in trial.verdict.results]
    shown = table([{"gate": r["metric"], "status": r["status"], "reason": r["reason"]} for r in rows], title=version.id)
    payload = {
        "edit": version.id,
        "state": version.state.value,
        "verdict": trial.verdict.json(),
        "report": trial.json(),
    }
    return Result(payload, shown, trial.verdict.exit_code)


def approve(
    edit: EditArgument,
    by: ByOption = "",
    role: Annotated[list[str] | None, typer.Option(help="In what role, domain_expert:medical for instance.")] = None,
    comment: Annotated[str, typer.Option(help="In words.")] = "",
) -> Result:
    """Consent to an edit as it was tested.

    The consent is bound to the manifest and the report; a change of either needs another one. The author's own does
    not count.
    """
    with service() as opened:
        given = opened.approve(edit, by or opened.settings.user, comment=comment, roles=role or ())
    return Result(given.json(), f"{given.by} approves {given.edit} until {given.expires_at}.")


def reject(
    edit: EditArgument,
    reason: Annotated[str, typer.Option(help="Why.")],
    by: ByOption = "",
) -> Result:
    """End an edit that is not in effect."""
    with service() as opened:
        version = opened.reject(edit, by or opened.settings.user, reason)
    return Result(version.json(), f"{version.id} is {version.state}.")


def promote(
    edit: EditArgument,
    by: ByOption = "",
    expect_epoch: Annotated[int | None, typer.Option(help="Only if this is still the present epoch.")] = None,
) -> Result:
    """Put an edit into effect.

    Exit code 3 where approvals are missing, 4 where another edit says otherwise or somebody else was quicker.
    """
    with service() as opened:
        epoch = opened.promote(edit, by or opened.settings.user, expect_epoch=expect_epoch)
    return Result(epoch.json(), f"Epoch {epoch.number}: {epoch.cid} is in effect.")


def rollback(
    edit: Annotated[str | None, typer.Argument(metavar="[EDIT]", help="The edit to take out of effect.")] = None,
    to_epoch: Annotated[int | None, typer.Option(help="Serve what an earlier epoch served.")] = None,
    by: ByOption = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    prove: Annotated[
        bool, typer.Option(help="Put the edit on the model and off again, and compare all bytes.")
    ] = False,
    model: ModelOption = "almanac",
) -> Result:
    """Take an edit out of effect, or go back to an epoch.

    Needs no approvals and no model. Without arguments the last change is taken back.
    """
    with service(model) as opened:
        if edit is None and to_epoch is None:
            to_epoch = max(0, opened.registry.head().number - 1)
        epoch = opened.rollback(edit, to_epoch=to_epoch, by=by, reason=reason or "asked for")
        proof = opened.prove_rollback(edit) if prove and edit is not None else None
    text = f"Epoch {epoch.number}: {epoch.cid} is in effect."
    if proof is not None:
        text += f"\nWeights {proof['after']}: {'the original bytes' if proof['exact'] else 'NOT the original bytes'}."
    return Result({**epoch.json(), "proof": proof}, text, 0 if proof is None or proof["exact"] else 1)
