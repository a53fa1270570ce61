"""Holds a row of the architecture table against a live model, by value.

One forward pass over random tokens is recorded. Every claim of the row is then an equation between recorded tensors,
or between them and what the matrices of the row give (`equations`): a swapped, transposed or misplaced matrix of the
right shape breaks it as surely as one of the wrong shape. The model is not changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from catechism.arch.anatomy import Anatomy, anatomy
from catechism.arch.equations import CLAIMS, compare, modules_of
from catechism.arch.names import model_type_of
from catechism.arch.recording import Recording, evaluating, random_tokens
from catechism.arch.table import Arch
from catechism.errors import ArchitectureMismatch
from catechism.types import JSON, Role, Site


@dataclass(frozen=True, slots=True)
class Check:
    """One claim of the row over all layers: whether it holds, and the figures or the first place where it does not."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The checks of one row on one model, in order. A failed check of names or shapes is the last one made."""

    model_type: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if every check holds."""
        return all(check.ok for check in self.checks)

    def json(self) -> dict[str, JSON]:
        """The report as plain data."""
        checks: list[JSON] = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in self.checks]
        return {"model_type": self.model_type, "ok": self.ok, "checks": checks}


def probe(model: nn.Module, arch: Arch | None = None, *, seed: int = 0) -> ProbeReport:
    """Check the model's row of the table, or `arch`, a row that is not in the table yet.

    Raises:
        UnknownArchitecture: the table has no row for the model and no `arch` was given.
    """
    with evaluating(model):
        try:
            parts = anatomy(model) if arch is None else Anatomy(model, arch)
            recording = Recording(model, modules_of(parts), random_tokens(parts.embed, seed))
            shapes = _shapes(parts, recording)
        except ArchitectureMismatch as error:
            name = model_type_of(model) if arch is None else arch.model_type
            return ProbeReport(name, (Check("names", False, str(error)),))
        names = Check("names", True, f"every name of the row is there, in each of {parts.n_layers} layers")
        if not shapes.ok:  # the equations multiply matrices, so they need shapes that fit
            return ProbeReport(parts.arch.model_type, (names, shapes))
        ledger = compare(parts, recording, seed)
    values = (Check(claim, *ledger.verdict(claim)) for claim in CLAIMS if ledger.has(claim))
    return ProbeReport(parts.arch.model_type, (names, shapes, *values))


def _shapes(parts: Anatomy, recording: Recording) -> Check:
    """Every matrix joins the widths it should. Says so before the equations do, in plainer words."""
    stream = recording.into(parts.block(0))
    width = parts.d_model if stream is None else stream.shape[-1]
    for site in parts.sites():
        matrix, expected = parts.matrix(site), _expected_shape(parts, site, width)
        if matrix.shape != expected:
            return Check(
                "shapes",
                False,
                f"{matrix.address} reads as (d_out, d_in) = {matrix.shape}, expected {expected} for {site.role} where "
                f"the residual stream is {width} wide. Correct `transposed` or `fusion` in the row, or name another "
                f"module for {site.role}.",
            )
    return Check("shapes", True, f"{len(parts.sites())} matrices fit a stream of {width} and {parts.d_ff} inside")


def _expected_shape(parts: Anatomy, site: Site, width: int) -> tuple[int, int]:
    if site.role is Role.ROUTER:
        return parts.experts_in(site.layer), width
    if site.role in (Role.ATTN_OUT, Role.MLP_OUT, Role.EXPERT_OUT):
        return width, parts.matrix(site).shape[1]
    out = Role.MLP_OUT if site.expert is None else Role.EXPERT_OUT
    return parts.matrix(Site(site.layer, out, site.expert)).shape[1], width
