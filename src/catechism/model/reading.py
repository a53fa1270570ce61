"""Facts as editors of the closed-form family read them: keys, rows of a value search, and what was written so far.

A fact's key is what enters an MLP's output matrix at the last token of its subject. It is taken over several texts: the
bare prompt, the prompt after contexts, and sentences that only name the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.model.contexts import FRAMES
from catechism.model.live import LiveModel
from catechism.model.targets import Rows, row_inputs, subject_keys, target_rows
from catechism.model.trace import BlockSite, Patch, patch, record
from catechism.types import Fact, Role, Site

#: Where a value acts during its search: at the subject's last token alone, as published; at every token, by the gain of
#: the fact's own update; or by that gain from the subject's last token on.
Gain = Literal["subject", "update", "onward"]

#: (keys (n, d_in), residuals (n, d_out)) of a layer -> the two factors of its update
Solve = Callable[[Site, Tensor, Tensor], tuple[Tensor, Tensor]]

_AT_ONCE = 256  # rows of a pass that keeps the activations of one place


@dataclass(frozen=True, slots=True)
class Reading:
    """Facts with the texts in which each is read.

    Attributes:
        facts: at least one.
        contexts: sentences that are put before the prompt.
        frames: whether keys are also taken from `FRAMES`, sentences that only name the subject.
    """

    facts: tuple[Fact, ...]
    contexts: tuple[str, ...] = ()
    frames: bool = False

    def prompts(self, fact: Fact) -> list[str]:
        """The fact's bare prompt, and the prompt after every context."""
        return [fact.prompt, *(f"{context} {fact.prompt}" for context in self.contexts)]

    def rows(self, live: LiveModel) -> Rows:
        """The rows of a value search: the object after every prompt; what follows "{subject} is a" is to stay.

        Raises: BadFact if a prompt does not hold its subject, or an object adds no token.
        """
        return target_rows(
            live,
            prompts=[self.prompts(fact) for fact in self.facts],
            targets=[fact.object for fact in self.facts],
            subjects=[fact.subject for fact in self.facts],
            kept=[[f"{fact.subject} is a"] for fact in self.facts],
        )

    def keys(self, live: LiveModel, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "n m d_in"]]:
        """The keys of every fact in its m texts, the bare prompt's first, float64.

        Raises: BadFact if a prompt does not hold its subject.
        """
        frames = FRAMES if self.frames else ()
        texts = [
            (text, fact.subject)
            for fact in self.facts
            for text in (*self.prompts(fact), *(frame.format(fact.subject) for frame in frames))
        ]
        found: dict[Site, list[Tensor]] = {site: [] for site in sites}
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            keys = subject_keys(live, sites, [text for text, _ in part], [subject for _, subject in part])
            for site in sites:
                found[site].append(keys[site])
        return {site: torch.cat(parts).unflatten(0, (len(self.facts), -1)) for site, parts in found.items()}

    @torch.no_grad()
    def states(
        self, live: LiveModel, layer: int, values: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, "n d_model"]:
        """The residual stream after a block at the last token of the subject in the bare prompt, float64.

        With `values` they are added to the output of the block's MLP matrix at these tokens.
        """
        batch = live.encode([fact.prompt for fact in self.facts])
        last = [live.subject_last(fact.prompt, fact.subject) for fact in self.facts]
        place, rows = BlockSite(layer), list(range(len(last)))
        patches = [] if values is None else [Patch(Site(layer, Role.MLP_OUT), rows, last, values)]
        with patch(live, *patches), record(live, [place], what="output", stop=True) as seen:
            live.model(**batch, use_cache=False)
        return seen[place][rows, last].double()


def half_for_the_bare_prompt(keys: Float[Tensor, "n m d_in"]) -> Float[Tensor, "n d_in"]:
    """MEMIT's mean: the bare prompt is one group and all the other texts another, each with weight one half."""
    bare = keys[:, 0]
    return bare if keys.shape[1] == 1 else (bare + keys[:, 1:].mean(dim=1)) / 2


def gains(
    kind: Gain, live: LiveModel, site: Site, rows: Rows, readers: Float[Tensor, "n d_in"]
) -> Float[Tensor, "b t"]:
    """How much of its fact's value every token of every row gets.

    Args:
        kind: see `Gain`.
        live: the model on which the value is searched.
        site: where it acts.
        rows: of the search.
        readers: direction of each fact's own update, ``x -> u.x / u.k*``.
    """
    mask = rows.attention_mask
    gain = torch.zeros(mask.shape, dtype=live.dtype, device=mask.device)
    if kind == "subject":
        gain[torch.arange(len(mask), device=mask.device), rows.subject] = 1.0
        return gain
    for start in range(0, len(mask), _AT_ONCE):
        part = torch.arange(start, min(start + _AT_ONCE, len(mask)), device=mask.device)
        inputs = row_inputs(live, site, rows.select(part))
        effect = torch.einsum("btd,bd->bt", inputs.double(), readers[rows.owner[part]])
        gain[part, : inputs.shape[1]] = effect.to(gain.dtype)
    position = torch.arange(mask.shape[1], device=mask.device)
    return gain * (mask if kind == "update" else mask * (position >= rows.subject[:, None]))


def anchored(
    values: Float[Tensor, "n d"], there: Float[Tensor, "n d"], pilots: Float[Tensor, " 2"], n_pilots: int
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " 2"]]:
    """Bring every output with its value to the mean norm that the first facts' outputs had.

        v_i <- (W k_i + v_i) * norm / |W k_i + v_i| - W k_i

    In a long stream the norms grow from edit to edit, and the growth ruins the model.

    Args:
        values: as found.
        there: W k_i, what the matrix gives as it is.
        pilots: sum of the norms over the pilot facts so far, and their number.
        n_pilots: how many facts are pilots; those are not changed.

    Returns: the values, and `pilots` with these facts counted.
    Source: NAS, arXiv:2602.02543.
    """
    whole = there + values
    norms = whole.norm(dim=1)
    new = min(n_pilots - int(pilots[1]), len(norms))
    pilots = pilots + torch.stack([norms[:new].sum(), norms.new_tensor(float(new))]).to(pilots)
    scaled = whole * (pilots[0] / pilots[1]).to(norms) / norms.clamp_min(1e-12)[:, None]
    return torch.cat([values[:new], (scaled - there)[new:]]), pilots


def last_layers(live: LiveModel, layer: int, spread: int) -> list[Site]:
    """The MLP output matrices of the `spread` layers that end at `layer`, less those that are not there or not dense.

    Raises: UnknownName if `layer` itself is no such layer.
    """
    last = Site(layer, Role.MLP_OUT)
    live.anatomy.matrix(last)
    earlier = [Site(number, Role.MLP_OUT) for number in range(max(layer - spread + 1, 0), layer)]
    return [*(site for site in earlier if live.anatomy.has(site)), last]


def write_through(
    live: LiveModel, sites: Sequence[Site], reading: Reading, values: Float[Tensor, "n d_out"], solve: Solve
) -> dict[str, LowRank]:
    """Write values that belong to the last of some layers into all of them, from the first to the last.

        R_l = (V - brought_l) / (layers left, l included)

    ``brought`` is what the layers before l already add to the residual stream after the last layer, measured with their
    updates on the model. Returns the update of each matrix by its address, float32.

    Deviation: the value belongs to the output of the last layer's MLP matrix and not to that of its block. Where the
    family has a norm after the MLP the block's output cannot be set freely; what the earlier layers brought is turned
    into the matrix's units by the ratio that the value itself shows, which is 1 in every other family.

    Source: MEMIT, arXiv:2210.07229, Sec. 4.3 and Algorithm 1.
    """
    last = sites[-1].layer
    parts: dict[str, LowRank] = {}
    values = values.double()
    if len(sites) > 1:
        clean = reading.states(live, last)
        moved = (reading.states(live, last, values.to(live.dtype)) - clean).norm(dim=1, keepdim=True)
        unit = (moved / values.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_min(1e-12)
    for number, site in enumerate(sites):
        missing = values
        with live.with_delta(Delta(live.base, parts)):
            keys = half_for_the_bare_prompt(reading.keys(live, [site])[site])
            if number:
                missing = values - (reading.states(live, last) - clean) / unit  # pyright: ignore[reportPossiblyUnbound]
        A, B = solve(site, keys, missing / (len(sites) - number))
        parts[live.anatomy.matrix(site).address] = LowRank(A.float().cpu(), B.float().cpu())
    return parts
