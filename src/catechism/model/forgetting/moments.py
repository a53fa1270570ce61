"""Adam with its parts within reach: a step is a direction that a method may still change before it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Moments:
    """Running means of gradients and of their squares, for a list of parameters (arXiv:1412.6980, Alg. 1)."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.count = 0
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]

    def see(self, gradients: Sequence[Tensor]) -> None:
        """Take in the gradients of a step."""
        self.count += 1
        for m, v, g in zip(self._first, self._second, gradients, strict=True):
            m.lerp_(g, 1 - BETAS[0])
            v.lerp_(g.square(), 1 - BETAS[1])

    def direction(self) -> list[Tensor]:
        """The step after what was seen, at rate 1, to be subtracted."""
        share = 1 - BETAS[0] ** self.count
        return self.precondition([m / share for m in self._first])

    def precondition(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """These gradients by the size that gradients have had so far, each entry times something positive."""
        share = 1 - BETAS[1] ** self.count
        return [g / ((v / share).sqrt() + EPSILON) for g, v in zip(gradients, self._second, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, but for `count`."""
        pairs = zip(self._first, self._second, strict=True)
        return {f"{name}{i}": x for i, pair in enumerate(pairs) for name, x in zip("mv", pair, strict=True)}

    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Go on from a checkpoint."""
        self.count = count
        for i, (m, v) in enumerate(zip(self._first, self._second, strict=True)):
            m.copy_(tensors[f"m{i}"])
            v.copy_(tensors[f"v{i}"])
