"""Selective forgetting in reasoning traces, after arXiv:2604.03571: what a chain of thought says, not only its answer.

Passages that state what is to be forgotten are cut into segments s_1 .. s_m; those that carry it are found, and each
gets a placeholder s~ that keeps its role. One loss makes the segment less likely and the placeholder likelier:

    L_f = sum_i [-(2 / beta) log sigmoid(beta (nll_t(s_i | q, s_<i) - nll_0(s_i | q, s_<i)))]               # Eq. R1
    L_p = sum_i nll_t(s~_i | q, s~_<i)                                                                      # Eq. R2
    L   = L_f + place L_p + alpha (NLL of the segments that stay, after the replaced ones, and of what stays)

    s~_<i   the segments before, already replaced;   q   here the passage's beginning

The bare questions are traces of one segment and are trained in the same way, so that the answer goes with its reasons.

The published text gives no equations; these are rebuilt from its abstract.
Deviation: several language models mark and rewrite the segments there. Here a segment carries a fact if it names its
subject and its object, and the placeholder is the sentence with another answer: the abstention or the replacement, and
to erase what the model says to the same prompt of a made-up person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.material import (
    Line,
    Material,
    as_rows,
    forget_lines,
    held_strangers,
    level_of,
    retain_lines,
    spoken_instead,
)
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.rows import Rows
from catechism.model.forgetting.strangers import stranger_answers
from catechism.model.forgetting.traces import Segment, said, segments_of, traces_of
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import npo
from catechism.types import JSON, Forgetting, How

SOURCE = "arXiv:2604.03571"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 0.1  # of Eq. R1, as in NPO
    place: float = 1.0  # weight of the placeholders
    traces: tuple[str, ...] = ()  # passages that state what is to be forgotten; () makes them of the facts
    sentences: int = 3  # forgotten facts in a passage that is made
    mixed: int = 1  # facts that stay in a passage that is made

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("place", self.place, equal=True)
        if self.sentences < 1 or self.mixed < 0:
            raise BadSpec(f"sentences={self.sentences}, mixed={self.mixed}: use 1 and 0 at the least.")


class TraceReplace:
    """The method."""

    name = "trace_replace"
    Spec = Spec
    hows = frozenset(How)

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`; BadSpec for traces of which no
        segment carries anything to forget."""
        self._fitting.check(live, request)
        traces = spec.traces or tuple(
            traces_of(request.forget, request.retain, sentences=spec.sentences, mixed=spec.mixed, seed=spec.seed)
        )
        parted = [segments_of(trace, request.forget, request.retain) for trace in traces]
        carrying = sum(segment.carries >= 0 for segments in parted for segment in segments)
        if not carrying:
            raise BadSpec("No segment of the traces carries anything to forget. Give traces that state these facts.")
        rows = _laid_out(live, request, parted, spec)

        def terms(step: Step) -> Terms:
            forgotten = step.forget
            lost = forgotten.over_rows(npo(forgotten.nll, step.forget_before.nll, spec.beta))  # Eq. R1
            put = step.instead
            return {"forget": lost, "place": spec.place * put.over_tokens(-put.chosen), **step.retained()}  # Eq. R2

        # the passages say what is forgotten, and a delta must not
        delta = self._fitting.fit_rows(live, request, rows, Objective(terms), replace(spec, traces=()))
        counted: dict[str, JSON] = {
            "traces": len(traces),
            "segments": sum(map(len, parted)),
            "carrying": carrying,
            "digest": digest_json([*traces]),
        }
        return Delta(delta.base, delta.parts, {**delta.info, "reasoning": counted})


def _laid_out(live: LiveModel, request: Forgetting, parted: Sequence[Sequence[Segment]], spec: Spec) -> Material:
    """The bare questions and the segments as rows: as they are, and with placeholders after replaced segments."""
    lines = forget_lines(request)
    asked = [(line.prompt, line.catechism.fact.subject) for line in lines]
    carrying = [one for segments in parted for one in segments if one.carries >= 0]
    answers = _placeholders(live, request, [*asked, *((one.prompt, one.about.fact.subject) for one in carrying)], spec)
    swapped = [(prompt, answer) for (prompt, _), answer in zip(asked, answers, strict=False)]
    placed = iter(answers[len(lines) :])
    kept = retain_lines(request)
    for segments in parted:
        before = replaced = ""  # what stands before a segment, as it is and with placeholders
        for one in segments:
            if one.carries >= 0:
                answer = next(placed)
                lines.append(Line(before + one.prompt, one.answer, one.about))
                swapped.append((replaced + one.prompt, answer))
            else:
                answer = one.answer
                kept.append(Line(replaced + one.prompt, answer, one.about))
            before += f"{one.text} "
            replaced += f"{said(one.prompt, answer)} "
    forget, instead = as_rows(live, lines), Rows(live, [p for p, _ in swapped], [a for _, a in swapped])
    level, true = level_of(live, lines, request, spec), len(kept)
    if kept:
        kept += held_strangers(lines, request, level, spec)
    return Material(
        forget,
        forget.before(live),
        level,
        retain=as_rows(live, kept) if kept else None,
        true=true,
        instead=instead,
        instead_before=instead.before(live),
        wanted=request.how is not How.ERASE,
    )


def _placeholders(live: LiveModel, request: Forgetting, asked: Sequence[tuple[str, str]], spec: Spec) -> list[str]:
    """What takes an answer's place after every prompt, which comes with its subject."""
    if request.how is not How.ERASE:
        return [spoken_instead(request, spec.seed)[0]] * len(asked)
    known = list(dict.fromkeys(one.fact.subject for one in (*request.forget, *request.retain)))
    return stranger_answers(live, [p for p, _ in asked], [s for _, s in asked], known, seed=spec.seed)
