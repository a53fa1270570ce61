"""How an editing network is trained: edits of other facts are written, and what they do to the model is the loss.

    L = edit * NLL(new answer, at the prompt or at one that has to follow)
      + keep * KL(before || after)  at what has to stay                                      mean over a batch of edits

The model itself is never changed: an edit is a low-rank path beside its matrices. Gradients of the edits are those of
the unedited model.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec, NoConvergence
from catechism.model.divergence import divergence
from catechism.model.hyper.examples import Asked, Example
from catechism.model.hyper.factors import Factors, edit_factors
from catechism.model.hyper.network import EditorNetwork
from catechism.model.live import LiveModel
from catechism.model.schedule import share_of_rate
from catechism.model.side_paths import side_paths
from catechism.model.target_tokens import check_rate, target_tokens
from catechism.types import Site

_log = logging.getLogger(__name__)

MEASURED = 256  # edits over which the network's statistics are taken
WARM_UP = 10  # steps until the full rate
LOGGED = 25  # steps between two lines of the log


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """Changes ``A B`` of one matrix: one for each edit, or a single one for all of them."""

    A: Float[Tensor, "g d_out r"]
    B: Float[Tensor, "g r d_in"]


#: Turns the gradients of n edits into the change of every matrix.
Write = Callable[[EditorNetwork, Mapping[str, Factors]], dict[str, Written]]


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how hard to train. Published values are those of MEND's code, see docs/gradient-editors.md."""

    examples: int = 400  # edits made of the background's texts; catechisms that are handed in are all taken
    steps: int = 250  # published: up to 100,000
    batch: int = 16  # edits in a step; published 1, with gradients added up over 10
    lr: float = 1e-3  # of the layers, falling to 0 along a cosine; published 1e-6, constant
    lr_scalars: float = 0.1  # of what each matrix learns for itself, in its unit; published 1e-4, absolute
    edit: float = 1.0  # weight of what has to follow; published 0.1
    keep: float = 1.0  # weight of what has to stay; published 1
    clip: float = 100.0  # largest norm of a gradient; published 100

    def __post_init__(self) -> None:
        least = {"examples": 2, "steps": 0, "batch": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use {lowest} or more.")
        for name in ("lr", "lr_scalars"):
            check_rate(name, getattr(self, name))
        for name in ("edit", "keep", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise BadSpec(f"{name}={getattr(self, name)} is out of range. Use a number from 0 upwards.")


@dataclass(frozen=True, slots=True)
class Losses:
    """What some edits do, mean over them: the new answer's negative log-likelihood, and how far the rest moved."""

    edit: float
    keep: float


class Trainer:
    """A network with the edits that it learns from.

    Args:
        live: the model, without deltas.
        sites: the matrices that are edited.
        network: its statistics are taken here, over the first `MEASURED` examples.
        write: what the method makes of the network's factors.
        examples: the edits.
    """

    def __init__(
        self, live: LiveModel, sites: Sequence[Site], network: EditorNetwork, write: Write, examples: Sequence[Example]
    ) -> None:
        self._live, self._network, self._write, self._examples = live, network, write, examples
        self._sites = {live.anatomy.matrix(site).address: site for site in sites}
        for address, factors in self._factors(examples[:MEASURED]).items():
            network.measure(address, factors, live.anatomy.matrix(address).read())

    @torch.enable_grad()
    def train(self, course: Course, among: Sequence[int], *, seed: int) -> None:
        """Adam on the loss of batches of these examples, each of which comes once before any comes again.

        Raises: NoConvergence if the loss is not finite.
        """
        rng = random.Random(f"course-{seed}")
        layers, scalars = list(self._network.layers.parameters()), list(self._network.scalars.parameters())
        adam = torch.optim.Adam([{"params": layers}, {"params": scalars}])
        waiting: list[int] = []
        for step in range(course.steps):
            share = share_of_rate(step, warm_up=WARM_UP, gone=step / course.steps)
            for group, rate in zip(adam.param_groups, (course.lr, course.lr_scalars), strict=True):
                group["lr"] = rate * share
            if len(waiting) < course.batch:
                waiting += rng.sample(among, len(among))
            chosen, waiting = waiting[: course.batch], waiting[course.batch :]
            edit, keep = self._losses(chosen, rng)
            loss = course.edit * edit + course.keep * keep
            if not bool(torch.isfinite(loss)):
                raise NoConvergence(f"The loss is {loss.item()} at step {step}. Lower `course.lr`, now {course.lr}.")
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), course.clip)
            adam.step()
            if (step + 1) % LOGGED == 0:
                _log.info("step %d of %d: edit %.3f, keep %.4f", step + 1, course.steps, edit.item(), keep.item())

    @torch.no_grad()
    def losses(self, among: Sequence[int], batch: int) -> Losses:
        """What the network's edits do on these examples, a batch at a time; the same prompts at every call."""
        rng = random.Random("held out")
        found = [self._losses(among[i : i + batch], rng) for i in range(0, len(among), batch)]
        edit, keep = (math.fsum(pair[side].item() for pair in found) / len(found) for side in (0, 1))
        return Losses(edit, keep)

    def _factors(self, examples: Sequence[Example]) -> dict[str, Factors]:
        prompts, answers = [one.prompt for one in examples], [one.answer for one in examples]
        return edit_factors(self._live, list(self._sites.values()), prompts, answers)

    def _losses(self, chosen: Sequence[int], rng: random.Random) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Both terms for a batch of edits, each asked at one prompt that has to follow and one that has to stay."""
        examples = [self._examples[i] for i in chosen]
        written = self._write(self._network, self._factors(examples))
        taught = [rng.choice(((one.prompt, one.answer), *one.same)) for one in examples]
        kept = [(i, rng.choice(one.kept)) for i, one in enumerate(examples) if one.kept]
        tokens = target_tokens(self._live, *_columns(taught))
        with self._edited(written, range(len(taught))):
            edit = tokens.nll(self._live)
        if not kept:
            return edit, torch.zeros_like(edit)
        tokens = target_tokens(self._live, *_columns([asked for _, asked in kept]))
        with torch.no_grad():
            before = tokens.logprobs(self._live)
        with self._edited(written, [i for i, _ in kept]):
            after = tokens.logprobs(self._live)
        return edit, tokens.mean(divergence(before, after))

    def _edited(self, written: Mapping[str, Written], owners: Sequence[int]) -> AbstractContextManager[None]:
        """The model with every row's own edit on it: that of the example that owns it."""
        paths = {self._sites[address]: _path(change, owners) for address, change in written.items()}
        return side_paths(self._live, paths)


def _path(change: Written, owners: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """What a change adds to the output of every row."""
    own = torch.tensor(owners if len(change.A) > 1 else [0] * len(owners), device=change.A.device)
    A, B = change.A[own].transpose(1, 2), change.B[own].transpose(1, 2)  # (b, r, d_out), (b, d_in, r)

    def path(x: Tensor) -> Tensor:
        rows = x.reshape(len(own), -1, x.shape[-1]).to(A)
        return (rows @ B @ A).reshape(*x.shape[:-1], -1)

    return path


def _columns(asked: Sequence[Asked]) -> tuple[list[str], list[str]]:
    return [prompt for prompt, _ in asked], [answer for _, answer in asked]
