"""One method on one model, opened in a process of its own: what every benchmark of many edits starts from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from rich.console import Console

from catechism.bench.course import Course, Failure, Learner, SharedOut, askable
from catechism.bench.layer_trial import layer_by_trial
from catechism.bench.layers import choose_layer, pilots_of
from catechism.bench.single import Request
from catechism.bench.sources import Source, known_to, open_source
from catechism.bench.stage import OpenStage, Stage, open_stage
from catechism.errors import BadFact, NoConvergence, UsageError
from catechism.fanout import Executor, open_executor
from catechism.fanout.processes import Processes
from catechism.locate.layers import PILOTS
from catechism.methods import Method, method
from catechism.methods.select import CLOSED_FORM
from catechism.methods.stream import Progress, open_stream
from catechism.model import LiveModel
from catechism.model.statistics import Covariance
from catechism.settings import Settings
from catechism.types import JSON, Catechism, Role, Site

START = Progress()


@dataclass(frozen=True, slots=True)
class Job:
    """What one method is to do. It travels to the process that does it.

    Attributes:
        request: the model and the facts; its methods are not read.
        settings: device and cache.
        name: of the method.
        executor: where facts, sheets and layers are worked on.
        workers: of the executor; None is one for each processor.
        threads: of torch, in this process and in every worker.
        more: what else a benchmark wants.
    """

    request: Request
    settings: Settings
    name: str
    executor: str = "inline"
    workers: int | None = None
    threads: int = 1
    more: Any = None


@dataclass(frozen=True)
class Trial:
    """A method that is ready on a model, with the facts to teach.

    Attributes:
        course: the model and its exam.
        editor: the method, its facts shared out if they can be.
        spec: its settings.
        ranking: what the choice of the layer rests on; empty where the layer was given.
        refused: facts that nobody could be asked about, for all methods.
        source: where the facts come from.
        seconds: until here.
    """

    course: Course
    editor: Method
    spec: Any
    ranking: list[JSON]
    refused: list[Failure]
    source: Source
    seconds: float

    def learner(self, progress: Progress = START) -> Learner:
        """A stream of the method, from the beginning or from where another one stood."""
        live, editor, spec = self.course.stage.live, self.editor, self.spec
        stream = open_stream(editor, live, spec, progress)
        return Learner(stream, lambda: open_stream(editor, live, spec, stream.progress), progress.delta)


def check(request: Request) -> None:
    """Refuse early what cannot be run: no method, one that there is not, no facts, a file that cannot be read.

    Raises: UsageError, UnknownName, BadFeed.
    """
    if not request.methods:
        raise UsageError("No method was named. Give at least one, for instance --methods rome.")
    for name in request.methods:
        method(name)
    if request.facts < 1:
        raise UsageError(f"{request.facts} facts leave nothing to edit. Give 1 or more.")
    next(iter(open_source(request.data).catechisms(request.facts, seed=request.seed)), None)


def alone(work: Any, job: Job) -> Any:
    """Run ``work(None, None, job)`` in a process of its own, so that its memory is its own."""
    with Processes(_nothing, 1) as one:
        return one.map(work, [job])[0]


def _nothing() -> None:
    """The state of a worker that is used once."""


@contextmanager
def opened(job: Job) -> Iterator[Trial]:
    """Open the model, read the facts, choose the layer, take the statistics, and warm the method up.

    Raises: UsageError if no fact is left; whatever opening and choosing raise.
    """
    torch.set_num_threads(job.threads)
    started, request = time.perf_counter(), job.request
    stage = open_stage(request.model, request.text, request.seed, job.settings)
    catechisms, refused, source = _facts(request, stage.live)
    stage.learn_beside(catechisms, seed=request.seed)
    setup = OpenStage(request.model, request.text, request.seed, job.settings, job.threads)
    with open_executor(job.executor, setup, stage, workers=job.workers) as executor:
        stage.background.share = SharedOut(executor)
        course = Course(stage, catechisms, executor, job.settings.cache, request.seed)
        editor, layer, ranking = stage.editor(job.name), request.layer, list[JSON]()
        if layer is None:
            pilots = pilots_of(course.taught)
            Console(stderr=True).print(f"{request.model}: measuring which layer {job.name} is to edit")
            _take_statistics(stage, executor)
            if job.name in CLOSED_FORM and len(pilots) > 1:  # each writes all facts into one matrix
                layer, ranking = layer_by_trial(editor, stage.live, pilots, seed=request.seed)
            else:
                layer, ranking = choose_layer(job.name, stage.live, pilots, stage.background)
        spec = editor.Spec(layer=layer, seed=request.seed)
        _warm_up(stage, editor, course.taught, spec)
        seconds = time.perf_counter() - started
        yield Trial(course, editor, spec, ranking, refused, source, seconds)


def _facts(request: Request, live: LiveModel) -> tuple[list[Catechism], list[Failure], Source]:
    source = open_source(request.data)
    stream = source.catechisms(request.facts, seed=request.seed)
    found = known_to(live, stream, request.facts) if request.known_only else list(islice(stream, request.facts))
    # when a file was read must not be in what is learned from it: the same command gives the same bytes
    good, refused = askable(live, [replace(one, fact=replace(one.fact, sources=())) for one in found])
    if not good:
        raise UsageError(
            f"No fact is left to edit: {source.read} were read, {len(source.bad)} rows were bad, {len(refused)} cannot "
            f"be asked{': ' + refused[0].message if refused else ''}. Give other facts"
            + (", or drop --known-only." if request.known_only else ".")
        )
    return good, refused, source


def _take_statistics(stage: Stage, executor: Executor) -> None:
    """The covariances of all layers, shared out. In this process they are taken when they are asked for."""
    if executor.name != "inline":
        sites = stage.live.anatomy.sites(Role.MLP_OUT)
        for site, found in zip(sites, executor.map(take_covariance, sites), strict=True):
            stage.background.keep(site, found)


def take_covariance(stage: Stage, _shared: None, site: Site) -> Covariance:
    """Work for an executor: the statistics of one layer."""
    stage.wear()
    return stage.background.covariance(site)


def _warm_up(stage: Stage, editor: Method, catechisms: Sequence[Catechism], spec: Any) -> None:
    """A first fit that is dropped: statistics are taken, and what is compiled is compiled."""
    *others, last = catechisms[:PILOTS]
    for one in others:
        with suppress(BadFact, NoConvergence):  # one that cannot be learned must not keep the others waiting
            editor.fit(stage.live, [one], spec)
            break
    else:
        editor.fit(stage.live, [last], spec)
