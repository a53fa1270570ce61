"""What is written into a residual beside a matrix that is read through masks: values to search, or a descent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from catechism.errors import BadSpec, NoConvergence
from catechism.model.exercise import Exercise


@dataclass(frozen=True, eq=False)
class Written:
    """r keys with the values to be given there.

    Attributes:
        keys: the mean over a fact's rows of the masked inputs at one place: where a token of the target is said from,
            or its last token, from which on nothing more is to be added.
        values: what to add there; zero at the last token.
        owner: the fact of each.
    """

    keys: Float[Tensor, "r d_in"]
    values: Float[Tensor, "r d_out"]
    owner: Int[Tensor, " r"]


class ResidualValues:
    """The objective of a search for what every fact asks of a residual, for `catechism.solve.values.find_values`.

        y += sum_p gain_p(x) v_p,   gain(x) = (K K^T + lambda)^-1 K (mask * x),   lambda = ridge * mean |K_p|^2

    K are the fact's keys. Its values are read by them at every token of its rows, so what is found is what will act.

    Args:
        exercise: the facts.
        masks: per fact, the columns that it may write.
        ridge: see above.

    Attributes:
        scale: per fact, the mean norm of the matrix's output where the target is said from; it makes a step as long for
            a target of few tokens as for one of many.
        width: of a candidate: the values of all places, one after the other.

    Source: our own; the search is that of arXiv:2202.05262, Eq. 4, the masks are those of arXiv:2506.07899.
    """

    def __init__(self, exercise: Exercise, masks: Bool[Tensor, "n d_in"], ridge: float) -> None:
        x = exercise.inputs.float() * masks[exercise.owner][:, None]
        self._exercise = exercise
        self._keys, self._has = _keys(exercise, x)
        G = self._keys.double() @ self._keys.double().mT
        damping = ridge * G.diagonal(dim1=1, dim2=2).sum(dim=1) / self._has.sum(dim=1)
        eye = torch.eye(G.shape[1], dtype=G.dtype, device=G.device)
        readers = torch.linalg.solve(G + damping[:, None, None] * eye, self._keys.double()).float()
        self._searched = self._has & torch.nn.functional.pad(self._has[:, 1:], (0, 1))  # all places but the last token
        readers = (readers * self._searched[:, :, None])[:, :-1]
        self._gain = torch.einsum("btd,bpd->btp", x, readers[exercise.owner]) * exercise.real[:, :, None]
        at = exercise.outputs[exercise.rows, exercise.tokens].float().norm(dim=1)
        owner, places = exercise.owner[exercise.rows], readers.shape[1]
        mean = torch.zeros(exercise.n, device=at.device).index_add(0, owner, at) / torch.bincount(owner)
        self.scale = mean * math.sqrt(places)
        self.width = places * int(exercise.outputs.shape[-1])

    def __call__(
        self, values: Float[Tensor, "k w"], facts: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Negative log-likelihood per target token of these facts, as loss and as likelihood."""
        number = torch.zeros(self._exercise.n, dtype=torch.int64, device=facts.device)
        number[facts] = torch.arange(len(facts), device=facts.device)
        v = values.unflatten(1, (self._gain.shape[2], -1))

        def added(rows: Tensor, _y: Tensor) -> Tensor:
            return self._gain[rows] @ v[number[self._exercise.owner[rows]]]

        nll = self._exercise.nll(added, facts)
        return nll, nll

    def written(self, values: Float[Tensor, "n w"]) -> Written:
        """Keys and values of all facts, from the candidates that were found."""
        v = values.unflatten(1, (self._gain.shape[2], -1))
        v = torch.cat([v, v.new_zeros(len(v), 1, v.shape[2])], dim=1) * self._searched[:, :, None]
        return Written(self._keys[self._has], v[self._has], self._has.nonzero()[:, 0])


def _keys(exercise: Exercise, x: Float[Tensor, "b t d_in"]) -> tuple[Float[Tensor, "n p d_in"], Bool[Tensor, "n p"]]:
    """Mean masked input of every fact at every place and, after its last place, at the last token."""
    fact = exercise.owner[exercise.rows]
    count = torch.zeros(exercise.n, dtype=torch.int64, device=fact.device)
    count = count.scatter_reduce(0, fact, exercise.place + 1, "amax")
    at_end = torch.arange(len(exercise.owner), device=fact.device)
    rows, tokens = torch.cat([exercise.rows, at_end]), torch.cat([exercise.tokens, exercise.ends])
    place = torch.cat([exercise.place, count[exercise.owner]])
    owner = exercise.owner[rows]
    keys = x.new_zeros(exercise.n, int(count.max()) + 1, x.shape[2])
    seen = x.new_zeros(keys.shape[:2])
    keys.index_put_((owner, place), x[rows, tokens], accumulate=True)
    seen.index_put_((owner, place), x.new_ones(len(rows)), accumulate=True)
    return keys / seen.clamp_min(1)[:, :, None], seen > 0


@dataclass(frozen=True)
class Descent:
    """How one fact is descended to. Published values are those of MEMOIR's code for Llama-3-8B."""

    lr: float = 1.0  # absolute; published 1.0
    steps: int = 30  # published 30
    stop: float = 0.02  # loss at which it ends; published 0.02
    clip: float = 1.0  # largest norm of a gradient; published 1.0
    decay: float = 1e-5  # published 1e-5
    decay_all: bool = False  # decay the columns that are not written too; published True

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip > 0 and self.decay >= 0 and self.steps >= 0):
            raise BadSpec(f"{self} does not descend. Use a rate and a clip above 0, a decay and steps from 0.")


@torch.enable_grad()
def descend_residual(
    exercise: Exercise, residual: Float[Tensor, "d_out d_in"], mask: Bool[Tensor, " d_in"], descent: Descent
) -> tuple[Float[Tensor, "d_out d_in"], float, int]:
    """Write one fact by gradient descent on the columns of its mask, on top of what is there.

        W <- W - lr * (clip(grad) + decay * W)

    Args:
        exercise: of one fact.
        residual: what is there; it is not changed.

    Returns: the new residual, the last loss that was measured, and how many steps were taken.
    Raises: NoConvergence if the loss is not finite.
    Source: arXiv:2506.07899 and its code.
    """
    W, loss, step = residual.clone(), math.inf, 0
    x = exercise.inputs.float() * mask
    for step in range(descent.steps + 1):
        W.requires_grad_()
        found = exercise.nll(lambda rows, _y: x[rows] @ W.T)[0]  # noqa: B023 -- called at once
        loss = float(found.detach())
        if not math.isfinite(loss):
            raise NoConvergence(f"The loss is {loss} at step {step}. Lower `lr`, now {descent.lr}.")
        if loss <= descent.stop or step == descent.steps:  # the last pass only measures
            break
        (gradient,) = torch.autograd.grad(found, W)
        with torch.no_grad():
            gradient = gradient * (descent.clip / gradient.norm().clamp_min(descent.clip))
            shrink = descent.decay * (W if descent.decay_all else W * mask)
            W = W - descent.lr * (gradient + shrink)
    return W.detach(), loss, step
