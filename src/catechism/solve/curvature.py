"""Which directions of a matrix the loss bends in, by Kronecker factors, and the matrix without the others.

    A = E[a a^T],  G = E[g g^T]                 a the matrix's inputs, g the loss's gradients at its outputs
    G = U_G diag(l) U_G^T,  A = U_A diag(m) U_A^T
    C = U_G^T W U_A,   W' = U_G (C o M) U_A^T                                                               # Sec. 3

M keeps the fewest pairs (i, j), by descending curvature l_i m_j, that together hold a share rho of all of it. What many
texts have in common bends the loss much and stays; what serves few bends it little and goes.

Source: arXiv:2510.24256.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from catechism.errors import BadSpec, SolveError


def kept_pairs(l: Float[Tensor, " p"], m: Float[Tensor, " q"], rho: float) -> Bool[Tensor, "p q"]:  # noqa: E741
    """M: the fewest pairs whose curvature l_i m_j sums up to the share `rho`. Negative eigenvalues count as 0.

    Raises: BadSpec for a share out of (0, 1]; SolveError where there is no curvature at all.
    """
    if not 0 < rho <= 1:
        raise BadSpec(f"rho={rho} is no share of the curvature. Use a number above 0 and at most 1, for instance 0.9.")
    mass = l.double().clamp_min(0)[:, None] * m.double().clamp_min(0)[None]
    flat = mass.reshape(-1)
    if not float(flat.sum()) > 0:
        raise SolveError(
            "The loss has no curvature here: inputs or gradients are all zero. Give texts to take it over."
        )
    order = flat.argsort(descending=True, stable=True)
    before = flat[order].cumsum(dim=0) - flat[order]
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[order[before < rho * flat.sum()]] = True
    return kept.reshape(mass.shape)


def without_flat_directions(
    W: Float[Tensor, "p q"], A: Float[Tensor, "q q"], G: Float[Tensor, "p p"], rho: float
) -> tuple[Float[Tensor, "p q"], float]:
    """W' as above, float64, and the share of the pairs that it keeps. Raises as `kept_pairs`."""
    l, U_G = torch.linalg.eigh(G.double())  # noqa: E741 -- as in the paper
    m, U_A = torch.linalg.eigh(A.double())
    kept = kept_pairs(l, m, rho)
    core = (U_G.T @ W.double() @ U_A) * kept
    return U_G @ core @ U_A.T, float(kept.double().mean())
