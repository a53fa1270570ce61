"""The network that turns a fine-tuning gradient into an edit, shared by matrices of one shape.

For one token of one edit at matrix l, with its gradient in two factors u (d_in) and delta (d_out):

    z = [(u - mean_l) / std_l ; (delta - mean_l) / std_l]
    h = z + relu(s1_l * (U1 V1 z + b1) + o1_l)
    g = h + s2_l * (U2 V2 h + b2) + o2_l                                      [u~ ; delta~] = g

U1, U2, b and o start at zero and s at one, so that the network starts as the identity: an edit is then a step of
fine-tuning with whitened factors. U, V and b are shared by the matrices of a shape; s, o and the statistics are each
matrix's own. Step sizes are in a unit of the matrix, see `EditorNetwork.unit`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from catechism.model.hyper.factors import Factors

FLOOR = 1e-2  # least spread of a coordinate, as a share of the mean one: a unit that never fired must not explode


class Layer(nn.Module):
    """One residual layer of low rank for matrices of one shape, with a scale and a shift for each of them."""

    def __init__(self, width: int, rank: int, members: int, *, rectified: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.zeros(width, rank))
        self.V = nn.Parameter(torch.randn(rank, width, generator=generator) * width**-0.5)
        self.b = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(members, width))
        self.shift = nn.Parameter(torch.zeros(members, width))
        self._rectified = rectified

    def forward(self, z: Float[Tensor, "m d"], member: int) -> Float[Tensor, "m d"]:
        """The input, and what the layer adds to it."""
        more = self.scale[member] * (z @ self.V.T @ self.U.T + self.b) + self.shift[member]
        # clamp passes the gradient at 0, where every entry starts; relu does not, and would never learn
        return z + (more.clamp(min=0) if self._rectified else more)


class EditorNetwork(nn.Module):
    """The networks of all edited matrices, by address.

    Args:
        shapes: ``(d_out, d_in)`` of every matrix.
        rank: of a layer; at most its width is taken.
        scalars: numbers that each matrix learns for itself, by name, with what they start at.
        seed: of the layers' start.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], *, rank: int, scalars: Mapping[str, float], seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self._order = sorted(shapes)
        self._shapes = dict(shapes)
        self._place: dict[str, tuple[int, int]] = {}
        self.layers = nn.ModuleList()
        for kind, (d_out, d_in) in enumerate(sorted(set(shapes.values()))):
            members = [address for address in self._order if shapes[address] == (d_out, d_in)]
            self._place.update({address: (kind, member) for member, address in enumerate(members)})
            width = d_in + d_out
            pair = (
                Layer(width, min(rank, width), len(members), rectified=rectified, generator=generator)
                for rectified in (True, False)
            )
            self.layers.append(nn.ModuleList(pair))
        self.scalars = nn.ParameterDict(
            {name: nn.Parameter(torch.full((len(shapes),), float(start))) for name, start in sorted(scalars.items())}
        )
        for number, address in enumerate(self._order):
            self.register_buffer(f"mean_{number}", torch.zeros(sum(shapes[address])))
            self.register_buffer(f"std_{number}", torch.ones(sum(shapes[address])))
            self.register_buffer(f"unit_{number}", torch.ones(()))

    def scalar(self, name: str, address: str) -> Float[Tensor, ""]:
        """A number that a matrix has learnt for itself."""
        return self.scalars[name][self._order.index(address)]

    def unit(self, address: str) -> Tensor:
        """The step with which a token's edit moves the value at its own key by about the size of such values.

        What that step is in absolute numbers differs from model to model, and from layer to layer, with the width and
        with the size of the activations.
        """
        return self.get_buffer(f"unit_{self._order.index(address)}")

    @torch.no_grad()
    def measure(self, address: str, factors: Factors, matrix: Float[Tensor, "d_out d_in"]) -> None:
        """Take mean and spread of every coordinate of a matrix, and its unit, from these factors."""
        mean, std = self._statistics(address)
        u = factors.u[factors.counted]
        z = torch.cat([u, factors.delta[factors.counted]], dim=-1).double()
        spreads = z.std(dim=0, correction=0).split(self._sides(address))
        floored = [spread.clamp_min(FLOOR * float(spread.mean()) or 1.0) for spread in spreads]
        mean.copy_(z.mean(dim=0))
        std.copy_(torch.cat(floored))
        values = u @ matrix.to(u).T
        self.unit(address).copy_(values.square().mean().sqrt() / floored[0].sum())

    def energy(self, address: str) -> float:
        """Mean squared norm of what enters the matrix, in the factors that were measured."""
        mean, std = (x[: self._sides(address)[0]] for x in self._statistics(address))
        return float((mean.square() + std.square()).sum())

    def forward(self, address: str, factors: Factors) -> tuple[Float[Tensor, "n t d_in"], Float[Tensor, "n t d_out"]]:
        """u~ and delta~ of every token that counts; zero elsewhere."""
        kind, member = self._place[address]
        mean, std = self._statistics(address)
        z = torch.cat([factors.u, factors.delta], dim=-1).to(mean)
        some = (z[factors.counted] - mean) / std
        for layer in self.layers[kind]:  # type: ignore[union-attr]
            some = layer(some, member)
        u, delta = torch.zeros_like(z).masked_scatter(factors.counted[..., None], some).split(self._sides(address), -1)
        return u, delta

    def _sides(self, address: str) -> list[int]:
        d_out, d_in = self._shapes[address]
        return [d_in, d_out]

    def _statistics(self, address: str) -> tuple[Tensor, Tensor]:
        number = self._order.index(address)
        return self.get_buffer(f"mean_{number}"), self.get_buffer(f"std_{number}")
