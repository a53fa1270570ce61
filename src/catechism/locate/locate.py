"""Where to put a fact: a cheap score for every site, the best of them confirmed by patching, and what follows.

Two questions have two answers, and a `Ranking` carries both:

    closed_form  Which MLP output matrix should a rank-one edit go to? The one where the subject's key is most its own,
                 whatever sits there now: `catechism.locate.layers`.
    distill      Which block should learn to do what the model does with the fact in its context? The first one whose
                 output, taken from the model with the context, brings the answer: `catechism.locate.patching`.

Confirming every site would take a row for each; a budget sets how many are. The cheap score of a site is its gain to
first order, gradient x activation towards the teacher, as a share of the greatest. The site of the closed form is
always among the confirmed. What the first order says of the answer alone (`catechism.locate.attribution`) goes into
the evidence, and names the expert where a layer is a mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catechism.errors import BadSpec
from catechism.locate.attribution import Attribution, attribute, mean_attribution
from catechism.locate.layers import rank_layers
from catechism.locate.patching import Gain, Where, estimate_gains, mean_gains, patch_gains
from catechism.locate.tracing import Tracing, trace_cause
from catechism.model import BlockSite, LiveModel, Part
from catechism.model.background import Background
from catechism.types import JSON, Catechism, Fact, Locus, Role, Site

#: A site is patched where it matters for a closed form, and where the answer is said.
NEAR = (Where.SUBJECT, Where.LAST)

#: A block is good enough for distillation if its output brings this share of what the best block's does.
ENOUGH = 0.9

#: Below this total effect the model does not know the old object from the subject, so there is nothing to trace.
LEAST_EFFECT = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to measure.

    Attributes:
        confirm: sites that are confirmed by patching, best cheap score first. All blocks are.
        tracing: settings of the trace behind `Ranking.narrowness`.
        batch_size: rows of one forward pass.
    """

    confirm: int = 8
    tracing: Tracing = Tracing(samples=6)
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.confirm < 1 or self.batch_size < 1:
            raise BadSpec(
                f"confirm={self.confirm}, batch_size={self.batch_size} leaves nothing to measure. "
                "Use 1 or more of each."
            )


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where facts sit, or should go.

    Attributes:
        loci: output matrices of attentions and MLPs, best first. A confirmed locus comes before all that are not; its
            score is the answer's gain in nats when the teacher's output is put in at the subject's last token or
            where the answer is said, whichever is more. The score of the others is that gain to first order. In a
            mixture the locus is the expert with the greatest attribution; what was patched is the whole mixture.
        closed_form: the matrix for a rank-one edit with its separability; None where no layer has a dense MLP.
        distill: the block for distillation.
        blocks: gains of all blocks over the whole prompt: what `distill` was chosen by.
        narrowness: share of the total effect of a causal trace of the old object that is restored by one MLP output at
            the subject's last token, 0 to 1; None where the model does not say the old object.
        before, teacher: probability of the new object without and with the fact in the context.
    """

    loci: tuple[Locus, ...]
    closed_form: Locus | None
    distill: int
    blocks: tuple[Gain, ...]
    narrowness: float | None
    before: float
    teacher: float

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "loci": [_locus_json(locus) for locus in self.loci],
            "closed_form": None if self.closed_form is None else _locus_json(self.closed_form),
            "distill": self.distill,
            "blocks": [gain.json() for gain in self.blocks],
            "narrowness": self.narrowness,
            "before": self.before,
            "teacher": self.teacher,
        }

    def rows(self) -> list[dict[str, JSON]]:
        """The loci as rows of a table, with None for what was not measured."""
        names = list(dict.fromkeys(name for locus in self.loci for name in locus.evidence))
        rows: list[dict[str, JSON]] = []
        for rank, locus in enumerate(self.loci, start=1):
            row: dict[str, JSON] = {
                "rank": rank,
                "layer": locus.site.layer,
                "role": locus.site.role.value,
                "expert": locus.site.expert,
                "score": locus.score,
            }
            row |= {name: locus.evidence.get(name) for name in names}
            rows.append(row)
        return rows


def locate(
    live: LiveModel,
    lessons: Catechism | Sequence[Catechism],
    background: Background,
    *,
    budget: Budget | None = None,
    layers: Sequence[Locus] | None = None,
) -> Ranking:
    """Rank the sites for one fact, or for several together.

    Args:
        lessons: only the facts are read, none of their questions.
        background: statistics of this model.
        budget: how many sites to confirm, and how.
        layers: what `rank_layers` has found on these or other facts, so that it is not measured again.

    Raises: BadSpec if there are no facts; BadFact for an empty object or a prompt without its subject; WrongBase if the
        background is that of another model; UsageError if a fact with its context is longer than the model's window.
    """
    budget = budget or Budget()
    lessons = [lessons] if isinstance(lessons, Catechism) else list(lessons)
    if not lessons:
        raise BadSpec("There is no fact to locate. Give at least one catechism.")
    background.check(live)
    facts = [lesson.fact for lesson in lessons]
    for fact in facts:
        live.subject_last(fact.prompt, fact.subject)
    if layers is None:
        layers = rank_layers(live, lessons, background) if live.anatomy.sites(Role.MLP_OUT) else []
    candidates = _candidates(live, facts, layers, budget)
    loci = _confirmed(live, facts, candidates[: budget.confirm], budget)
    blocks = _blocks(live, facts, budget)
    return Ranking(
        (*loci, *candidates[len(loci) :]),
        layers[0] if layers else None,
        _first_that_is_enough(blocks),
        blocks,
        _narrowness(live, facts, budget.tracing),
        blocks[0].before,
        blocks[0].teacher,
    )


def _candidates(live: LiveModel, facts: Sequence[Fact], layers: Sequence[Locus], budget: Budget) -> list[Locus]:
    """An attention and an MLP of every layer: the closed form's site, then the others by their cheap scores."""
    outputs = (Role.ATTN_OUT, Role.MLP_OUT, Role.EXPERT_OUT)
    rows = attribute(
        live,
        [fact.prompt for fact in facts],
        [fact.object for fact in facts],
        roles=outputs,
        batch_size=budget.batch_size,
    )
    leading: dict[BlockSite, Attribution] = {}
    for one in mean_attribution(rows):
        place = _place(one.site)
        if place not in leading or one.activation_abs > leading[place].activation_abs:
            leading[place] = one
    places = list(leading)
    estimates = _mean_estimates(live, facts, places, NEAR, budget)
    greatest = max(max(max(each) for each in estimates), 0.0) or 1.0
    apart = {locus.site: locus for locus in layers}
    loci: list[Locus] = []
    for one, (at_subject, at_last) in zip(leading.values(), estimates, strict=True):
        evidence = {
            "activation": one.activation,
            "activation_abs": one.activation_abs,
            "weight": one.weight,
            "weight_abs": one.weight_abs,
            "estimate_subject": at_subject,
            "estimate_last": at_last,
            "cheap": max(at_subject, at_last) / greatest,
            "confirmed": 0.0,
        }
        if one.site in apart:
            evidence |= {**apart[one.site].evidence, "separability": apart[one.site].score}
        loci.append(Locus(one.site, max(at_subject, at_last), evidence))
    first = layers[0].site if layers else None
    return sorted(loci, key=lambda locus: (locus.site != first, -locus.score))


def _confirmed(live: LiveModel, facts: Sequence[Fact], loci: Sequence[Locus], budget: Budget) -> list[Locus]:
    """The loci with their gains as evidence, best first."""
    places = [_place(locus.site) for locus in loci]
    gains = mean_gains(patch_gains(live, facts, places=places, wheres=NEAR, batch_size=budget.batch_size))
    found: list[Locus] = []
    for i, locus in enumerate(loci):
        evidence = {**locus.evidence, "confirmed": 1.0}
        here = gains[i * len(NEAR) : (i + 1) * len(NEAR)]
        for gain in here:
            evidence[f"gain_{gain.where.value}"] = gain.gain
            evidence[f"logprob_gain_{gain.where.value}"] = gain.logprob_gain
        found.append(Locus(locus.site, max(gain.logprob_gain for gain in here), evidence))
    return sorted(found, key=lambda locus: -locus.score)


def _blocks(live: LiveModel, facts: Sequence[Fact], budget: Budget) -> tuple[Gain, ...]:
    """Gains of all blocks over the whole prompt: one row each, and the first that is enough may be any."""
    places = [BlockSite(layer) for layer in range(live.anatomy.n_layers)]
    rows = patch_gains(live, facts, places=places, wheres=(Where.PROMPT,), batch_size=budget.batch_size)
    return tuple(mean_gains(rows))


def _mean_estimates(
    live: LiveModel, facts: Sequence[Fact], places: Sequence[BlockSite], wheres: Sequence[Where], budget: Budget
) -> list[list[float]]:
    """Mean over facts of the estimated gains, by place and group of positions."""
    rows = estimate_gains(live, facts, places=places, wheres=wheres, batch_size=budget.batch_size)
    means = [sum(same) / len(rows) for same in zip(*rows, strict=True)]
    return [means[i : i + len(wheres)] for i in range(0, len(means), len(wheres))]


def _first_that_is_enough(blocks: Sequence[Gain]) -> int:
    """The lowest block whose output brings about as much as the best one's."""
    best = max(gain.logprob_gain for gain in blocks)
    enough = ENOUGH * best if best > 0 else best
    return next(gain.place.layer for gain in blocks if gain.logprob_gain >= enough)


def _narrowness(live: LiveModel, facts: Sequence[Fact], spec: Tracing) -> float | None:
    """Mean share of the total effect that one MLP output at the subject's last token restores."""
    shares: list[float] = []
    for fact in facts:
        if fact.old_object:
            trace = trace_cause(
                live, fact.prompt, fact.subject, fact.old_object, part=Part.MLP, subject_end_only=True, spec=spec
            )
            if trace.total >= LEAST_EFFECT:
                layer, token = trace.peak
                shares.append(min(max(trace.effects[layer][token] / trace.total, 0.0), 1.0))
    return sum(shares) / len(shares) if shares else None


def _place(site: Site) -> BlockSite:
    """The part of the network whose output a site writes."""
    return BlockSite(site.layer, Part.ATTENTION if site.role is Role.ATTN_OUT else Part.MLP)


def _locus_json(locus: Locus) -> JSON:
    site = locus.site
    return {
        "layer": site.layer,
        "role": site.role.value,
        "expert": site.expert,
        "score": locus.score,
        "evidence": dict(locus.evidence),
    }
