"""Facts as rows of prompt and answer at one matrix, for methods that search what is to be added to its output.

What lies below the matrix's block is computed once. A fact's loss depends on its own rows alone, so many are searched
in one batch, and a fact that is learned leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from catechism.errors import BadSpec
from catechism.model.encoding import positions
from catechism.model.live import LiveModel
from catechism.model.tail import Tail
from catechism.model.trace import record
from catechism.types import Site


class Exercise:
    """n facts in b rows.

    Args:
        live: the model.
        site: the matrix; gradients reach what is added to its output.
        prompts: of every fact, its own one first.
        targets: of every fact, what is to be said after each.

    Attributes:
        inputs, outputs: of the matrix, without what is added.
        owner: the fact of every row.
        prompt: the tokens of every row that are its prompt's.
        rows, tokens: the k places that the targets' tokens are said from.
        place: which token of its target that is, from 0.
        said: the token that is to be said there.
        ends: the last token of every row.
        real: which tokens are no padding.

    Raises: BadSpec without facts; BadFact for an empty target; UsageError for a row longer than the model's window.
    """

    inputs: Float[Tensor, "b t d_in"]
    outputs: Float[Tensor, "b t d_out"]
    owner: Int[Tensor, " b"]
    prompt: Bool[Tensor, "b t"]
    rows: Int[Tensor, " k"]
    tokens: Int[Tensor, " k"]
    place: Int[Tensor, " k"]
    said: Int[Tensor, " k"]
    ends: Int[Tensor, " b"]
    real: Bool[Tensor, "b t"]

    @torch.no_grad()
    def __init__(self, live: LiveModel, site: Site, prompts: Sequence[Sequence[str]], targets: Sequence[str]) -> None:
        if not targets:
            raise BadSpec("There is nothing to fit. Give at least one catechism.")
        flat = [(i, prompt) for i, asked in enumerate(prompts) for prompt in asked]
        pairs = live.encode_pairs([prompt for _, prompt in flat], [targets[i] for i, _ in flat])
        mask, device = pairs.attention_mask, live.device
        starts, ends = torch.tensor(pairs.spans, device=device).T
        batch = {"input_ids": pairs.input_ids, "attention_mask": mask, "position_ids": positions(mask)}
        with (
            live.beside.memories.prompts(starts.tolist()),
            record(live, [site]) as seen,
            record(live, [site], what="output") as given,
        ):
            self._tail = Tail(live, site.layer, batch)
        places = [
            (r, t, t + 1 - start) for r, (start, end) in enumerate(pairs.spans) for t in range(start - 1, end - 1)
        ]
        self.n = len(targets)
        self.inputs, self.outputs = seen[site], given[site]
        self.owner = torch.tensor([i for i, _ in flat], device=device)
        self.real = mask.bool()
        self.prompt = self.real & (torch.arange(mask.shape[1], device=device) < starts[:, None])
        self.rows, self.tokens, self.place = torch.tensor(places, device=device).T
        self.said = pairs.input_ids[self.rows, self.tokens + 1]
        self.ends = ends - 1
        self._module = live.anatomy.module(site)

    @property
    def first(self) -> Int[Tensor, " n"]:
        """The row of every fact's own prompt."""
        return torch.searchsorted(self.owner, torch.arange(self.n, device=self.owner.device))

    def nll(
        self, added: Callable[[Tensor, Tensor], Tensor], facts: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, " m"]:
        """Negative log-likelihood per target token of these facts, mean over their rows.

        Args:
            added: from the rows that are run and the matrix's output in them, (r, t, d_out), to what is added to it.
            facts: None for all.
        """
        m = self.n if facts is None else len(facts)
        number = torch.arange(self.n, device=self.owner.device)
        if facts is not None:
            number = torch.full_like(number, -1).index_put((facts,), torch.arange(m, device=number.device))
        chosen = (number[self.owner] >= 0).nonzero()[:, 0]
        asked = (number[self.owner[self.rows]] >= 0).nonzero()[:, 0]
        back = torch.full_like(self.owner, -1).index_put((chosen,), torch.arange(len(chosen), device=chosen.device))
        rows = back[self.rows[asked]]
        tail = self._tail if len(chosen) == len(self.owner) else self._tail.select(chosen)

        def add(_module: nn.Module, _args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            y = out.unflatten(0, self.inputs[chosen].shape[:2]) if out.ndim == 2 else out
            return (y + added(chosen, y).to(y.dtype)).reshape(out.shape)

        handle = self._module.register_forward_hook(add)
        try:
            logits = tail.logits(tail.block(tail.inputs), rows, self.tokens[asked])
        finally:
            handle.remove()
        logprobs = logits.float().log_softmax(dim=-1).gather(1, self.said[asked][:, None])[:, 0]
        per_row = torch.zeros(len(chosen), device=logprobs.device).index_add(0, rows, logprobs) / torch.bincount(rows)
        owner = number[self.owner[chosen]]
        return -torch.zeros(m, device=logprobs.device).index_add(0, owner, per_row) / torch.bincount(owner)
