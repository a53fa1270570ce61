"""Searches over many facts in parts of a fixed size, which may be shared out, see `catechism.model.sharing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from catechism.model import LiveModel
from catechism.model.exercise import Exercise
from catechism.model.residual import ResidualValues, Written
from catechism.model.sharing import Share
from catechism.model.sought import Sought
from catechism.solve.values import AT_ONCE, Found, Search, check_found, find_values, search_values
from catechism.types import Site


def find_target_values(live: LiveModel, share: Share, sought: Sought, search: Search) -> Found:
    """The value of every fact on the model as it is now, `AT_ONCE` of them in a part.

    Raises: NoConvergence, with the numbers of the facts.
    """
    found: list[Found] = share(live, search_part, sought.split(AT_ONCE), search)
    whole = Found(*(torch.cat([getattr(one, name) for one in found]) for name in ("values", "nll", "steps")))
    check_found(whole)
    return whole


def search_part(live: LiveModel, search: Search, part: Sought) -> Found:
    """Search the values of some facts; what is not finite is left for `check_found`."""
    return search_values(part.objective(live), part.scale, live.anatomy.matrix(part.site).shape[0], search)


@dataclass(frozen=True, slots=True)
class ResidualSearch:
    """How values of a residual beside a matrix are searched: which matrix, which ridge, and the settings."""

    site: Site
    ridge: float
    search: Search


def search_residual(
    live: LiveModel, asked: ResidualSearch, part: tuple[Sequence[Sequence[str]], Sequence[str], Tensor]
) -> tuple[Written, Found]:
    """What some facts ask of a residual, and how it was found.

    Args:
        part: prompts of every fact, its target, and its mask, (n, d_in).

    Raises: NoConvergence; as `Exercise`.
    """
    prompts, targets, masks = part
    values = ResidualValues(Exercise(live, asked.site, prompts, targets), masks, asked.ridge)
    found = find_values(values, values.scale, values.width, asked.search)
    return values.written(found.values), found
