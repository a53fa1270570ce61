"""``catechism bench editors``: many facts in one model, all of them asked after the last edit; a row for each method.

Every method has a process of its own, so that its memory is its own. Timing: `seconds_per_edit` is the wall time of
`Stream.add` over the facts that were learned. What is done once is in `seconds_prepare`: opening the model, the choice
of the layer, statistics, and a first fit that is made to warm up and dropped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from rich.console import Console
from rich.progress import track

from catechism.bench.rows import Costs, misses_of, row_of
from catechism.bench.single import Request, describe
from catechism.bench.stage import peak_rss_mb
from catechism.bench.trial import Job, Trial, alone, check, opened
from catechism.errors import CatechismError, UsageError
from catechism.evaluate.effect import in_effect
from catechism.settings import Settings
from catechism.types import JSON

MISSES = 200  # of each method, in the result


def run(request: Request, settings: Settings, *, batch: int | None = None, job: Job | None = None) -> dict[str, JSON]:
    """Run the benchmark.

    Args:
        batch: facts that are learned together; None is all of them.
        job: executor, workers and threads, from a job of any name; None works here.

    Returns: ``rows``, one for each method; ``layers``, what the choice of each method's layer rests on; ``misses``, the
        first `MISSES` questions of each method that went wrong; ``failures``, facts that a method could not take in;
        ``refused``, facts that nobody could be asked about.
    Raises: UnknownName for a method that there is not; UsageError without methods or facts; BadFeed for a file that
        cannot be read, before a model is opened.
    """
    check(request)
    if batch is not None and batch < 1:
        raise UsageError(f"batch={batch} learns nothing. Give 1 or more, or leave it out for one batch.")
    like = job or Job(request, settings, "", threads=torch.get_num_threads())
    found: dict[str, JSON] = {}
    rows: list[JSON] = []
    gathered: dict[str, list[JSON]] = {"misses": [], "failures": []}
    layers: dict[str, JSON] = {}
    for name in request.methods:
        one = cast("dict[str, JSON]", alone(run_method, replace(like, request=request, name=name, more=batch)))
        rows.append(one["row"])
        layers[name] = one["layers"]
        for key, listed in gathered.items():
            listed.extend(cast("list[JSON]", one[key]))
        found = {key: one[key] for key in ("model", "data", "refused")}
    return {"rows": rows, **found, "layers": layers, **gathered}


def run_method(_state: None, _shared: None, job: Job) -> dict[str, JSON]:
    """Work for a process: one method on all facts."""
    with opened(job) as trial:
        about: dict[str, JSON] = {
            "model": describe(trial.course.stage.live),
            "data": trial.source.describe(),
            "refused": [{"fact": one.fact, "message": one.message} for one in trial.refused],
            "layers": trial.ranking,
        }
        try:
            return {**about, **_taught(trial, job.name, cast("int | None", job.more))}
        except CatechismError as error:  # the other methods go on
            row: dict[str, JSON] = {"method": job.name, "n": len(trial.course.catechisms)}
            message = f"{error.code}: {error}"
            return {**about, "row": {**row, "error": message}, "misses": [], "failures": []}


def _taught(trial: Trial, name: str, size: int | None) -> dict[str, JSON]:
    course, learner = trial.course, trial.learner()
    n = len(course.catechisms)
    size = n if size is None else size
    at_once: list[bool | None] = []
    starts = range(0, n, size)
    for start in track(starts, description=name, console=Console(stderr=True)):
        batch = course.taught[start : start + size]
        learner.add([batch[place] for place in in_effect(batch).places])  # of two answers to one question the later
        if len(starts) > 1:
            at_once += course.is_right(learner.delta, batch)
    peak, delta = peak_rss_mb(), learner.delta
    scored = course.score(delta, n)
    costs = Costs(learner.seconds / max(n - len(learner.failed), 1), peak, 0 if delta is None else delta.nbytes)
    row = row_of(name, n, scored, costs, learner.failed, at_once)
    live = course.stage.live
    row |= {"layer": trial.spec.layer, "seconds_prepare": trial.seconds}
    row |= {"weights_exact": live.digest(full=True) == live.base}
    failures: list[JSON] = [{"method": name, "fact": one.fact, "message": one.message} for one in learner.failed]
    misses: list[JSON] = list(misses_of(name, scored)[:MISSES])
    return {"row": row, "misses": misses, "failures": failures}
