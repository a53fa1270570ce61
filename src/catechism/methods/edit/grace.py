"""GRACE: Aging with GRACE, lifelong model editing with discrete key-value adaptors, arXiv:2211.11031.

A codebook stands beside one layer. A key is what enters the layer at the last token of an edited prompt, with a radius
around it; a query inside a ball has the layer's output there replaced by the value of that key. Nothing else changes.

    h = v_i  if  d_i = min_j |q - k_j| <= eps_i,   h = layer(q)  otherwise                                   # Eq. 1, 2

A new edit (q, y), the nearest key i at a distance d:                                                        # Alg. 1
    no key, or d > eps_i + eps_init:   a key q with radius eps_init
    else, another answer:              a key q with radius d / 2; that of i becomes a little less than d / 2
    else, the same answer:             eps_i = max(eps_i, d)
and then the value of that key is trained on the edit alone.

    symbol   name     shape     meaning
    q, k_j   key      (d_in,)   input of an MLP's output matrix at the prompt's last token
    v_j      value    (d_out,)  output of the matrix there
    eps_j    radius   ()

The query is the prompt's last token at its reading, and what it matched stays with the row while an answer is decoded;
the first code looks again at every token and loses the key. Answers are compared as texts; the first code compares the
mean of their token numbers. An edit is taken out by its fact; the first code names edits by their answers, which are
not unique.

Deviation: ``radius`` is a share of the middle distance of a prompt that no edit is about from its nearest other, since
the distances of one model say nothing of another's; the published 1.0 is absolute.
Deviation: values start from the layer's own output ("warm") and take steps relative to its size.
Not implemented: keys of several tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.delta import Delta, Gated
from catechism.delta.address import Feature
from catechism.delta.addresses import RadiusAddress
from catechism.delta.effects import Vectors
from catechism.errors import BadSpec, NoConvergence
from catechism.methods.stream import Progress
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.exercise import Exercise
from catechism.model.masks import beginnings
from catechism.model.retrieval import read_features
from catechism.model.roll import Roll
from catechism.model.target_tokens import check_facts
from catechism.solve.values import Search, find_values
from catechism.types import JSON, Catechism, Fact, Role, Site

SOURCE = "arXiv:2211.11031"
START = Progress()
PROMPTS = 200  # that the distances are measured on
BORDER = 1e-5  # between two balls that touch
ROUNDING = 8  # times the rounding of a key: as far as one prompt is from itself in another batch


@dataclass(frozen=True)
class Spec:
    """Settings of GRACE. Published values are those of its code for GPT-2 XL."""

    layer: int  # published 35 of 48
    radius: float = 0.5  # eps_init, see above; published 1.0, absolute
    where: Literal["last", "all"] = "last"  # tokens whose output is replaced; published both
    start: Literal["warm", "cold"] = "warm"  # published cold: a random value
    search: Search = Search(steps=100, lr=0.5, stop=0.02, clamp=50.0)  # published 50 to 200 steps of 1.0, absolute
    again: Literal["newest", "refuse"] = "newest"  # when a question that was answered gets another answer
    seed: int = 0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise BadSpec(f"radius={self.radius} holds no query. Use a number above 0.")


class Grace:
    """The editor."""

    name = "grace"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background
        self._distance: dict[int, float] = {}

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta that holds a codebook of every fact. The model is not changed.

        Raises: BadFact for a prompt without its subject or an empty object; NoConvergence if a value is not finite;
            WrongBase if the background is that of another model.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> Codebook:
        """A codebook to which facts are added and from which they are taken."""
        self._background.check(live)
        live.anatomy.matrix(Site(spec.layer, Role.MLP_OUT))
        if spec.layer not in self._distance:
            prompts = beginnings(self._background.texts(PROMPTS))
            keys = read_features(live, prompts, Feature(spec.layer, "mlp_out"), "last").unique(dim=0)
            apart = torch.cdist(keys, keys).fill_diagonal_(torch.inf).amin(dim=1)
            self._distance[spec.layer] = float(apart.median()) if len(keys) > 1 else 1.0
        return Codebook(live, spec, progress, spec.radius * self._distance[spec.layer])


class Codebook:
    """The edits of one stream, see `catechism.methods.stream`. The delta is all there is to it.

    In the roll every edit names the ``entry`` that answers it; several edits with one answer may share one.
    """

    def __init__(self, live: LiveModel, spec: Spec, progress: Progress, radius: float) -> None:
        self._live, self._spec, self.progress, self._radius = live, spec, progress, radius
        self._site = Site(spec.layer, Role.MLP_OUT)
        matrix = live.anatomy.matrix(self._site)
        self._key, self._shape = f"{matrix.address}#grace", matrix.shape

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """Learn these facts on top of all that were learned before. Raises as `Grace.fit`."""
        check_facts(self._live, [catechism.fact for catechism in catechisms])
        roll, part = self._state()
        chosen, kept = roll.admit(catechisms, self._spec.again)
        roll, part = _left(roll, part, kept)
        facts = [catechism.fact for catechism in chosen]
        exercise = Exercise(self._live, self._site, [[fact.prompt] for fact in facts], [fact.object for fact in facts])
        last = exercise.prompt.sum(dim=1) - 1
        rows = torch.arange(len(facts), device=last.device)
        said = {int(cast("int", edit["entry"])): str(edit["answer"]) for edit in roll.edits}
        address, entries = self._placed(
            cast("RadiusAddress", part.address), exercise.inputs[rows, last].float().cpu(),
            [fact.object for fact in facts], [said[entry] for entry in range(part.entries)],
        )  # fmt: skip
        values, found = self._values(exercise, exercise.outputs[rows, last].float(), last)
        old = cast("Vectors", part.effect).values
        whole = torch.cat([old, old.new_zeros(address.entries - len(old), self._shape[0])])
        for entry, value in zip(entries, values, strict=True):  # the last of those that share an entry stays
            whole[entry] = value
        held = Gated(address, Vectors(whole, self._spec.where), torch.ones(address.entries), self._shape[1])
        more = [
            {"entry": entry, "answer": fact.object, **one}
            for entry, fact, one in zip(entries, facts, found, strict=True)
        ]
        return self._hold(held, roll.extended(facts, more), steps=1)

    def remove(self, facts: Sequence[Fact]) -> Delta:
        """Take facts out. A key goes with the last fact that it answers; radii that were shrunk for it stay so.

        Raises: BadFact for a fact that is not in the codebook.
        """
        roll, part = self._state()
        roll, part = _left(roll, part, roll.without(facts))
        return self._hold(part, roll, steps=0)

    # -- the work ----------------------------------------------------------------------------------------------------

    def _state(self) -> tuple[Roll, Gated]:
        delta, (d_out, d_in) = self.progress.delta, self._shape
        part = None if delta is None else delta.parts.get(self._key)
        if part is None:
            address = RadiusAddress(torch.zeros(0, d_in), torch.zeros(0), self._spec.layer)
            part = Gated(address, Vectors(torch.zeros(0, d_out), self._spec.where), torch.ones(0), d_in)
        return Roll.of(delta), cast("Gated", part)

    def _hold(self, part: Gated, roll: Roll, *, steps: int) -> Delta:
        info: dict[str, JSON] = {"method": Grace.name, "spec": asdict(self._spec), "edits": roll.json()}
        delta = Delta(self._live.base, {self._key: part} if part.entries else {}, info)
        self.progress = Progress(delta, None, self.progress.steps + steps)
        return delta

    def _placed(
        self, address: RadiusAddress, queries: Float[Tensor, "n d"], answers: Sequence[str], held: Sequence[str]
    ) -> tuple[RadiusAddress, list[int]]:
        """The codebook's keys with these queries in it, and the entry of each.  # Alg. 1

        Args:
            answers: of the queries.
            held: of the entries that there are.
        """
        keys, radii, said, entries = list(address.keys), address.radii.tolist(), list(held), list[int]()
        for query, answer in zip(queries, answers, strict=True):
            apart = (torch.stack(keys) - query).norm(dim=1) if keys else torch.tensor([torch.inf])
            i, d = int(apart.argmin()), float(apart.min())
            inside = bool(keys) and d <= radii[i] + self._radius
            if inside and said[i] == answer:
                radii[i] = max(radii[i], d)
                entries.append(i)
                continue
            if inside:
                radii[i] = min(radii[i], d / 2 - BORDER)
            entries.append(len(keys))
            keys.append(query)
            same = ROUNDING * torch.finfo(self._live.dtype).eps * float(query.norm())
            radii.append(max(d / 2, same) if inside else self._radius)
            said.append(answer)
        return RadiusAddress(torch.stack(keys), torch.tensor(radii), self._spec.layer), entries

    def _values(
        self, exercise: Exercise, outputs: Float[Tensor, "n d_out"], last: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n d_out"], list[dict[str, JSON]]]:
        """The values of many edits in one batch, each trained on its own prompt."""
        spec, start = self._spec, outputs
        if spec.start == "cold":
            generator = torch.Generator().manual_seed(spec.seed)
            start = torch.rand(outputs.shape, generator=generator).to(outputs)
        scale = outputs.norm(dim=1)
        token = torch.arange(exercise.inputs.shape[1], device=last.device)
        at = (token == last[:, None]) | (torch.tensor(spec.where == "all", device=last.device) & exercise.real)

        def objective(moved: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
            def added(rows: Tensor, y: Tensor) -> Tensor:  # one row a fact, so rows are facts
                return ((start[facts] + moved)[:, None] - y.float()) * at[rows][:, :, None]

            nll = exercise.nll(added, facts)
            return nll, nll

        found = find_values(objective, scale, outputs.shape[1], spec.search)
        if not bool(torch.isfinite(found.nll).all()):
            raise NoConvergence("The value search left the finite numbers. Lower `search.lr`.")
        told = [{"nll": float(n), "steps": int(s)} for n, s in zip(found.nll, found.steps, strict=True)]
        return (start + found.values).cpu(), told


def _left(roll: Roll, part: Gated, kept: Int[Tensor, " s"]) -> tuple[Roll, Gated]:
    """What is left with these edits alone: their entries, numbered anew."""
    roll = roll.select(kept)
    used = sorted({int(cast("int", edit["entry"])) for edit in roll.edits})
    number = {entry: place for place, entry in enumerate(used)}
    edits = tuple({**edit, "entry": number[int(cast("int", edit["entry"]))]} for edit in roll.edits)
    return Roll(edits), part.select(torch.tensor(used, dtype=torch.int64))
