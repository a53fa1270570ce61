"""Pure linear algebra on tensors: no model, no files, no delta."""

from catechism.solve.factors import Factors
from catechism.solve.least_squares import (
    DAMPING,
    Factor,
    equality_update,
    factorise,
    least_squares_update,
    null_space,
    projected_update,
    rank_one,
    ridge_update,
    whitened_key,
)

__all__ = [
    "DAMPING",
    "Factor",
    "Factors",
    "equality_update",
    "factorise",
    "least_squares_update",
    "null_space",
    "projected_update",
    "rank_one",
    "ridge_update",
    "whitened_key",
]
