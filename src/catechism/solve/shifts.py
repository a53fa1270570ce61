"""One matrix for many shifts of values: what editors solve that know a shift for each token and no constraint."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shift_update(
    K: Float[Tensor, "m d_in"], D: Float[Tensor, "m d_out"], ridge: Float[Tensor, ""]
) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]]:
    """The factors of the matrix that makes every shift as well as one matrix can; gradients flow through it.

        minimise over S   sum_t |S k_t - d_t|^2 + ridge |S|^2
        S = D^T K (K^T K + ridge I)^-1 = D^T (K K^T + ridge I)^-1 K          the smaller of both is solved

    Source: arXiv:2311.04661.
    """
    m, d_in = K.shape
    if m <= d_in:
        return D.T, torch.linalg.solve(K @ K.T + ridge * torch.eye(m).to(K), K)
    return D.T @ K, torch.linalg.inv(K.T @ K + ridge * torch.eye(d_in).to(K))
