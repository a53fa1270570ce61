"""Trainable low-rank side paths beside the frozen linear modules of some blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from catechism.delta import LowRank
from catechism.errors import BadSpec, NoConvergence
from catechism.model.live import LiveModel
from catechism.model.schedule import share_of_rate

WARM_UP = 5  # steps until the full rate: Adam's first steps know little of the gradient's size


class Adapters:
    """A change ``A B`` of every linear module of some blocks, as tensors that an optimiser can move.

    ``A`` starts at zero, so nothing has changed yet; the rows of ``B`` are drawn from a normal distribution. Both are
    float32, whatever the model is, and stand beside the model: its own parameters are neither copied nor unfrozen.

    Args:
        live: the model.
        layers: the block or blocks; their modules are `Anatomy.linears`.
        rank: of every change.
        seed: of the rows of ``B``.
        only: addresses of the modules that get a side path; None for all of them.

    Raises: UnknownName for a block that is not there; BadSpec for a rank below 1, or where no module is left.
    """

    def __init__(
        self,
        live: LiveModel,
        layers: int | Sequence[int],
        *,
        rank: int,
        seed: int,
        only: Collection[str] | None = None,
    ) -> None:
        if rank < 1:
            raise BadSpec(f"rank={rank} leaves nothing to train. Use 1 or more.")
        numbers = [layers] if isinstance(layers, int) else list(dict.fromkeys(layers))
        found = {address: module for number in numbers for address, module in live.anatomy.linears(number).items()}
        self._modules = {address: found[address] for address in sorted(found) if only is None or address in only}
        if not self._modules:
            raise BadSpec(f"Blocks {numbers} have no linear module to put a side path beside. Choose other layers.")
        generator = torch.Generator().manual_seed(seed)
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        self._starts: dict[str, tuple[Tensor, Tensor]] = {}
        self._scale = 1.0
        self._resting: frozenset[str] = frozenset()
        for address in self._modules:
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

    @property
    def factors(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """A, ``(d_out, r)``, and B, ``(r, d_in)``, of every module by its address."""
        return self._factors

    def start(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Begin these modules' changes at ``A B`` of the given factors, without a change of what the model computes.

        What is added from then on is ``A B`` less the product that it began with, and so is the part that is exported:
        it fits the model as it is, not one from whose weights the beginning was taken.
        """
        for address, (A, B) in factors.items():
            own = self._factors[address]
            with torch.no_grad():
                own[0].copy_(A)
                own[1].copy_(B)
            self._starts[address] = own[0].detach().clone(), own[1].detach().clone()

    def parts(self, scale: float = 1.0) -> dict[str, LowRank]:
        """The changes, times a number, as the parts of a delta."""
        parts: dict[str, LowRank] = {}
        for address, (A, B) in self._factors.items():
            if address in self._starts:
                A_0, B_0 = self._starts[address]
                A, B = torch.cat([A, -A_0], dim=1), torch.cat([B, B_0])
            parts[address] = LowRank((scale * A.detach()).cpu(), B.detach().cpu().clone())
        return parts

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Add the changes to what the modules give, in the forward passes of the body."""
        with ExitStack() as stack:
            for address, module in self._modules.items():
                A, B = self._factors[address]
                start = self._starts.get(address)

                def add(
                    _module: nn.Module,
                    args: tuple[Tensor, ...],
                    out: Tensor,
                    A: Tensor = A,
                    B: Tensor = B,
                    start: tuple[Tensor, Tensor] | None = start,
                    address: str = address,
                ) -> Tensor:
                    if self._scale == 0 or address in self._resting:
                        return out
                    given = args[0].to(B.dtype)
                    more = given @ B.T @ A.T
                    if start is not None:
                        more = more - given @ start[1].T @ start[0].T
                    return out + (more if self._scale == 1 else self._scale * more).to(out.dtype)

                stack.callback(module.register_forward_hook(add).remove)
            yield

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """Add this much of the changes in the forward passes of the body, where they are attached.

        The factors and the parts are not touched.
        """
        before, self._scale = self._scale, scale
        try:
            yield
        finally:
            self._scale = before

    @contextmanager
    def resting(self, addresses: Collection[str]) -> Iterator[None]:
        """Leave these modules as they were in the forward passes of the body."""
        before, self._resting = self._resting, frozenset(addresses)
        try:
            yield
        finally:
            self._resting = before

    def still(self) -> AbstractContextManager[None]:
        """Add nothing in the forward passes of the body, where the changes are attached: the model as it was."""
        return self.scaled(0)

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
                    group["lr"] = lr * share_of_rate(step, warm_up=WARM_UP, gone=step / steps)
                adam.zero_grad()
                for loss in losses():
                    if not bool(torch.isfinite(loss)):
                        raise NoConvergence(f"The loss is {loss.item()} at step {step}. Lower `lr`, now {lr}.")
                    loss.backward()
                adam.step()
