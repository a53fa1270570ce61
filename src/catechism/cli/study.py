"""``catechism study``: questions put to the models at hand, answered with figures, pictures and words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

import typer

from catechism.cli.bench import Data, Facts, KnownOnly, Model, Seed, Text, circumstances, side_by_side
from catechism.cli.bench_forget import Control, Depth, People, Resume, shown
from catechism.cli.bench_many import Methods, names_of, numbers_of
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON

group = typer.Typer(help="Questions put to the models at hand, answered in figures and words.", no_args_is_help=True)
ALL = "all"
Report = Annotated[Path, typer.Option(help="Where the report goes.", dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="study")


@group.callback()
def _group() -> None:
    """Questions put to the models at hand, answered in figures and words."""


@verb(group, "editors")
def editors(
    model: Model = "almanac",
    facts: Facts = 100,
    methods: Methods = ALL,
    sizes: Annotated[
        str, typer.Option(help="Numbers of facts of the second experiment, with commas between.")
    ] = "100,300,1000",
    closed_form: Annotated[str, typer.Option(help="The closed form of the second experiment.")] = "sequential",
    bank: Annotated[str, typer.Option(help="The bank of adapters of the second experiment.")] = "memoir",
    data: Data = None,
    text: Text = None,
    report: Report = Path("study-editors.html"),
    seed: Seed = 0,
    known_only: KnownOnly = False,
) -> Result:
    """Compare the editors, and see how far a model can be edited.

    First every method learns the same facts, all in one model: success and side effects. Then a closed form and a bank
    of adapters take in more and more: throughput, specificity, and where each is full. The conclusions are written from
    the figures.
    """
    from rich.console import Group, RenderableType

    from catechism.bench.charts import curves, pareto
    from catechism.bench.report import write_report
    from catechism.bench.single import Request
    from catechism.bench.study import Study, run
    from catechism.methods import METHODS

    names = tuple(sorted(METHODS)) if methods == ALL else names_of(methods)
    request = Request(model, names, facts, data, text, None, seed, known_only)
    study = Study(request, tuple(sorted(numbers_of(sizes))), closed_form, bank)
    found = run(study, Settings.from_environment(os.environ))
    rows, about = cast("list[dict[str, JSON]]", found["rows"]), circumstances(seed)
    first, second = ([row for row in rows if row["experiment"] == name] for name in ("side effects", "capacity"))
    pictures = [*pareto(first), *curves(second)]
    written = write_report("The editors side by side", found, about, pictures, report)
    shown = [{**row, "method": f"{row['method']} @ {row['n']}"} for row in rows]
    words = "\n".join(f"* {word}" for word in cast("list[str]", found["conclusions"]))
    seen = Group(cast(RenderableType, table(side_by_side(shown))), words, f"The report: {written}")
    return Result({**found, **about, "report": str(written)}, seen, 1 if any("error" in row for row in rows) else 0)


@verb(group, "forgetting")
def forgetting(
    model: Model = "almanac",
    control: Control = "almanac-control",
    methods: Annotated[
        str, typer.Option(help="Methods of forgetting, with commas between; eight of different kinds if left out.")
    ] = "",
    people: People = 8,
    profile: Depth = "full",
    resume: Resume = None,
    report: Annotated[Path, typer.Option(help="Where the report goes.", dir_okay=False)] = Path(
        "study-forgetting.html"
    ),
    seed: Seed = 0,
) -> Result:
    """Put findings about forgetting to the test.

    Does rounding to 4 bits bring it back, does emphasis, do probes still see it, is it learned again sooner, does
    random labelling generalise? Answered from audits against a model that never learned it;
    --resume takes those that bench forget has made.
    """
    from rich.console import Console, Group, RenderableType

    from catechism.bench.forget import Request as Forget
    from catechism.bench.forget_report import write_report as write_forgetting
    from catechism.bench.forget_study import METHODS as ASKED
    from catechism.bench.forget_study import run

    request = Forget(model, control, names_of(methods) or ASKED, people, profile, seed, resume=resume)
    found = run(request, Settings.from_environment(os.environ), Console(stderr=True))
    rows, about = cast("list[dict[str, JSON]]", found["rows"]), circumstances(seed)
    told = cast("list[str]", found["answers"])
    written = write_forgetting("What forgetting leaves", found, about, report, told)
    words = "\n".join(f"* {word}" for word in told)
    seen = Group(cast(RenderableType, table(side_by_side(shown(rows)))), words, f"The report: {written}")
    return Result({**found, **about, "report": str(written)}, seen, 1 if any("error" in row for row in rows) else 0)
