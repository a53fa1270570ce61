"""A mixture of experts cut from a dense model."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from catechism.reference.training import Recipe


def cut_into_experts(dense: dict[str, Tensor], model: PreTrainedModel, recipe: Recipe) -> None:
    """Start a mixture from a dense model: expert e of a layer gets the e-th slice of the MLP's neurons.

    A token meets 2 experts of n with weights that sum to 1, instead of all slices with weight 1 each; the outputs are
    scaled by n / 2 to begin at the dense model's size.
    """
    state = {name: tensor for name, tensor in dense.items() if ".mlp." not in name}
    for layer in range(recipe.layers):
        at = f"model.layers.{layer}.mlp."
        parts = {name: dense[f"{at}{name}.weight"] for name in ("gate_proj", "up_proj", "down_proj")}
        rows = [parts[name].unflatten(0, (recipe.experts, recipe.d_ff)) for name in ("gate_proj", "up_proj")]
        columns = parts["down_proj"].unflatten(1, (recipe.experts, recipe.d_ff)).movedim(1, 0)
        state[f"{at}experts.gate_up_proj"] = torch.cat(rows, dim=1)
        state[f"{at}experts.down_proj"] = columns * (recipe.experts / 2)
        state[f"{at}gate.weight"] = model.get_parameter(f"{at}gate.weight").detach()
    model.load_state_dict(state)
