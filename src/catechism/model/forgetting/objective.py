"""What a method of forgetting minimises, and what it can reach at a step of the descent."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec, NoConvergence
from catechism.model.adapters import Adapters
from catechism.model.forgetting.material import Material
from catechism.model.forgetting.moments import Moments
from catechism.model.forgetting.rows import Before, Remembered, Rows, Said
from catechism.model.forgetting.training import Training
from catechism.model.live import LiveModel

T = TypeVar("T")

SLACK = 0.25  # nats per token below its level at which an answer is left alone

#: Losses by name, all of them minimised. "retain" is weighted by the run's alpha, the others are taken as they are.
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """The rows of one step and what the model says of them: run when asked for, and once.

    Attributes:
        live, adapters: the model, and the side paths that are attached to it.
        material: all rows.
        training: the settings.
        number: of the step, from 0.
        forgotten, kept: numbers of this step's rows.
        state: numbers that the method carries from step to step; saved in checkpoints. It may be written to.
        remembered: the distributions of the model as it was, of rows to "forget" and to "retain", and of "tails".
    """

    live: LiveModel
    adapters: Adapters
    material: Material
    training: Training
    number: int
    forgotten: tuple[int, ...]
    kept: tuple[int, ...]
    state: dict[str, float]
    remembered: Mapping[str, Remembered]

    @cached_property
    def forget(self) -> Said:
        """What the model says of the answers to forget. Rows that have come down to their level are closed."""
        said = self.material.forget.said(self.live, self.forgotten)
        return said.above(self.material.level.rows[list(self.forgotten)]) if self.training.let_go else said

    @cached_property
    def forget_before(self) -> Before:
        """What the model as it was says of them."""
        return _of(self.material.before, self.forgotten)

    @cached_property
    def retain(self) -> Said:
        """What the model says of the answers to keep. Not to be asked where `keeps` is false."""
        return self._retain.said(self.live, self.kept)

    @cached_property
    def instead(self) -> Said:
        """What the model says of the other answers to the rows of `forget`; as many rows, all open."""
        return _there(self.material.instead, "other answers").said(self.live, self.forgotten)

    @cached_property
    def instead_before(self) -> Before:
        """What the model as it was says of the other answers."""
        return _of(_there(self.material.instead_before, "other answers"), self.forgotten)

    @property
    def keeps(self) -> bool:
        """Whether there is something to keep."""
        return self.material.retain is not None

    def forget_distributions(self) -> Float[Tensor, "k v"]:
        """Log-probabilities that the model as it was gives at the places of `forget`."""
        with self.adapters.still():
            return self.remembered["forget"].of(self.live, self.forgotten)

    def retain_distributions(self) -> Float[Tensor, "k v"]:
        """Log-probabilities that the model as it was gives at the places of `retain`."""
        with self.adapters.still():
            return self.remembered["retain"].of(self.live, self.kept)

    def retained(self) -> Terms:
        """The term "retain" as the settings ask for it, the same for every method; none where nothing is kept.

        Mean over answer tokens of -log p ("nll"), or of KL(pi_0 || pi_t) ("kl"), arXiv:2401.06121.
        """
        if not self.keeps:
            return {}
        said = self.retain
        if self.training.keep == "nll":
            return {"retain": said.over_tokens(-said.chosen)}
        before = self.retain_distributions()
        return {"retain": said.over_tokens(said.apart_from(before))}

    def lifted(self) -> Terms:
        """The term "lift": how far answers have fallen below `SLACK` under their level, nats per token. None where
        something else is to be said."""
        if not self.training.lift or self.material.wanted:
            return {}
        said, least = self.forget, self.material.level.rows[list(self.forgotten)] - SLACK
        return {"lift": self.training.lift * (least + said.nll / said.lengths).clamp_min(0).mean()}

    def continued(self) -> Terms:
        """The term "tails" as the settings ask for it; none where no answer has a beginning to give away."""
        tails = self.material.tails
        if tails is None:
            return {}
        with self.adapters.still():
            strangers = self.remembered["tails"].of(self.live, tails.numbers(self.forgotten))
        return {"tails": self.training.tails * tails.loss(self.forget, self.forgotten, strangers)}

    def named(self) -> Terms:
        """The term "names" as the settings ask for it; none where no name is forgotten."""
        named, size = self.material.named, self.training.batch
        if named is None:
            return {}
        rng = random.Random(f"names-{self.training.seed}-{self.number}")
        drawn = rng.sample(range(len(named.rows)), min(size, len(named.rows)))
        return {"names": self.training.names * named.loss(self.live, drawn)}

    def again(self) -> Step:
        """The same rows, for parameters that have moved: nothing that was run is kept."""
        return replace(self)

    @property
    def _retain(self) -> Rows:
        return _there(self.material.retain, "rows to keep")


@dataclass(frozen=True)
class Turn:
    """A step with all that it takes to make a direction of it.

    Attributes:
        step: the rows.
        objective: what is minimised.
        moments: Adam's means so far.
        alpha: weight of the term "retain".
        rate: the learning rate of this step.
    """

    step: Step
    objective: Objective
    moments: Moments
    alpha: float
    rate: float

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained. May be moved in place, without gradients, before the direction is given."""
        return self.step.adapters.parameters

    def terms(self) -> Terms:
        """The losses at the parameters as they are, each run anew: the objective's, and those of the settings.

        Raises: NoConvergence if one is not finite.
        """
        step = self.step.again()
        terms = {**self.objective.terms(step), **step.lifted(), **step.continued(), **step.named()}
        for name, loss in terms.items():
            if not bool(torch.isfinite(loss)):
                raise NoConvergence(
                    f"The loss {name!r} is {loss.item()} at step {self.step.number}. Lower `rates`, now {self.rate:g}."
                )
        return terms

    def gradient(self, loss: Tensor) -> list[Tensor]:
        """Of one loss by all parameters; zeros where it does not depend on one."""
        parameters = self.parameters
        if not loss.requires_grad:
            return [torch.zeros_like(p) for p in parameters]
        found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def weighted(self, terms: Terms) -> Tensor:
        """The sum of the terms, "retain" times alpha."""
        return torch.stack([loss * (self.alpha if name == "retain" else 1.0) for name, loss in terms.items()]).sum()

    def adam(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Adam's direction after these gradients."""
        self.moments.see(gradients)
        return self.moments.direction()


def descend(turn: Turn) -> tuple[list[Tensor], Terms]:
    """Adam on the weighted sum."""
    terms = turn.terms()
    return turn.adam(turn.gradient(turn.weighted(terms))), terms


@dataclass(frozen=True)
class Objective:
    """A method as the trainer sees it.

    Attributes:
        terms: the losses of a step.
        direct: makes a direction, which is subtracted times the rate, and says which losses it saw. By default Adam on
            the weighted sum; methods that combine two gradients have their own.
        prepare: run once before the first step with fresh side paths, to give them a beginning.
        state: numbers that are carried from step to step, as they are at first.
        only: addresses of the matrices that are trained; None for all linear ones of the blocks.
    """

    terms: Callable[[Step], Terms]
    direct: Callable[[Turn], tuple[list[Tensor], Terms]] = descend
    prepare: Callable[[LiveModel, Adapters, Material], None] | None = None
    state: dict[str, float] = field(default_factory=dict[str, float])
    only: frozenset[str] | None = None


def _there(found: T | None, what: str) -> T:
    if found is None:
        raise BadSpec(f"The material has no {what}, and the method asks for them. Make the material with them.")
    return found


def _of(before: Before, numbers: Sequence[int]) -> Before:
    picked = list(numbers)
    return Before(before.nll[picked], before.mean[picked], before.first_choice[picked])
