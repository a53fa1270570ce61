"""Side paths: a function of what enters a matrix, added to what leaves it while something is being trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from catechism.model.live import LiveModel
from catechism.types import Site


@contextmanager
def side_paths(live: LiveModel, paths: Mapping[Site, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Add a function of each site's input to its output, in the forward passes of the body.

    The function gets what the module gets, ``(b, t, d_in)`` or, in some blocks, ``(b * t, d_in)``, and gives
    ``(..., d_out)`` of the site's matrix; gradients flow through it.

    Raises: UnknownName for a site that is not there.
    """
    with ExitStack() as stack:
        for site, path in paths.items():
            rows = live.anatomy.matrix(site).rows

            def add(
                _module: nn.Module,
                args: tuple[Tensor, ...],
                out: Tensor,
                rows: slice = rows,
                path: Callable[[Tensor], Tensor] = path,
            ) -> Tensor:
                more = path(args[0]).to(out)
                if more.shape == out.shape:
                    return out + more
                whole = torch.zeros_like(out)  # the module's other rows are another matrix's
                whole[..., rows] = more
                return out + whole

            stack.callback(live.anatomy.module(site).register_forward_hook(add).remove)
        yield
