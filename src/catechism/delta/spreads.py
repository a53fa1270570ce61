"""Whether two states ask the same question: wordings spread them one way, questions another.

    z = question + wording + context,   question ~ N(0, B),   wording ~ N(0, F),   context ~ N(0, C)

The two-covariance model of speaker recognition, with the texts of one entry in place of one speaker's recordings. A
wording is a phrasing of the question; texts of one wording differ by what stands before it. F and B have a prior, so
that the model is of use from the first entry on, and that of one single wording too.

Source: S. Ioffe, Probabilistic Linear Discriminant Analysis, ECCV 2006, section 3 (F and B diagonal in one basis).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SMALLEST = 1e-6  # questions spread less than this share of wordings: the direction tells nothing apart


@dataclass(frozen=True, eq=False)
class Spreads:
    """The fitted model: a basis in which wordings and contexts have spread 1 and questions `between`, uncorrelated.

    Attributes:
        centre: middle of all questions.
        projection: coordinates -> basis.
        between: spread of questions in each direction.
    """

    centre: Float[Tensor, " c"]
    projection: Float[Tensor, "c r"]
    between: Float[Tensor, " r"]

    def place(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n r"]:
        """States in the basis."""
        return (x - self.centre.to(x.dtype)) @ self.projection.to(x.dtype)

    def scores(
        self, z: Float[Tensor, "b r"], keys: Float[Tensor, "e r"], weights: Float[Tensor, " e"]
    ) -> Float[Tensor, "b e"]:
        """Log of how much likelier a state is if it asks an entry's question than if it asks any question.

            log N(z; m_j, 1 + V_j) - log N(z; 0, 1 + B),   V_j = 1 / (1/B + w_j),   m_j = w_j V_j key_j

        Args:
            z: states in the basis.
            keys: mean of each entry's wordings.
            weights: how many wordings that is; 0 leaves an entry without a question of its own, and its scores at 0.
        """
        m, narrow, wide = self._posterior(keys, weights)
        constant = (m.square() / narrow + narrow.log() - wide.log()).sum(dim=1)
        return z @ (m / narrow).T - 0.5 * (z.square() @ (1 / narrow - 1 / wide).T + constant)

    def own_scores(
        self, z: Float[Tensor, "n r"], keys: Float[Tensor, "n r"], weights: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score of each state for the key in its row."""
        m, narrow, wide = self._posterior(keys, weights)
        return -0.5 * ((z - m).square() / narrow - z.square() / wide + narrow.log() - wide.log()).sum(dim=1)

    def _posterior(self, keys: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m and 1 + V per row, and 1 + B."""
        between = self.between.to(keys.dtype)
        variance = 1 / (1 / between + weights[:, None])
        return weights[:, None] * variance * keys, 1 + variance, 1 + between


def fit_spreads(
    x: Float[Tensor, "n c"],
    wording: Int[Tensor, " n"],
    entry: Int[Tensor, " w"],
    entries: int,
    *,
    strength: float,
    prior: float,
) -> Spreads:
    """Estimate the model from the texts of entries, in float64.

    Args:
        x: states in coordinates in which any text has mean 0 and spread 1, so that this is what the prior says.
        wording: which wording each text is of, from 0.
        entry: which entry each wording is of, from 0.
        entries: how many there are.
        strength: how many wordings, and how many questions, the prior is worth; above 0.
        prior: share of the spread that the prior takes for wording, above 0 and below 1; the rest is question.
    """
    x = x.double()
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    wordings = group_means(x, wording, len(entry))
    questions = group_means(wordings, entry, entries)
    C = _second_moment(x - wordings[wording]) / max(len(x) - len(entry), 1)
    within = _second_moment(wordings - questions[entry])
    F = (within + strength * prior * eye) / (len(entry) - entries + strength)
    centre = questions.sum(dim=0) / (entries + strength)
    B = (_second_moment(questions - centre) + strength * (1 - prior) * eye) / (entries + strength)
    unmix = torch.linalg.solve_triangular(torch.linalg.cholesky(C + F), eye, upper=False)  # whitens C + F
    between, turned = torch.linalg.eigh(unmix @ B @ unmix.T)
    kept = between > SMALLEST
    return Spreads(centre, unmix.T @ turned[:, kept], between[kept])


def group_means(x: Float[Tensor, "n c"], group: Int[Tensor, " n"], groups: int) -> Float[Tensor, "g c"]:
    """Mean of the rows of each group; 0 for one without rows."""
    total = x.new_zeros(groups, x.shape[1]).index_add(0, group, x)
    return total / torch.bincount(group, minlength=groups).clamp_min(1)[:, None].to(x.dtype)


def _second_moment(x: Tensor) -> Tensor:
    product = x.T @ x
    return (product + product.T) / 2
