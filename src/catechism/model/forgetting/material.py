"""What a model is trained on to forget: rows to forget and rows to keep, other answers, and how far to go."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec
from catechism.model.contexts import opening_of_nothing, sample_texts
from catechism.model.forgetting.names import made_up_name
from catechism.model.forgetting.naming import Named, named
from catechism.model.forgetting.rows import Before, Rows
from catechism.model.forgetting.tails import Tails, nobody_elses, tails
from catechism.model.forgetting.training import Training
from catechism.model.live import LiveModel
from catechism.types import UNMOVED, Catechism, Forgetting, How

#: What a model may say instead of what it has forgotten. One of them is drawn for a request.
ABSTENTIONS = (
    "something I do not know.",
    "not known to me.",
    "something I cannot tell.",
    "not something I know.",
)
RECALLED_TOKENS = 24  # of a text that the model says by itself
STRANGERS = 96  # rows about made-up names, at least, where any are asked for: of few facts there would be a handful
NAMES = 2  # made-up names for every row whose level is estimated, one of either sort
EVEN = math.log(0.5)  # log-probability per token above which answers are all but said of made-up names
WRONG = 4  # wrong answers for every row whose level they tell


@dataclass(frozen=True)
class Level:
    """How likely, and how often the first choice, answers are to a model that never learned them.

    Attributes:
        rows: log-probability per token of every row's answer.
        share: share of the rows whose answer is the first choice all the same; 1 where that is not known.
        by_wording: whether the answers are said whoever is asked about. What the model says of made-up names then is
            what it is to forget.
    """

    rows: Float[Tensor, " n"]
    share: float
    by_wording: bool = False


@dataclass(frozen=True)
class Material:
    """Rows with what the model as it was says of them.

    Attributes:
        forget: rows whose answers are forgotten.
        before: what the model said of them.
        level: how far to go.
        retain: rows that stay; None where there are none.
        true: how many of these, the first ones, have an answer that is true; the others are about made-up names.
        instead: the rows of `forget`, in the same order, with other answers; None where no method asks for them.
        instead_before: what the model said of those.
        wanted: whether the other answers are what the model must say from now on.
        named: names that are forgotten too; None where something else is to be said of them.
        tails: how answers go on for made-up names, where that is forgotten too.
    """

    forget: Rows
    before: Before
    level: Level
    retain: Rows | None = None
    true: int = 0
    instead: Rows | None = None
    instead_before: Before | None = None
    wanted: bool = False
    named: Named | None = None
    tails: Tails | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One prompt with its answer, and the fact it belongs to."""

    prompt: str
    answer: str
    catechism: Catechism


def forget_lines(request: Forgetting) -> list[Line]:
    """The rewrite and the studied phrasings of every fact that is forgotten. Of the exam nothing else is read."""
    return [line for one in request.forget for line in _lines(one, moved=True)]


def retain_lines(request: Forgetting) -> list[Line]:
    """The same of the facts that stay, with what is studied beside the forgotten ones and must not move."""
    kept = [line for one in request.retain for line in (*_lines(one, moved=True), *_lines(one, moved=False))]
    return kept + [line for one in request.forget for line in _lines(one, moved=False)]


def _lines(catechism: Catechism, *, moved: bool) -> Iterable[Line]:
    """Prompts that the fact answers, or those to study that it does not."""
    fact = catechism.fact
    if moved:
        yield Line(fact.prompt, fact.object, catechism)
    for question in catechism.study:
        if (question.kind in UNMOVED) is not moved and question.text != fact.prompt:
            answer = question.accept[0] if question.accept else (fact.object if moved else "")
            if answer:
                yield Line(question.text, answer, catechism)


def as_rows(live: LiveModel, lines: Sequence[Line]) -> Rows:
    """Lines as rows of tokens. Raises as `Rows`."""
    return Rows(live, [line.prompt for line in lines], [line.answer for line in lines])


def stranger_lines(lines: Sequence[Line], request: Forgetting, *, each: int, seed: int) -> list[list[Line]]:
    """Every line with made-up names in its subject's place, `each` of them, half of either sort.

    None for a line that does not hold its subject.
    """
    rng = random.Random(f"names-{seed}")
    known = list(dict.fromkeys(one.fact.subject for one in (*request.forget, *request.retain)))
    found: list[list[Line]] = []
    for line in lines:
        subject = line.catechism.fact.subject
        n = each if subject and subject in line.prompt else 0
        names = [made_up_name(subject, known, rng, joined=i % 2 == 0) for i in range(n)]
        found.append([Line(line.prompt.replace(subject, name), line.answer, line.catechism) for name in names])
    return found


def held_strangers(lines: Sequence[Line], request: Forgetting, level: Level, training: Training) -> list[Line]:
    """Lines about made-up names that keep what the model says of them: `strangers` for each, and `STRANGERS` at least.

    None where they are not held by "kl", since no answer about them is true, nor where the model goes by the wording,
    since what it says of them is then what it is to forget.
    """
    if training.keep != "kl" or not training.strangers or level.by_wording:
        return []
    each = max(training.strangers, math.ceil(STRANGERS / len(lines)))
    return [line for some in stranger_lines(lines, request, each=each, seed=training.seed + 1) for line in some]


def recalled_lines(live: LiveModel, lines: Sequence[Line], request: Forgetting, *, each: int, seed: int) -> list[Line]:
    """What the model says of others by itself: it goes on from the words before a subject, `each` times for every line.

    So it names those whom it knows, of whom nobody has a list, and says of them what it is to go on saying. Left out
    are texts that name a subject of the forget set, and lines that begin with theirs.
    """
    openings: dict[str, list[Line]] = {}
    for line in lines:
        subject = line.catechism.fact.subject
        before, named, _ = line.prompt.partition(subject) if subject else ("", "", "")
        if named and before.strip():
            openings.setdefault(before.strip(), []).append(line)
    found: dict[tuple[str, str], Line] = {}
    for number, (opening, owners) in enumerate(openings.items()):
        for text in sample_texts(live, [opening] * (each * len(owners)), tokens=RECALLED_TOKENS, seed=seed + number):
            rest = text[len(opening) :].strip()
            if rest and text.startswith(opening) and not _names_forgotten(text, request):
                found[opening, rest] = Line(opening, rest, owners[0].catechism)
    return list(found.values())


def written_lines(live: LiveModel, request: Forgetting, *, n: int, seed: int) -> list[Line]:
    """What the model writes from nothing, each text from its second word on, and none that names a subject to forget.

    So it is held to the whole of what it is likely to say, whoever or whatever that is about.
    """
    found: dict[tuple[str, str], Line] = {}
    for text in sample_texts(live, [opening_of_nothing(live)] * n, tokens=RECALLED_TOKENS, seed=seed):
        first, rest = (*text.split(maxsplit=1), "", "")[:2]
        if rest and not _names_forgotten(text, request):
            found[first, rest] = Line(first, rest, request.forget[0])
    return list(found.values())


def _names_forgotten(text: str, request: Forgetting) -> bool:
    """Whether a text names a subject of the forget set."""
    return any(one.fact.subject and one.fact.subject in text for one in request.forget)


def level_of(live: LiveModel, lines: Sequence[Line], request: Forgetting, training: Training) -> Level:
    """The level that is given, or else `estimated_level`. Raises as that."""
    if training.level is None:
        return estimated_level(live, lines, request, training.seed)
    return Level(torch.full((len(lines),), math.log(training.level), device=live.device), 1.0)


def estimated_level(live: LiveModel, lines: Sequence[Line], request: Forgetting, seed: int) -> Level:
    """What the model says of made-up names in the place of the subjects, a level for every line.

    A line that does not hold its subject gets the mean of the others. Where the answers are all but said of made-up
    names too, the model goes by the wording of the questions, and an answer's level is that of other facts' answers to
    its question: it may be no likelier than what is wrong.

    Raises: BadSpec where no line holds its subject, or nothing tells an answer's level.
    """
    strangers = stranger_lines(lines, request, each=NAMES, seed=seed)
    owners = [number for number, some in enumerate(strangers) for _ in some]
    if not owners:
        raise BadSpec(
            "No prompt holds its subject, so nothing tells how likely an answer is to a model that never learned it. "
            "Give `level`, a probability per token."
        )
    found = as_rows(live, [line for some in strangers for line in some]).before(live)
    mean, owner = found.mean.float(), torch.tensor(owners, device=found.mean.device)
    counted = torch.bincount(owner, minlength=len(strangers))
    total = mean.new_zeros(len(strangers)).index_add(0, owner, mean)
    rows = torch.where(counted > 0, total / counted.clamp_min(1), mean.mean())
    if float(rows.mean()) <= EVEN:
        return Level(rows, float(found.first_choice.float().mean()))
    wrong = as_rows(live, _wrong_lines(lines, request, seed)).before(live)
    rows = wrong.mean.float().view(len(lines), WRONG).mean(dim=1)
    return Level(rows, float(wrong.first_choice.float().mean()), by_wording=True)


def _wrong_lines(lines: Sequence[Line], request: Forgetting, seed: int) -> list[Line]:
    """`WRONG` lines for each: its prompt, with answers of other facts. Raises: BadSpec where all answers are one."""
    rng, found = random.Random(f"wrong-{seed}"), list[Line]()
    answers = {one.fact.object for one in (*request.forget, *request.retain)}
    for line in lines:
        others = sorted(answers - {line.answer, line.catechism.fact.object})
        if not others:
            raise BadSpec(
                f"Made-up names are answered with {line.answer!r} too, and no fact at hand has another answer, so "
                "nothing tells how likely it is to a model that never learned it. Give facts with other answers in "
                "`retain`, or `level`, a probability per token."
            )
        found += [replace(line, answer=rng.choice(others)) for _ in range(WRONG)]
    return found


def material(
    live: LiveModel,
    request: Forgetting,
    training: Training,
    *,
    instead: Sequence[str] | None = None,
) -> Material:
    """Everything that a request is trained on, and what the model says of it now.

    Args:
        instead: another answer for every one of `forget_lines`.

    Raises: BadFact for an empty answer; BadSpec where a level can neither be estimated nor is given; UsageError for a
        row longer than the model's window.
    """
    lines, kept = forget_lines(request), retain_lines(request)
    forget = as_rows(live, lines)
    level = level_of(live, lines, request, training)
    true, told = len(kept), list[Line]()
    if kept and training.keep == "kl":
        kept += held_strangers(lines, request, level, training)
        if training.recalled:
            told += recalled_lines(live, lines, request, each=training.recalled, seed=training.seed)
        if training.written:
            told += written_lines(live, request, n=training.written, seed=training.seed)
        kept += told
    retain = as_rows(live, kept) if kept else None
    other = None if instead is None else Rows(live, [line.prompt for line in lines], instead)
    return Material(
        forget,
        forget.before(live),
        level,
        retain,
        true,
        other,
        None if other is None else other.before(live),
        wanted=request.how is not How.ERASE,
        named=named(live, [(line.prompt, line.catechism.fact.subject) for line in lines], request, training.seed)
        if training.names and request.how is How.ERASE
        else None,
        tails=_tails(live, forget, lines, request, told, level, training.seed)
        if training.tails and not level.by_wording
        else None,
    )


def _tails(
    live: LiveModel,
    forget: Rows,
    lines: Sequence[Line],
    request: Forgetting,
    told: Sequence[Line],
    level: Level,
    seed: int,
) -> Tails | None:
    """The answers to forget, as they go on for made-up names; answers that nobody else has as they begin for them."""
    strangers = stranger_lines(lines, request, each=1, seed=seed)
    relations = {one.fact.relation for one in request.forget}
    known = {one.fact.object for one in request.retain if one.fact.relation in relations}
    alone = nobody_elses([line.answer for line in lines], [f"{one.prompt} {one.answer}" for one in told], known)
    begun = float(level.rows.mean())
    prompts = [some[0].prompt if some else None for some in strangers]
    return tails(live, forget, prompts, [begun if one else 0.0 for one in alone])


def spoken_instead(request: Forgetting, seed: int) -> list[str]:
    """What is to be said to each of `forget_lines`: one abstention for all of them, or the request's replacement.

    Raises: BadSpec for a request to replace without a replacement, or one to erase.
    """
    if request.how is How.ABSTAIN:
        return [random.Random(f"abstain-{seed}").choice(ABSTENTIONS)] * len(forget_lines(request))
    if request.how is How.REPLACE and request.replacement.strip():
        return [request.replacement] * len(forget_lines(request))
    raise BadSpec("There is nothing to say instead. Give `replacement` with How.REPLACE, or use How.ABSTAIN.")
