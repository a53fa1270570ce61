"""What a value search asks of many facts, as data: enough to make its objective on any open copy of the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model.live import LiveModel
from catechism.model.reading import Gain, gains
from catechism.model.targets import Rows, TargetObjective
from catechism.types import Site


@dataclass(frozen=True, eq=False)
class Sought:
    """The values of n facts, to be added to the output of one matrix.

    Attributes:
        site: the matrix.
        gain: where a value acts.
        kl, decay: weights of the objective's terms, see `TargetObjective`.
        rows: of all facts.
        readers: per fact, the direction of its own update, see `gains`.
        scale: per fact, the norm of what the matrix gives for its key.
    """

    site: Site
    gain: Gain
    kl: float
    decay: float
    rows: Rows
    readers: Float[Tensor, "n d_in"]
    scale: Float[Tensor, " n"]

    def objective(self, live: LiveModel) -> TargetObjective:
        """On this model, as it is now."""
        gain = gains(self.gain, live, self.site, self.rows, self.readers)
        return TargetObjective(live, self.site, self.rows, gain, kl=self.kl, decay=self.decay, scale=self.scale)

    def split(self, at_once: int) -> list[Sought]:
        """The same in parts of so many facts."""
        facts = torch.arange(len(self.scale), device=self.scale.device)
        return [self._of(some) for some in facts.split(at_once)]

    def _of(self, facts: Int[Tensor, " k"]) -> Sought:
        """Of some facts that follow one another, their rows' owners counted from the first of them."""
        owner = self.rows.owner
        rows = self.rows.select(((owner >= facts[0]) & (owner <= facts[-1])).nonzero()[:, 0])
        rows = replace(rows, owner=rows.owner - facts[0])
        return replace(self, rows=rows, readers=self.readers[facts], scale=self.scale[facts])
