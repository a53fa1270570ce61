"""Covariances of several matrices, each factorised once."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from catechism.solve.least_squares import DAMPING, Factor, factorise


class Factors:
    """Keeps the factor of every covariance under the address of what it was computed from.

    Args:
        damping: see `factorise`.
    """

    def __init__(self, damping: float = DAMPING) -> None:
        self._damping = damping
        self._known: dict[str, Factor] = {}

    def of(self, key: str, C: Float[Tensor, "d_in d_in"]) -> Factor:
        """The factor of C. Raises SingularCovariance, see `factorise`."""
        if key not in self._known or self._known[key].C.device != C.device:
            self._known[key] = factorise(C, damping=self._damping)
        return self._known[key]
