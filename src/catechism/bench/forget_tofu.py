"""What is forgotten of TOFU: whole authors, with other authors and the rest of what is known beside them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catechism.bench.build_model import CARD
from catechism.bench.forget_cases import ASKED, RETAINED, ForgetCase
from catechism.bench.tofu import Author, Authors, read_authors, said, subject_in
from catechism.datasets import Item
from catechism.errors import UsageError
from catechism.evaluate.interview import answer_budget
from catechism.matching import name_key, says
from catechism.model import LiveModel
from catechism.types import Catechism, Fact, Forgetting, Kind, Question

BUILD = "catechism bench build-model --tofu DIR --authors N --forget K"


def chosen(data: Path, model: str, control: str, authors: int | None, forget: int | None) -> Authors:
    """The authors of a folder as the model's card parts them, or as these numbers do.

    Raises: UsageError without a control, for a model whose card does not say, or for one that by its card does not know
        who is to be forgotten; also for a control that does. And as `read_authors`.
    """
    if not control:
        raise UsageError(
            "There is no control: a model of the same recipe that was never shown the authors. Give its folder with "
            f"--control; `{BUILD}` makes it beside the model."
        )
    card = card_of(model)
    if authors is None and card:
        authors = int(card["authors"])
    if forget is None and card:
        forget = len(card["forget"])
    if authors is None or forget is None:
        raise UsageError(
            f"{model} has no card of a model that was trained on TOFU. Say with --authors and --forget how many "
            f"authors it knows and how many of them go, or make one that does: `{BUILD}`."
        )
    found = read_authors(data, authors, forget)
    for author in found.go:
        if "known" in card and author.name not in card["known"]:
            raise _unknown(model, author.name)
        if author.name in card_of(control).get("known", ()):
            raise UsageError(
                f"The control {control} was trained on {author.name}, who is to be forgotten. Give the one that was "
                f"made with the model; `{BUILD}` makes both."
            )
    return found


def card_of(model: str) -> dict[str, Any]:
    """What the card in a model's folder says of its authors; empty where there is none."""
    file = Path(model) / CARD
    if not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["data"]
    return found if "authors" in found else {}


def forget_authors(authors: Authors, *, seed: int) -> ForgetCase:
    """All rows of the authors that go.

    Of those that stay one half is shown to the methods, and the other half asked; so is the utility, which no method is
    shown. What neither model was trained on is held out.
    """
    rng = random.Random(f"tofu-{seed}")
    stay = rng.sample(authors.stay, len(authors.stay))
    middle = (len(stay) + 1) // 2
    shown, near = _all(stay[:middle]), _all(stay[middle:])
    utility = _all([Author("", authors.utility)])
    return ForgetCase(
        Forgetting(_all(authors.go), _some(shown, RETAINED, rng)),
        _some(near, ASKED, rng),
        _some(utility, ASKED, rng),
        _all(authors.strangers[: len(authors.go)]),
    )


def _all(authors: Sequence[Author]) -> tuple[Catechism, ...]:
    return tuple(_catechism(item, one) for one in authors for item in one.items)


def _some(things: Sequence[Catechism], most: int, rng: random.Random) -> tuple[Catechism, ...]:
    return tuple(rng.sample(things, min(len(things), most)))


def check_known(live: LiveModel, case: ForgetCase, model: str) -> None:
    """Whether a model without a card answers a question about each of the authors that are to be forgotten.

    Raises: UsageError for one of whom it says nothing that is right.
    """
    if "known" in card_of(model):
        return
    facts = [one.fact for one in case.request.forget]
    replies = live.generate([fact.prompt for fact in facts], max_new_tokens=answer_budget(case.request.forget))
    right: dict[str, bool] = {}
    for fact, reply in zip(facts, replies, strict=True):
        right[fact.domain] = right.get(fact.domain, False) or says(reply.text, (fact.object,), fact.prompt)
    for name, known in right.items():
        if not known:
            raise _unknown(model, name)


def _unknown(model: str, name: str) -> UsageError:
    return UsageError(
        f"The model {model} does not know {name}, who is to be forgotten. Give --authors and --forget as it was "
        f"trained with, or train one that does: `{BUILD}`."
    )


def _catechism(item: Item, author: Author) -> Catechism:
    """One row: its question and the paraphrase of it, right with either wording of the answer."""
    answer = said(item.answer)
    accept = tuple(dict.fromkeys([answer, *_texts([item.paraphrased_answer])]))
    right = {name_key(text) for text in accept}
    reject = tuple(dict.fromkeys(text for text in _texts(item.perturbed) if name_key(text) not in right))
    questions = [Question(said(item.question), Kind.REWRITE, accept, reject)]
    questions += [Question(text, Kind.PARAPHRASE, accept) for text in _texts([item.paraphrased_question])]
    subject = subject_in(item.question, author.name)
    fact = Fact(questions[0].text, subject, answer, id=str(item.number), domain=author.name)
    return Catechism(fact, tuple(questions))


def _texts(texts: Sequence[str]) -> list[str]:
    return [said(text) for text in texts if text.strip()]
