"""What every reader of a public format gives: catechisms, and the true facts that the data holds."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from catechism.datasets.fields import Fields
from catechism.errors import BadFact
from catechism.facts.checks import MAX_PROMPT_CHARS, clean
from catechism.facts.row import parse_row
from catechism.types import UNMOVED, Catechism, Kind, Question


@dataclass(frozen=True, slots=True)
class TrueFact:
    """A fact as the world has it: what a model has to know before it can be edited.

    Attributes:
        subject: what it is about; "" where the data does not say.
        relation: the relation's name or number in the data; "" where there is none.
        object: the answer.
        phrasings: prompts that the answer goes on from, the canonical one first.
    """

    subject: str
    relation: str
    object: str
    phrasings: tuple[str, ...]


class Format(ABC):
    """One format of one benchmark.

    Class attributes: `name`, by which it is asked for; `summary`, what it is; `keys`, how its rows are recognised, in
    words.
    """

    name: str
    summary: str
    keys: str

    def __init__(self, path: Path) -> None:
        """Get ready to read `path`; a format that needs a second file looks for it here."""
        del path

    @staticmethod
    @abstractmethod
    def fits(row: Mapping[str, object]) -> bool:
        """Whether a row looks like one of this format."""

    @abstractmethod
    def catechisms(self, row: Fields, number: str) -> Iterable[Catechism]:
        """What a row teaches and asks; `number` is the row's, for data without identifiers.

        Raises: BadFeed for a row of another form; BadFact for a fact that cannot be used.
        """

    def true_facts(self, row: Fields) -> Iterable[TrueFact]:
        """The true facts that a row holds; none by default. Raises as `catechisms`."""
        del row
        return ()


#: A question to be asked beside the rewrite: why, the prompt, the answers that pass.
Asked = tuple[Kind, str, tuple[str, ...]]


def make_catechism(row: Mapping[str, object], asked: Iterable[Asked] = (), *, number: str) -> Catechism:
    """A catechism from the keys of a feed's row and further questions.

    What is empty is left out, and so is a further spelling of an answer that cannot be used. A fact whose subject is ""
    is kept without one, since some benchmarks name none. Of two questions with the same text the first is kept:
    benchmarks repeat themselves, and a feed's refusal of a repeated question would cost the whole row.

    Raises: BadFeed or BadFact, as `parse_row`.
    """
    row = {**row, "accept": list(_usable(cast("Iterable[str]", row.get("accept", ()))))}
    kept = {key: value for key, value in row.items() if value not in ("", None, [], ())}
    nameless = row["subject"] == ""
    if nameless:
        kept["subject"] = str(row["prompt"]).strip()  # stands in the prompt; taken out again below
    catechism = parse_row(kept, default_id=number)
    if nameless:
        catechism = replace(catechism, fact=replace(catechism.fact, subject=""))
    first = catechism.questions[0]
    seen = {question.text: question for question in catechism.questions}
    for kind, prompt, answers in asked:
        text = clean(f"the {kind} prompt", prompt, limit=MAX_PROMPT_CHARS, newline=True)
        accept = (*(clean(f"the answer to the {kind} prompt", answer) for answer in answers[:1]), *_usable(answers[1:]))
        accept = tuple(dict.fromkeys(accept))
        if kind is Kind.PARAPHRASE or kind is Kind.ALIAS:
            question = Question(text, kind, tuple(dict.fromkeys((*first.accept, *accept))), first.reject, first.origin)
        else:
            question = Question(text, kind, accept, (), first.origin)
        if kind in UNMOVED or question.accept:
            seen.setdefault(text, question)
    return replace(catechism, questions=tuple(seen.values()))


def has_texts(row: Mapping[str, object], *keys: str) -> bool:
    """Whether a row has a text under each of these keys."""
    return all(isinstance(row.get(key), str) for key in keys)


def _usable(names: Iterable[str]) -> Iterator[str]:
    """Names without those that a fact may not hold: lists of aliases are long and not all of them are clean."""
    for name in names:
        try:
            yield clean("accept", name)
        except BadFact:
            continue


#: Words that begin a question or a sentence and are no part of a name.
_OPENERS = frozenset(
    "A An And Are As At By Can Could Did Do Does For From Had Has Have How I If In Into Is It Its May Name Of On Or "
    "Please Should That The These This Those To Was Were What When Where Which While Who Whom Whose Why Will With "
    "Would".split()
)
_WORD = re.compile(r"[^\W_][\w’'.&-]*")
#: Small words that stand inside names.
_INSIDE = frozenset("al bin da de del der di du el la le of the und van von y".split())


def name_in(text: str) -> str:
    """The longest run of capitalised words, or ""; what benchmarks of plain questions are taken to be about."""
    best, run = "", list[re.Match[str]]()

    def close() -> None:
        nonlocal best
        while run and run[-1].group() in _INSIDE:
            run.pop()
        while run and run[0].group() in _OPENERS:
            run.pop(0)
        if run:
            found = re.sub(r"['’]s$|[.'’-]+$", "", text[run[0].start() : run[-1].end()])
            best = max(best, found, key=len)
        run.clear()

    for word in _WORD.finditer(text):
        if run and text[run[-1].end() : word.start()] != " ":
            close()
        first = word.group()[0]
        if first.isupper() or (run and (first.isdigit() or word.group() in _INSIDE)):
            run.append(word)
        else:
            close()
        if run and word.group().endswith(("'s", "’s")):
            close()
    close()
    return best
