"""One matrix tuned in full by gradient descent on what is to be said, beside the frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from catechism.delta import Dense
from catechism.errors import NoConvergence
from catechism.model.live import LiveModel
from catechism.model.side_paths import side_paths
from catechism.model.target_tokens import TargetTokens
from catechism.types import Site


class TunedMatrix:
    """A change of every entry of one matrix, as a tensor that Adam moves.

    It is float32, whatever the model is, starts at zero and stands beside the model: the model's own parameters are
    neither copied nor unfrozen. Rates and bounds are shares of `scale`, since the weights of different models, and
    with them what is a small step, differ in size by orders of magnitude.

    Attributes:
        address: of the matrix.
        change: ``(d_out, d_in)``.
        scale: root mean square of the matrix's entries.

    Args:
        ball: largest size of any entry of the change, as a share of `scale`.

    Raises: UnknownName for a site that is not there.
    """

    change: Tensor

    def __init__(self, live: LiveModel, site: Site, *, ball: float = math.inf) -> None:
        matrix = live.anatomy.matrix(site)
        self._live, self._site, self._ball = live, site, ball
        self.address = matrix.address
        self.scale = float(matrix.read().double().square().mean().sqrt())
        self.change = torch.zeros(matrix.shape, device=matrix.parameter.device, requires_grad=True)

    def adam(self, lr: float) -> torch.optim.Adam:
        """An optimiser of the change with no memory of earlier steps."""
        return torch.optim.Adam([self.change], lr=lr * self.scale)

    @torch.enable_grad()
    def nll(self, asked: TargetTokens) -> Tensor:
        """Negative log-likelihood per target token under the change, mean over the rows."""
        with side_paths(self._live, {self._site: lambda x: x.to(self.change.dtype) @ self.change.T}):
            return asked.nll(self._live)

    def descend(self, asked: Iterable[TargetTokens], adam: torch.optim.Optimizer, *, stop: float) -> tuple[int, float]:
        """A step for each of these batches, until one has a loss below `stop`.

        Returns: how many steps were taken, and the loss before the last one, or that which ended the descent.
        Raises: NoConvergence if a loss is not finite.
        """
        steps, found = 0, math.inf
        for batch in asked:
            loss = self.nll(batch)
            found = loss.item()
            if not math.isfinite(found):
                raise NoConvergence(f"The loss is {found} after {steps} steps. Lower `lr`.")
            if found < stop:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                self.change.clamp_(-self._ball * self.scale, self._ball * self.scale)
            steps += 1
        return steps, found

    def part(self) -> Dense:
        """The change as a part of a delta."""
        return Dense(self.change.detach().cpu().clone())
