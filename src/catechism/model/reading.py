"""Facts as editors of the closed-form family read them: their keys, and the rows of a value search.

A fact's key is what enters an MLP's output matrix at the last token of its subject. It is taken over several texts: the
bare prompt, the prompt after contexts, and sentences that only name the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.model.contexts import FRAMES
from catechism.model.live import LiveModel
from catechism.model.targets import Rows, row_inputs, subject_keys, target_rows
from catechism.model.trace import BlockSite, Patch, patch, record
from catechism.types import Fact, Role, Site

#: Where a value acts during its search: at the subject's last token alone, as published; at every token, by the gain of
#: the fact's own update; or by that gain from the subject's last token on.
Gain = Literal["subject", "update", "onward"]

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
