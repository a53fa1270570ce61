"""What a vector added inside the network does to the likelihood of a target: the objective of a value search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model.encoding import positions
from catechism.model.live import LiveModel
from catechism.model.trace import Patch, patch, record, select_logits
from catechism.types import Site


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
        with torch.no_grad():
            self._before = self._predict(torch.arange(len(rows.kept), device=live.device), None)

    def __call__(
        self, values: Float[Tensor, "k d"], active: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """(loss, negative log-likelihood per target token) of the active facts."""
        place = torch.full((len(self._scale),), -1, device=active.device)
        place[active] = torch.arange(len(active), device=active.device)
        chosen = (place[self._rows.owner] >= 0).nonzero()[:, 0]
        owner = place[self._rows.owner[chosen]]
        logprobs, row, position = self._predict(chosen, values[owner])
        row_of = chosen[row]
        kept = torch.tensor(self._rows.kept, device=row.device)[row_of]
        nll = -self._mean(self._target_logprobs(logprobs, row_of, position), ~kept, row, owner, len(active))
        loss = nll + self._decay * values.norm(dim=1) / self._scale[active] ** 2
        if self._kl and bool(kept.any()):
            before = self._before[0][self._index(row_of, position)]
            divergence = (before.exp() * (before - logprobs)).sum(dim=-1)
            loss = loss + self._kl * self._mean(divergence, kept, row, owner, len(active))
        return loss, nll

    def _predict(
        self, chosen: Int[Tensor, " r"], values: Float[Tensor, "r d"] | None
    ) -> tuple[Float[Tensor, "p v"], Int[Tensor, " p"], Int[Tensor, " p"]]:
        """Log-probabilities at the positions that count: with (row among the chosen, position) of each."""
        r = self._rows
        longest = int(r.attention_mask[chosen].sum(dim=1).max())
        inputs = {name: tensor[chosen, :longest] for name, tensor in r.inputs.items()}
        numbers = chosen.tolist()
        places = [(i, t) for i, b in enumerate(numbers) for t in range(r.starts[b], r.ends[b])]
        row, position = torch.tensor(places, device=chosen.device).T
        with select_logits(self._live, row, position):
            if values is None:
                logits = self._live.model(**inputs, use_cache=False).logits
            else:
                gain = self._gain[chosen, :longest]
                where = gain.nonzero()
                added = gain[where[:, 0], where[:, 1], None] * values[where[:, 0]]
                with patch(self._live, Patch(self._site, where[:, 0], where[:, 1], added)):
                    logits = self._live.model(**inputs, use_cache=False).logits
        return logits.float().log_softmax(dim=-1), row, position

    def _target_logprobs(self, logprobs: Tensor, row_of: Tensor, position: Tensor) -> Tensor:
        following = (position + 1).clamp_max(self._rows.input_ids.shape[1] - 1)
        return logprobs.gather(1, self._rows.input_ids[row_of, following][:, None])[:, 0]

    def _index(self, row_of: Tensor, position: Tensor) -> Tensor:
        """Where (row, position) pairs stand among all the positions that count."""
        starts = torch.tensor(self._rows.starts, device=row_of.device)
        lengths = torch.tensor(self._rows.ends, device=row_of.device) - starts
        return (lengths.cumsum(0) - lengths)[row_of] + position - starts[row_of]

    @staticmethod
    def _mean(x: Tensor, counted: Tensor, row: Tensor, owner: Tensor, n: int) -> Tensor:
        """Mean over each row's counted positions, then over each fact's rows that have any."""
        rows = len(owner)
        total = x.new_zeros(rows).index_add(0, row[counted], x[counted])
        count = x.new_zeros(rows).index_add(0, row[counted], torch.ones_like(x[counted]))
        has = count > 0
        mean = total / count.clamp_min(1)
        per_fact = x.new_zeros(n).index_add(0, owner[has], mean[has])
        facts = x.new_zeros(n).index_add(0, owner[has], torch.ones_like(mean[has]))
        return per_fact / facts.clamp_min(1)
