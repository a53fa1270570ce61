"""Plain low-rank fine-tuning on the fact's sentence, arXiv:2106.09685: the yardstick for methods that train.

    minimise -mean_t log p(x_t | x_<t),   x = the fact's sentence                                           # Eq. 1

over side paths on the linear modules of one block. Nothing is told to stay, no other phrasing is read and there is no
teacher. It learns the sentence; what else that moves is what a benchmark shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.background import Background
from catechism.model.encoding import check_length, rows
from catechism.model.tail import Tail
from catechism.model.target_tokens import check_facts
from catechism.types import JSON, Catechism

SOURCE = "arXiv:2106.09685"


@dataclass(frozen=True)
class Spec:
    """Settings, as those of `distill`, so that both have the same budget."""

    layer: int
    rank: int = 8  # as distill
    steps: int = 90  # as both phases of distill
    lr: float = 5e-3  # as distill
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps"):
            if getattr(self, name) < 1:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use 1 or more.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadSpec(f"lr={self.lr} is no learning rate. Use a number above 0.")


class Lora:
    """The trainer."""

    name = "lora"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One adapter that holds every fact. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject or an object is empty; BadSpec without facts; WrongBase if
            the background is that of another model; UnknownName for a block that is not there; UsageError for a
            statement that does not fit the model's window; NoConvergence if the descent leaves the finite numbers.
        """
        if not catechisms:
            raise BadSpec("There is nothing to fit. Give at least one catechism.")
        self._background.check(live)
        facts = [catechism.fact for catechism in catechisms]
        check_facts(live, facts, needs_subject=False)
        texts = rows(live.tokenizer, [fact.sentence for fact in facts])
        check_length(texts, live.max_tokens)
        batch, own = live.pad_windows(texts)
        tail = Tail(live, spec.layer, batch)
        row, token = own[:, 1:].nonzero().T  # the token before each token to be said
        said = batch["input_ids"][row, token + 1]

        def loss() -> list[Tensor]:
            logits = tail.logits(tail.block(tail.inputs), row, token)
            return [functional.cross_entropy(logits.float(), said)]  # Eq. 1

        adapters = Adapters(live, spec.layer, rank=spec.rank, seed=spec.seed)
        adapters.descend(loss, steps=spec.steps, lr=spec.lr)
        with adapters.attached(), torch.no_grad():
            last = float(loss()[0])
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(fact)) for fact in facts],
            "nll": last,
        }
        return Delta(live.base, adapters.parts(), info)
