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
from catechism.locate.answers import answer_logprobs, select_rows
from catechism.model import BlockSite, LiveModel, Pairs, Part, Patch, Place, patch, record
from catechism.types import Role, Site

DENSE = (Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT)
MIXTURE = (Role.ROUTER, Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT)


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
    live: LiveModel, prompts: Sequence[str], answers: Sequence[str], *, batch_size: int = 32
) -> list[tuple[Attribution, ...]]:
    """For every prompt the attribution of every matrix of the architecture table, by layer, role and expert.

    Raises: BadFact for an empty answer; UsageError for a batch size below 1 or a row longer than the model's window.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small. Use 1 or more.")
    pairs = live.encode_pairs(prompts, answers)
    numbers = range(len(prompts))
    batches = [select_rows(pairs, numbers[i : i + batch_size]) for i in range(0, len(numbers), batch_size)]
    return [row for batch in batches for row in _attribute(live, batch)]


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


def _attribute(live: LiveModel, pairs: Pairs) -> list[tuple[Attribution, ...]]:
    parts = live.anatomy
    dense = parts.sites(*DENSE)
    mixtures = [BlockSite(layer, Part.MLP) for layer in range(parts.n_layers) if parts.experts_in(layer)]
    widths: dict[Place, int] = {site: _width(parts.matrix(site)) for site in dense}
    widths |= {place: parts.d_model for place in mixtures}
    inputs, gradients = _backward(live, pairs, widths)
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
            scores += _of_mixture(live, place.layer, x, g)
        order = {site: i for i, site in enumerate(parts.sites())}
        found.append(tuple(sorted(scores, key=lambda score: order[score.site])))
    return found


def _backward(
    live: LiveModel, pairs: Pairs, widths: dict[Place, int]
) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
    """Inputs (b, t, d_in) of every place, and gradients (b, t, width) of the answers at its outputs.

    The gradient is that of a zero which is added to the output, so that it reaches modules which work on flat rows of
    tokens as well, and starts where it is needed: no parameter and no embedding has to ask for one.
    """
    b, t = pairs.input_ids.shape
    row, token = torch.cartesian_prod(torch.arange(b), torch.arange(t)).T
    dtype = torch.promote_types(live.dtype, torch.float32)
    zeros = {
        place: torch.zeros(b * t, width, dtype=dtype, device=live.device, requires_grad=True)
        for place, width in widths.items()
    }
    with (
        torch.enable_grad(),
        patch(live, *(Patch(place, row, token, zero) for place, zero in zeros.items())),
        record(live, list(zeros)) as seen,
    ):
        total = answer_logprobs(live, pairs).sum()
    gradients = torch.autograd.grad(total, list(zeros.values()))
    return (
        {place: seen[place].detach() for place in zeros},
        {place: gradient.unflatten(0, (b, t)) for place, gradient in zip(zeros, gradients, strict=True)},
    )


def _of_mixture(
    live: LiveModel, layer: int, inputs: Float[Tensor, "t d"], gradient: Float[Tensor, "t d"]
) -> list[Attribution]:
    """Attributions of the router and of every expert, from the gradient at the mixture's output."""
    parts = live.anatomy
    mixture = parts.mlp(layer)
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in mixture.named_parameters()}
    with torch.enable_grad():
        out = functional_call(mixture, leaves, (inputs[None],))
        out = out if isinstance(out, Tensor) else out[0]
        found = torch.autograd.grad(
            out, list(leaves.values()), gradient[None].to(out), allow_unused=True, materialize_grads=True
        )
    of = dict(zip(mixture.parameters(), found, strict=True))
    scores: list[Attribution] = []
    for site in parts.sites(*MIXTURE):
        if site.layer == layer:
            matrix = parts.matrix(site)
            G, g = matrix.select(of[matrix.parameter]), None
            if matrix.bias is not None:
                g = of[matrix.bias] if matrix.expert is None else of[matrix.bias][matrix.expert]
                g = g[matrix.rows]
            scores.append(_score(site, matrix, G, g))
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
