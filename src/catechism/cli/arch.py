"""``catechism arch``: the architecture table, and the probe that holds a row of it against a live model."""

from __future__ import annotations

from typing import Annotated

import typer

from catechism.cli.output import Result, table, verb


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="arch")


group = typer.Typer(help="The architectures that can be edited.", no_args_is_help=True)


@verb(group, "list")
def list_() -> Result:
    """List the architectures."""
    from catechism.arch import TABLE

    rows = [
        {"model_type": model_type, "experts": row.experts is not None, "transposed": row.transposed}
        for model_type, row in sorted(TABLE.items())
    ]
    return Result({"rows": rows}, table(rows))


@verb(group, "probe")
def probe(
    model: Annotated[str, typer.Argument(help="A shipped model, a folder, or a hub name.")],
) -> Result:
    """Check a row on a live model.

    Shapes, orientation, and that each matrix is the linear map that the row claims it to be, by value.
    """
    from catechism.arch import probe as probe_model
    from catechism.reference import open_model

    report = probe_model(open_model(model).model)
    rows = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in report.checks]
    return Result(report.json(), table(rows, title=model), exit_code=0 if report.ok else 1)
