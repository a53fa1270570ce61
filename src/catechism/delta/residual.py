"""A residual matrix kept as what every edit asked of it, so that any edit can be taken out exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from catechism.delta.address import renumbered
from catechism.delta.bits import unpack, words
from catechism.delta.effect import Firing
from catechism.delta.piece import Piece
from catechism.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class Residual(Piece):
    """Values to be given at keys, read through the mask of the edit that fires.

        y += W (mask_j * x),   W = argmin sum_r |W key_r - value_r|^2 + lambda |W|^2

    Shared, W is one matrix for all edits of a bank, as in MEMOIR; otherwise every edit has its own, over its own rows.
    Either way W follows from the keys and values that are kept, in whatever order they came: an edit that is taken out
    leaves what there would be without it. lambda is `ridge` times the mean square of a key.

    Attributes:
        keys: r keys, each at the k columns of its edit's mask, the other columns being zero.
        values: what W is to give there.
        owner: the edit of each row.
        bank: of every edit; those of another delta, which knew nothing of these, have another.
        masks: per edit, k of the d_in columns, 8 a byte.
        d_in: columns of W.
        ridge: see above.
        shared: see above.
    """

    keys: Float[Tensor, "r k"]
    values: Float[Tensor, "r d_out"]
    owner: Int[Tensor, " r"]
    bank: Int[Tensor, " e"]
    masks: UInt8[Tensor, "e bytes"]
    d_in: int
    ridge: float
    shared: bool

    kind: ClassVar[str] = "residual"

    def __post_init__(self) -> None:
        r, e = self.keys.shape[0], self.masks.shape[0]
        self._check(keys=(r, None), values=(r, None), owner=(r,), bank=(e,), masks=(e, words(self.d_in)))
        in_range = not r or 0 <= int(self.owner.min()) <= int(self.owner.max()) < e
        sizes = unpack(self.masks, self.d_in).sum(dim=1)
        if not in_range or self.ridge <= 0 or not bool((sizes == self.keys.shape[1]).all()):
            raise ShapeMismatch(
                f"A residual of {e} edits with keys of {self.keys.shape[1]} columns and a ridge of {self.ridge}: give "
                "masks of as many columns, owners among the edits, and a ridge above 0."
            )

    @property
    def entries(self) -> int:
        """How many edits it holds."""
        return self.masks.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the residual."""
        return self.values.shape[1], self.d_in

    def change(self, firing: Firing) -> Float[Tensor, "b t d_out"]:
        """The residual's output for the masked inputs."""
        x, entry = firing.inputs.float(), firing.entry
        if self.shared:
            x = x * unpack(self.masks[entry], self.d_in)[:, None]
            return torch.einsum("bti,boi->bto", x, self.matrices[self.bank[entry]])
        readers, values = self._own
        x = x.gather(2, self.columns[entry][:, None].expand(-1, x.shape[1], -1))
        return torch.einsum("btk,bpk->btp", x, readers[entry]) @ values[entry]

    def norm(self) -> float:
        """Frobenius norm of all matrices together."""
        if self.shared:
            return float(self.matrices.double().norm())
        readers, values = (tensor.double() for tensor in self._own)
        grams = (readers @ readers.mT) * (values @ values.mT)
        return float(grams.sum().clamp_min(0).sqrt())

    def select(self, entries: Int[Tensor, " s"]) -> Residual:
        """See `Effect`. The others are what they would be without the ones left out."""
        rows, owner = renumbered(self.owner, entries)
        return replace(
            self,
            keys=self.keys[rows],
            values=self.values[rows],
            owner=owner,
            bank=self.bank[entries],
            masks=self.masks[entries],
        )

    def joined(self, other: Residual) -> Residual:
        """See `Effect`. The banks stay apart."""
        if self.settings() != other.settings() or self.shape != other.shape:
            raise ShapeMismatch(
                f"Residuals {self.settings()} and {other.settings()} do not add. Apply both deltas instead."
            )
        first = int(self.bank.max()) + 1 if len(self.bank) else 0
        dtype = torch.promote_types(self.keys.dtype, other.keys.dtype)
        return replace(
            self,
            keys=torch.cat([self.keys.to(dtype), other.keys.to(dtype)]),
            values=torch.cat([self.values.to(dtype), other.values.to(dtype)]),
            owner=torch.cat([self.owner, other.owner + self.entries]),
            bank=torch.cat([self.bank, other.bank + first]),
            masks=torch.cat([self.masks, other.masks]),
        )

    # -- solving -----------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> Int[Tensor, "e k"]:
        """The columns of every mask, in order."""
        return unpack(self.masks, self.d_in).nonzero()[:, 1].reshape(self.entries, -1)

    @cached_property
    def matrices(self) -> Float[Tensor, "banks d_out d_in"]:
        """W of every bank, solved in float64: over its rows where they are fewer than the columns, else over these."""
        banks = int(self.bank.max()) + 1 if len(self.bank) else 0
        found = torch.zeros(banks, *self.shape, device=self.keys.device)
        for bank in range(banks):
            rows = (self.bank[self.owner] == bank).nonzero()[:, 0]
            K = self.keys.new_zeros(len(rows), self.d_in, dtype=torch.float64)
            K.scatter_(1, self.columns[self.owner[rows]], self.keys[rows].double())
            found[bank] = _solved(K, self.values[rows].double(), self.ridge).float()
        return found

    @cached_property
    def _own(self) -> tuple[Float[Tensor, "e p k"], Float[Tensor, "e p d_out"]]:
        """Per edit, the readers (K K^T + lambda)^-1 K of its rows and their values; rows that it has not are zero."""
        place = torch.zeros_like(self.owner)
        if len(place):  # number of the row among its owner's
            order = self.owner.argsort(stable=True)
            first = torch.searchsorted(self.owner[order], self.owner[order])
            place[order] = torch.arange(len(place), device=place.device) - first
        width = int(place.max()) + 1 if len(place) else 0
        K = self.keys.new_zeros(self.entries, width, self.keys.shape[1], dtype=torch.float64)
        V = self.values.new_zeros(self.entries, width, self.values.shape[1], dtype=torch.float32)
        K[self.owner, place] = self.keys.double()
        V[self.owner, place] = self.values.float()
        G = K @ K.mT
        rows = torch.bincount(self.owner, minlength=self.entries).clamp_min(1)
        ridge = self.ridge * G.diagonal(dim1=1, dim2=2).sum(dim=1) / rows
        eye = torch.eye(width, dtype=G.dtype, device=G.device)
        return torch.linalg.solve(G + ridge.clamp_min(1e-30)[:, None, None] * eye, K).float(), V


def _solved(K: Float[Tensor, "r d_in"], V: Float[Tensor, "r d_out"], ridge: float) -> Float[Tensor, "d_out d_in"]:
    """The W of least |W K^T - V^T|^2 + lambda |W|^2."""
    r, d_in = K.shape
    if r == 0:
        return V.T @ K
    damping = ridge * K.square().sum() / r
    if r <= d_in:
        G = K @ K.T
        G.diagonal().add_(damping)
        return torch.cholesky_solve(V, torch.linalg.cholesky(G)).T @ K
    S = K.T @ K
    S.diagonal().add_(damping)
    return torch.cholesky_solve(K.T @ V, torch.linalg.cholesky(S)).T
