"""TOFU (Maini et al., arXiv:2401.06121): questions and answers about invented authors, to be forgotten or retained.

All its files are read: plain ones (forget, retain, holdout, full), those with a paraphrase and wrong answers
(``…_perturbed``), and the multiple-choice ones about real authors and the world. `read_items` gives the rows as they
are, which is what forgetting needs; as a catechism a row teaches its own answer. The data names no subject; it is taken
to be the longest name in the question, and left empty where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from catechism.datasets.fields import Fields
from catechism.datasets.format import Asked, Format, TrueFact, has_texts, make_catechism, name_in
from catechism.datasets.rows import read_rows
from catechism.errors import BadFeed
from catechism.matching import name_key
from catechism.types import Catechism, Kind

_OPTIONS = ("option1", "option2", "option3", "option4")


@dataclass(frozen=True, slots=True)
class Item:
    """One question of TOFU.

    Attributes:
        question, answer: as they were trained.
        paraphrased_question, paraphrased_answer: "" where the file has none.
        perturbed: wrong answers in the form of the right one; of a multiple-choice question the wrong options.
        number: the row in its file, from 1; twenty in a row are about one author.
    """

    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed: tuple[str, ...] = ()
    number: int = 0


def read_items(path: str | Path, *, on_error: Callable[[BadFeed], None] | None = None) -> Iterator[Item]:
    """The items of a file, in order.

    Args:
        path: a file of the benchmark.
        on_error: called with the error of each bad row, which is then left out; without it the first one raises.

    Raises: BadFeed, with the file and the line.
    """
    for row in read_rows(Path(path)):
        try:
            if isinstance(row.value, BadFeed):
                raise row.value
            yield _item(Fields(row.value), row.number)
        except BadFeed as error:
            located = BadFeed(f"{path}, {row.place}: {error}")
            if on_error is None:
                raise located from None
            on_error(located)


class Tofu(Format):
    """Questions with their answers."""

    name = "tofu"
    summary = "TOFU: questions and answers about invented authors; forget, retain, holdout and perturbed files"
    keys = "question, answer (texts); paraphrased_question, paraphrased_answer, perturbed_answer, option1 if any"

    @staticmethod
    def fits(row: Mapping[str, object]) -> bool:
        """See `Format.fits`."""
        known = {"question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer", *_OPTIONS}
        return has_texts(row, "question", "answer") and set(row) <= known

    def catechisms(self, row: Fields, number: str) -> Iterator[Catechism]:
        """See `Format.catechisms`."""
        item = _item(row, int(number))
        accept = [item.paraphrased_answer] if item.paraphrased_answer else []
        right = {name_key(text) for text in (item.answer, *accept)}
        core = {
            "prompt": item.question,
            "subject": name_in(item.question),
            "new_object": item.answer,
            "accept": accept,
            "reject": [text for text in item.perturbed if name_key(text) not in right],
            "id": number,
        }
        asked: list[Asked] = [(Kind.PARAPHRASE, text, ()) for text in (item.paraphrased_question,) if text]
        yield make_catechism(core, asked, number=number)

    def true_facts(self, row: Fields) -> Iterator[TrueFact]:
        """The question and its answer."""
        item = _item(row, 0)
        phrasings = (item.question, *((item.paraphrased_question,) if item.paraphrased_question else ()))
        yield TrueFact(name_in(item.question), "", item.answer, phrasings)


def _item(row: Fields, number: int) -> Item:
    answer = row.text("answer")
    options = [text for key in _OPTIONS for text in row.texts(key)]
    return Item(
        question=row.text("question"),
        answer=answer,
        paraphrased_question=row.text("paraphrased_question") if "paraphrased_question" in row else "",
        paraphrased_answer=row.text("paraphrased_answer") if "paraphrased_answer" in row else "",
        perturbed=(*row.texts("perturbed_answer"), *(text for text in options if text != answer)),
        number=number,
    )
