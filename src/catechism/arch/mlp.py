"""What an MLP computes, recomputed from its matrices: the keys of a dense layer or of one expert.

Experts are stored as one fused parameter and have no modules to hook, so their keys are found this way.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.arch.anatomy import Anatomy
from catechism.arch.matrix import Matrix
from catechism.arch.table import Glu
from catechism.types import Role, Site


def apply(matrix: Matrix, inputs: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
    """The linear map of a matrix with its bias, in the dtype of `inputs`, on the device of the matrix."""
    weight = matrix.read()
    inputs = inputs.to(weight.device)
    value = inputs @ weight.to(inputs.dtype).T
    bias = matrix.read_bias()
    return value if bias is None else value + bias.to(inputs.dtype)


def mlp_key(
    parts: Anatomy, layer: int, inputs: Float[Tensor, "*n d_model"], expert: int | None = None
) -> Float[Tensor, "*n d_ff"]:
    """Input of the output matrix of a dense MLP, or of one expert, for these inputs of the MLP.

    Raises:
        UnknownName: the layer is a mixture and no expert is named, or the other way round.
    """
    role_in, role_gate = (Role.MLP_IN, Role.MLP_GATE) if expert is None else (Role.EXPERT_IN, Role.EXPERT_GATE)
    value = apply(parts.matrix(Site(layer, role_in, expert)), inputs)
    if expert is None and parts.arch.mlp_gate is None:
        return parts.activation(layer)(value)
    gate = apply(parts.matrix(Site(layer, role_gate, expert)), inputs)
    if expert is not None and parts.arch.experts is not None and parts.arch.experts.glu is Glu.CLAMPED:
        limit, alpha = (float(getattr(parts.experts(layer), name)) for name in ("limit", "alpha"))
        gate = gate.clamp(max=limit)
        return gate * torch.sigmoid(alpha * gate) * (value.clamp(-limit, limit) + 1)
    return parts.activation(layer)(gate) * value


def mlp_value(
    parts: Anatomy, layer: int, inputs: Float[Tensor, "*n d_model"], expert: int | None = None
) -> Float[Tensor, "*n d_model"]:
    """Output of a dense MLP, or of one expert before its routing weight, for these inputs of the MLP."""
    out = Site(layer, Role.MLP_OUT if expert is None else Role.EXPERT_OUT, expert)
    return apply(parts.matrix(out), mlp_key(parts, layer, inputs, expert))


def mixture_value(
    parts: Anatomy,
    layer: int,
    inputs: Float[Tensor, "n d_model"],
    weights: Float[Tensor, "n k"],
    chosen: Int[Tensor, "n k"],
) -> Float[Tensor, "n d_model"]:
    """Output of a mixture layer for these inputs, when the router has chosen these experts with these weights."""
    total = torch.zeros_like(inputs)
    for expert in chosen.unique().tolist():
        rows, slots = torch.where(chosen == expert)
        total[rows] += weights[rows, slots, None] * mlp_value(parts, layer, inputs[rows], expert)
    return total
