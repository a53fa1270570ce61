"""Everything that is measured on one model, so that a control is measured once for many audits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from catechism.evaluate.audit import depth, membership, probes, spill
from catechism.evaluate.audit.items import Item, Kept, items_of
from catechism.evaluate.audit.memorisation import memorisation, truth_ratio
from catechism.evaluate.audit.profile import Profile
from catechism.evaluate.audit.prompts import prompt_attacks
from catechism.evaluate.audit.recall import plain_recall
from catechism.evaluate.audit.relearning import Relearning, benign, relearn
from catechism.evaluate.audit.weights import weight_attacks
from catechism.model import LiveModel
from catechism.model.merged import merged
from catechism.types import Catechism, Forgetting

#: Told what is being measured, how many parts are done, and of how many.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is asked in an audit: the same of every model.

    Attributes:
        items: the facts. shown: catechisms that a probe may be fitted on. around: neighbours to train on, as prompt and
            answer.
        members, others: texts that were to be forgotten, and texts that never were anywhere.
        kept: what has to stay, by group. texts: for the perplexity.
    """

    items: tuple[Item, ...]
    shown: tuple[Catechism, ...]
    around: tuple[tuple[str, str], ...]
    members: tuple[str, ...]
    others: tuple[str, ...]
    kept: Mapping[str, Sequence[Catechism]]
    texts: tuple[str, ...]
    profile: Profile
    seed: int

    @property
    def chance(self) -> float:
        """What guessing among the answers of the relation gives, mean over the facts."""
        return sum(1 / (1 + len(item.rivals)) for item in self.items) / len(self.items)


def plan_of(request: Forgetting, kept: Kept, profile: Profile, seed: int) -> Plan:
    """Draw everything that is asked. Raises UsageError for an empty request, or a fact that nothing asks for."""
    items = items_of(request, kept, rivals=profile.rivals, seed=seed)
    forgotten = {item.fact for item in items}
    shown = [one for one in (*kept.neighbours, *request.retain) if one.fact not in forgotten]
    relations = {fact.relation for fact in forgotten}
    around = [one.fact for one in shown if one.fact.relation in relations] or [one.fact for one in shown]
    return Plan(
        items,
        tuple(shown),
        tuple((fact.prompt, fact.object) for fact in dict.fromkeys(around)),
        tuple(item.fact.sentence for item in items),
        tuple(membership.others_of(items, kept, seed=seed)),
        spill.groups(request, kept, most=profile.kept),
        tuple(kept.texts),
        profile,
        seed,
    )


@dataclass(frozen=True)
class Before:
    """The model without the edit: what it knew and what has to stay.

    Attributes:
        profile, seed: that it was measured with.
        recall, memorisation: by name and fact. kept: by group and fact. perplexity: of the texts; nan without texts.
        full: a model that knows the facts, for patching; None leaves the depth out.
    """

    profile: str
    seed: int
    recall: Mapping[str, Sequence[float]]
    memorisation: Mapping[str, Sequence[float]]
    kept: Mapping[str, Sequence[float]]
    perplexity: float
    full: LiveModel | None


def before_of(live: LiveModel, plan: Plan) -> Before:
    """Measure a model as it is; for patching a copy is kept."""
    return Before(
        plan.profile.name,
        plan.seed,
        plain_recall(live, plan.items),
        memorisation(live, plan.items),
        spill.retained(live, plan.kept),
        live.perplexity(plan.texts) if plan.texts else math.nan,
        merged(live) if plan.profile.depth else None,
    )


@dataclass
class Measured:
    """The values of one model, by family, name and fact; what was not measured is empty."""

    recall: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    attacks: dict[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    memorisation: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    truth: Sequence[float] = ()
    members: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    others: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    layers: Sequence[int] = ()
    probe: Sequence[Sequence[float]] = ()
    lens: Sequence[Sequence[float]] = ()
    relearning: Relearning | None = None
    benign: Relearning | None = None


def measure(live: LiveModel, plan: Plan, progress: Progress | None = None, *, who: str = "model") -> Measured:
    """Everything that needs this model and no other. The model is left as it is."""
    profile, found = plan.profile, Measured()
    parts: list[tuple[str, Callable[[], None]]] = [
        ("recall", lambda: _recall(live, plan, found)),
        ("prompts", lambda: _prompts(live, plan, found)),
        ("weights", lambda: _weights(live, plan, found)),
    ]
    if profile.membership:
        parts.append(("membership", lambda: _membership(live, plan, found)))
    if profile.probes:
        parts.append(("probes", lambda: _probes(live, plan, found)))
    if profile.relearn_steps or profile.benign_steps:
        parts.append(("relearning", lambda: _relearning(live, plan, found)))
    for number, (name, work) in enumerate(parts):
        if progress is not None:
            progress(f"{who}: {name}", number, len(parts))
        work()
    if progress is not None:
        progress(f"{who}: done", len(parts), len(parts))
    return found


def _recall(live: LiveModel, plan: Plan, found: Measured) -> None:
    found.recall = plain_recall(live, plan.items)
    found.memorisation = memorisation(live, plan.items)
    found.truth = truth_ratio(live, plan.items)


def _prompts(live: LiveModel, plan: Plan, found: Measured) -> None:
    profile = plan.profile
    found.attacks.update(prompt_attacks(live, plan.items, profile.attacks, variants=profile.variants, seed=plan.seed))


def _weights(live: LiveModel, plan: Plan, found: Measured) -> None:
    profile = plan.profile
    found.attacks.update(weight_attacks(live, plan.items, profile.weights, phrasings=profile.phrasings, seed=plan.seed))


def _membership(live: LiveModel, plan: Plan, found: Measured) -> None:
    found.members = membership.scores(live, plan.members)
    found.others = membership.scores(live, plan.others)


def _probes(live: LiveModel, plan: Plan, found: Measured) -> None:
    found.layers = depth.layers_of(live, plan.profile.layers)
    found.probe = probes.probe_hits(live, plan.items, plan.shown, found.layers)
    found.lens = probes.lens_hits(live, plan.items, found.layers)


def _relearning(live: LiveModel, plan: Plan, found: Measured) -> None:
    profile = plan.profile
    if profile.relearn_steps:
        found.relearning = relearn(
            live, plan.items, steps=profile.relearn_steps, lr=profile.relearn_lr, phrasings=profile.phrasings
        )
    if profile.benign_steps and plan.around:
        found.attacks["benign_relearning"], found.benign = benign(
            live, plan.items, plan.around, steps=profile.benign_steps, lr=profile.relearn_lr, seed=plan.seed
        )
