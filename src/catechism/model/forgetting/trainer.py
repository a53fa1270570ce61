"""The descent of trained forgetting: a run for every rate and weight, ended in time, and the best one kept.

A run ends as soon as two things hold. The answers to forget are no likelier than to a model that never learned them:
their mean log-probability per token is at its level, they are the first choice no more often than true answers are for
made-up names, and where another answer is wanted, that is said. And what was to be kept is: nearly all first choices of
before still are. A run that forgot too much with the rest goes on to mend it. Of the runs that forgot so far the one
that kept most is taken; where none did, the one that forgot most, and `Trained.reached` is false. With
`Training.cooling` the first alone decides: the run goes on, its rate falls, and what is kept comes back.

With `Training.halves` either half of the change has to do: two of three steps are taken with a random half of the
matrices as they were, and what counts as forgotten is forgotten then too.

In the end the change is scaled down as far as the level allows. A row that has come down to its level is let go, unless
the settings say otherwise: steps draw from those that had not at the last look, and a row that has at a step adds
nothing to that step.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from catechism.delta import LowRank
from catechism.errors import NoConvergence
from catechism.model.adapters import Adapters
from catechism.model.cache import Cached, read_cached, write_cached
from catechism.model.forgetting.course import Course
from catechism.model.forgetting.material import Material
from catechism.model.forgetting.moments import Moments
from catechism.model.forgetting.objective import Objective, Step, Turn
from catechism.model.forgetting.rows import Before, Remembered
from catechism.model.forgetting.training import Training
from catechism.model.live import LiveModel
from catechism.types import JSON

SPOKEN = 0.95  # share of the rows to which another answer, where one is wanted, has to be the first choice
KEPT = 0.99  # share of the first choices among kept rows at which a run may end
HALVINGS = 5  # of the share of a change that is kept in the end
MOST = 1.25  # of a change, where all of it falls short
DRAWS = 4  # of halves that must do with the share of a change that is kept
KEPT_ROWS = 96  # kept rows that are looked at, drawn once


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is: run and step, both from 1, of so many, and the forgotten answers' log-probability per token."""

    run: int
    runs: int
    step: int
    steps: int
    mean: float
    level: float


#: Called after every look at the rows to forget.
Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        parts: the change, all of it low rank.
        reached: whether the answers came down to their level.
        record: the run taken, with its steps, and what came of all runs; JSON.
    """

    parts: dict[str, LowRank]
    reached: bool
    record: dict[str, JSON]


def train(
    live: LiveModel,
    material: Material,
    objective: Objective,
    training: Training,
    *,
    checkpoint: tuple[Path, str] | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train side paths to forget. The model is not changed.

    Args:
        checkpoint: a file, with the key of all that the fit depends on. It is written at every look and removed at the
            end. A fit that finds one under its key goes on from there, to the same bytes.

    Raises: BadSpec for no matrix to train; NoConvergence if a loss or what is said leaves the finite numbers;
        UnknownName for a block that is not there.
    """
    fit = _Fit(live, material, objective, training, checkpoint, watch)
    grid = [(rate, alpha) for rate in training.rates for alpha in training.alphas]
    for number in range(fit.done, len(grid)):
        fit.run(number, *grid[number], runs=len(grid))
    if checkpoint is not None:
        with suppress(FileNotFoundError):
            checkpoint[0].unlink()
    best = fit.outcomes[fit.best]
    runs: list[JSON] = [{name: value for name, value in one.items() if name != "steps"} for one in fit.outcomes]
    return Trained(fit.parts, bool(best["reached"]), {**best, "runs": runs})


class _Fit:
    """All runs of a fit: what they came to, and the parts of the best one so far."""

    def __init__(
        self,
        live: LiveModel,
        material: Material,
        objective: Objective,
        training: Training,
        checkpoint: tuple[Path, str] | None,
        watch: Watch | None,
    ) -> None:
        self._live, self._material, self._objective, self._training = live, material, objective, training
        self._checkpoint, self._watch = checkpoint, watch
        self.outcomes: list[dict[str, Any]] = []
        self.best, self.parts = 0, dict[str, LowRank]()
        self._saved: Cached | None = None
        self._open = list(range(len(material.forget)))
        self._remembered = {"forget": Remembered(material.forget)}
        if material.tails is not None:
            self._remembered["tails"] = Remembered(material.tails.rows)
        self._looked_at: list[int] = []
        if material.retain is not None:
            self._remembered["retain"] = Remembered(material.retain)
            rows = range(material.true or len(material.retain))
            self._looked_at = sorted(random.Random("kept").sample(rows, min(KEPT_ROWS, len(rows))))
            self._kept_before = material.retain.before(live, self._looked_at)
        if checkpoint is not None and (found := read_cached(*checkpoint)) is not None:
            note = json.loads(found.note)
            self.outcomes, self.best, self._saved = note["outcomes"], note["best"], found
            self.parts = _parts_of(found.tensors)

    @property
    def done(self) -> int:
        """Runs that have ended."""
        return len(self.outcomes)

    def run(self, number: int, rate: float, alpha: float, *, runs: int) -> None:
        """One run, from its beginning or from where it was cut off."""
        training, layers = self._training, self._training.layers
        adapters = Adapters(
            self._live,
            range(self._live.anatomy.n_layers) if layers is None else layers,
            rank=training.rank,
            seed=training.seed,
            only=self._trained(),
        )
        if self._objective.prepare is not None:
            self._objective.prepare(self._live, adapters, self._material)
        moments, state = Moments(adapters.parameters), dict(self._objective.state)
        steps: list[dict[str, JSON]] = []
        start = self._resume(adapters, moments, state, steps)
        with adapters.attached():
            at, looked = start, self._look(adapters, start)
            course = Course(training, 0 if start == 0 and self._done(looked) else _met(steps))
            while at < course.end:
                with adapters.resting(self._resting(adapters, at)):
                    steps.append(self._step(adapters, moments, state, at, (rate * course.share(at), alpha)))
                at += 1
                if at % training.every == 0 or at >= course.end:
                    looked = self._look(adapters, at)
                    steps[-1] |= looked | {"met": self._done(looked)}
                    course = Course(training, _met(steps))
                    self._save(adapters, moments, state, steps)
                    if self._watch is not None:
                        level = float(self._material.level.rows.mean())
                        self._watch(Progress(number + 1, runs, at, course.end, looked["mean"], level))
            scale, looked = self._settled(adapters, at, looked) if at else (1.0, looked)
        self._end(
            adapters, scale, {"rate": rate, "alpha": alpha, "taken": at, **looked, "scale": scale, "steps": steps}
        )

    def _step(
        self, adapters: Adapters, moments: Moments, state: dict[str, float], at: int, with_: tuple[float, float]
    ) -> dict[str, JSON]:
        """One step of the descent; gives its losses."""
        training, (rate, alpha) = self._training, with_
        forgotten, kept = self._drawn(at, self._open)
        step = Step(self._live, adapters, self._material, training, at, forgotten, kept, state, self._remembered)
        with torch.enable_grad():
            direction, terms = self._objective.direct(Turn(step, self._objective, moments, alpha, rate))
        with torch.no_grad():
            for parameter, change in zip(adapters.parameters, direction, strict=True):
                parameter -= rate * change
        return {name: loss.item() for name, loss in terms.items()}

    def _drawn(self, at: int, still: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows of a step: of those still to be forgotten one after another, each epoch shuffled anew; to keep, any.

        A function of its arguments and the seed alone, so a run that was cut off draws what it would have drawn.
        """
        training, n = self._training, len(still)
        size, forgotten = min(training.batch, n), list[int]()
        for place in range(at * size, (at + 1) * size):
            epoch, i = divmod(place, n)
            order = list(still)
            random.Random(f"forget-{training.seed}-{epoch}").shuffle(order)
            forgotten.append(order[i])
        if self._material.retain is None:
            return tuple(forgotten), ()
        rng, rows = random.Random(f"retain-{training.seed}-{at}"), range(len(self._material.retain))
        return tuple(forgotten), tuple(rng.choices(rows, k=training.batch * training.beside))

    def _trained(self) -> frozenset[str] | None:
        """The matrices to train; half of them, at least one in every block, where the settings ask for it."""
        only, training = self._objective.only, self._training
        if not training.half:
            return only
        rng = random.Random(f"half-{training.seed}")
        chosen: list[str] = []
        for layer in range(self._live.anatomy.n_layers) if training.layers is None else training.layers:
            here = sorted(a for a in self._live.anatomy.linears(layer) if only is None or a in only)
            chosen += rng.sample(
                here, math.ceil(len(here) / 2) if layer % 2 else max(len(here) // 2, min(len(here), 1))
            )
        return frozenset(chosen)

    def _resting(self, adapters: Adapters, at: int) -> Collection[str]:
        """What is as it was in a step: nothing, a random half of the matrices, the other half, and from the start."""
        turn, part = divmod(at, 3)
        if part == 0 or not self._training.halves:
            return ()
        return _halves(adapters, f"halves-{self._training.seed}-{turn}")[part - 1]

    def _look(self, adapters: Adapters, at: int, draws: int = 1) -> dict[str, Any]:
        """How likely the answers are now, over all rows to forget, and how much of what stays has stayed: first choices
        of before that still are, and log-probability per token that was lost.

        Where either half of the change has to do, the answers to forget are as likely as with the worst of all of it
        and two halves, mean over so many draws of these.
        """
        whole, levels = self._likely(adapters, ()), self._material.level.rows
        seeds = [
            f"look-{self._training.seed}-{at}{draw or ''}" for draw in range(draws if self._training.halves else 0)
        ]
        halves = [[self._likely(adapters, half) for half in _halves(adapters, seed)] for seed in seeds]
        drawn = [[whole, *both] for both in halves] or [[whole]]
        found = {
            "mean": fmean(max(float(now.mean.mean()) for now in draw) for draw in drawn),
            "share": fmean(max(float(now.first_choice.float().mean()) for now in draw) for draw in drawn),
        }
        known = torch.stack([(now.mean > levels) | now.first_choice for now in chain(*drawn)]).any(dim=0)
        if self._material.wanted and self._material.instead is not None:
            said = self._material.instead.before(self._live)
            found["spoken"] = float(said.first_choice.float().mean())
            known |= ~said.first_choice
        if self._training.let_go:
            self._open = known.nonzero()[:, 0].tolist() or list(range(len(known)))
        if self._material.retain is not None:
            kept, before = self._material.retain.before(self._live, self._looked_at), self._kept_before
            known_before = int(before.first_choice.sum())
            still = int((kept.first_choice & before.first_choice).sum()) / known_before if known_before else 1.0
            found |= {"kept": still, "lost": float((before.mean - kept.mean).clamp_min(0).mean())}
        return found

    def _likely(self, adapters: Adapters, resting: Collection[str]) -> Before:
        """What is said of the rows to forget where some of the matrices are as they were. Raises: NoConvergence."""
        with adapters.resting(resting):
            now = self._material.forget.before(self._live)
        if not math.isfinite(mean := float(now.mean.mean())):
            raise NoConvergence(f"The answers' log-probability is {mean} after a step. Lower `rates`.")
        return now

    def _done(self, looked: dict[str, Any]) -> bool:
        """Whether a run may end, or its rate may begin to fall, in which what is kept comes back by itself."""
        return self._reached(looked) and (self._training.cooling > 0 or looked.get("kept", 1.0) >= KEPT)

    def _reached(self, looked: dict[str, Any]) -> bool:
        level = self._material.level
        low = looked["mean"] <= float(level.rows.mean()) and looked["share"] <= level.share
        return low and looked.get("spoken", 1.0) >= SPOKEN

    def _settled(self, adapters: Adapters, at: int, looked: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """The least share of the change that still does, by bisection, and how things are with it.

        A descent overshoots between two looks, and what it does beyond the level is harm to what stays. With halves it
        may also end short of it, since it saw others last: then up to `MOST` of the change is taken.
        """

        def with_share(scale: float) -> dict[str, Any]:
            with adapters.scaled(scale):
                return self._look(adapters, at, DRAWS)

        least, enough, found = 0.0, 1.0, looked
        if self._training.halves:
            found = looked = with_share(1.0)
            if not self._reached(found):
                least, enough, found = 1.0, MOST, with_share(MOST)
        if not self._reached(found):
            return 1.0, looked
        for _ in range(HALVINGS):
            middle = (least + enough) / 2
            if self._reached(tried := with_share(middle)):
                enough, found = middle, tried
            else:
                least = middle
        return enough, found

    def _end(self, adapters: Adapters, scale: float, outcome: dict[str, Any]) -> None:
        outcome["reached"] = self._reached(outcome)
        self.outcomes.append(outcome)
        if len(self.outcomes) == 1 or _merit(outcome) > _merit(self.outcomes[self.best]):
            self.best, self.parts = len(self.outcomes) - 1, adapters.parts(scale)
        self._saved = None
        self._write({}, {})

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(
        self, adapters: Adapters, moments: Moments, state: dict[str, float], steps: list[dict[str, JSON]]
    ) -> None:
        tensors = {f"p{i}": p for i, p in enumerate(adapters.parameters)}
        self._write({**tensors, **moments.tensors()}, {"steps": steps, "count": moments.count, "state": state})

    def _write(self, tensors: dict[str, Tensor], running: dict[str, Any]) -> None:
        if self._checkpoint is None:
            return
        for address, part in self.parts.items():
            tensors |= {f"A {address}": part.A, f"B {address}": part.B}
        note = json.dumps({"outcomes": self.outcomes, "best": self.best, "running": running})
        write_cached(*self._checkpoint, Cached(tensors, note))

    def _resume(
        self, adapters: Adapters, moments: Moments, state: dict[str, float], steps: list[dict[str, JSON]]
    ) -> int:
        """Put everything back where it was; how many steps are done."""
        running = json.loads(self._saved.note)["running"] if self._saved is not None else {}
        if self._saved is None or not running:
            return 0
        tensors, self._saved = self._saved.tensors, None
        with torch.no_grad():
            for i, parameter in enumerate(adapters.parameters):
                parameter.copy_(tensors[f"p{i}"])
        moments.restore(tensors, running["count"])
        state.update(running["state"])
        steps += running["steps"]
        return len(steps)


def _met(steps: Sequence[dict[str, Any]]) -> int | None:
    """Steps until everything was as asked for the first time."""
    return next((number + 1 for number, step in enumerate(steps) if step.get("met")), None)


def _halves(adapters: Adapters, seed: str) -> tuple[Collection[str], Collection[str]]:
    """A random half of the matrices, and the other half."""
    addresses = sorted(adapters.factors)
    half = set(random.Random(seed).sample(addresses, len(addresses) // 2))
    return half, set(addresses) - half


def _merit(outcome: dict[str, Any]) -> tuple[bool, float, float]:
    """What a run is worth: that it came down to the level, then what it kept; if it did not, what it forgot."""
    if not outcome["reached"]:
        return False, -outcome["mean"], -outcome["share"]
    return True, outcome.get("kept", 0.0), -outcome.get("lost", 0.0)


def _parts_of(tensors: Any) -> dict[str, LowRank]:
    return {name[2:]: LowRank(x, tensors[f"B {name[2:]}"]) for name, x in tensors.items() if name.startswith("A ")}
