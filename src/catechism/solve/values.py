"""Search for target values: the vectors that, added at a fact's place, make a model say the new object.

Knows nothing of models: a caller hands in an objective that maps candidate vectors to losses. All facts are searched in
one batch; each has its own Adam state, and leaves the batch when it has converged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.errors import NoConvergence

#: Facts that are searched in one batch, wherever: what is searched together rounds together.
AT_ONCE = 32

#: (values (k, d), which facts they belong to (k,)) -> (loss to minimise (k,), negative log-likelihood per token (k,))
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Search:
    """How target values are searched. Published values: arXiv:2202.05262, App. E.5 and its code.

    Deviation: the step is relative to the fact's scale. The published 0.5 is absolute, right for one model's
    activations and far too small or too large for another's (the scale is 99 in layer 0 of `almanac`).
    """

    steps: int = 20  # published 20 (GPT-2 XL), 25 (Llama)
    lr: float = 0.8  # length of one Adam step as a share of the fact's scale
    stop: float = 0.02  # negative log-likelihood per target token at which a fact is done; published 0.05, on the loss
    clamp: float = 10.0  # largest |value| as a multiple of the fact's scale; published 4


@dataclass(frozen=True, eq=False)
class Found:
    """Result of a search: one value per fact, its negative log-likelihood there, and how many steps it took."""

    values: Float[Tensor, "n d"]
    nll: Float[Tensor, " n"]
    steps: Int[Tensor, " n"]


def find_values(
    objective: Objective, scale: Float[Tensor, " n"], d: int, search: Search, *, at_once: int = AT_ONCE
) -> Found:
    """Minimise every fact's loss over its own vector by Adam from zero, inside a ball.

        v_i <- Adam(v_i, grad loss_i),   |v_i| <= clamp * scale_i          beta = (.9, .999), eps = 1e-8

    Args:
        objective: see `Objective`. The facts' losses must not depend on each other's values.
        scale: per fact, the norm that the clamp is relative to; also fixes device and dtype.
        d: width of a value.
        at_once: so many facts are searched together, then the next ones; bounds what has to be kept for gradients.

    Raises: NoConvergence, see `check_found`.
    Source: arXiv:2202.05262, Eq. 4.
    """
    found = search_values(objective, scale, d, search, at_once=at_once)
    check_found(found)
    return found


@torch.enable_grad()
def search_values(
    objective: Objective, scale: Float[Tensor, " n"], d: int, search: Search, *, at_once: int = AT_ONCE
) -> Found:
    """As `find_values`, but what is not finite is handed back as it is."""
    n = scale.shape[0]
    found = Found(
        scale.new_zeros(n, d),
        scale.new_full((n,), float("inf")),
        torch.zeros(n, dtype=torch.long, device=scale.device),
    )
    for start in range(0, n, at_once):
        _search(objective, scale, torch.arange(start, min(start + at_once, n), device=scale.device), search, found)
    return found


def check_found(found: Found) -> None:
    """Raise NoConvergence if a loss or a value is not finite; its `facts` are their numbers."""
    n = len(found.nll)
    broken = ~(found.nll.isfinite() & found.values.isfinite().all(dim=1))
    if bool(broken.any()):
        lost = tuple(int(i) for i in broken.nonzero()[:, 0])
        error = NoConvergence(
            f"The value search left the finite numbers for {len(lost)} of {n} facts (number "
            f"{', '.join(map(str, lost[:5]))}{', ...' if len(lost) > 5 else ''}). Lower `search.lr`, open the model in "
            "float32, or leave these facts out."
        )
        error.facts = lost
        raise error


def _search(
    objective: Objective, scale: Float[Tensor, " n"], active: Int[Tensor, " k"], search: Search, found: Found
) -> None:
    """Search the values of some facts and write them into `found`."""
    values, nll, taken = found.values, found.nll, found.steps
    d = values.shape[1]
    first, second = torch.zeros_like(values), torch.zeros_like(values)
    radius = (search.clamp * scale)[:, None]
    for step in range(1, search.steps + 2):
        candidate = values[active].requires_grad_()
        loss, likelihood = objective(candidate, active)
        nll[active] = likelihood.detach().to(nll)
        keep = likelihood.detach() > search.stop
        if step > search.steps or not bool(keep.any()):  # the last pass only measures
            break
        (gradient,) = torch.autograd.grad(loss.sum(), candidate)
        active, gradient = active[keep], gradient[keep]
        first[active] = 0.9 * first[active] + 0.1 * gradient
        second[active] = 0.999 * second[active] + 0.001 * gradient**2
        mean, variance = first[active] / (1 - 0.9**step), second[active] / (1 - 0.999**step)
        step_size = search.lr / d**0.5 * scale[active, None]
        moved = values[active] - step_size * mean / (variance.sqrt() + 1e-8)
        norm = moved.norm(dim=1, keepdim=True)
        values[active] = moved * (radius[active] / norm.clamp_min(1e-12)).clamp(max=1.0)
        taken[active] = step
