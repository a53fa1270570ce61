"""``catechism bench lifelong``: a stream of edits, one at a time; at each checkpoint all edits so far are asked again.

A stream that is interrupted goes on from the folder that it was given, and ends with the same bytes: what it stands on
is stored at checkpoints and about every `SAVE_EVERY_S` seconds, and what came after that is done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import track

from catechism.bench.rows import Costs, misses_of, row_of
from catechism.bench.saved import State, restore, store
from catechism.bench.single import Request, describe
from catechism.bench.stage import peak_rss_mb
from catechism.bench.trial import START, Job, Trial, alone, check, opened
from catechism.delta import Delta
from catechism.errors import CatechismError, UsageError
from catechism.hashing import digest_json
from catechism.settings import Settings
from catechism.types import JSON

SAVE_EVERY_S = 5.0
MISSES = 200  # of each method after its last edit, in the result


@dataclass(frozen=True, slots=True)
class Plan:
    """When a stream is scored, and where it is stored.

    Attributes:
        checkpoints: numbers of edits, rising.
        folder: of the stream; None stores nothing.
        save_every_s: seconds between two stores.
    """

    checkpoints: tuple[int, ...]
    folder: Path | None = None
    save_every_s: float = SAVE_EVERY_S


def run(
    request: Request,
    settings: Settings,
    *,
    checkpoints: Sequence[int] = (),
    resume: Path | None = None,
    job: Job | None = None,
) -> dict[str, JSON]:
    """Run the benchmark.

    Args:
        request: its facts are the edits, in their order.
        checkpoints: numbers of edits; without any the powers of ten and the last edit.
        resume: folder that streams are stored in and go on from, one below it for each method; None stores nothing.
        job: executor, workers and threads, from a job of any name; None works here.

    Returns: ``rows``, one for each method and checkpoint; the rest as `catechism.bench.editors.run`.
    Raises: as that; UsageError for a checkpoint that is not between 1 and the number of edits, or a folder that holds
        another stream.
    """
    check(request)
    wrong = [n for n in checkpoints if not 1 <= n <= request.facts]
    if wrong:
        raise UsageError(
            f"Checkpoint {wrong[0]} is not between 1 and {request.facts}, the number of edits. Change one."
        )
    wanted = tuple(sorted({*(checkpoints or powers_of_ten(request.facts)), request.facts}))
    like = job or Job(request, settings, "", threads=torch.get_num_threads())
    found: dict[str, JSON] = {}
    gathered: dict[str, list[JSON]] = {"rows": [], "misses": [], "failures": []}
    layers: dict[str, JSON] = {}
    for name in request.methods:
        plan = Plan(wanted, resume / name if resume else None)
        one = cast("dict[str, JSON]", alone(run_method, replace(like, request=request, name=name, more=plan)))
        layers[name] = one["layers"]
        for key, listed in gathered.items():
            listed.extend(cast("list[JSON]", one[key]))
        found = {key: one[key] for key in ("model", "data", "refused")}
    return {"rows": gathered["rows"], **found, "layers": layers, **gathered}


def powers_of_ten(n: int) -> list[int]:
    """1, 10, 100 and so on up to `n`."""
    return [10**k for k in range(len(str(n)))]


def run_method(_state: None, _shared: None, job: Job) -> dict[str, JSON]:
    """Work for a process: one method on the whole stream."""
    with opened(job) as trial:
        about: dict[str, JSON] = {
            "model": describe(trial.course.stage.live),
            "data": trial.source.describe(),
            "refused": [{"fact": one.fact, "message": one.message} for one in trial.refused],
            "layers": trial.ranking,
        }
        state = State()
        try:
            misses = _streamed(trial, job.name, cast("Plan", job.more), state)
        except CatechismError as error:  # the other methods go on
            if isinstance(error, UsageError) and state.tried == 0:
                raise
            state.rows.append({"method": job.name, "n": state.tried, "error": f"{error.code}: {error}"})
            misses = []
        failures: list[JSON] = [{"method": job.name, "fact": one.fact, "message": one.message} for one in state.failed]
        return {**about, "rows": state.rows, "misses": misses, "failures": failures}


def _streamed(trial: Trial, name: str, plan: Plan, state: State) -> list[JSON]:
    """Go through the stream, from where it was interrupted; the misses after the last edit."""
    course, about = trial.course, _about(trial, name)
    n = len(course.catechisms)
    checkpoints = {min(one, n) for one in plan.checkpoints}
    progress = START
    if plan.folder is not None and (held := restore(plan.folder, about)) is not None:
        found, progress = held
        vars(state).update(vars(found))
    learner, misses, stored = trial.learner(progress), list[JSON](), time.monotonic()
    learner.failed, learner.seconds = state.failed, state.seconds
    for place in track(range(state.tried, n), description=name, console=Console(stderr=True)):
        one = course.taught[place]
        learner.add([one])
        state.at_once += course.is_right(learner.delta, [one])
        state.tried, state.seconds = place + 1, learner.seconds
        if state.tried in checkpoints:
            row, misses = _checkpoint(trial, name, state, learner.delta)
            state.rows.append(row)
        is_due = time.monotonic() - stored >= plan.save_every_s or state.tried in checkpoints
        if plan.folder is not None and is_due:
            store(plan.folder, about, state, learner.stream.progress)
            stored = time.monotonic()
    return misses


def _checkpoint(trial: Trial, name: str, state: State, delta: Delta | None) -> tuple[dict[str, JSON], list[JSON]]:
    """The row of all edits so far, and the questions that went wrong."""
    course, n, peak = trial.course, state.tried, peak_rss_mb()
    scored = course.score(delta, n)
    costs = Costs(state.seconds / max(n - len(state.failed), 1), peak, 0 if delta is None else delta.nbytes)
    row = row_of(name, n, scored, costs, state.failed, state.at_once)
    live = course.stage.live
    row |= {"layer": trial.spec.layer, "seconds_prepare": trial.seconds}
    row |= {"delta": None if delta is None else delta.digest, "weights_exact": live.digest(full=True) == live.base}
    return row, list(misses_of(name, scored)[:MISSES])


def _about(trial: Trial, name: str) -> dict[str, JSON]:
    """What a stream is of: with any of it changed it would be another one."""
    spec = cast("JSON", json.loads(json.dumps(asdict(trial.spec))))
    facts = digest_json([asdict(one) for one in trial.course.taught])
    return {"base": trial.course.stage.live.base, "method": name, "settings": spec, "facts": facts}
