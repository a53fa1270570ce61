"""FT-BF: fine-tuning breadth first, Fine-tuning Done Right in Model Editing, arXiv:2509.22072.

Editing benchmarks fine-tune depth first: one fact to its end, then the next one, which undoes the first. Ordinary
fine-tuning goes over the whole set again and again in mini-batches, and that alone makes it a strong editor. One MLP
output matrix W is tuned; the prompt is masked, as in `ft_m`.

    for each epoch, for each mini-batch b of a fresh shuffle:
        W' <- Adam(W', grad mean_{i in b} -(1/|o_i|) sum_j log p(o_ij | x_i, o_i<j))                        # Alg. 1

    symbol  shape           meaning
    x_i                     prompt of fact i
    o_i     (|o_i|,)        tokens of its new object
    W' - W  (d_out, d_in)   the change, entry by entry

The facts have to be there together: given one at a time, as a stream gives them, this is `ft_m`.

Deviation: the rate is a share of the size of W's entries. Where to tune is measured on the model, as for every method
here, and not taken from the paper's study of layers. Epochs, batch and rate are ours, measured on `almanac`.
Not implemented: tuning of anything but one MLP output matrix.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.target_tokens import check_facts, check_rate, target_tokens
from catechism.model.tuning import TunedMatrix
from catechism.types import JSON, Catechism, Role, Site

SOURCE = "arXiv:2509.22072"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spec:
    """Settings, see docs/gradient-editors.md for what was measured."""

    layer: int  # measured
    batch: int = 32  # facts in a step
    epochs: int = 60  # at the most
    lr: float = 0.01  # of Adam, as a share of W's size
    stop: float = 0.01  # mean loss of an epoch at which all is done
    seed: int = 0  # shuffles the facts

    def __post_init__(self) -> None:
        check_rate("lr", self.lr)
        for name in ("batch", "epochs"):
            if getattr(self, name) < 1:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use 1 or more.")
        if not self.stop >= 0:
            raise BadSpec(f"stop={self.stop} is no loss. Use 0 or more.")


class FtBf:
    """The trainer."""

    name = "ft_bf"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One change of one matrix for all the facts. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject or an object is empty; BadSpec without facts; WrongBase if
            the background is that of another model; UnknownName for a layer without a dense MLP; UsageError for a
            prompt that does not fit the model's window; NoConvergence if the descent leaves the finite numbers.
        """
        facts = [catechism.fact for catechism in catechisms]
        check_facts(live, facts, needs_subject=False)
        self._background.check(live)
        tuned = TunedMatrix(live, Site(spec.layer, Role.MLP_OUT))
        adam = tuned.adam(spec.lr)
        generator = torch.Generator().manual_seed(spec.seed)
        losses: list[JSON] = []
        for epoch in range(spec.epochs):  # Alg. 1
            order = torch.randperm(len(facts), generator=generator).tolist()
            total = 0.0
            for start in range(0, len(order), spec.batch):
                some = [facts[i] for i in order[start : start + spec.batch]]
                asked = target_tokens(live, [fact.prompt for fact in some], [fact.object for fact in some])
                total += len(some) * tuned.descend([asked], adam, stop=0.0)[1]
            losses.append(total / len(facts))
            _log.info("epoch %d of %d: loss %.4f", epoch + 1, spec.epochs, total / len(facts))
            if total / len(facts) < spec.stop:
                break
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(fact)) for fact in facts],
            "losses": losses,
        }
        return Delta(live.base, {tuned.address: tuned.part()}, info)
