"""A regression whose targets are found with it: every row asks for no more than it still lacks.

    minimise   ridge E |D k_old|^2   subject to   every row's demand on D k is met

A row's demand is any set of outputs that passes, a half-space of "this token above that one" for instance; it is known
by the smallest step into it from where the output is. Each sweep adds that step to the row's residual and solves least
squares over all rows again, so a residual grows just until its row passes, with what all the others do to it:

    V <- V + step(D k),   D = V^T W K (ridge C + K^T W K)^-1

The matrix is factorised once. Starting from nothing, the result is a function of the rows and of their order alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.errors import SingularCovariance, SolveError

#: (output of some rows (r, d_out), their numbers (r,)) -> the smallest step of each into what passes, zero if it does
Steps = Callable[[Tensor, Tensor], Tensor]

#: Sweeps between two looks at all rows; in between only those are looked at that did not pass.
LOOK = 4


@dataclass(frozen=True, eq=False)
class Demands:
    """Rows with what they demand.

    Attributes:
        K: keys.
        w: how much each row counts in the regression.
        steps: see `Steps`.
    """

    K: Float[Tensor, "r d_in"]
    w: Float[Tensor, " r"]
    steps: Steps


@dataclass(frozen=True, eq=False)
class Met:
    """Result of `meet`.

    Attributes:
        update: D.
        residuals: V, in the rows' order.
        short: rows that do not pass.
    """

    update: Float[Tensor, "d_out d_in"]
    residuals: Float[Tensor, "r d_out"]
    short: Int[Tensor, " s"]


def normal_matrix(
    C: Float[Tensor, "d_in d_in"], K: Float[Tensor, "r d_in"], w: Float[Tensor, " r"], ridge: float
) -> Float[Tensor, "d_in d_in"]:
    """``ridge C + K^T W K``, float64: what a layer has to know of all rows to solve for any residuals."""
    keys = K.double()
    return ridge * C.double() + keys.T @ (w.double()[:, None] * keys)


def cholesky(normal: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Lower factor of a normal matrix. Raises SingularCovariance if it is not positive definite."""
    L, failed_at = torch.linalg.cholesky_ex(normal)
    if int(failed_at):
        raise SingularCovariance(
            f"The normal matrix of width {len(normal)} is not positive definite. Raise `ridge`, or take the statistics "
            f"over more tokens (at least {10 * len(normal)})."
        )
    return L


def least_squares(
    L: Float[Tensor, "d_in d_in"], K: Float[Tensor, "r d_in"], w: Float[Tensor, " r"], V: Float[Tensor, "r d_out"]
) -> Float[Tensor, "d_out d_in"]:
    """``V^T W K (L L^T)^-1``, float64."""
    return torch.cholesky_solve(K.double().T @ (w[:, None] * V).double(), L).T


@torch.no_grad()
def meet(demands: Demands, d_out: int, normal: Float[Tensor, "d_in d_in"], sweeps: int) -> Met:
    """Sweep until every row passes, or so many times.

    Args:
        demands: the rows.
        d_out: width of an output.
        normal: see `normal_matrix`, of these rows.
        sweeps: at the most.

    Raises: SingularCovariance, see `cholesky`; SolveError if a residual is not finite.
    """
    L, (K, w) = cholesky(normal), (demands.K, demands.w)
    V = torch.zeros(len(K), d_out, dtype=K.dtype, device=K.device)
    every = torch.arange(len(K), device=K.device)
    update, looked = torch.zeros(d_out, K.shape[1], dtype=torch.float64, device=K.device), every
    for sweep in range(sweeps + 1):
        if sweep % LOOK == 0 or sweep == sweeps or not len(looked):
            looked = every
        step = demands.steps(K[looked] @ update.to(K).T, looked)
        lacks = step.any(dim=1)
        done = len(looked) == len(every) and not bool(lacks.any())
        if done or sweep == sweeps:
            looked = looked[lacks]
            break
        V[looked] += step
        looked = looked[lacks]
        update = least_squares(L, K, w, V)
    if not bool(torch.isfinite(V).all()):
        raise SolveError("A residual left the finite numbers. Open the model in float32.")
    return Met(update, V, looked)
