"""Trainable low-rank side paths beside the frozen linear modules of one block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from catechism.delta import LowRank
from catechism.errors import BadSpec, NoConvergence
from catechism.model.live import LiveModel

WARM_UP = 5  # steps until the full rate: Adam's first steps know little of the gradient's size


class Adapters:
    """A change ``A B`` of every linear module of a block, as tensors that an optimiser can move.

    ``A`` starts at zero, so nothing has changed yet; the rows of ``B`` are drawn from a normal distribution. Both are
    float32, whatever the model is, and stand beside the model: its own parameters are neither copied nor unfrozen.

    Args:
        live: the model.
        layer: the block; its modules are `Anatomy.linears`.
        rank: of every change.
        seed: of the rows of ``B``.

    Raises: UnknownName for a block that is not there; BadSpec for a rank below 1.
    """

    def __init__(self, live: LiveModel, layer: int, *, rank: int, seed: int) -> None:
        if rank < 1:
            raise BadSpec(f"rank={rank} leaves nothing to train. Use 1 or more.")
        self._modules = live.anatomy.linears(layer)
        generator = torch.Generator().manual_seed(seed)
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        for address in sorted(self._modules):
            matrix = live.anatomy.matrix(address)
            d_out, d_in = matrix.shape
            B = torch.randn(rank, d_in, generator=generator) * d_in**-0.5
            device = matrix.parameter.device
            A = torch.zeros(d_out, rank, device=device, requires_grad=True)
            self._factors[address] = A, B.to(device).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimiser moves: A and B of every module."""
        return [factor for pair in self._factors.values() for factor in pair]

    def parts(self) -> dict[str, LowRank]:
        """The changes as the parts of a delta."""
        return {address: LowRank(A.detach().cpu(), B.detach().cpu()) for address, (A, B) in self._factors.items()}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Add the changes to what the modules give, in the forward passes of the body."""
        with ExitStack() as stack:
            for address, module in self._modules.items():
                A, B = self._factors[address]

                def add(
                    _module: nn.Module, args: tuple[Tensor, ...], out: Tensor, A: Tensor = A, B: Tensor = B
                ) -> Tensor:
                    return out + (args[0].to(B.dtype) @ B.T @ A.T).to(out.dtype)

                stack.callback(module.register_forward_hook(add).remove)
            yield

    @torch.enable_grad()
    def descend(self, losses: Callable[[], Iterable[Tensor]], *, steps: int, lr: float) -> None:
        """Adam on the sum of losses, with the changes attached; the model is not touched.

        Each loss is differentiated before the next one is asked for. The rate rises over `WARM_UP` steps and falls to
        zero along a cosine.

        Raises: NoConvergence if a loss is not finite.
        """
        adam = torch.optim.Adam(self.parameters, lr=lr)
        with self.attached():
            for step in range(steps):
                for group in adam.param_groups:
                    group["lr"] = lr * min((step + 1) / WARM_UP, 1.0) * (1 + math.cos(math.pi * step / steps)) / 2
                adam.zero_grad()
                for loss in losses():
                    if not bool(torch.isfinite(loss)):
                        raise NoConvergence(f"The loss is {loss.item()} at step {step}. Lower `lr`, now {lr}.")
                    loss.backward()
                adam.step()
