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


class _Regression:
    """Residuals of rows, and what the least-squares solution for them gives.

    Only what changes is added up. With fewer rows than ``d_in`` everything stays among the rows: ``D K^T = V^T (W K
    N^-1 K^T)``, and D itself is made once, at the end.
    """

    def __init__(self, K: Float[Tensor, "r d_in"], w: Float[Tensor, " r"], normal: Tensor, d_out: int) -> None:
        self._K, self._w = K.double(), w.double()[:, None]
        self.V = torch.zeros(len(K), d_out, dtype=K.dtype, device=K.device)
        self._few = len(K) < K.shape[1]
        L = cholesky(normal)
        if self._few:
            self._reach = torch.cholesky_solve((self._w * self._K).T, L)  # N^-1 K^T W, (d_in, r)
            self._among = self._K @ self._reach
        else:
            self._inverse = torch.cholesky_inverse(L)  # multiplied by at every step, which is quicker than to solve
            self._right = torch.zeros(K.shape[1], d_out, dtype=torch.float64, device=K.device)  # K^T W V
            self._update = self._right

    def add(self, step: Float[Tensor, "s d_out"], rows: Int[Tensor, " s"]) -> None:
        """Add to the residuals of some rows."""
        self.V[rows] += step
        if not self._few:
            self._right = self._right + self._K[rows].T @ (self._w[rows] * step.double())
            self._update = self._inverse @ self._right

    def outputs(self, rows: Int[Tensor, " s"]) -> Float[Tensor, "s d_out"]:
        """``D k`` of some rows."""
        found = self._among[rows] @ self.V.double() if self._few else self._K[rows] @ self._update
        return found.to(self.V.dtype)

    def update(self) -> Float[Tensor, "d_out d_in"]:
        """D, float64."""
        return (self._reach @ self.V.double() if self._few else self._update).T


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
    found = _Regression(demands.K, demands.w, normal, d_out)
    every = torch.arange(len(demands.K), device=demands.K.device)
    looked = every
    for sweep in range(sweeps + 1):
        if sweep % LOOK == 0 or sweep == sweeps or not len(looked):
            looked = every
        step = demands.steps(found.outputs(looked), looked)
        lacks = step.any(dim=1)
        done = len(looked) == len(every) and not bool(lacks.any())
        looked, step = looked[lacks], step[lacks]
        if done or sweep == sweeps:
            break
        found.add(step, looked)
    if not bool(torch.isfinite(found.V).all()):
        raise SolveError("A residual left the finite numbers. Open the model in float32.")
    return Met(found.update(), found.V, looked)
