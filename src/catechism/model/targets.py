"""What a vector added inside the network does to the likelihood of a target: the objective of a value search."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from catechism.model.divergence import divergence
from catechism.model.encoding import positions
from catechism.model.live import LiveModel
from catechism.model.suffix import Suffix, can_part
from catechism.model.trace import BlockSite, record, select_tokens
from catechism.types import Site

_BATCHES, _WORTH = 4, 12  # batches of rows of like length at the most, and rows that are worth one of their own


@dataclass(frozen=True, eq=False)
class Rows:
    """Token rows of many facts: prompts with their targets, and prompts whose prediction must not move.

    Attributes:
        owner: which fact each row belongs to.
        subject: position of the subject's last token in each row.
        ends: one past the last position whose prediction counts, per row; ``starts`` the first.
        kept: rows whose next-token distribution at ``starts`` must stay, instead of predicting a target.
    """

    input_ids: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    owner: Int[Tensor, " b"]
    subject: Int[Tensor, " b"]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    kept: tuple[bool, ...]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model's forward pass."""
        mask = self.attention_mask
        return {"input_ids": self.input_ids, "attention_mask": mask, "position_ids": positions(mask)}

    def select(self, rows: Int[Tensor, " r"]) -> Rows:
        """Some of the rows, without the padding that all of them share."""
        longest = int(self.attention_mask[rows].sum(dim=1).max())
        numbers = rows.tolist()
        return Rows(
            self.input_ids[rows, :longest],
            self.attention_mask[rows, :longest],
            self.owner[rows],
            self.subject[rows],
            tuple(self.starts[b] for b in numbers),
            tuple(self.ends[b] for b in numbers),
            tuple(self.kept[b] for b in numbers),
        )


def target_rows(
    live: LiveModel,
    prompts: Sequence[Sequence[str]],
    targets: Sequence[str],
    subjects: Sequence[str],
    kept: Sequence[Sequence[str]],
) -> Rows:
    """Lay out the rows of a value search.

    Args:
        prompts: per fact, its prompt in several contexts; all hold the subject.
        targets: per fact, the object to be said.
        subjects: per fact.
        kept: per fact, prompts with the subject whose next token must not change.

    Raises: BadFact if a prompt does not hold its subject.
    """
    rows = [(i, prompt, targets[i], False) for i in range(len(targets)) for prompt in prompts[i]]
    rows += [(i, prompt, targets[i], True) for i in range(len(targets)) for prompt in kept[i]]
    pairs = live.encode_pairs([prompt for _, prompt, _, _ in rows], [target for _, _, target, _ in rows])
    spans = [
        (start - 1, start if keep else end - 1) for (start, end), (*_, keep) in zip(pairs.spans, rows, strict=True)
    ]
    return Rows(
        pairs.input_ids,
        pairs.attention_mask,
        owner=torch.tensor([i for i, *_ in rows], device=live.device),
        subject=torch.tensor([live.subject_last(prompt, subjects[i]) for i, prompt, *_ in rows], device=live.device),
        starts=tuple(start for start, _ in spans),
        ends=tuple(end for _, end in spans),
        kept=tuple(keep for *_, keep in rows),
    )


@torch.no_grad()
def subject_keys(
    live: LiveModel, sites: Sequence[Site], prompts: Sequence[str], subjects: Sequence[str]
) -> dict[Site, Float[Tensor, "b d_in"]]:
    """The input of every site at the last token of each prompt's subject, float64.

    Raises: BadFact if a prompt does not hold its subject.
    """
    batch = live.encode(prompts)
    last = [live.subject_last(prompt, subject) for prompt, subject in zip(prompts, subjects, strict=True)]
    rows = torch.arange(len(prompts), device=live.device)
    with record(live, sites, stop=True) as seen:
        live.model(**batch, use_cache=False)
    return {site: seen[site][rows, torch.tensor(last, device=live.device)].double() for site in sites}


@torch.no_grad()
def row_inputs(live: LiveModel, site: Site, rows: Rows) -> Float[Tensor, "b t d_in"]:
    """The site's input at every token of every row."""
    with record(live, [site], stop=True) as seen:
        live.model(**rows.inputs, use_cache=False)
    return seen[site]


class TargetObjective:
    """Loss of each fact as a function of its value, for `catechism.solve.values.find_values`.

        loss_i = mean_x [-(1/|t|) sum_j log p(t_j | x)] + kl * KL(p_before || p_after at the kept prompts)
                 + decay * |v_i| / scale_i^2

    The value is added to the site's output at token t of row b times ``gain[b, t]``: 1 at the subject's last token
    and 0 elsewhere is the published procedure; the gain of a rank-one update at each token's key makes the pass that
    of the edited model itself.

    What a value cannot change is computed once: everything below the site's block, and keys and values of the tokens
    before a row's first one with a gain. The rows of a fact that is no longer asked for leave the batch.

    Source: arXiv:2202.05262, Eq. 4; the decay's form is that of its code (kmeng01/rome compute_v).
    """

    def __init__(
        self,
        live: LiveModel,
        site: Site,
        rows: Rows,
        gain: Float[Tensor, "b t"],
        *,
        kl: float,
        decay: float,
        scale: Float[Tensor, " n"],
    ) -> None:
        self._live, self._site, self._rows, self._gain = live, site, rows, gain
        self._kl, self._decay, self._scale = kl, decay, scale
        self._searched: list[_Searched] = []

    def __call__(
        self, values: Float[Tensor, "k d"], active: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """(loss, negative log-likelihood per target token) of the active facts."""
        place = self.lay_out(active)
        logprobs: list[Tensor] = []
        owners: list[Tensor] = []
        row: list[Tensor] = []
        for part in self._searched:
            row.append(part.row + sum(len(owner) for owner in owners))
            owners.append(place[self._rows.owner[part.rows]])
            logprobs.append(part.logprobs(values[owners[-1]]))
        kept = torch.cat([part.kept for part in self._searched])
        said = [x.gather(1, part.targets[:, None])[:, 0] for x, part in zip(logprobs, self._searched, strict=True)]
        owner, rows, k = torch.cat(owners), torch.cat(row), len(active)
        nll = -_mean(torch.cat(said), ~kept, rows, owner, k)
        loss = nll + self._decay * values.norm(dim=1) / self._scale[active] ** 2
        if self._kl and bool(kept.any()):
            moved = [part.divergence(x) for x, part in zip(logprobs, self._searched, strict=True)]
            loss = loss + self._kl * _mean(torch.cat(moved), kept, rows, owner, k)
        return loss, nll

    def lay_out(self, active: Int[Tensor, " k"]) -> Int[Tensor, " n"]:
        """Have the rows of these facts ready, with all that is computed once, and no others.

        Returns: the place of every fact among the active ones, -1 for one that is not.
        """
        place = torch.full((len(self._scale),), -1, device=active.device)
        place[active] = torch.arange(len(active), device=active.device)
        asked = place[self._rows.owner] >= 0
        here = [asked[part.rows] for part in self._searched]
        if sum(int(some.sum()) for some in here) != int(asked.sum()):
            self._searched = [
                _Searched(self._live, self._site, self._rows, self._gain, some)
                for some in self._alike(asked.nonzero()[:, 0])
            ]
        elif not all(bool(some.all()) for some in here):
            parts = [(part, some.nonzero()[:, 0]) for part, some in zip(self._searched, here, strict=True)]
            self._searched = [part.select(some) for part, some in parts if len(some)]
        return place

    def _alike(self, rows: Int[Tensor, " r"]) -> list[Int[Tensor, " q"]]:
        """The rows in batches of rows that are run over about as many tokens, so that little of one is padding."""
        tokens = self._rows.attention_mask[rows].sum(dim=1) - _first(self._rows, self._gain, rows)
        order = tokens.argsort(stable=True)
        return [rows[some].sort().values for some in order.chunk(max(1, min(_BATCHES, len(rows) // _WORTH)))]


class _Searched:
    """Rows of a search, laid out so that the first token with a gain stands in one column of all of them.

    Attributes:
        rows: their numbers among all rows.
        row, column: the p places whose prediction counts, the column counted as in `Suffix`.
        targets: the token that follows each place.
        kept: whether it is one whose prediction is to stay.
        before: log-probabilities without a value at the kept places.
    """

    @torch.no_grad()
    def __init__(
        self, live: LiveModel, site: Site, rows: Rows, gain: Float[Tensor, "b t"], chosen: Int[Tensor, " r"]
    ) -> None:
        self._live, self._site, self.rows = live, site, chosen
        numbers = chosen.tolist()
        ids, mask = rows.input_ids[chosen], rows.attention_mask[chosen]
        first, lengths = _first(rows, gain, chosen), mask.sum(dim=1)
        if not can_part(live, int(lengths.max())):
            first = torch.zeros_like(first)
        batch = {"input_ids": _parted(ids, first, lengths), "attention_mask": _parted(mask, first, lengths)}
        block, last = BlockSite(site.layer), BlockSite(live.anatomy.n_layers - 1)
        with record(live, [block, last], what="output") as seen:
            self._tail = Suffix(live, site.layer, batch, int(first.max()))
        self._given = seen[block] if live.anatomy.writes_straight else None
        self._gain = _parted(gain[chosen], first, lengths)[:, int(first.max()) :]
        places = [(i, t) for i, b in enumerate(numbers) for t in range(rows.starts[b], rows.ends[b])]
        self.row, token = torch.tensor(places, device=chosen.device).T
        following = (token + 1).clamp_max(rows.input_ids.shape[1] - 1)
        self.targets = rows.input_ids[chosen[self.row], following]
        self.column = token - first[self.row]
        self.kept = torch.tensor(rows.kept, device=chosen.device)[chosen[self.row]]
        there = seen[last][self.row[self.kept], self.column[self.kept]]
        self.before = live.anatomy.unembed(there).float().log_softmax(dim=-1)

    def select(self, some: Int[Tensor, " k"]) -> _Searched:
        """The same for some of the rows, in their order."""
        part = copy(self)
        part.rows, part._gain, part._tail = self.rows[some], self._gain[some], self._tail.select(some)
        part._given = None if self._given is None else self._given[some]
        place = torch.full((len(self.rows),), -1, device=some.device)
        place[some] = torch.arange(len(some), device=some.device)
        stays = place[self.row] >= 0
        part.row, part.column = place[self.row[stays]], self.column[stays]
        part.targets, part.kept = self.targets[stays], self.kept[stays]
        part.before = self.before[stays[self.kept]]
        return part

    def logprobs(self, values: Float[Tensor, "r d"]) -> Float[Tensor, "p v"]:
        """Log-probabilities of the next token at the places that count, with each row's value acting."""
        hidden, last = self._hidden(self._gain[:, :, None] * values[:, None]), self._live.anatomy.n_layers - 1
        with select_tokens(self._live, last, self.row, self.column):
            logits = self._tail.logits(hidden, self.row, self.column)
        return logits.float().log_softmax(dim=-1)

    def divergence(self, logprobs: Float[Tensor, "p v"]) -> Float[Tensor, " p"]:
        """KL from the model without a value at the kept places, 0 at the others."""
        moved = divergence(self.before, logprobs[self.kept])
        return torch.zeros_like(logprobs[:, 0]).masked_scatter(self.kept, moved)

    def _hidden(self, added: Float[Tensor, "r s d"]) -> Float[Tensor, "r s d"]:
        """What leaves the site's block, with this added to what the site gives."""
        if self._given is not None:
            return self._given + added.to(self._given.dtype)

        def add(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + added.to(output.dtype).reshape(output.shape)

        handle = self._live.anatomy.module(self._site).register_forward_hook(add)
        try:
            return self._tail.block(self._tail.inputs)
        finally:
            handle.remove()


def _first(rows: Rows, gain: Float[Tensor, "b t"], chosen: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """The first token with a gain in some rows; where there is none, the first whose prediction counts."""
    starts, acts = torch.tensor([rows.starts[b] for b in chosen.tolist()], device=chosen.device), gain[chosen] != 0
    return torch.where(acts.any(dim=1), acts.long().argmax(dim=1), starts)


def _parted(x: Shaped[Tensor, "r t"], first: Int[Tensor, " r"], lengths: Int[Tensor, " r"]) -> Shaped[Tensor, "r s"]:
    """Rows with room in their middle, so that the token number ``first`` of each stands in one column of all."""
    row, token = (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).nonzero().T
    start = int(first.max())
    column = torch.where(token < first[row], token, token - first[row] + start)
    return x.new_zeros(len(x), start + int((lengths - first).max())).index_put((row, column), x[row, token])


def _mean(
    x: Float[Tensor, " p"],
    counted: Bool[Tensor, " p"],
    row: Int[Tensor, " p"],
    owner: Int[Tensor, " r"],
    n: int,
) -> Float[Tensor, " n"]:
    """Mean over each row's counted places, then over each fact's rows that have any."""
    rows = len(owner)
    total = x.new_zeros(rows).index_add(0, row[counted], x[counted])
    count = x.new_zeros(rows).index_add(0, row[counted], torch.ones_like(x[counted]))
    has = count > 0
    mean = total / count.clamp_min(1)
    per_fact = x.new_zeros(n).index_add(0, owner[has], mean[has])
    facts = x.new_zeros(n).index_add(0, owner[has], torch.ones_like(mean[has]))
    return per_fact / facts.clamp_min(1)
