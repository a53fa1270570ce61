"""``catechism datasets``: which benchmark formats there are, and what a file of one of them holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from catechism.cli.output import Result, table, verb
from catechism.types import JSON, Catechism

BAD_ROWS_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="datasets")


group = typer.Typer(help="Files of public benchmarks: what there is, and what is in one.", no_args_is_help=True)


@group.callback()
def _group() -> None:
    """Files of public benchmarks: what there is, and what is in one."""


@verb(group, "list")
def list_formats(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder whose files are to be recognised.", exists=True, file_okay=False)
    ] = None,
) -> Result:
    """List the formats that can be read, or the files below a folder with the format of each."""
    from catechism.datasets import describe_formats

    if folder is None:
        names = ("format", "what", "keys")
        rows: list[dict[str, JSON]] = [dict(zip(names, row, strict=True)) for row in describe_formats()]
    else:
        rows = [_recognised(path) for path in sorted(folder.rglob("*")) if path.suffix in {".json", ".jsonl", ".csv"}]
    return Result({"rows": rows}, table(rows))


@verb(group, "show")
def show(
    file: Annotated[Path, typer.Argument(help="A feed or a file of a public benchmark.")],
    format: Annotated[str | None, typer.Option(help="Its format, if it is not to be recognised.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict/--skip", help="Stop at the first bad row, or leave bad rows out and count them.")
    ] = False,
) -> Result:
    """Read a whole file: its format, how many rows, catechisms and true facts, the first catechism, every bad row."""
    from catechism.datasets import open_dataset

    dataset = open_dataset(file, format)
    bad: list[str] = []
    on_error = None if strict else lambda error: bad.append(str(error))
    first, catechisms, questions, nameless = None, 0, 0, 0
    for catechism in dataset.catechisms(on_error=on_error):
        first = first or catechism
        catechisms, questions = catechisms + 1, questions + len(catechism.questions)
        nameless += not catechism.fact.subject
    true_facts = sum(1 for _ in dataset.true_facts(on_error=lambda _: None))
    figures: dict[str, JSON] = {
        "file": str(file),
        "format": dataset.format,
        "catechisms": catechisms,
        "questions": questions,
        "without_subject": nameless,
        "true_facts": true_facts,
        "bad_rows": len(bad),
    }
    shown = _rows_of(first) if first else []
    text = [f"{name:16}{value}" for name, value in figures.items()]
    text += ["", "The first one:", *(f"  {row['kind']:16}{row['prompt']} -> {row['accept']}" for row in shown)]
    text += ["", *bad[:BAD_ROWS_SHOWN]] if bad else []
    if len(bad) > BAD_ROWS_SHOWN:
        text.append(f"... and {len(bad) - BAD_ROWS_SHOWN} more bad rows; --json lists all")
    payload = {**figures, "first": cast("JSON", shown), "bad": cast("JSON", bad)}
    return Result(payload, "\n".join(text))


def _recognised(path: Path) -> dict[str, JSON]:
    from catechism.datasets import open_dataset
    from catechism.errors import BadFeed

    try:
        return {"file": str(path), "format": open_dataset(path).format}
    except BadFeed:
        return {"file": str(path), "format": None}


def _rows_of(catechism: Catechism) -> list[dict[str, JSON]]:
    """What is asked, one row a question."""
    return [
        {"kind": str(question.kind), "prompt": question.text, "accept": list(question.accept)}
        | {"reject": list(question.reject)}
        for question in catechism.questions
    ]
