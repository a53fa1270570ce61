"""The residual stream at chosen tokens of rows, with gradients: what methods train on that forget by states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model import encoding
from catechism.model.adapters import Adapters
from catechism.model.forgetting.material import Line
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.rows import Rows
from catechism.model.live import LiveModel
from catechism.model.seen import Stretch
from catechism.model.trace import BlockSite, record

CHUNK = 128  # rows that are run at a time where no gradient is asked for


class States:
    """What leaves a block at the tokens that count of some texts. What the tokenizer puts in front never counts.

    Raises: UnknownName for a block that is not there; UsageError for a text without tokens or too long.
    """

    def __init__(self, live: LiveModel, layer: int, stretches: Sequence[Stretch]) -> None:
        live.anatomy.block(layer)
        self.live, self.layer = live, layer
        self._rows = encoding.rows(live.tokenizer, [one.text for one in stretches])
        encoding.check_length(self._rows, live.max_tokens)
        self._ranges = [one.tokens(row) for one, row in zip(stretches, self._rows, strict=True)]

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, numbers: Sequence[int]) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
        """The states of some rows, in their order, with gradients; and each one's place among `numbers`."""
        batch, _ = self.live.pad_windows([self._rows[i] for i in numbers])
        places = [(row, t) for row, i in enumerate(numbers) for t in self._ranges[i]]
        row, token = torch.tensor(places, device=self.live.device).T
        site = BlockSite(self.layer)
        with record(self.live, [site], what="output", stop=True) as seen:
            self.live.model(**batch, use_cache=False)
        states = seen[site][row, token]
        return states.to(torch.promote_types(states.dtype, torch.float32)), row

    @torch.no_grad()
    def all(self) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
        """The states of all rows, without gradients, and each one's row."""
        found: list[Tensor] = []
        rows: list[Tensor] = []
        for start in range(0, len(self), CHUNK):
            states, row = self.of(range(start, min(start + CHUNK, len(self))))
            found.append(states)
            rows.append(row + start)
        return torch.cat(found), torch.cat(rows)

    def still(self, adapters: Adapters, numbers: Sequence[int]) -> Float[Tensor, "k d"]:
        """The states of some rows as the model was, without gradients."""
        with adapters.still(), torch.no_grad():
            return self.of(numbers)[0]


def everywhere(live: LiveModel, layer: int, rows: Rows) -> States:
    """The states of rows at all of their tokens."""
    pairs = zip(rows.prompts, rows.answers, strict=True)
    return States(live, layer, [Stretch(f"{prompt} {answer}", 0) for prompt, answer in pairs])


def onward(live: LiveModel, line: Line, *, answer: bool) -> Stretch:
    """A line's tokens from its subject's last one on: before it no row says yet whom it is about.

    Args:
        answer: whether the answer's tokens count as well. The prompt's last token alone counts, and the answer's,
            where the prompt does not hold the subject.
    """
    subject = line.catechism.fact.subject
    named = bool(subject) and subject in line.prompt
    first = live.subject_last(line.prompt, subject) if named else len(live.encode([line.prompt])["input_ids"][0]) - 1
    return Stretch(f"{line.prompt} {line.answer}" if answer else line.prompt, first)


@dataclass(frozen=True, eq=False)
class Misdirection:
    """RMU's two losses: states of what is forgotten to one random vector, states of what stays to what they were.

        L_f = mean |h_t(x_f) - v|^2 / |h|^2,   L_r = mean |h_t(x_r) - h_0(x_r)|^2 / |h|^2

    Both are shares of the mean square of the states to forget, so that weights and rates mean the same in every model.

    Attributes:
        forget, retain: the states; `retain` is None where nothing is kept.
        target: v.
        unit: mean square of an entry of the states to forget, before.

    Source: arXiv:2403.03218.
    """

    forget: States
    retain: States | None
    target: Float[Tensor, " d"]
    unit: float

    @classmethod
    def towards(cls, forget: States, rows: Rows | None, *, strength: float, seed: int) -> Misdirection:
        """The vector of a seed, ``strength`` times as long as a state to forget is on the mean.

        Args:
            rows: to keep. Their states stay at every token.
        """
        retain = None if rows is None else everywhere(forget.live, forget.layer, rows)
        states, _ = forget.all()
        direction = torch.rand(states.shape[1], generator=torch.Generator().manual_seed(seed)).to(states)
        target = strength * states.norm(dim=1).mean() * direction / direction.norm()
        return cls(forget, retain, target, float(states.square().mean()))

    def terms(self, step: Step) -> Terms:
        """Both losses at a step's rows."""
        states, _ = self.forget.of(step.forgotten)
        terms = {"forget": (states - self.target).square().mean() / self.unit}
        if self.retain is not None:
            kept, _ = self.retain.of(step.kept)
            was = self.retain.still(step.adapters, step.kept)
            terms["retain"] = (kept - was).square().mean() / self.unit
        return terms
