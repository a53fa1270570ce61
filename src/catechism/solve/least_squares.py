"""One least-squares write for a whole family of editors.

    minimise over Delta   tr(Delta C Delta^T) + (1 / ridge) sum_i |Delta k_i - r_i|^2

``ridge -> 0`` makes the facts constraints, which gives ROME (n = 1) and EMMET (n facts); ``ridge = lambda``
gives MEMIT; a projector P and the keys of past edits in the place of C give AlphaEdit. Everything is solved in float64,
and returned as two thin factors A (d_out, r) and B (r, d_in) with Delta = A B.

    symbol  shape          meaning
    K       (n, d_in)      keys, one row per fact
    R       (n, d_out)     residuals, what the matrix should add for each key
    C       (d_in, d_in)   uncentred second moment E[k k^T] of the base model's keys
    D       (n, n)         K C^-1 K^T, the keys' Gram matrix in whitened space
    U       (d_in, m)      orthonormal basis of the null space, P = U U^T

Papers write keys as columns; here they are rows, as activations come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec, SingularCovariance, SolveError

#: Beyond this condition number a float64 solve keeps fewer than four digits.
MAX_CONDITION = 1e12

#: Share of the mean variance that is added to the diagonal for units that hardly ever fire.
DAMPING = 1e-6


@dataclass(frozen=True, eq=False)
class Factor:
    """A factorised covariance, to be made once per matrix and used for every fact. See `factorise`."""

    C: Float[Tensor, "d_in d_in"]  # float64, with the damping in it
    L: Float[Tensor, "d_in d_in"]  # lower Cholesky factor, C = L L^T
    condition: float  # estimate of the condition number of C, from below

    def solve(self, K: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """C^-1 k for every row k of K, float64."""
        return torch.cholesky_solve(K.to(self.L).T, self.L).T


def factorise(
    C: Float[Tensor, "d_in d_in"],
    *,
    damping: float = 0.0,
) -> Factor:
    """Factorise a covariance once, so that every fact costs only a triangular solve.

    Args:
        C: uncentred second moment, symmetric.
        damping: this share of the mean variance is added to the diagonal. Needed only where some neurons never fire,
            as with ReLU, so that more tokens would not help.

    Raises:
        SolveError: C is not square or holds NaN or infinity.
        SingularCovariance: C is not positive definite, or its condition number exceeds 1e12.
    """
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise SolveError(f"A covariance is a square matrix, got {tuple(C.shape)}. Pass the (d_in, d_in) moment.")
    C = _finite("covariance", C)
    d = C.shape[0]
    if damping:
        C = C + damping * C.diagonal().mean() * torch.eye(d, dtype=C.dtype, device=C.device)
    L, failed_at = torch.linalg.cholesky_ex(C)
    condition = float("inf") if int(failed_at) else _condition(C, L)
    if not condition <= MAX_CONDITION:
        raise SingularCovariance(
            f"The covariance of width {d} cannot be inverted: condition number {condition:.1e}, allowed "
            f"{MAX_CONDITION:.0e}. Take the statistics over more tokens (at least {10 * d}, ten per dimension); "
            "if some inputs are always zero, call `factorise(C, damping=1e-6)`."
        )
    return Factor(C, L, condition)


def whitened_key(
    k: Float[Tensor, " d_in"],
    C: Float[Tensor, "d_in d_in"] | Factor,
) -> Float[Tensor, " d_in"]:
    """The direction u = C^-1 k that writes at k and spares the other keys, float64, not normalised.

    Raises:
        SingularCovariance: see `factorise`.

    Source: arXiv:2202.05262, Eq. 2 and Sec. 3.1.
    """
    return _as_factor(C).solve(_finite("key", k)[None])[0]


def rank_one(
    k: Float[Tensor, " d_in"],
    residual: Float[Tensor, " d_out"],
    C_inverse_k: Float[Tensor, " d_in"],
) -> tuple[Float[Tensor, "d_out 1"], Float[Tensor, "1 d_in"]]:
    """Write one residual at one key along a direction worked out before.

        Delta = residual u^T / (u . k),   u = C^-1 k          so that Delta k = residual     # Eq. 2

    Pass the `whitened_key` of another key to get the asymmetric update of the original ROME code.

    Returns:
        A = residual (d_out, 1) and B = u^T / (u . k) (1, d_in), float64.

    Raises:
        SingularCovariance: u and k are orthogonal, or one of them is zero.

    Source: arXiv:2202.05262, Eq. 2; the symmetric key: arXiv:2403.07175.
    """
    k, residual, u = _finite("key", k), _finite("residual", residual), _finite("whitened key", C_inverse_k)
    dot = u @ k
    if not abs(dot) > torch.finfo(torch.float64).eps * u.norm() * k.norm():
        raise SingularCovariance(
            f"The key and its whitened direction are orthogonal (dot product {float(dot):.1e}), so no finite update "
            "writes there. Use the same key for both, and check that the key is not zero."
        )
    return residual[:, None], (u / dot)[None]


def equality_update(
    K: Float[Tensor, "n d_in"],
    R: Float[Tensor, "n d_out"],
    C: Float[Tensor, "d_in d_in"] | Factor,
) -> tuple[Float[Tensor, "d_out n"], Float[Tensor, "n d_in"]]:
    """Write n residuals exactly, at the least cost to the other keys.

        Delta = R^T D^-1 K C^-1,   D = K C^-1 K^T             so that Delta k_i = r_i for every fact

    With n = 1 this is ROME.

    Raises:
        SingularCovariance: C cannot be inverted, or the keys are not independent (condition of D above 1e12).

    Source: EMMET, arXiv:2403.14236; ROME, arXiv:2202.05262, Eq. 2.
    """
    return least_squares_update(K, R, C, ridge=0.0)


def ridge_update(
    K: Float[Tensor, "n d_in"],
    R: Float[Tensor, "n d_out"],
    C: Float[Tensor, "d_in d_in"] | Factor,
    lam: float,
) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]]:
    """Write n residuals as well as old keys allow.

        Delta = R^T K (lam C + K^T K)^-1                      # Eq. 14

    Args:
        K: keys.
        R: residuals.
        C: covariance or its factor.
        lam: weight of C, above zero.

    Raises:
        BadSpec: `lam` is not above zero.
        SingularCovariance: C cannot be inverted.

    Source: MEMIT, arXiv:2210.07229, Eq. 14.
    """
    if not 0 < lam < float("inf"):
        raise BadSpec(f"The weight of the covariance must be above zero, got {lam}. Use `equality_update` for zero.")
    return least_squares_update(K, R, C, ridge=lam)


def least_squares_update(
    K: Float[Tensor, "n d_in"],
    R: Float[Tensor, "n d_out"],
    C: Float[Tensor, "d_in d_in"] | Factor,
    *,
    ridge: float,
) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]]:
    """The family's solver; `equality_update` and `ridge_update` are its two members.

        Delta = R^T (D + ridge I)^-1 K C^-1                   n <= d_in, r = n
              = R^T K (ridge C + K^T K)^-1                    n >  d_in, r = d_in

    The two lines are equal for ridge > 0; the one with the smaller system is solved.

    Returns:
        A and B, float64, on the device of C.

    Raises:
        SolveError: shapes that do not belong together, NaN or infinity.
        SingularCovariance: C or D cannot be inverted.
    """
    factor = _as_factor(C)
    K, R = _finite("keys", K).to(factor.L.device), _finite("residuals", R).to(factor.L.device)
    n, d = K.shape
    if R.shape[0] != n or d != factor.L.shape[0]:
        raise SolveError(
            f"Keys {tuple(K.shape)}, residuals {tuple(R.shape)} and covariance {tuple(factor.L.shape)} do not belong "
            "together. Pass K (n, d_in), R (n, d_out) and C (d_in, d_in)."
        )
    if n > d and ridge > 0:
        normal, _ = torch.linalg.cholesky_ex(ridge * factor.C + K.T @ K)
        return R.T @ K, torch.cholesky_inverse(normal)
    whitened = factor.solve(K)
    D = K @ whitened.T
    D = (D + D.T) / 2 + ridge * torch.eye(n, dtype=D.dtype, device=D.device)
    L, failed_at = torch.linalg.cholesky_ex(D)
    condition = float("inf") if int(failed_at) else _condition(D, L)
    if not condition <= MAX_CONDITION:
        raise SingularCovariance(
            f"The {n} keys are not independent (condition number {condition:.1e}, allowed {MAX_CONDITION:.0e}): two "
            "facts write at the same place, or there are more facts than the layer is wide. Drop facts that repeat a "
            "subject, or use `ridge_update` with a larger weight."
        )
    return R.T, torch.cholesky_solve(whitened, L)


def null_space(
    C: Float[Tensor, "d_in d_in"],
    *,
    energy: float,
) -> Float[Tensor, "d_in m"]:
    """Orthonormal basis U of the directions in which the old keys are smallest, float64.

    The largest eigenvectors of C that together hold the share `energy` of its trace are left out; the projector is
    ``P = U U^T``.

    Deviation: the published code keeps the singular vectors below 2e-2, an absolute number. The scale of C differs
    between models and between layers of one model, so that this keeps everything here and nothing there.

    Raises:
        BadSpec: `energy` is not between 0 and 1, or so high that no direction is left.
        SolveError: C holds NaN or infinity.

    Source: AlphaEdit, arXiv:2410.02355.
    """
    if not 0 <= energy < 1:
        raise BadSpec(f"The share of the old keys' energy is in [0, 1), got {energy}. Use for instance 0.9.")
    values, vectors = torch.linalg.eigh(_finite("covariance", C))  # ascending
    below = values.clamp_min(0).cumsum(dim=0)
    m = int((below <= (1 - energy) * below[-1]).sum())
    if m == 0:
        raise BadSpec(f"energy={energy} leaves no direction to write in. Lower it.")
    return vectors[:, :m]


def projected_update(
    K: Float[Tensor, "n d_in"],
    R: Float[Tensor, "n d_out"],
    U: Float[Tensor, "d_in m"],
    past: Float[Tensor, "d_in d_in"],
    ridge: float,
) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]]:
    """Write n residuals inside a null space, sparing the keys of past edits.

        Delta = R^T K P (P (past + K^T K) P + ridge I)^-1       P = U U^T

    This is `least_squares_update` in the coordinates of U with ``U^T past U + ridge I`` in the place of the covariance,
    so that nothing larger than (m, m) is solved.

    Args:
        K: keys.
        R: residuals.
        U: see `null_space`.
        past: sum of k k^T over the keys of past edits.
        ridge: weight of the update's own norm, above zero.

    Raises:
        BadSpec: `ridge` is not above zero.
        SolveError: shapes that do not belong together, NaN or infinity.

    Source: AlphaEdit, arXiv:2410.02355; in this form in its code (jianghoucheng/AlphaEdit, AlphaEdit_main.py).
    """
    if not 0 < ridge < float("inf"):
        raise BadSpec(f"The weight of the update's norm must be above zero, got {ridge}. Use for instance 0.1.")
    U = _finite("basis", U)
    inside = U.T @ _finite("past keys", past).to(U.device) @ U + ridge * torch.eye(U.shape[1]).to(U)
    A, B = least_squares_update(_finite("keys", K).to(U.device) @ U, R, factorise((inside + inside.T) / 2), ridge=1.0)
    return A, B @ U.T


def _as_factor(C: Tensor | Factor) -> Factor:
    return C if isinstance(C, Factor) else factorise(C)


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise SolveError(f"The {name} holds NaN or infinity. Record the activations again in float32.")
    return tensor.double()


def _condition(M: Tensor, L: Tensor) -> float:
    """Condition number of a positive definite M = L L^T, from below, by power and inverse iteration in O(d^2)."""
    start = torch.cos(torch.arange(1, M.shape[0] + 1, dtype=M.dtype, device=M.device))  # fixed, in general position
    largest = smallest = start / start.norm()
    above = below = M.new_tensor(1.0)
    for _ in range(20):
        largest = M @ largest
        smallest = torch.cholesky_solve(smallest[:, None], L)[:, 0]
        above, below = largest.norm(), smallest.norm()
        largest, smallest = largest / above, smallest / below
    return float(above * below)
