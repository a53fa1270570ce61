"""An editor whose edits are written by a network, which is trained once for a model and kept by content."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from catechism.delta import Delta, Dense, LowRank
from catechism.errors import BadSpec, WrongBase
from catechism.hashing import digest_json
from catechism.model.background import Background
from catechism.model.cache import Cached, cache_file, read_cached, write_cached
from catechism.model.hyper.examples import Example, from_catechisms, self_written
from catechism.model.hyper.factors import edit_factors
from catechism.model.hyper.network import EditorNetwork
from catechism.model.hyper.training import Course, Trainer, Write, Written
from catechism.model.live import LiveModel
from catechism.model.target_tokens import check_facts
from catechism.types import JSON, Catechism, Fact, Role, Site

_log = logging.getLogger(__name__)

ROLES = (Role.MLP_IN, Role.MLP_OUT)  # of every edited layer
HELD_OUT = 32  # training edits, at most a fifth of them, that the network is only judged by
FORMAT = 1  # of a kept network: counts up when the same key would give another one


@dataclass(frozen=True, slots=True)
class Plan:
    """What fixes a network on a model, its training edits apart.

    Attributes:
        layer, spread: the last layer that is edited, and how many there are.
        rank: of the network's layers.
        scalars: what each matrix learns for itself, and where that starts.
        course: the training.
        seed: of the network's start, of self-written edits and of the training's order.
    """

    layer: int
    spread: int
    rank: int
    scalars: Mapping[str, float]
    course: Course
    seed: int

    def __post_init__(self) -> None:
        for name in ("spread", "rank"):
            if getattr(self, name) < 1:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use 1 or more.")


@dataclass(frozen=True, eq=False)
class _Learnt:
    """A trained network, the prompts that it has seen edited, and the log of its training."""

    network: EditorNetwork
    prompts: frozenset[str]
    log: dict[str, JSON]


class NetworkEditor:
    """Fits with a network, which it trains on first use.

    Args:
        name: of the method; part of a network's key.
        background: its training catechisms are the training edits, or its texts where it has none.
        write: what the method makes of the network's factors.
    """

    def __init__(self, name: str, background: Background, write: Write) -> None:
        self._name, self._background, self._write = name, background, write
        self._learnt: dict[str, _Learnt] = {}

    def fit(self, live: LiveModel, facts: Sequence[Fact], plan: Plan) -> tuple[dict[str, LowRank | Dense], JSON]:
        """The parts of a delta for these facts, and the log of the training.

        Raises: BadFact if a prompt does not hold its subject or an object is empty; BadSpec without facts or with too
            little to train on; WrongBase if the background is that of another model, or if the network would have to be
            trained on a model that carries deltas; UnknownName for a layer without a dense MLP; NoConvergence if the
            training leaves the finite numbers.
        """
        check_facts(live, facts, needs_subject=False)
        self._background.check(live)
        sites = self._sites(live, plan)
        learnt = self._network(live, sites, plan)
        factors = edit_factors(live, sites, [fact.prompt for fact in facts], [fact.object for fact in facts])
        with torch.no_grad():
            written = self._write(learnt.network, factors)
        seen = sum(fact.prompt in learnt.prompts for fact in facts)
        return {address: part_of(change) for address, change in written.items()}, {**learnt.log, "seen": seen}

    def delta(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Any) -> Delta:
        """A delta for these catechisms with a method's settings, and where it came from. Raises as `fit`."""
        facts = [catechism.fact for catechism in catechisms]
        parts, training = self.fit(live, facts, spec.plan())
        info: dict[str, JSON] = {
            "method": self._name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(fact)) for fact in facts],
            "training": training,
        }
        return Delta(live.base, parts, info)

    @staticmethod
    def _sites(live: LiveModel, plan: Plan) -> list[Site]:
        live.anatomy.matrix(Site(plan.layer, Role.MLP_OUT))
        layers = range(max(0, plan.layer - plan.spread + 1), plan.layer + 1)
        return [site for layer in layers for role in ROLES if live.anatomy.has(site := Site(layer, role))]

    def _network(self, live: LiveModel, sites: Sequence[Site], plan: Plan) -> _Learnt:
        """The network of these settings: the one at hand, the one that is kept in a file, or a new one."""
        settings = digest_json(asdict(plan))
        if settings not in self._learnt:
            examples, source = self._examples(plan)
            key = digest_json(
                {
                    "format": FORMAT,
                    "method": self._name,
                    "base": live.base,
                    "dtype": str(live.dtype),
                    "plan": settings,
                    "examples": digest_json([[one.prompt, one.answer, one.same, one.kept] for one in examples]),
                }
            )
            shapes = {matrix.address: matrix.shape for matrix in map(live.anatomy.matrix, sites)}
            network = EditorNetwork(shapes, rank=plan.rank, scalars=plan.scalars, seed=plan.seed).to(live.device)
            file = cache_file(self._background.cache, self._name, key)
            kept = read_cached(file, key)
            if kept is None:
                log = self._train(live, sites, network, examples, plan)
                kept = Cached(network.state_dict(), json.dumps({**log, "source": source, "key": key}))
                write_cached(file, key, kept)
            network.load_state_dict(dict(kept.tensors))
            network.requires_grad_(False)
            self._learnt[settings] = _Learnt(network, frozenset(one.prompt for one in examples), json.loads(kept.note))
        return self._learnt[settings]

    def _examples(self, plan: Plan) -> tuple[list[Example], str]:
        """The training edits in a random order, and where they come from."""
        catechisms = self._background.training()
        if catechisms:
            examples, source = from_catechisms(catechisms), "catechisms"
        else:
            examples, source = self_written(self._background, plan.course.examples, seed=plan.seed), "texts"
        if len(examples) < 2:
            raise BadSpec(f"{len(examples)} training edits are too few. Give at least two catechisms of other facts.")
        random.Random(f"order-{plan.seed}").shuffle(examples)
        return examples, source

    def _train(
        self, live: LiveModel, sites: Sequence[Site], network: EditorNetwork, examples: Sequence[Example], plan: Plan
    ) -> dict[str, JSON]:
        """Train the network in place; what was learnt from, and what held-out edits lose before and after it."""
        if live.applied:
            raise WrongBase(
                f"{len(live.applied)} deltas are on the model, a network is trained on the base. Call `revert_all()` "
                "first, or fit once before any edit."
            )
        held = max(1, min(HELD_OUT, len(examples) // 5))
        _log.info("%s: training on %d edits, %d held out", self._name, len(examples) - held, held)
        trainer, course = Trainer(live, sites, network, self._write, examples), plan.course
        last = range(len(examples) - held, len(examples))
        before = trainer.losses(last, course.batch)
        trainer.train(course, range(len(examples) - held), seed=plan.seed)
        after = trainer.losses(last, course.batch)
        _log.info("%s: held-out edits %.3f -> %.3f, kept %.4f", self._name, before.edit, after.edit, after.keep)
        return {
            "examples": len(examples) - held,
            "held_out": {"examples": held, "before": asdict(before), "after": asdict(after)},
        }


def part_of(change: Written) -> LowRank | Dense:
    """All edits of a matrix as one part: its factors, or its entries where these are fewer."""
    A, B = torch.cat(list(change.A), dim=1), torch.cat(list(change.B), dim=0)
    told = (B != 0).any(dim=1)  # padding has no term
    A, B = A[:, told].float().cpu(), B[told].float().cpu()
    return LowRank(A, B) if A.numel() + B.numel() < A.shape[0] * B.shape[1] else Dense(A @ B)
