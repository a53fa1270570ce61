"""WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models, arXiv:2405.14768.

Beside one MLP output matrix W stands a side memory, a copy W' = W + Delta that edits are trained into. A router
compares what the two give: where an edit is asked for they differ much, elsewhere they must not.

    D(x) = mean_t |act(W' a_t) - act(W a_t)|                                                                # Eq. 2
    W' is read if D(x) >= ratio * min over its edits of D(edit), else W                                       # Eq. 4

    loss = -log p(object | prompt) + L_a
    L_a = relu(D(out) - D(in) + gamma) + relu(D(out) - alpha) + relu(beta - D(in))                            # Eq. 3

An edit trains only the entries of a random mask, drawn anew for every shard of `shard` edits. `merge` full shards
become one side memory by TIES (trim, elect the sign, mean of those that agree); with `retrieve` all of them are kept.
Of several side memories the one that differs most is read.

    symbol  name     shape                  meaning
    a       input    (b, t, d_in)           what enters W
    Delta   change   (d_out, d_in)          of a side memory
    in/out  edit     rows of the fact's prompts / of a prompt that no edit is about

The router looks at the prompt's tokens alone, once for each row; the first code looks at all tokens of all rows of the
call at every step, so that its choice may turn over while an answer is decoded.

Deviation: alpha, beta and gamma are shares of the mean |act(W a)| of prompts that no edit is about, in the proportion
of the published 2, 20, 10, since activations differ in size between models.
Not implemented: replay of old edits. One edit cannot be taken out: what it trained is in entries that others share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from catechism.delta import Delta, Gated
from catechism.delta.addresses import ActivationAddress, activation_distance
from catechism.delta.effects import Matrices
from catechism.errors import BadSpec, NoConvergence
from catechism.methods.stream import Progress
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.contexts import contexts_of
from catechism.model.exercise import Exercise
from catechism.model.masks import beginnings
from catechism.model.roll import Roll
from catechism.model.target_tokens import check_facts
from catechism.solve.ties import ties
from catechism.types import JSON, Catechism, Fact, Role, Site

SOURCE = "arXiv:2405.14768"
START = Progress()
PROMPTS = 50  # that no edit is about


@dataclass(frozen=True)
class Spec:
    """Settings of WISE. Published values are those of its code for Llama-3-8B."""

    layer: int  # published 29 of 32
    activation: Literal["silu", "gelu", "relu", "identity"] = "silu"  # published: the model's own
    density: float = 0.2  # of the entries that a shard trains; published 0.2
    steps: int = 40  # published 30 to 70
    lr: float = 5.0  # published 0.9 to 1.0
    clip: float = 1.0  # largest norm of a gradient; published 1.0
    clamp: float = 1.0  # largest entry of |Delta|; published 1.0
    stop: float = 0.02  # loss at which an edit is done; published 0.02
    alpha: float = 0.1  # published 2
    beta: float = 1.0  # published 20
    gamma: float = 0.5  # published 10
    ratio: float = 0.8  # published .5 to .88
    shard: int = 500  # edits in a shard; published 500
    merge: int = 2  # shards that become one; published 2
    keep: float = 0.53  # share of a shard's entries that are merged; published 0.53
    retrieve: bool = False  # keep every shard and read the one that differs most; published both
    contexts: int = 3  # texts put before the prompt, beside the bare prompt; published 10
    context_tokens: int = 10  # published 5 and 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.density <= 1 and 0 < self.keep <= 1 and 0 < self.ratio <= 1):
            raise BadSpec(f"density={self.density}, keep={self.keep}, ratio={self.ratio} are shares. Use (0, 1].")
        if min(self.shard, self.merge) < 1 or min(self.lr, self.clip, self.clamp) <= 0 or self.contexts < 0:
            raise BadSpec(f"{self}: use a shard and a merge from 1, rate, clip and clamp above 0, contexts from 0.")


class Wise:
    """The editor."""

    name = "wise"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta that holds a side memory of every fact. The model is not changed.

        Raises: BadFact for a prompt without its subject or an empty object; NoConvergence if a loss is not finite;
            WrongBase if the background is that of another model.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> SideMemories:
        """Side memories into which facts are trained one after the other."""
        self._background.check(live)
        site = Site(spec.layer, Role.MLP_OUT)
        live.anatomy.matrix(site)
        unasked = beginnings(self._background.texts(PROMPTS))
        outside = Exercise(live, site, [[prompt] for prompt in unasked], ["."] * len(unasked))
        contexts = contexts_of(live, n=spec.contexts, tokens=spec.context_tokens, seed=spec.seed)
        return SideMemories(live, spec, progress, outside, contexts)


class SideMemories:
    """The edits of one stream, see `catechism.methods.stream`. The delta is all there is to it.

    Its last side memory is the one that is being trained, until `shard` edits are in it.
    """

    def __init__(
        self, live: LiveModel, spec: Spec, progress: Progress, outside: Exercise, contexts: Sequence[str]
    ) -> None:
        self._live, self._spec, self.progress, self._outside, self._contexts = live, spec, progress, outside, contexts
        self._site = Site(spec.layer, Role.MLP_OUT)
        self._matrix = live.anatomy.matrix(self._site)
        self._distance = partial(activation_distance, activation=spec.activation)
        y = outside.outputs
        self._unit = float(self._distance(torch.zeros_like(y), y, outside.prompt).mean())  # act(0) is 0 for all of them

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """Learn these facts on top of all that were learned before. Raises as `Wise.fit`."""
        facts = [catechism.fact for catechism in catechisms]
        check_facts(self._live, facts)
        roll = Roll.of(self.progress.delta)
        changes, least = self._state()
        found: list[dict[str, JSON]] = []
        for number, fact in enumerate(facts, start=len(roll.edits)):
            if number % self._spec.shard == 0:
                self._close(changes, least, number // self._spec.shard)
                changes.append(torch.zeros(self._matrix.shape))
                least.append(torch.inf)
            changes[-1], distance, nll, steps = self._trained(fact, changes[-1], number)
            least[-1] = min(least[-1], distance)
            found.append({"nll": nll, "steps": steps})
        return self._hold(changes, least, roll.extended(facts, found))

    # -- the work ----------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"{self._matrix.address}#wise"

    def _state(self) -> tuple[list[Tensor], list[float]]:
        """The side memories, and the least distance of any edit of each."""
        delta = self.progress.delta
        if delta is None:
            return [], []
        part = cast("Gated", delta.parts[self._key])
        thresholds = cast("ActivationAddress", part.address).thresholds.double() / self._spec.ratio
        return list(cast("Matrices", part.effect).changes), thresholds.tolist()

    def _hold(self, changes: Sequence[Tensor], least: Sequence[float], roll: Roll) -> Delta:
        spec, n = self._spec, len(changes)
        thresholds = torch.tensor(least, dtype=torch.float64) * spec.ratio
        masks = torch.zeros(0, -(-self._matrix.shape[1] // 8), dtype=torch.uint8)
        effect = Matrices(torch.stack(list(changes)), torch.arange(n), masks)
        part = Gated(ActivationAddress(thresholds, spec.activation), effect, torch.ones(n), self._matrix.shape[1])
        info: dict[str, JSON] = {"method": Wise.name, "spec": asdict(spec), "edits": roll.json()}
        delta = Delta(self._live.base, {self._key: part}, info)
        self.progress = Progress(delta, None, self.progress.steps + 1)
        return delta

    def _close(self, changes: list[Tensor], least: list[float], full: int) -> None:
        """So many shards have been filled: the last ones become one when they are enough, unless all are kept."""
        last = slice(len(changes) - self._spec.merge, None)
        if not self._spec.retrieve and full and full % self._spec.merge == 0:
            changes[last] = [ties(torch.stack(changes[last]), self._spec.keep)]
            least[last] = [min(least[last])]

    def _mask(self, shard: int) -> Bool[Tensor, "d_out d_in"]:
        """The entries that a shard trains."""
        generator = torch.Generator().manual_seed(self._spec.seed * 1_000_003 + shard)
        return torch.rand(self._matrix.shape, generator=generator) < self._spec.density

    def _margins(self, inside: Float[Tensor, ""], outside: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """L_a, in units of what the matrix gives where no edit is asked for.  # Eq. 3"""
        alpha, beta, gamma = (share * self._unit for share in (self._spec.alpha, self._spec.beta, self._spec.gamma))
        return (outside - inside + gamma).relu() + (outside - alpha).relu() + (beta - inside).relu()

    @torch.enable_grad()
    def _trained(self, fact: Fact, change: Tensor, number: int) -> tuple[Tensor, float, float, int]:
        """One edit trained into a side memory: the change, its distance, and how the descent ended."""
        spec = self._spec
        prompts = [fact.prompt, *(f"{context} {fact.prompt}" for context in self._contexts)]
        exercise = Exercise(self._live, self._site, [prompts], [fact.object])
        x, out = exercise.inputs.float(), self._outside
        other = torch.tensor([number % out.n])
        mask = self._mask(number // spec.shard).to(x.device)
        D, inside, told, step = change.to(x.device), torch.zeros(1), torch.inf, 0
        for step in range(spec.steps + 1):
            D = D.detach().requires_grad_()
            inside = self._distance(exercise.outputs, x @ D.T, exercise.prompt)
            outside = self._distance(out.outputs[other], out.inputs[other].float() @ D.T, out.prompt[other])
            loss = exercise.nll(lambda rows, _y: x[rows] @ D.T)[0]  # noqa: B023 -- called at once
            told = float(loss.detach())
            loss = loss + self._margins(inside.mean(), outside.mean())
            if not bool(torch.isfinite(loss)):
                raise NoConvergence(f"The loss is {loss.item()} at step {step}. Lower `lr`, now {spec.lr}.")
            if float(loss.detach()) <= spec.stop or step == spec.steps:
                break
            (gradient,) = torch.autograd.grad(loss, D)
            with torch.no_grad():
                gradient = gradient * mask
                gradient = gradient * (spec.clip / gradient.norm().clamp_min(spec.clip))
                D = (D - spec.lr * gradient).clamp(-spec.clamp, spec.clamp)
        return D.detach().cpu(), float(inside[0].detach()), told, step
