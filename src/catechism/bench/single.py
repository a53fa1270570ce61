"""``catechism bench single``: one edit at a time on a clean model, scored, taken off again, and the bytes compared.

Timing: `seconds_per_edit` is the wall time of `Method.fit` for one fact alone. What is done once per model is in
`seconds_prepare`: opening it, the choice of the layer, statistics, and a first fit that is made to warm up and dropped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress

from catechism.bench.layers import choose_layer
from catechism.bench.sources import ALMANAC, Source, known_to, open_source
from catechism.bench.stage import open_stage, peak_rss_mb
from catechism.delta import Delta
from catechism.errors import UsageError
from catechism.evaluate import METRICS, Interview, interview, join, report, wilson
from catechism.evaluate.interview import answer_budget
from catechism.matching import passes
from catechism.methods import Method, method
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.settings import Settings
from catechism.types import JSON, Catechism, Rate


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        model: a shipped model, a folder, or a hub name.
        methods: names of methods; a row for each.
        facts: how many.
        data: a feed or a file of a public benchmark; None draws facts of the Almanac by `seed`.
        text: a plain text file with blank lines between its paragraphs; the first half is for statistics, the second
            for perplexity. None takes the Almanac's own text for a shipped model; for another model it takes what
            the model writes by itself, and perplexity is not measured.
        layer: the layer to edit; None measures which one, for each method.
        seed: draws facts, new objects, contexts and intervals.
        known_only: only facts whose old object the model says before the edit.
    """

    model: str = "almanac"
    methods: tuple[str, ...] = ("rome",)
    facts: int = 100
    data: Path | None = None
    text: Path | None = None
    layer: int | None = None
    seed: int = 0
    known_only: bool = False


@dataclass(frozen=True)
class Bench:
    """A model with the facts to edit on it, its background, and the texts that its perplexity is measured on."""

    live: LiveModel
    catechisms: list[Catechism]
    background: Background
    held_out: list[str]
    source: Source = field(default_factory=lambda: Source(ALMANAC))

    @cached_property
    def before(self) -> list[Interview]:
        """What the model says before any edit, asked once for all methods."""
        budget = answer_budget(self.catechisms)
        return [interview(self.live, [catechism], max_new_tokens=budget) for catechism in self.catechisms]

    def describe_data(self) -> dict[str, JSON]:
        """Where the facts come from, and of how many the model said the old object before any edit."""
        said = [(c.fact.old_object, one.answers[0][0]) for c, one in zip(self.catechisms, self.before, strict=True)]
        known = sum(old is not None and passes(answer, (old,), ()) for old, answer in said)
        return {**self.source.describe(), "known_before": known}


def run(request: Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """Run the benchmark.

    Returns: ``rows``, one for each method; ``data``, where the facts come from; ``layers``, what the choice of each
        method's layer rests on; ``misses``, the questions that went wrong.
    Raises: UnknownName for a method that there is not; UsageError without methods or facts; BadFeed for a feed that
        cannot be read, before the model is opened; BadFact for a fact whose subject is not in its prompt.
    """
    chosen = [method(name) for name in request.methods]
    if not chosen:
        raise UsageError("No method was named. Give at least one, for instance --methods rome.")
    started = time.perf_counter()
    bench = prepare(request, settings)
    opened = time.perf_counter() - started
    rows: list[JSON] = []
    misses: list[JSON] = []
    layers: dict[str, JSON] = {}
    for one in chosen:
        started, editor, layer = time.perf_counter(), one(bench.background), request.layer
        if layer is None:
            console.print(f"{bench.live.name}: measuring which layer {editor.name} is to edit")
            layer, layers[editor.name] = choose_layer(editor.name, bench.live, bench.catechisms, bench.background)
        chosen_in = time.perf_counter() - started
        row, missed = run_one(bench, editor, editor.Spec(layer=layer, seed=request.seed), console)
        rows.append(
            {**row, "layer": layer, "seconds_prepare": opened + chosen_in + cast("float", row["seconds_prepare"])}
        )
        misses += [{"method": editor.name, **miss} for miss in missed]
    return {
        "rows": rows,
        "model": describe(bench.live),
        "data": bench.describe_data(),
        "layers": layers,
        "misses": misses,
    }


def prepare(request: Request, settings: Settings) -> Bench:
    """The facts first, then the model: a file that cannot be read costs no time."""
    if request.facts < 1:
        raise UsageError(f"facts={request.facts} leaves nothing to edit. Give 1 or more.")
    source = open_source(request.data)
    stream = source.catechisms(request.facts, seed=request.seed)
    catechisms = [] if request.known_only else list(islice(stream, request.facts))
    stage = open_stage(request.model, request.text, request.seed, settings)
    live = stage.live
    if request.known_only:
        catechisms = known_to(live, stream, request.facts)
    if not catechisms:
        raise UsageError(
            f"No fact is left to edit: {source.read} were read, {len(source.bad)} rows were bad"
            + (f", and {live.name} says the old object of none. Drop --known-only." if request.known_only else ".")
        )
    for catechism in catechisms:
        live.subject_last(catechism.fact.prompt, catechism.fact.subject)
    stage.learn_beside(catechisms, seed=request.seed)
    return Bench(live, catechisms, stage.background, stage.held_out, source)


def describe(live: LiveModel) -> dict[str, JSON]:
    """Which model it was."""
    return {"name": live.name, "type": live.anatomy.arch.model_type, "base": live.base}


def run_one(
    bench: Bench, editor: Method, spec: Any, console: Console, *, label: str = ""
) -> tuple[dict[str, JSON], list[dict[str, JSON]]]:
    """One method on every fact: its row, called by the method's name or `label`, and what went wrong."""
    live, label = bench.live, label or editor.name
    started = time.perf_counter()
    editor.fit(live, bench.catechisms[:1], spec)
    prepared = time.perf_counter() - started
    budget = bench.before[0].max_new_tokens
    perplexity = live.perplexity(bench.held_out) if bench.held_out else None
    after: list[Interview] = []
    deltas: list[Delta] = []
    seconds, exact, perplexities = 0.0, 0, []
    with Progress(console=console) as progress:
        for catechism in progress.track(bench.catechisms, description=label):
            started = time.perf_counter()
            delta = editor.fit(live, [catechism], spec)
            seconds += time.perf_counter() - started
            with live.with_delta(delta):
                after.append(interview(live, [catechism], max_new_tokens=budget))
                if bench.held_out:
                    perplexities.append(live.perplexity(bench.held_out))
            exact += live.digest(full=True) == live.base
            deltas.append(delta)
    n = len(bench.catechisms)
    found = report(
        bench.catechisms,
        join(bench.before),
        after,
        perplexity_before=perplexity,
        perplexity_after=sum(perplexities) / n if perplexities else None,
        seed=spec.seed,
    )
    metrics = {name: _json(found.metrics[name]) for name in METRICS}
    row: dict[str, JSON] = {"method": label, "n": n}
    row |= {name: metrics[name] for name in ("efficacy", "paraphrase_mean", "paraphrase_worst")}
    row |= {name: metrics[name] for name in ("locality_neighbour", "locality_unrelated")}
    row |= {
        "reversion_exact": wilson(exact, n).json(),
        "seconds_per_edit": seconds / n,
        "peak_rss_mb": peak_rss_mb(),
        "delta_bytes": sum(delta.nbytes for delta in deltas) / n,
    }
    misses: list[dict[str, JSON]] = [
        {"fact": bench.catechisms[mark.fact].fact.id, "kind": str(mark.question.kind), "prompt": mark.question.text}
        | {"before": mark.before, "after": mark.after, "accept": list(mark.question.accept)}
        for mark in found.misses()
    ]
    row |= {name: value for name, value in metrics.items() if name not in row}
    return {**row, "seconds_prepare": prepared}, misses


def _json(value: Rate | float | None) -> JSON:
    return value.json() if isinstance(value, Rate) else value
