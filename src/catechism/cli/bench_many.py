"""``catechism bench editors`` and ``bench lifelong``: many facts in one model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from catechism.cli.bench import Data, Facts, KnownOnly, Layer, Model, Seed, Text, circumstances, group, side_by_side
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON

if TYPE_CHECKING:
    from catechism.page import Picture

Methods = Annotated[str, typer.Option(help="Methods by name, with commas between them.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Facts that are learned together; all of them if left out.")]
Place = Annotated[str, typer.Option(help="Where the work is done: inline, process or ray.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Of the executor; one for each processor if left out.")]
Page = Annotated[Path | None, typer.Option(help="Write a report with pictures to this HTML file.", dir_okay=False)]


@verb(group, "editors")
def editors(
    model: Model = "almanac",
    methods: Methods = "rome,distill,lora",
    facts: Facts = 100,
    batch: Batch = None,
    data: Data = None,
    text: Text = None,
    layer: Layer = None,
    executor: Place = "inline",
    workers: Workers = None,
    report: Page = None,
    seed: Seed = 0,
    known_only: KnownOnly = False,
) -> Result:
    """Teach many facts to one model with each method.

    All facts end up in one model and all are asked after the last edit, by free decoding; teacher-forced columns stand
    beside. Each method has a process of its own. Exit code 1 if a method fails as a whole.
    """
    import torch

    from catechism.bench.charts import pareto
    from catechism.bench.editors import run
    from catechism.bench.single import Request
    from catechism.bench.trial import Job

    request = Request(model, names_of(methods), facts, data, text, layer, seed, known_only)
    settings = Settings.from_environment(os.environ)
    job = Job(request, settings, "", executor, workers, torch.get_num_threads())
    found = run(request, settings, batch=batch, job=job)
    return _answer("Editors side by side", found, seed, report, pareto(cast("list[dict[str, JSON]]", found["rows"])))


def names_of(methods: str) -> tuple[str, ...]:
    """The names between the commas."""
    return tuple(name.strip() for name in methods.split(",") if name.strip())


def _answer(title: str, found: dict[str, JSON], seed: int, report: Path | None, pictures: list[Picture]) -> Result:
    from catechism.bench.report import write_report

    rows, about = cast("list[dict[str, JSON]]", found["rows"]), circumstances(seed)
    payload = {**found, **about}
    if report is not None:
        payload["report"] = write_report(title, found, about, pictures, report).as_posix()
    named = [{**row, "method": f"{row['method']} @ {row['n']}"} for row in rows]
    return Result(payload, table(side_by_side(named)), 1 if any("error" in row for row in rows) else 0)


@verb(group, "lifelong")
def lifelong(
    model: Model = "almanac",
    methods: Methods = "rome",
    edits: Annotated[int, typer.Option(min=1, help="How many edits, one at a time.")] = 100,
    checkpoint: Annotated[
        str, typer.Option(help="Numbers of edits to score at, with commas between; powers of ten if left out.")
    ] = "",
    data: Data = None,
    text: Text = None,
    layer: Layer = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Store the streams in this folder, and go on from what is there.", file_okay=False),
    ] = None,
    executor: Place = "inline",
    workers: Workers = None,
    report: Page = None,
    seed: Seed = 0,
    known_only: KnownOnly = False,
) -> Result:
    """Edit one model again and again.

    A stream, one edit at a time; at each checkpoint all edits so far are asked again. An interrupted stream goes on
    from its folder and ends with the same bytes. Exit code 1 if a method fails as a whole.
    """
    import torch

    from catechism.bench.charts import curves
    from catechism.bench.lifelong import run
    from catechism.bench.single import Request
    from catechism.bench.trial import Job

    request = Request(model, names_of(methods), edits, data, text, layer, seed, known_only)
    settings = Settings.from_environment(os.environ)
    job = Job(request, settings, "", executor, workers, torch.get_num_threads())
    found = run(request, settings, checkpoints=numbers_of(checkpoint), resume=resume, job=job)
    return _answer("A stream of edits", found, seed, report, curves(cast("list[dict[str, JSON]]", found["rows"])))


def numbers_of(text: str) -> list[int]:
    """The whole numbers between the commas. Raises UsageError for something else."""
    from catechism.errors import UsageError

    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise UsageError(f"--checkpoint {text!r} is no list of numbers. Write it like 1,10,100.") from error


@verb(group, "peers")
def peers(
    easyedit: Annotated[
        Path | None,
        typer.Option(help="Your checkout of EasyEdit; without one you are told how to make it.", file_okay=False),
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="An interpreter that has what the checkout needs; this one if left out.")
    ] = None,
    hparams: Annotated[
        Path | None, typer.Option(help="Settings for the checkout; those that it ships if left out.", dir_okay=False)
    ] = None,
    model: Model = "almanac",
    methods: Methods = "rome",
    facts: Facts = 10,
    data: Data = None,
    text: Text = None,
    layer: Layer = None,
    report: Page = None,
    seed: Seed = 0,
) -> Result:
    """Hold your EasyEdit checkout beside ours.

    Same model, facts, layer and statistics; the checkout runs in a process of its own and hands its weights back, and
    one scorer scores both.
    """
    from catechism.bench.charts import pareto
    from catechism.bench.peers import find_checkout, run
    from catechism.bench.single import Request

    request = Request(model, names_of(methods), facts, data, text, layer, seed)
    found = run(request, Settings.from_environment(os.environ), find_checkout(easyedit, python, hparams))
    return _answer("Beside EasyEdit", found, seed, report, pareto(cast("list[dict[str, JSON]]", found["rows"])))
