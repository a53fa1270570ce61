"""How likely an answer is after its prompt, and which way activations would have to move to make it likelier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.model import LiveModel, Pairs, Patch, Place, patch, select_logits
from catechism.model.encoding import positions


def answer_logprobs(live: LiveModel, pairs: Pairs) -> Float[Tensor, " b"]:
    """Natural log of each target's probability after its prompt, summed over its tokens; gradients flow."""
    row = [i for i, (start, end) in enumerate(pairs.spans) for _ in range(start, end)]
    token = [t for start, end in pairs.spans for t in range(start, end)]
    mask = pairs.attention_mask
    with select_logits(live, row, [t - 1 for t in token]):
        logits = live.model(
            input_ids=pairs.input_ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        ).logits  # (k, v)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = pairs.input_ids[row, token].to(logits.device)
    each = logits.log_softmax(dim=-1).gather(1, target[:, None])[:, 0]
    return each.new_zeros(len(pairs.spans)).index_add(0, torch.tensor(row, device=each.device), each)


def select_rows(pairs: Pairs, rows: Sequence[int]) -> Pairs:
    """These rows in this order, any of them more than once, without the padding that none of them needs."""
    spans = tuple(pairs.spans[i] for i in rows)
    width = max(end for _, end in spans)
    index = torch.tensor(list(rows), device=pairs.input_ids.device)
    return Pairs(pairs.input_ids[index, :width], pairs.attention_mask[index, :width], spans)


def answer_gradients(
    live: LiveModel, pairs: Pairs, widths: Mapping[Place, int]
) -> tuple[Float[Tensor, " b"], dict[Place, Float[Tensor, "b t d"]]]:
    """The answers' log-probabilities, and their gradients at the outputs of places, given with their widths.

    A gradient is that of a zero which is added to the output, so that it reaches modules which work on flat rows of
    tokens as well, and starts where it is needed: no parameter and no embedding has to ask for one.
    """
    b, t = pairs.input_ids.shape
    row, token = torch.cartesian_prod(torch.arange(b), torch.arange(t)).T
    dtype = torch.promote_types(live.dtype, torch.float32)
    zeros = {
        place: torch.zeros(b * t, width, dtype=dtype, device=live.device, requires_grad=True)
        for place, width in widths.items()
    }
    with torch.enable_grad(), patch(live, *(Patch(place, row, token, zero) for place, zero in zeros.items())):
        logprobs = answer_logprobs(live, pairs)
        gradients = torch.autograd.grad(logprobs.sum(), list(zeros.values()))
    found = {place: gradient.unflatten(0, (b, t)) for place, gradient in zip(zeros, gradients, strict=True)}
    return logprobs.detach(), found
