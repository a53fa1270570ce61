"""MEMOIR: lifelong model editing with minimal overwrite and informed retention, arXiv:2506.07899.

Beside one MLP output matrix W stands a residual memory, read through a sparse mask of the prompt. An edit writes only
the columns of its own mask; at inference a prompt that is near enough to a stored one reads through *that* edit's mask,
and any other prompt reads nothing, so that the model is what it was to the last bit.

    y = W a + W_m (m_j * a)   if prompt matches edit j,   y = W a   otherwise                                # Eq. 4, 8
    m(x) = TopHash: pi of the k largest |mean_t a_t - mu|, pi a fixed permutation                            # Eq. 5, 6
    R_j(x) = |m(x) and m_j| / k;   j = argmax R_j,   it matches if R_j >= tau                                 # Eq. 7

    symbol  name       shape           meaning
    a       input      (b, t, d_in)    what enters W
    m_j     mask       (d_in,)         of edit j's own prompt, k of d_in columns
    W_m     residual   (d_out, d_in)   zero before the first edit
    mu      mean       (d_in,)         of the pooled feature over prompts that no edit is about
    tau     threshold  ()              least overlap that counts as the same question

`published(layer)` are the settings of the paper: its address, gradient descent on one residual for all edits, a fixed
threshold. Measured on the shipped models (docs/conditional-memory.md) its address finds few of the other phrasings and
its residual forgets once there are more answers than columns. So the defaults are other, each one a setting:

Deviation: ``address="keyed"`` tells by the prompt's last token which question is asked, see `catechism.model.address`.
Deviation: ``write="search"`` finds what has to be added where each token of the answer is said, for many edits in one
batch, and keeps keys and values; the residual follows from them, so one edit is taken out exactly by leaving out its
own. ``shared=False`` gives every edit a residual of its own rows; the paper's is one for all.
Deviation: the threshold is calibrated to a share of false alarms on held-out prompts where it is not given.
Deviation: weight decay acts on the written columns alone; ``descent.decay_all`` is the published form.
The permutation and the mean are stored in the delta: without them no mask could be compared with a stored one.
Not implemented: several edited modules at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from catechism.delta import Delta, Gated
from catechism.delta.addresses import PaperAddress
from catechism.delta.bits import unpack
from catechism.delta.effects import Matrices
from catechism.delta.residual import Residual
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.methods.searching import ResidualSearch, search_residual
from catechism.methods.stream import Progress
from catechism.model import LiveModel
from catechism.model.address import Addresses, Reach, wordings_of
from catechism.model.background import Background
from catechism.model.contexts import contexts_of
from catechism.model.exercise import Exercise
from catechism.model.masks import Masks
from catechism.model.residual import Descent, descend_residual
from catechism.model.roll import Roll
from catechism.model.sharing import Share
from catechism.model.target_tokens import check_facts
from catechism.solve.values import Search
from catechism.types import JSON, Catechism, Fact, Role, Site

SOURCE = "arXiv:2506.07899"
START = Progress()


@dataclass(frozen=True)
class Spec:
    """Settings of MEMOIR. Published values are those of the paper's code for Llama-3-8B."""

    layer: int  # published 27 of 32
    address: Literal["keyed", "paper"] = "keyed"
    write: Literal["search", "descent"] = "search"
    shared: bool = False  # one residual for all edits; published True
    share: float = 4096 / 14336  # of the columns in a mask; published k = 4096 of 14336
    threshold: float | None = None  # of the paper's address; None calibrates; published 0.4 (zsRE)
    false_alarms: float = 0.01  # share of held-out prompts that may fire
    reach: Reach = Reach()  # texts of the keyed address
    stops: bool = True  # write the full stop after the answer as well
    study: bool = True  # write the phrasings to study as well
    contexts: int = 3  # texts put before the prompt, beside the bare prompt; published 10
    context_tokens: int = 10
    search: Search = Search(steps=20, lr=0.3, stop=0.02, clamp=20.0)
    ridge: float = 1e-3  # of the keys' mean square
    descent: Descent = Descent()
    again: Literal["newest", "refuse"] = "newest"  # when a question that was answered gets another answer
    batch: int = 32  # facts that are searched at once
    seed: int = 0

    def __post_init__(self) -> None:
        if self.contexts < 0 or self.context_tokens < 1 or self.batch < 1:
            raise BadSpec(f"{self.contexts} contexts of {self.context_tokens} tokens, {self.batch} at once: too few.")
        shares = 0 < (1.0 if self.threshold is None else self.threshold) <= 1 and 0 <= self.false_alarms < 1
        if not shares or self.ridge <= 0:
            found = f"threshold={self.threshold}, false_alarms={self.false_alarms}, ridge={self.ridge}"
            raise BadSpec(f"{found}: use an overlap in (0, 1] or None, a share in [0, 1), and a ridge above 0.")


def published(layer: int, *, threshold: float = 0.4, seed: int = 0) -> Spec:
    """The settings of the paper."""
    paper = Spec(layer, "paper", "descent", shared=True, threshold=threshold, contexts=10, seed=seed)
    return replace(paper, stops=False, study=False, descent=Descent(decay_all=True))


class Memoir:
    """The editor. What belongs to a model's layer (mean feature, permutation, contexts) is made once."""

    name = "memoir"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background
        self._tools: dict[str, Tools] = {}

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta that holds a memory of every fact. The model is not changed.

        Raises: BadFact for a prompt without its subject, an empty object, or a question with two answers where the
            settings refuse that; WrongBase if the background is that of another model.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> Memory:
        """A memory to which facts are added and from which they are taken."""
        self._background.check(live)
        key = digest_json(asdict(spec))
        if key not in self._tools:
            live.anatomy.matrix(Site(spec.layer, Role.MLP_OUT))
            masks = Masks(live, self._background, spec.layer, share=spec.share, pooling="mean", seed=spec.seed)
            keyed = Addresses(live, self._background, spec.layer, spec.reach) if spec.address == "keyed" else None
            contexts = contexts_of(live, n=spec.contexts, tokens=spec.context_tokens, seed=spec.seed)
            self._tools[key] = Tools(masks, keyed, contexts)
        return Memory(live, spec, progress, self._tools[key], self._background.share)


@dataclass(frozen=True)
class Tools:
    """What a memory is made with: masks, addresses of its own if it has them, and texts before a prompt."""

    masks: Masks
    addresses: Addresses | None
    contexts: Sequence[str]


class Memory:
    """The edits of one stream, see `catechism.methods.stream`. The delta is all there is to it."""

    def __init__(self, live: LiveModel, spec: Spec, progress: Progress, tools: Tools, share: Share) -> None:
        self._live, self._spec, self._tools, self._share, self.progress = live, spec, tools, share, progress
        self._site = Site(spec.layer, Role.MLP_OUT)
        self._key = f"{live.anatomy.matrix(self._site).address}#memoir"

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """Learn these facts on top of all that were learned before. Raises as `Memoir.fit`."""
        check_facts(self._live, [catechism.fact for catechism in catechisms])
        roll, part = Roll.of(self.progress.delta), self._part
        chosen, kept = roll.admit(catechisms, self._spec.again)
        if part is not None and len(kept) < len(roll.edits):
            part = part.select(kept) if len(kept) else None
        part, found = self._write(chosen, part)
        facts = [catechism.fact for catechism in chosen]
        return self._hold(part, roll.select(kept).extended(facts, found), steps=1)

    def remove(self, facts: Sequence[Fact]) -> Delta:
        """Take facts out. What was searched is then what there would be without them; what was descended to is not.

        Raises: BadFact for a fact that is not in the memory.
        """
        roll, part = Roll.of(self.progress.delta), self._part
        kept = roll.without(facts)
        left = part.select(kept) if part is not None and len(kept) else None
        return self._hold(left, roll.select(kept), steps=0)

    @property
    def _part(self) -> Gated | None:
        delta = self.progress.delta
        return None if delta is None else cast("Gated | None", delta.parts.get(self._key))

    def _hold(self, part: Gated | None, roll: Roll, *, steps: int) -> Delta:
        """Calibrate what is there now, and let it be where the stream stands."""
        if part is not None and isinstance(part.address, PaperAddress) and self._spec.threshold is None:
            address = self._tools.masks.calibrated(part.address, roll.subjects, self._spec.false_alarms)
            part = replace(part, address=address)
        info: dict[str, JSON] = {"method": Memoir.name, "spec": asdict(self._spec), "edits": roll.json()}
        delta = Delta(self._live.base, {} if part is None else {self._key: part}, info)
        self.progress = Progress(delta, None, self.progress.steps + steps)
        return delta

    def _lesson(self, catechisms: Sequence[Catechism]) -> tuple[list[list[str]], list[str]]:
        """The prompts of every fact, bare, behind texts, and those to study, and what is to be said after them."""
        prompts: list[list[str]] = []
        for catechism in catechisms:
            prompt, *others = dict.fromkeys(wordings_of(catechism))
            behind = [f"{context} {prompt}" for context in self._tools.contexts]
            prompts.append([prompt, *behind, *(others if self._spec.study else [])])
        end = "." if self._spec.stops else ""
        return prompts, [f"{c.fact.object}{end}" for c in catechisms]

    def _write(self, catechisms: Sequence[Catechism], old: Gated | None) -> tuple[Gated, list[dict[str, JSON]]]:
        """The memory with these facts on top of the old ones, and how each was found."""
        tools, n = self._tools, len(catechisms)
        table = tools.masks.table([c.fact.prompt for c in catechisms], self._spec.threshold or 1.0)
        address = tools.addresses.table(catechisms) if tools.addresses else table
        write = self._descended if self._spec.write == "descent" else self._searched
        effect, found = write(catechisms, table, None if old is None else old.effect)
        scales = torch.ones(n)
        if old is not None:
            address, scales = old.address.joined(address), torch.cat([old.scales, scales])
        return Gated(address, effect, scales, effect.shape[1]), found

    def _searched(
        self, catechisms: Sequence[Catechism], table: PaperAddress, old: Any
    ) -> tuple[Residual, list[dict[str, JSON]]]:
        """Find the values of many facts in batches; the residual follows from all keys and values."""
        spec, found = self._spec, list[dict[str, JSON]]()
        keys, values, owner = list[Tensor](), list[Tensor](), list[Tensor]()
        masks = unpack(table.masks, len(table.mean)).to(self._live.device)
        columns = masks.nonzero()[:, 1].reshape(len(masks), -1)
        starts = range(0, len(catechisms), spec.batch)
        batches = [slice(start, start + spec.batch) for start in starts]
        parts = [(*self._lesson(catechisms[rows]), masks[rows]) for rows in batches]
        sought = ResidualSearch(self._site, spec.ridge, spec.search)
        for start, (written, result) in zip(
            starts, self._share(self._live, search_residual, parts, sought), strict=True
        ):
            owner.append(written.owner + start)
            keys.append(written.keys.gather(1, columns[owner[-1]]))
            values.append(written.values)
            found += [{"nll": float(n), "steps": int(s)} for n, s in zip(result.nll, result.steps, strict=True)]
        bank = torch.zeros(len(masks), dtype=torch.int64)
        new = Residual(
            torch.cat(keys).cpu(), torch.cat(values).cpu(), torch.cat(owner).cpu(), bank, table.masks,
            d_in=masks.shape[1], ridge=spec.ridge, shared=spec.shared,
        )  # fmt: skip
        whole = new if old is None else old.joined(new)
        return replace(whole, bank=torch.zeros_like(whole.bank)), found

    def _descended(
        self, catechisms: Sequence[Catechism], table: PaperAddress, old: Any
    ) -> tuple[Matrices, list[dict[str, JSON]]]:
        """Write one fact after the other into one residual, as the paper does."""
        spec, shape, device = self._spec, self._live.anatomy.matrix(self._site).shape, self._live.device
        residual = torch.zeros(shape, device=device) if old is None else old.changes[0].to(device)
        found = list[dict[str, JSON]]()
        for catechism, mask in zip(catechisms, unpack(table.masks, shape[1]).to(device), strict=True):
            exercise = Exercise(self._live, self._site, *self._lesson([catechism]))
            residual, nll, steps = descend_residual(exercise, residual, mask, spec.descent)
            found.append({"nll": nll, "steps": steps})
        masks = table.masks if old is None else torch.cat([old.masks, table.masks])
        return Matrices(residual.cpu()[None], torch.zeros(len(masks), dtype=torch.int64), masks), found
