"""Sequential least squares: our own editor for streams of edits that stays the same in any order and can forget.

All edits ever are one regression in one MLP output matrix, the last block's. A row of it is a token of an answer with
the place that it is said from: its key is what enters the matrix there, its demand that the token come first. Between
this matrix and the logits there are a norm and the head alone, so demands are judged without a pass of the model.

    minimise   ridge E |Delta k_old|^2   subject to   margin_x(Delta k_x) >= m_x for every row x
    V <- V + step_x(Delta k_x),   Delta = V^T W K (ridge C + K^T W K)^-1                                    # Eq. 1

    symbol  name        shape        meaning
    K       keys        (r, d_in)    of all rows of all facts, read from the base model
    W       weights     (r,)         the rows of a fact count as one; those of a kept answer as `keep` each
    V       residuals   (r, d_out)   what each row asked for, see `catechism.solve.margins`
    C       covariance  (d_in, d_in) E[k k^T] of the base model, uncentred

Rows depend on their fact and the base model alone, and are solved in the order of the facts' digests. So Eq. 1 from
V = 0 is a function of the *set* of facts: the order in which they came plays no part, and to take a fact out is to
solve without it. That is what `settle` does, and `remove` after it has dropped the fact. Between two settlings new
facts are solved on top by the same regression, in which the rows of the settled ones ask for nothing: a function of the
two sets. `growth` says how often is settled; at 1 after every step.

Answers that must not move are rows too: those in a catechism's `study`, at what the model says there. A fact may
contradict one, which is then dropped. The nearest published idea is RLSEdit (recursive least squares over all edits);
residuals that grow with their demands, and the settled set, are ours. The equation's number is this page's own.
Not implemented: blocks below the last are taken as if those above passed on what is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.errors import BadFact, BadSpec, UnknownName
from catechism.hashing import canonical_json, digest_json
from catechism.methods.stream import Progress
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.demands import Judge, Said, kept_after, said_after
from catechism.model.target_tokens import check_facts
from catechism.solve.margins import Demands, meet, normal_matrix
from catechism.types import JSON, UNMOVED, Catechism, Role, Site

SOURCE = "this project; recursive least squares over all edits: RLSEdit"
START = Progress()


@dataclass(frozen=True)
class Spec:
    """Settings. Nothing of this is published."""

    layer: int  # the last block, see above
    ridge: float = 1.0  # how much old keys count, in facts
    margin: float = 6.0  # by how much a token's logit is to be above all others
    keep: float = 0.1  # weight of a row of an answer that must not move
    keep_margin: float = 3.0  # the margin that such a row keeps, if it has as much
    sweeps: int = 60  # of one settling, at the most
    growth: float = 1.25  # settle when there are so many times as many facts as were settled last
    study: bool = True  # learn from the catechism's study too, not from the rewrite prompt alone
    contexts: int = 1  # texts put before the prompt, beside the bare prompt
    context_tokens: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ridge", "margin", "keep", "keep_margin"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadSpec(f"{name}={getattr(self, name)} must be above zero.")
        if self.sweeps < 1 or self.growth < 1 or self.contexts < 0 or self.context_tokens < 1:
            raise BadSpec(
                f"sweeps={self.sweeps}, growth={self.growth}, contexts={self.contexts}, context_tokens="
                f"{self.context_tokens}: use 1, 1, 0 and 1 at the least."
            )


class Sequential:
    """The editor."""

    name = "sequential"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One delta for all facts, settled. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject, or is given two answers; WrongBase if the background is
            that of another model; SingularCovariance if nothing enters the layer.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> SequentialStream:
        """A stream that can also `remove` and `settle`."""
        return SequentialStream(self._background, live, spec, progress)


class SequentialStream:
    """See `catechism.methods.stream.Stream`. What it keeps: the facts' texts, the settled update and its matrix."""

    def __init__(self, background: Background, live: LiveModel, spec: Spec, progress: Progress) -> None:
        background.check(live)
        self._live, self._spec, self._progress = live, spec, progress
        self._site = Site(spec.layer, Role.MLP_OUT)
        self._d_out = live.anatomy.matrix(self._site).shape[0]
        self._contexts = background.contexts(spec.contexts, tokens=spec.context_tokens, seed=spec.seed)
        self._statistics = background.covariance(self._site)
        self._C = self._statistics.matrix.to(live.device)
        self._rows: dict[str, Said] = {}
        kept = progress.tensors or {}
        state: dict[str, Any] = json.loads(bytes(kept["facts"].tolist())) if kept else {"facts": {}, "settled": []}
        self._facts: dict[str, dict[str, Any]] = state["facts"]
        self._settled: list[str] = state["settled"]
        self._update, self._normal = kept.get("update"), kept.get("normal")

    @property
    def progress(self) -> Progress:
        """Where it stands."""
        return self._progress

    @property
    def facts(self) -> list[str]:
        """Digests of the facts that are in effect."""
        return sorted(self._facts)

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """See `Stream.add`. A fact that is there already changes nothing."""
        check_facts(self._live, [catechism.fact for catechism in catechisms])
        new = {digest_json(asdict(catechism.fact)): self._texts(catechism) for catechism in catechisms}
        facts = {**self._facts, **new}
        answers: dict[str, str] = {}
        for fact in facts.values():
            if answers.setdefault(fact["prompt"], fact["object"]) != fact["object"]:
                raise BadFact(
                    f"{fact['prompt']!r} has two answers, {answers[fact['prompt']]!r} and {fact['object']!r}. "
                    "Remove the older fact first, or give one of them."
                )
        return self._solve(facts, settle=len(facts) >= self._spec.growth * max(len(self._settled), 1))

    def remove(self, digest: str) -> Delta:
        """Take one fact out and settle: the delta is the one that the others would have without it.

        Raises: UnknownName if no fact of this digest is in effect.
        """
        if digest not in self._facts:
            raise UnknownName(f"No fact {digest} is in effect. `facts` lists the {len(self._facts)} that are.")
        delta = self._solve({d: fact for d, fact in self._facts.items() if d != digest}, settle=True)
        self._rows.pop(digest, None)
        return delta

    def settle(self) -> Delta:
        """Solve for all facts together."""
        return self._solve(self._facts, settle=True)

    def _texts(self, catechism: Catechism) -> dict[str, Any]:
        """What the stream has to know of a fact, as JSON."""
        fact, study = catechism.fact, catechism.study if self._spec.study else ()
        taught = [fact.prompt, *(f"{c} {fact.prompt}" for c in self._contexts)]
        taught += [q.text for q in study if q.kind not in UNMOVED and fact.object in q.accept]
        kept = [[q.text, q.accept[0]] for q in study if q.kind in UNMOVED and q.accept]
        return {"prompt": fact.prompt, "subject": fact.subject, "object": fact.object, "old": fact.old_object} | {
            "taught": list(dict.fromkeys(taught)),
            "kept": kept,
        }

    def _solve(self, facts: dict[str, dict[str, Any]], *, settle: bool) -> Delta:
        """Solve for these facts; only when that is done do they become the stream's."""
        if settle or self._update is None or self._normal is None:
            settled, said = sorted(facts), self._said(facts, sorted(facts))
            normal = normal_matrix(self._C, said.keys, said.weights, self._spec.ridge)
            demands = Demands(said.keys, said.weights, Judge(self._live, self._site, said))
            base = meet(demands, self._d_out, normal, self._spec.sweeps).update.cpu()
            whole, kept_normal = base, normal.cpu()
        else:
            settled, base, kept_normal = self._settled, self._update, self._normal
            whole = base + self._on_top(facts, base.to(self._live.device), kept_normal.to(self._live.device)).cpu()
        self._facts, self._settled, self._update, self._normal = facts, settled, base, kept_normal
        state = canonical_json({"facts": facts, "settled": settled})
        texts = torch.frombuffer(bytearray(state), dtype=torch.uint8)
        tensors = {"facts": texts, "update": base, "normal": kept_normal}
        delta = Delta(self._live.base, {self._live.anatomy.matrix(self._site).address: _thin(whole)}, self._info())
        self._progress = Progress(delta, tensors, self._progress.steps + 1)
        return delta

    def _on_top(self, facts: Mapping[str, dict[str, Any]], base: Tensor, normal: Tensor) -> Tensor:
        """What the facts add that were not settled yet: a regression in which the settled rows ask for nothing."""
        said = self._said(facts, sorted(set(facts) - set(self._settled)))
        there, judge = said.keys @ base.to(said.keys).T, Judge(self._live, self._site, said)
        demands = Demands(said.keys, said.weights, lambda change, rows: judge(there[rows] + change, rows))
        normal = normal + normal_matrix(torch.zeros_like(normal), said.keys, said.weights, 0.0)
        return meet(demands, self._d_out, normal, self._spec.sweeps).update

    def _said(self, facts: Mapping[str, dict[str, Any]], digests: Sequence[str]) -> Said:
        """The rows of some facts, in the order of their digests, and what of their study no fact contradicts."""
        subjects: dict[str, list[str]] = {}
        for fact in facts.values():
            subjects.setdefault(fact["old"] or "", []).append(fact["subject"])
        taught = {text for fact in facts.values() for text in fact["taught"]}
        kept = {(text, answer) for digest in digests for text, answer in facts[digest]["kept"] if text not in taught}
        stays = sorted(pair for pair in kept if not any(s and s in pair[0] for s in subjects.get(pair[1], [])))
        parts = [self._of(digest, facts[digest]["taught"], facts[digest]["object"]) for digest in digests]
        return Said.together([*parts, *(self._of("", [text], answer) for text, answer in stays)] or [self._none()])

    def _of(self, digest: str, prompts: list[str], answer: str) -> Said:
        """Rows of one fact, or of one kept answer: read alone, so that they are the same in any company."""
        key = digest or canonical_json([*prompts, answer]).decode()
        if key not in self._rows:
            live, site, spec, answers = self._live, self._site, self._spec, [answer] * len(prompts)
            self._rows[key] = (
                said_after(live, site, prompts, answers, spec.margin)
                if digest
                else kept_after(live, site, prompts, answers, spec.keep_margin, spec.keep)
            )
        return self._rows[key]

    def _none(self) -> Said:
        keys, outputs = torch.zeros(0, len(self._C), device=self._C.device), torch.zeros(0, self._d_out)
        outputs = outputs.to(keys)
        return Said(keys, outputs, outputs, torch.zeros(0, dtype=torch.long).to(keys.device), keys[:, 0], keys[:, 0])

    def _info(self) -> dict[str, JSON]:
        return {
            "method": Sequential.name,
            "spec": asdict(self._spec),
            "facts": list[JSON](sorted(self._facts)),
            "settled": len(self._settled),
            "statistics": {"key": self._statistics.key, "n": self._statistics.n},
        }


def _thin(update: Tensor) -> LowRank:
    """A matrix as two factors, as thin as it allows to float32's last digit."""
    d_out, d_in = update.shape
    wide = LowRank(torch.eye(d_out, dtype=torch.float64), update) if d_out <= d_in else None
    whole = wide or LowRank(update, torch.eye(d_in, dtype=torch.float64))
    part = whole.compressed(1e-9) if bool(update.any()) else LowRank(whole.A[:, :0], whole.B[:0])
    return LowRank(part.A.float(), part.B.float())
