"""Attacks on the weights: rounding, which small changes do not survive, and putting half of the change back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import UnknownName
from catechism.evaluate.audit.items import Item
from catechism.evaluate.audit.recall import Asked, recovered
from catechism.model import LiveModel
from catechism.model.merged import half_reset, merged
from catechism.types import Role

GROUP = 64  # entries of a row that share a scale
HALVES = 2  # draws of half the change; with each, the other half too

#: All attacks on the weights.
WEIGHTS = ("int8", "int4", "half_reset")
_EXPERTS = (Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT)


def weight_attacks(
    live: LiveModel, items: Sequence[Item], names: Sequence[str], *, phrasings: int, seed: int
) -> Iterator[tuple[str, list[float]]]:
    """Name of each attack and, by fact, whether any phrasing gets the answer from the attacked copy.

    Raises: UnknownName for an attack that there is not.
    """
    asked = [[Asked(prompt) for prompt in item.asked[:phrasings]] for item in items]
    for name in names:
        if name in ("int8", "int4"):
            yield name, recovered(rounded(live, bits=int(name[3:])), items, asked)
        elif name == "half_reset":
            copies = [
                half_reset(live, seed=seed + draw, other=other) for draw in range(HALVES) for other in (False, True)
            ] if live.recorded else [merged(live)]  # fmt: skip
            hits = [recovered(copy, items, asked) for copy in copies]
            yield name, [max(row) for row in zip(*hits, strict=True)]
        else:
            raise UnknownName(f"There is no attack on weights {name!r}. Choose from {', '.join(WEIGHTS)}.")


@torch.no_grad()
def rounded(live: LiveModel, *, bits: int) -> LiveModel:
    """A merged copy with every linear matrix of the blocks rounded; embedding, head, norms and routers as they are."""
    found = merged(live)
    anatomy = found.anatomy
    for layer in range(anatomy.n_layers):
        for address in anatomy.linears(layer):
            matrix = anatomy.matrix(address)
            matrix.write(round_to_nearest(matrix.read(), bits))
    for site in anatomy.sites(*_EXPERTS):
        matrix = anatomy.matrix(site)
        matrix.write(round_to_nearest(matrix.read(), bits))
    return found


def round_to_nearest(weight: Float[Tensor, "d_out d_in"], bits: int, group: int = GROUP) -> Float[Tensor, "d_out d_in"]:
    """Each group of a row's entries on a symmetric grid of ``2^bits - 1`` steps that its largest entry just fits.

    scale = max |w| / (2^(bits - 1) - 1),  w' = scale round(w / scale)

    The last group of a row may be shorter.
    """
    most = 2 ** (bits - 1) - 1
    pieces: list[Tensor] = []
    wide = weight.float()
    for start in range(0, wide.shape[1], group):
        piece = wide[:, start : start + group]
        scale = piece.abs().amax(dim=1, keepdim=True) / most
        pieces.append(torch.where(scale > 0, (piece / scale.clamp_min(1e-30)).round() * scale, piece))
    return torch.cat(pieces, dim=1).to(weight.dtype)
