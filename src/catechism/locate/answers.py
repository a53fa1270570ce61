"""How likely an answer is after its prompt, row by row: what every measurement of this room watches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.model import LiveModel, Pairs, select_logits
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
