"""LEACE: Perfect linear concept erasure in closed form, arXiv:2306.03819, folded into the weights.

A concept is taken out of a tensor by a projection ``P = I - L R`` after which no linear probe finds it; of all such
projections the one that moves the tensor least (`catechism.solve.erasure`). Folding is exact, since a projection before
or after a matrix W is a change of W of rank r:

    a matrix that reads the tensor     W x       ->  W P x      delta = -(W L) R                             # Eq. F1
    a matrix that writes it            W z       ->  P W z      delta = -L (R W)                             # Eq. F2

    symbol  shape        meaning
    L, R    (d, r), (r, d)  of the tensor's eraser, r at most the number of classes less one
    W       (d_out, d_in)   the matrix

The concept is which of the forgotten subjects a text is about ("subject": one class each, and one for everybody who
stays), only whether it is about a forgotten one ("forgotten"), or which of the forgotten answers it asks for
("object"). The tensors are what the blocks read from the residual stream, after their norms ("stream": Eq. F1, every
matrix that reads the stream); what enters the MLPs' output matrices ("keys": Eq. F1); or what attention and MLP add to
the stream ("values": Eq. F2). One tensor is done after the other, each on the model that carries the earlier changes,
so that an eraser is right for what its matrix sees in the end.

Deviation: published is one eraser for the whole stream, fitted with a shift by the mean. Here every matrix has its own,
on the tensor that it sees, and there is no shift, since a delta changes weights and no biases: the measure of the least
change is the second moment and not the covariance, so that the mean is spared like any other state (`measure`).
What it shows, and what it does not: no *linear* probe finds the concept at the *places it was fitted on*. A network
reads by more than one matrix at more places, and the embedding and the head are not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.prompts import prompts_of
from catechism.model.seen import Stretch, read_together, states_at
from catechism.model.target_tokens import check_facts
from catechism.model.writing import standing
from catechism.solve.erasure import Eraser, Measure, leace, one_hot
from catechism.types import JSON, Catechism, Forgetting, How, Role, Site

SOURCE = "arXiv:2306.03819"

Concept = Literal["subject", "forgotten", "object"]
Place = Literal["stream", "keys", "values"]


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of the reference implementation."""

    concept: Concept = "subject"
    place: Place = "stream"
    layers: tuple[int, ...] | None = None  # None: all of them
    onward: bool = True  # fitted from the subject's last token on; else at that token (at the prompt's for "object")
    texts: int = 64  # background texts among the states that stay
    measure: Measure = "moment"  # published "covariance", with a shift
    shrink: bool = True  # published
    tolerance: float = 0.01  # published; see `catechism.solve.erasure.leace`
    guard: bool = True  # published
    seed: int = 0  # nothing is drawn

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise BadSpec(f"tolerance={self.tolerance} is no correlation. Use 0 or more, and less than 1.")
        if self.layers is not None and not self.layers:
            raise BadSpec("layers=() names no layer. Give at least one, or None for all of them.")


class Leace:
    """The method."""

    name = "leace"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One change of low rank for every matrix that sees a tensor. The model is not changed.

        Raises: BadSpec for another `how` than erase, an empty forget or retain set, and a concept that nothing was to
            be told by; BadFact if a prompt does not hold its subject; WrongBase if the background is that of another
            model; UnknownName for a layer that is not there.
        """
        Fitting(self._background, self.name, self.hows, keeps=True).check(live, request)
        check_facts(live, [one.fact for one in (*request.forget, *request.retain)])
        stretches, labels = _material(live, request, self._background.texts(spec.texts), spec)
        parts: dict[str, LowRank] = {}
        record: list[JSON] = []
        for addresses, what in _tensors(live, request.forget[0].fact.prompt, spec):
            with standing(live, Delta(live.base, parts) if parts else None):
                states, owner = states_at(live, addresses[:1], stretches, what=what)
            Z = one_hot([labels[i] for i in owner.tolist()], max(labels) + 1)
            X = states[addresses[0]]
            if what == "output" and (bias := live.anatomy.matrix(addresses[0]).read_bias()) is not None:
                X = X - bias.double().to(X.device)  # the bias stays as it is
            found = leace(
                X,
                Z.to(X.device),
                measure=spec.measure,
                shrink=spec.shrink,
                tolerance=spec.tolerance,
                guard=spec.guard,
            )
            parts.update({address: _folded(live, address, found, what) for address in addresses})
            names: list[JSON] = [*addresses]
            record.append({"matrices": names, "states": len(X), "rank": found.rank, "mixed": found.mixed})
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "forget": [digest_json(asdict(one)) for one in request.forget],
            "erasers": record,
        }
        return Delta(live.base, parts, info)


def _material(live: LiveModel, request: Forgetting, texts: list[str], spec: Spec) -> tuple[list[Stretch], list[int]]:
    """The texts with the tokens that count, and the class of each: -1 for what stays."""
    classes: dict[str, int] = {}
    stretches: list[Stretch] = []
    labels: list[int] = []
    for catechism, goes in [*((one, True) for one in request.forget), *((one, False) for one in request.retain)]:
        named = _class(catechism, goes, spec.concept)
        label = classes.setdefault(named, len(classes)) if goes else classes.get(named, -1)
        for text in prompts_of(catechism):
            stretches.append(_stretch(live, text, catechism.fact.subject, spec) if goes else Stretch(text, 0))
            labels.append(label)
    stretches += [Stretch(text, 0) for text in texts]
    return stretches, [*labels, *(-1 for _ in texts)]


def _class(catechism: Catechism, goes: bool, concept: Concept) -> str:
    match concept:
        case "subject":
            return f"subject {catechism.fact.subject}"
        case "object":
            return f"object {catechism.fact.relation} {catechism.fact.object}"
        case "forgotten":
            return str(goes)


def _stretch(live: LiveModel, text: str, subject: str, spec: Spec) -> Stretch:
    subject_last = live.subject_last(text, subject)
    if spec.onward:
        return Stretch(text, subject_last)
    return Stretch(text) if spec.concept == "object" else Stretch(text, subject_last, subject_last)


def _tensors(live: LiveModel, text: str, spec: Spec) -> Iterator[tuple[list[str], Literal["input", "output"]]]:
    """The matrices that see each tensor, in the order of the forward pass, and on which side they see it."""
    for layer in range(live.anatomy.n_layers) if spec.layers is None else sorted(spec.layers):
        writers = [
            live.anatomy.matrix(site).address
            for role in (Role.ATTN_OUT, Role.MLP_OUT)
            if live.anatomy.has(site := Site(layer, role))
        ]
        if spec.place == "values":
            for address in writers:
                yield [address], "output"
        elif spec.place == "keys":
            keys = [address for address in writers if live.anatomy.has(Site(layer, Role.MLP_OUT))][-1:]
            for address in keys:
                yield [address], "input"
        else:
            for together in read_together(live, layer, text):
                readers = [address for address in together if address not in writers]
                if readers:
                    yield readers, "input"


def _folded(live: LiveModel, address: str, eraser: Eraser, what: Literal["input", "output"]) -> LowRank:
    """The eraser as a change of a matrix: before it or after it.  # Eq. F1, Eq. F2"""
    W = live.anatomy.matrix(address).read().double()
    L, R = eraser.left.to(W.device), eraser.right.to(W.device)
    A, B = (-(W @ L), R) if what == "input" else (-L, R @ W)
    return LowRank(A.float().cpu(), B.float().cpu())
