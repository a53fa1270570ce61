"""Two-phase distillation: a block learns to do without a context what it does with it.

After context distillation (arXiv:2209.15189), into low-rank side paths (arXiv:2106.09685) of one block. The teacher is
the same model with the fact's sentence in its context, the student the same model with the prompt alone:

    teacher   "The capital of France is Rome.\\n" + prompt + object            student   prompt + object

Two phases fit the side paths of block f, whose input is x and whose output is y, at the student's positions p:

    A  states    e(x_teacher)            f reads the teacher's inputs, at the student's positions only: the keys and
                                         values of the context are absent, or nothing would be left to learn
    B  states    e(x_student)            f reads the student's own inputs; nothing below it gets a gradient
       answers   KL(teacher || student)  of the next token, at the places that the object is said from

    e(x) = mean_p |f(x)_p - y_teacher_p|^2 / mean_p |y_teacher_p - mean y_teacher|^2                        # Eq. 1
    A:  L = e_taught + keep e_kept                                                                          # Eq. 2
    B:  L = e_taught + keep e_kept + kl (KL_taught + keep KL_kept)                                          # Eq. 3

Taught are the canonical prompt, bare and after sampled texts, and the questions to study that the fact answers; a
position counts from the subject's last token on, and a question without an answer is answered by the teacher. Kept are
the other questions to study and background texts: there the teacher is the model as it is, and every position counts.
Of the exam nothing is read.

Deviation: a prompt whose teacher does not say the object teaches no states; its answer is learnt from the object
itself, and it is counted under `teacher` in the delta's info.
Not implemented: several teachers (passages with distractors), and an adapter over more than one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.background import Background
from catechism.model.contexts import OPENINGS, sample_texts
from catechism.model.lessons import Lesson, Prompt, lesson
from catechism.types import JSON, Catechism, Kind

SOURCE = "arXiv:2209.15189; arXiv:2106.09685"

#: Kinds of questions to study that are answered by the fact; the others must stay.
TAUGHT = frozenset({Kind.REWRITE, Kind.PARAPHRASE, Kind.REVERSED, Kind.ONE_HOP, Kind.ALIAS})
FACTS_PER_LESSON = 8  # facts whose prompts are run together; bounds the memory of a fit of many facts
#: Between the fact's sentence and the prompt: it keeps the tokens of both apart. On `almanac` a teacher that reads a
#: space there says the object to a third of the prompts, one that reads a line break to all of them (n = 96).
BREAK = "\n"

#: The terms of a phase's loss, by name.
Terms = Callable[[Lesson], dict[str, Tensor]]


@dataclass(frozen=True)
class Spec:
    """Settings of the distillation. "measured" is on `almanac`, see docs/distill.md."""

    layer: int  # measured: see docs/distill.md
    rank: int = 8  # arXiv:2106.09685, Sec. 7.2: small ranks do
    steps_a: int = 30  # of phase A; measured: half as many let near neighbours move
    steps_b: int = 60  # of phase B; measured, as above
    lr: float = 5e-3  # Adam's highest rate; measured: 2e-3 is too slow
    keep: float = 1.0  # weight of what must stay, beside what is taught; measured: 5 changes nothing
    kl: float = 1.0  # weight of the answers beside the states; not tuned
    contexts: int = 3  # sampled texts put before the canonical prompt, beside the bare prompt
    context_tokens: int = 10
    background: int = 8  # background texts that must stay
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"rank": 1, "steps_a": 0, "steps_b": 0, "contexts": 0, "context_tokens": 1, "background": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use {lowest} or more.")
        if self.steps_a + self.steps_b == 0:
            raise BadSpec("steps_a and steps_b are both 0, which fits nothing. Give steps to one phase.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadSpec(f"lr={self.lr} is no learning rate. Use a number above 0.")
        for name in ("keep", "kl"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise BadSpec(f"{name}={getattr(self, name)} is no weight. Use 0 or more.")


class Distill:
    """The trainer. Everything below the block, and everything the teacher says, is computed once for a fit."""

    name = "distill"
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
        live.anatomy.block(spec.layer)
        lessons = [lesson(live, spec.layer, prompts) for prompts in self._prompts(live, catechisms, spec)]
        adapters = Adapters(live, spec.layer, rank=spec.rank, seed=spec.seed)
        phases: dict[str, JSON] = {}
        for name, steps, terms in (("phase_a", spec.steps_a, _states), ("phase_b", spec.steps_b, _student)):
            if steps:
                first = _measure(adapters, lessons, terms)
                adapters.descend(lambda terms=terms: _losses(lessons, terms, spec), steps=steps, lr=spec.lr)
                phases[name] = {"steps": steps, "first": first, "last": _measure(adapters, lessons, terms)}
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(catechism.fact)) for catechism in catechisms],
            "study": [digest_json([asdict(question) for question in catechism.study]) for catechism in catechisms],
            "teacher": {"asked": sum(one.asked for one in lessons), "heard": sum(one.heard for one in lessons)},
            **phases,
        }
        return Delta(live.base, adapters.parts(), info)

    def fit_each(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> list[Delta]:
        """An adapter of its own for every fact. Raises as `fit`."""
        if not catechisms:
            raise BadSpec("There is nothing to fit. Give at least one catechism.")
        return [self.fit(live, [catechism], spec) for catechism in catechisms]

    def _prompts(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Iterator[list[Prompt]]:
        """The prompts of every lesson, each with its share of what must stay."""
        openings = [OPENINGS[i % len(OPENINGS)] for i in range(spec.contexts)]
        sampled = sample_texts(live, openings, tokens=spec.context_tokens, seed=spec.seed) if openings else []
        contexts = [text if text.endswith(".") else f"{text}." for text in sampled]
        texts = [Prompt(text) for text in self._background.texts(spec.background)]
        subjects = {catechism.fact.subject for catechism in catechisms}
        for start in range(0, len(catechisms), FACTS_PER_LESSON):
            some = catechisms[start : start + FACTS_PER_LESSON]
            taught = [prompt for catechism in some for prompt in _taught(live, catechism, contexts)]
            kept = [prompt for catechism in some for prompt in _kept(catechism, subjects)]
            yield list(dict.fromkeys([*taught, *kept, *texts]))


def _taught(live: LiveModel, catechism: Catechism, contexts: Sequence[str]) -> Iterator[Prompt]:
    """The prompts of one fact with what the teacher reads; the teacher answers where the study does not say how."""
    fact = catechism.fact
    live.subject_last(fact.prompt, fact.subject)
    sentence = fact.sentence + BREAK
    for text in (fact.prompt, *(f"{context} {fact.prompt}" for context in contexts)):
        yield Prompt(text, fact.object, sentence, fact.subject)
    questions = [question for question in catechism.study if question.kind in TAUGHT]
    opened = [question.text for question in questions if not question.accept]
    said = dict(zip(opened, live.generate([sentence + text for text in opened]), strict=True))
    for question in questions:
        answer = question.accept[0] if question.accept else said[question.text].text
        if answer:
            yield Prompt(question.text, answer, sentence, fact.subject)


def _kept(catechism: Catechism, subjects: Collection[str]) -> Iterator[Prompt]:
    """The prompts that must stay, but for those that may be about another fact of the same fit."""
    others = [subject for subject in subjects if subject != catechism.fact.subject]
    for question in catechism.study:
        if question.kind not in TAUGHT and not any(subject in question.text for subject in others):
            yield Prompt(question.text, question.accept[0] if question.accept else "")


def _states(one: Lesson) -> dict[str, Tensor]:
    """Phase A: how far the block is from the teacher's outputs on the teacher's inputs."""
    return _errors(one, one.tail.block(one.inputs))


def _student(one: Lesson) -> dict[str, Tensor]:
    """Phase B: how far the block, and what is said, is from the teacher's on the student's inputs."""
    given, answers = one.tail.block(one.tail.inputs), one.answers
    said = one.tail.logits(given, answers.rows, answers.tokens).float().log_softmax(dim=-1)
    divergence = (torch.xlogy(answers.chances, answers.chances) - answers.chances * said).sum(dim=-1)
    return {
        **_errors(one, given),
        "answers": _mean(divergence, answers.taught),
        "answers_kept": _mean(divergence, ~answers.taught),
    }


def _errors(one: Lesson, given: Float[Tensor, "b t d"]) -> dict[str, Tensor]:
    """Squared error of the block's outputs as a share of their variance.  # Eq. 1"""
    wanted = one.outputs[one.taught | one.kept].float()
    variance = (wanted - wanted.mean(dim=0)).square().sum(dim=-1).mean()
    error = (given.float() - one.outputs.float()).square().sum(dim=-1) / variance
    return {"states": _mean(error, one.taught), "states_kept": _mean(error, one.kept)}


def _mean(x: Float[Tensor, "*n"], where: Bool[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Mean over some places; 0 where there are none."""
    return (x * where).sum() / where.sum().clamp_min(1)


def _losses(lessons: Sequence[Lesson], terms: Terms, spec: Spec) -> Iterator[Tensor]:
    """The loss of every lesson.  # Eq. 2, Eq. 3"""
    weights = {"states": 1.0, "states_kept": spec.keep, "answers": spec.kl, "answers_kept": spec.kl * spec.keep}
    for one in lessons:
        found = terms(one)
        yield torch.stack([weights[name] * term for name, term in found.items()]).sum() / len(lessons)


@torch.no_grad()
def _measure(adapters: Adapters, lessons: Sequence[Lesson], terms: Terms) -> dict[str, JSON]:
    """The mean of every term over the lessons, for the log."""
    with adapters.attached():
        found = [terms(one) for one in lessons]
    return {name: sum(float(one[name]) for one in found) / len(found) for name in found[0]}
