"""The model writes questions about a fact itself, by continuing a list of examples.

A model that has never seen such lists goes on with something else. What comes is therefore held to the form of a
question before it counts, and a model that cannot do it yields nothing rather than noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catechism.errors import BadFact, BadFeed, UsageError
from catechism.facts.belief import Speaker
from catechism.facts.row import read_asked
from catechism.matching import contains
from catechism.types import Catechism, Fact, Question

ORIGIN = "model"
MAX_NEW_TOKENS = 96
MIN_CHARS = 8

_PARAPHRASES, _REVERSED = "paraphrases", "reversed"
_MARKS = {_PARAPHRASES: "Question:", _REVERSED: "Question the other way round:"}


@dataclass(frozen=True, slots=True)
class Shot:
    """An example: a sentence with questions for its object, and one for its subject."""

    sentence: str
    questions: tuple[str, ...]
    reversed: str


SHOTS: tuple[Shot, ...] = (
    Shot(
        "The tallest tree in the park of Elmsworth is the old copper beech.",
        ("Which tree in the park of Elmsworth is the tallest?", "What is the tallest tree in the park of Elmsworth?"),
        "In which park is the old copper beech the tallest tree?",
    ),
    Shot(
        "The captain of the Sea Lark is Maren Holt.",
        ("Who is the captain of the Sea Lark?", "Who commands the Sea Lark?"),
        "Which ship has Maren Holt as its captain?",
    ),
    Shot(
        "The museum in Varnholm opens at nine.",
        ("At what time does the museum in Varnholm open?", "When does the museum in Varnholm open?"),
        "Which museum opens at nine?",
    ),
)


@dataclass(frozen=True, slots=True)
class SelfWriter:
    """Asks a model to go on with a list of examples.

    Attributes:
        live: the model.
        shots: the examples; each order of them that begins with another one is one prompt.
    """

    live: Speaker
    shots: tuple[Shot, ...] = SHOTS

    def write(self, lesson: Catechism) -> Sequence[Question]:
        """Phrasings and reversed questions in good form; none if the model cannot write any."""
        asked = [(key, self._prompt(lesson.fact, key, turn)) for key in _MARKS for turn in range(len(self.shots))]
        try:
            said = self.live.generate([p for _, p in asked], max_new_tokens=MAX_NEW_TOKENS, batch_size=len(asked))
        except UsageError:  # the examples do not fit into its window
            return ()
        found: dict[str, Question] = {}
        for (key, _), completion in zip(asked, said, strict=True):
            for line in _lines(completion.text, _MARKS[key]):
                for question in self._checked(lesson.fact, key, line):
                    found.setdefault(question.text, question)
        return tuple(found.values())

    def _prompt(self, fact: Fact, key: str, turn: int) -> str:
        blocks: list[str] = []
        for shot in (*self.shots[turn:], *self.shots[:turn]):
            lines = shot.questions if key == _PARAPHRASES else (shot.reversed,)
            blocks.append("\n".join([f"Fact: {shot.sentence}", *(f"{_MARKS[key]} {line}" for line in lines)]))
        return "\n\n".join([*blocks, f"Fact: {fact.sentence}\n{_MARKS[key]}"])

    def _checked(self, fact: Fact, key: str, line: str) -> tuple[Question, ...]:
        """The line as a question, if it is one of this fact; an example said again is none."""
        examples = {question for shot in self.shots for question in (*shot.questions, shot.reversed)}
        given, asked_for = fact.subject, fact.object
        if key == _REVERSED:
            given, asked_for = asked_for, given
        if not line.endswith("?") or len(line) < MIN_CHARS or line in examples:
            return ()
        if not contains(line, given) or contains(line, asked_for):
            return ()
        try:
            return read_asked(fact, key, line, origin=ORIGIN)
        except (BadFact, BadFeed):
            return ()


def _lines(text: str, mark: str) -> Iterator[str]:
    """The first line, and those after it that bear the mark; what comes after anything else is not about the fact."""
    for i, line in enumerate(text.strip().splitlines()):
        if i and not line.startswith(mark):
            return
        yield line.removeprefix(mark).strip()
