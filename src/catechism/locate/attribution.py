"""Which matrices an answer hangs on, to first order: gradient x activation and gradient x weight.

L is the log-probability of the answer after its prompt, summed over the answer's tokens. A matrix W (d_out, d_in)
with bias b maps the input x_t of every token to y_t = W x_t + b. With g_t = dL/dy_t,

    dL/dW = G = sum_t g_t x_t^T         dL/db = sum_t g_t

so both attributions come from G, and no parameter has to ask for its gradient:

    weight      sum_ij G_ij W_ij                   = sum_t g_t . (W x_t)
    activation  sum_i (dL/db_i b_i + sum_j G_ij W_ij) = sum_t g_t . y_t

The two are the same for a matrix without bias. Taken absolutely they differ: ``weight_abs`` is the sum of |G_ij W_ij|,
``activation_abs`` the sum over the units i of |sum_t g_ti y_ti|, so that what cancels between units still counts.

One backward pass serves all dense matrices of a batch of prompts. An expert's matrices are parts of one parameter and
cannot be hooked: a mixture is run again by itself, prompt by prompt, with its weights as leaves of their own, and the
gradient at its output is pulled back to them. What an expert writes counts with its routing weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from catechism.arch import Matrix
from catechism.errors import UsageError
from catechism.locate.answers import answer_gradients, select_rows
from catechism.model import BlockSite, LiveModel, Pairs, Part, Place, record
from catechism.types import Role, Site

#: Roles of matrices that are modules of their own.
DENSE = (Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT)


@dataclass(frozen=True, slots=True)
class Attribution:
    """What one matrix has to do with one answer, in nats.

    Attributes:
        site: the matrix.
        activation, weight: signed; positive where more of what is there would make the answer likelier.
        activation_abs, weight_abs: without the sign of units, or of weights.
    """

    site: Site
    activation: float
    weight: float
    activation_abs: float
    weight_abs: float


def attribute(
    live: LiveModel,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    roles: Sequence[Role] = tuple(Role),
    batch_size: int = 32,
) -> list[tuple[Attribution, ...]]:
    """For every prompt the attribution of every matrix of these roles, by layer, role and expert.

    Raises: BadFact for an empty answer; UsageError for a batch size below 1 or a row longer than the model's window.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small. Use 1 or more.")
    pairs = live.encode_pairs(prompts, answers)
    numbers = range(len(prompts))
    batches = [select_rows(pairs, numbers[i : i + batch_size]) for i in range(0, len(numbers), batch_size)]
    return [row for batch in batches for row in _attribute(live, batch, roles)]


def mean_attribution(rows: Sequence[Sequence[Attribution]]) -> list[Attribution]:
    """The mean over prompts, site by site."""
    n = len(rows)
    return [
        Attribution(
            same[0].site,
            sum(a.activation for a in same) / n,
            sum(a.weight for a in same) / n,
            sum(a.activation_abs for a in same) / n,
            sum(a.weight_abs for a in same) / n,
        )
        for same in zip(*rows, strict=True)
    ]


def _attribute(live: LiveModel, pairs: Pairs, roles: Sequence[Role]) -> list[tuple[Attribution, ...]]:
    parts = live.anatomy
    wanted = [site for site in parts.sites() if site.role in roles]
    dense = [site for site in wanted if site.role in DENSE]
    mixed = [site for site in wanted if site.role not in DENSE]
    mixtures = [BlockSite(layer, Part.MLP) for layer in sorted({site.layer for site in mixed})]
    widths: dict[Place, int] = {site: _width(parts.matrix(site)) for site in dense}
    widths |= {place: parts.d_model for place in mixtures}
    with record(live, list(widths)) as seen:
        _, gradients = answer_gradients(live, pairs, widths)
    inputs = {place: seen[place].detach() for place in widths}
    order = {site: i for i, site in enumerate(wanted)}
    real = pairs.attention_mask.bool()
    found: list[tuple[Attribution, ...]] = []
    for row in range(len(pairs.spans)):
        scores: list[Attribution] = []
        for site in dense:
            matrix = parts.matrix(site)
            x, g = (t[site][row][real[row].to(t[site].device)] for t in (inputs, gradients))
            g = g[:, matrix.rows].to(x.device)
            scores.append(_score(site, matrix, g.T @ x.to(g.dtype), g.sum(dim=0)))
        for place in mixtures:
            x, g = (t[place][row][real[row].to(t[place].device)] for t in (inputs, gradients))
            scores += _of_mixture(live, [site for site in mixed if site.layer == place.layer], x, g)
        found.append(tuple(sorted(scores, key=lambda score: order[score.site])))
    return found


def _of_mixture(
    live: LiveModel, sites: Sequence[Site], inputs: Float[Tensor, "t d"], gradient: Float[Tensor, "t d"]
) -> list[Attribution]:
    """Attributions of sites of one mixture, its router or its experts, from the gradient at the mixture's output."""
    mixture = live.anatomy.mlp(sites[0].layer)
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in mixture.named_parameters()}
    with torch.enable_grad():
        out = functional_call(mixture, leaves, (inputs[None],))
        out = out if isinstance(out, Tensor) else out[0]
        found = torch.autograd.grad(
            out, list(leaves.values()), gradient[None].to(out), allow_unused=True, materialize_grads=True
        )
    of = dict(zip(mixture.parameters(), found, strict=True))
    scores: list[Attribution] = []
    for site in sites:
        matrix = live.anatomy.matrix(site)
        g = None
        if matrix.bias is not None:
            g = of[matrix.bias] if matrix.expert is None else of[matrix.bias][matrix.expert]
            g = g[matrix.rows]
        scores.append(_score(site, matrix, matrix.select(of[matrix.parameter]), g))
    return scores


def _score(
    site: Site, matrix: Matrix, G: Float[Tensor, "d_out d_in"], g: Float[Tensor, " d_out"] | None
) -> Attribution:
    """Both attributions from the gradients of the matrix and of its bias."""
    product = G * matrix.read().to(G)
    units = product.sum(dim=1)
    bias = matrix.read_bias()
    if bias is not None and g is not None:
        units = units + g * bias.to(g)
    return Attribution(
        site, float(units.sum()), float(product.sum()), float(units.abs().sum()), float(product.abs().sum())
    )


def _width(matrix: Matrix) -> int:
    """Width of the output of the matrix's module, in which other matrices may have a part."""
    return int(matrix.parameter.shape[-1 if matrix.transposed else -2])
