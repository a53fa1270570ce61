"""``catechism bench values``: target values by the published procedure and by ours, on the same facts in the same run.

The published procedure takes one fact after the other: all of its prompts go through the whole model at every step,
logits are made at every token, and Adam moves the one vector. Ours searches all facts in one batch and runs only what
the vectors can change. Both minimise the same loss with the same steps, so with early stopping off they have to end at
the same vectors; the row says how far apart they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from catechism.bench.layers import choose_layer
from catechism.bench.single import Request, describe, prepare
from catechism.model import LiveModel
from catechism.model.reading import Reading, gains, half_for_the_bare_prompt
from catechism.model.targets import Rows, TargetObjective, target_rows
from catechism.model.trace import Patch, patch
from catechism.settings import Settings
from catechism.solve.values import Found, Search, find_values
from catechism.types import JSON, Fact, Role, Site

CONTEXTS, CONTEXT_TOKENS = 5, 10  # published for MEMIT
KL, DECAY = 0.0625, 0.5  # published


@dataclass(frozen=True)
class Task:
    """Facts whose values are to be found at one matrix of a model."""

    live: LiveModel
    site: Site
    reading: Reading
    scale: Float[Tensor, " n"]


@dataclass
class Clock:
    """Seconds of the processor by what they went into: a busy machine makes them no longer."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time of the body under this name."""
        started = time.process_time()
        try:
            yield
        finally:
            self.add(name, time.process_time() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add so many under this name."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def run(request: Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """Run both procedures with early stopping and without it.

    Returns: ``rows``, a row for each procedure and each way; ``breakdown``, what the batched search's time is made of.
    """
    bench = prepare(request, settings)
    live, layer = bench.live, request.layer
    if layer is None:
        layer, _ = choose_layer("memit", live, bench.catechisms, bench.background)
    task = _task(
        live, Site(layer, Role.MLP_OUT), [c.fact for c in bench.catechisms], bench.background.contexts, request
    )
    first = replace(task, reading=replace(task.reading, facts=task.reading.facts[:1]), scale=task.scale[:1])
    for procedure in (published, batched):  # what is done once in a process is no edit's time
        procedure(first, Search(steps=1))
    rows: list[JSON] = []
    breakdown: dict[str, JSON] = {}
    for stops in (True, False):
        search = Search() if stops else Search(stop=-1.0)
        timed: dict[str, tuple[Found, float, float]] = {}
        for name, procedure in (("published", published), ("batched", batched)):
            console.print(f"{live.name}, layer {layer}: {name}, early stopping {'on' if stops else 'off'}")
            clock, started, spent_before = Clock(), time.perf_counter(), time.process_time()
            found = procedure(task, search, clock)
            seconds, spent = time.perf_counter() - started, time.process_time() - spent_before
            timed[name] = found, seconds / len(task.scale), spent / len(task.scale)
            if name == "batched":
                shares = {part: taken / spent for part, taken in clock.seconds.items()}
                breakdown["stopping" if stops else "all_steps"] = {**shares, "rest": 1 - sum(shares.values())}
        rows += [_row(name, stops, timed[name], timed["published"]) for name in ("published", "batched")]
    return {"rows": rows, "breakdown": breakdown, "model": describe(live), "layer": layer}


def _task(
    live: LiveModel,
    site: Site,
    facts: Sequence[Fact],
    contexts: Callable[..., tuple[str, ...]],
    request: Request,
) -> Task:
    texts = contexts(CONTEXTS, tokens=CONTEXT_TOKENS, seed=request.seed)
    reading = Reading(tuple(facts), texts)
    keys = half_for_the_bare_prompt(reading.keys(live, [site])[site])
    scale = (keys @ live.anatomy.matrix(site).read().double().T).norm(dim=1).float()
    return Task(live, site, reading, scale)


def _row(name: str, stops: bool, ours: tuple[Found, float, float], baseline: tuple[Found, float, float]) -> JSON:
    """One procedure; differences are relative to the published value's norm, the largest over the facts."""
    (found, seconds, spent), (theirs, their_seconds, they_spent) = ours, baseline
    apart = (found.values - theirs.values).norm(dim=1) / theirs.values.norm(dim=1).clamp_min(1e-12)
    return {
        "method": f"{name}{'' if stops else ', all steps'}",
        "n": len(found.nll),
        "early_stopping": stops,
        "seconds_per_edit": seconds,
        "ratio": their_seconds / seconds,
        "cpu_seconds_per_edit": spent,
        "cpu_ratio": they_spent / spent,
        "largest_difference": float(apart.max()),
        "median_difference": float(apart.median()),
        "nll_mean": float(found.nll.mean()),
        "steps_mean": float(found.steps.double().mean()),
    }


# -- the published procedure -----------------------------------------------------------------------------------------


def published(task: Task, search: Search, clock: Clock | None = None) -> Found:
    """One fact after the other, each step a pass of the whole model over all its prompts.

    Source: kmeng01/memit, memit/compute_z.py, restated; the steps are those of `Search`.
    """
    live, n = task.live, len(task.reading.facts)
    d = live.anatomy.matrix(task.site).shape[0]
    found = Found(torch.zeros(n, d), torch.zeros(n), torch.zeros(n, dtype=torch.long))
    for i, fact in enumerate(task.reading.facts):
        rows = target_rows(
            live, [task.reading.prompts(fact)], [fact.object], [fact.subject], [[f"{fact.subject} is a"]]
        )
        value, nll, steps = _one(live, task.site, rows, float(task.scale[i]), search)
        found.values[i], found.nll[i], found.steps[i] = value.cpu(), nll, steps
    return found


@torch.enable_grad()
def _one(live: LiveModel, site: Site, rows: Rows, scale: float, search: Search) -> tuple[Tensor, float, int]:
    d = live.anatomy.matrix(site).shape[0]
    value = torch.zeros(d, device=live.device, requires_grad=True)
    adam = torch.optim.Adam([value], lr=search.lr / d**0.5 * scale)
    with torch.no_grad():
        before = live.model(**rows.inputs, use_cache=False).logits.float().log_softmax(dim=-1)
    every = torch.arange(len(rows.kept), device=live.device)
    step = 0
    while True:
        with patch(live, Patch(site, every, rows.subject, value)):
            logprobs = live.model(**rows.inputs, use_cache=False).logits.float().log_softmax(dim=-1)
        nll, moved = _losses(rows, logprobs, before)
        if step == search.steps or float(nll.detach()) <= search.stop:
            return value.detach(), float(nll.detach()), step
        adam.zero_grad()
        (nll + KL * moved + DECAY * value.norm() / scale**2).backward()
        adam.step()
        with torch.no_grad():
            value *= min(1.0, search.clamp * scale / max(float(value.norm()), 1e-12))
        step += 1


def _losses(rows: Rows, logprobs: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood of the object over the prompts, and the mean divergence at the kept ones."""
    nll, moved = [], []
    for b, (start, end) in enumerate(zip(rows.starts, rows.ends, strict=True)):
        if rows.kept[b]:
            moved.append((before[b, start].exp() * (before[b, start] - logprobs[b, start])).sum())
        else:
            said = rows.input_ids[b, start + 1 : end + 1]
            nll.append(-logprobs[b, start:end].gather(1, said[:, None]).mean())
    return torch.stack(nll).mean(), torch.stack(moved).mean()


# -- ours ------------------------------------------------------------------------------------------------------------


def batched(task: Task, search: Search, clock: Clock | None = None) -> Found:
    """All facts in one batch; see `TargetObjective`."""
    clock = clock or Clock()
    live, site = task.live, task.site
    with clock.of("layout"):
        rows = task.reading.rows(live)
        gain = gains("subject", live, site, rows, torch.zeros(0, 0))
        objective = TargetObjective(live, site, rows, gain, kl=KL, decay=DECAY, scale=task.scale)
    found = find_values(_Timed(objective, live, clock), task.scale, live.anatomy.matrix(site).shape[0], search)
    return Found(found.values.cpu(), found.nll.cpu(), found.steps.cpu())


class _Timed:
    """An objective whose calls are timed: what is computed once, the passes, and the head within them."""

    def __init__(self, objective: TargetObjective, live: LiveModel, clock: Clock) -> None:
        self._objective, self._live, self._clock = objective, live, clock
        self._left = -1.0

    def __call__(
        self, values: Float[Tensor, "k d"], active: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        if self._left >= 0:  # between two calls there are the gradient and the step
            self._clock.add("backward and step", time.process_time() - self._left)
        with self._clock.of("once: below, and before the subject's end"):
            self._objective.lay_out(active)
        with self._clock.of("forward"):
            found = self._objective(values, active)
        self._left = time.process_time()
        return found
