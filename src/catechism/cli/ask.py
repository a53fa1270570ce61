"""``ask blame bisect``: what the model says, and where it has it from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from catechism.cli.edits import ModelOption, service
from catechism.cli.output import Result, table, verb
from catechism.errors import UsageError

DEFAULT_MODEL = "almanac"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    verb(app, "ask")(ask)
    verb(app, "blame")(blame)
    verb(app, "bisect")(bisect)


def ask(
    words: Annotated[
        list[str], typer.Argument(metavar="[MODEL] QUESTION", help="The model, then what it goes on from.")
    ],
    explain: Annotated[bool, typer.Option(help="Name the edits that the answer hangs on.")] = False,
    as_of: Annotated[
        str | None, typer.Option(help="Answer with the edits of a past date, 2026-10-01 for instance.")
    ] = None,
    no_edits: Annotated[bool, typer.Option("--no-edits", help="Answer without any edit.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where to cut an answer that does not end.")] = 24,
) -> Result:
    """Ask a model, with every promoted edit on.

    It goes on from the question, always with the likeliest token, and stops by itself.

    MODEL is a shipped model, a folder or a hub name; without it, almanac answers.
    """
    if len(words) > 2:
        raise UsageError(f"Got {len(words)} words. Put the question in quotation marks.")
    if no_edits and (explain or as_of):
        raise UsageError("--no-edits leaves nothing to explain and no date to look at. Drop one of the options.")
    from catechism.service.answering import check_question

    model, question = words if len(words) == 2 else (DEFAULT_MODEL, words[0])
    check_question(question)
    with service(model) as opened:
        has_store = opened.settings.home.exists() or opened.settings.database is not None
        if no_edits or not has_store or not (explain or as_of or opened.serves_this_model()):
            said = opened.bench.live.generate([question], max_new_tokens=max_new_tokens)[0]
            payload = {"model": model, "question": question, "answer": said.text, "stopped": said.stopped, "edits": []}
            return Result(payload, said.text if said.stopped else f"{said.text} …")
        answer = opened.ask(question, as_of=as_of, explain=explain, max_new_tokens=max_new_tokens)
    text = answer.text if answer.stopped else f"{answer.text} …"
    return Result({"model": model, **answer.json()}, "\n".join([text, *_explained(answer)]) if explain else text)


def blame(
    text: Annotated[str, typer.Argument(help="A prompt, as for `ask`.")],
    model: ModelOption = DEFAULT_MODEL,
) -> Result:
    """Name the edits that an answer comes from.

    Each active edit is taken away and the answer scored again; what it loses is that edit's part.
    """
    with service(model) as opened:
        answer = opened.ask(text, explain=True)
    parts = answer.parts or ()
    rows = [
        {"edit": p.edit.id, "part (nats)": p.part, "without it": p.without, "fact": p.edit.fact.sentence} for p in parts
    ]
    shown = (
        table(rows, title=answer.text) if rows else f"{answer.text}\nNo edit has a part in it: the base model says so."
    )
    return Result({"model": model, **answer.json()}, shown)


def bisect(
    probe: Annotated[str, typer.Argument(help="A prompt whose answer used to be good.")],
    expect: Annotated[str | None, typer.Option(help="What a good answer says; else that of the good epoch.")] = None,
    good: Annotated[int, typer.Option(min=0, help="An epoch at which it was good.")] = 0,
    bad: Annotated[int | None, typer.Option(min=1, help="An epoch at which it is not; else the present one.")] = None,
    model: ModelOption = DEFAULT_MODEL,
) -> Result:
    """Find the edit that broke a probe.

    The epochs between a good and a bad one are halved until two neighbours are left.
    """
    with service(model) as opened:
        found = opened.bisect(probe, expect=expect, good=good, bad=bad)
    changed = "; ".join(f"{e.id} ({e.fact.sentence})" for e in found.edits)
    text = (
        f"Epoch {found.good.number}: {found.said_good}\nEpoch {found.bad.number}: {found.said_bad}\n"
        f"Between them changed: {changed}. {found.asked} epochs were asked."
    )
    return Result({"model": model, **found.json()}, text)


def _explained(answer: Any) -> list[str]:
    lines = [f"composition {answer.composition.cid}, {len(answer.composition.entries)} edits"]
    for part in answer.parts or ():
        lines.append(f"hangs on {part.edit.id}: {part.edit.fact.sentence} ({part.part:.2f} nats)")
        lines.append(f"  without it: {part.without}")
        lines += [f"  source: {s.uri or 'typed in'} {s.retrieved_at}".rstrip() for s in part.edit.fact.sources]
        lines.append(f"  {part.edit.method}: {part.edit.why}")
    if not answer.parts:
        lines.append("hangs on no edit: the base model says so")
    lines += [f"read as text: {ref}" for ref in answer.notes]
    return [*lines, f"without any edit: {answer.base_says}"]
