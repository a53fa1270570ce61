"""Least-squares concept erasure: the smallest linear change of some states after which no linear probe finds a concept.

Given states X and a concept Z, a projection P is sought under which the cross-covariance with Z vanishes, P C = 0. Then
no linear classifier or regression on P x does better than the best constant, whatever it is fitted by. Among all such P
the one that moves the states least is

    W = S^(-1/2),   W C = U s V^T,   P = I - (W^+ U) (U^T W) = I - L R                                      # Thm. 4.2

    symbol  shape   meaning
    X       (n, d)  states
    Z       (n, k)  concept; here one column for each class, standardised
    C       (d, k)  cross-covariance of X and Z, both centred
    S       (d, d)  what "least" is measured by: the covariance of X, or its second moment
    L, R    (d, r) and (r, d), R L = I

A change of weights alone cannot add the mean back, as the published eraser ``x - L R (x - mean)`` does. The guarantee
does not need the mean, a shift helps no probe; but the states' mean would move. So S is, by default, the second moment
instead of the covariance: then P is the least change among those without a shift, and spares the mean like any state.

Source: LEACE, arXiv:2306.03819; shrinkage: arXiv:1308.2608, Eq. 2.8 and 2.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import SolveError

#: What a change of the states is measured by.
Measure = Literal["moment", "covariance"]


@dataclass(frozen=True, eq=False)
class Eraser:
    """A projection ``I - left @ right`` along which a concept lies, float64.

    Attributes:
        left: (d, r), a basis of the directions that are taken out.
        right: (r, d), what is read of a state to take them out.
        mixed: share of the oblique projection that the trace guard left, 1 where it had nothing to do.
    """

    left: Float[Tensor, "d r"]
    right: Float[Tensor, "r d"]
    mixed: float = 1.0

    @property
    def rank(self) -> int:
        """Number of directions that are taken out."""
        return self.left.shape[1]

    def __call__(self, X: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The states without the concept."""
        return X - X @ self.right.T @ self.left.T


def leace(
    X: Float[Tensor, "n d"],
    Z: Float[Tensor, "n k"],
    *,
    measure: Measure = "moment",
    shrink: bool = True,
    tolerance: float = 0.01,
    guard: bool = True,
) -> Eraser:
    """The eraser of a concept from states, float64.

    Args:
        X: states.
        Z: concept, a column for each class. Columns are standardised, so that a rare class counts like a common one;
            one that never changes is left out.
        measure: see above.
        shrink: whether S is shrunk towards a multiple of the identity, for there are never enough states.
        tolerance: singular values of W C up to here count as noise and stay. With standardised columns they are
            correlations. Published .01.
        guard: whether the total of the states' moment may not grow; the projection is mixed with the orthogonal one
            as far as that takes. Published True.

    Raises: SolveError for shapes that do not belong together, fewer than two states, NaN or infinity.
    """
    if X.ndim != 2 or Z.ndim != 2 or len(X) != len(Z) or len(X) < 2:
        raise SolveError(
            f"States {tuple(X.shape)} and concept {tuple(Z.shape)} do not belong together. Pass X (n, d) and Z (n, k) "
            "with n of 2 or more."
        )
    if not bool(torch.isfinite(X).all()) or not bool(torch.isfinite(Z).all()):
        raise SolveError("The states or the concept hold NaN or infinity. Record the activations again in float32.")
    X, Z = X.double(), Z.double()
    centred, concept = X - X.mean(dim=0), _standardised(Z)
    cross = centred.T @ concept / len(X)  # C
    states = X if measure == "moment" else centred
    S = states.T @ states / len(X)
    if shrink:
        S = shrunk(S, len(X))
    W, W_inverse = _roots(S)
    U, s, _ = torch.linalg.svd(W @ cross, full_matrices=False)
    U = U[:, s > tolerance]
    return _guarded(Eraser(W_inverse @ U, U.T @ W), S) if guard else Eraser(W_inverse @ U, U.T @ W)


def shrunk(S: Float[Tensor, "d d"], n: int) -> Float[Tensor, "d d"]:
    """A sample covariance brought towards a multiple of the identity, by the share that is best for n samples.

        S* = a S + (1 - a) (tr S / d) I,   a = 1 - (tr S)^2 / n / (|S|^2 - (tr S)^2 / d)

    Source: arXiv:1308.2608, Eq. 2.8 and 2.9, with the identity as target.
    """
    d, trace = len(S), S.trace()
    spread = S.square().sum() - trace.square() / d
    share = 1 - trace.square() / n / spread if float(spread) > 0 else spread.new_zeros(())
    share = share.clamp(0, 1)
    return share * S + (1 - share) * trace / d * torch.eye(d, dtype=S.dtype, device=S.device)


def one_hot(labels: list[int], classes: int) -> Float[Tensor, "n k"]:
    """A column for each class from 0 on, float64; a label of -1 belongs to none."""
    wanted = torch.tensor(labels)
    return (wanted[:, None] == torch.arange(classes)).double()


def _standardised(Z: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Columns of mean 0 and variance 1, without those that do not vary."""
    centred = Z - Z.mean(dim=0)
    scale = centred.square().mean(dim=0).sqrt()
    varies = scale > 1e-12
    return centred[:, varies] / scale[varies]


def _roots(S: Float[Tensor, "d d"]) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """S^(-1/2) and S^(1/2), both zero where S is, to rounding."""
    values, vectors = torch.linalg.eigh(S)
    there = values > values[-1] * len(S) * torch.finfo(S.dtype).eps
    root = values.clamp_min(0).sqrt() * there
    inverse = torch.where(there, 1 / root.clamp_min(1e-300), torch.zeros_like(root))
    return (vectors * inverse) @ vectors.T, (vectors * root) @ vectors.T


def _guarded(eraser: Eraser, S: Float[Tensor, "d d"]) -> Eraser:
    """The eraser mixed with the orthogonal projection Q along the same directions, so that the trace does not grow.

    tr of (a P + (1-a) Q) S (a P + (1-a) Q)^T is quadratic in a and no larger than tr S at a = 0. Both projections take
    out the span of `left`, so the mixture does: only what is read changes.

    Deviation: Q is along the span of `left`, which is that of C; along U, the whitened basis, it would not take C out.
    """
    if eraser.rank == 0:
        return eraser
    eye = torch.eye(len(S), dtype=S.dtype, device=S.device)
    straight = torch.linalg.pinv(eraser.left)
    P, Q = eye - eraser.left @ eraser.right, eye - eraser.left @ straight
    wanted, oblique = S.trace(), ((P @ S) * P).sum()
    if float(oblique) <= float(wanted):
        return eraser
    cross, least = ((P @ S) * Q).sum(), ((Q @ S) * Q).sum()
    a, b, c = oblique - 2 * cross + least, 2 * (cross - least), least - wanted
    share = float(((-b + (b * b - 4 * a * c).clamp_min(0).sqrt()) / (2 * a)).clamp(0, 1))
    return Eraser(eraser.left, share * eraser.right + (1 - share) * straight, share)
