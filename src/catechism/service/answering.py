"""What the model says, and why: the edits that an answer hangs on, by taking each of them away.

An edit's part in an answer is what the answer loses without it:

    part_e = log p(answer | everything in effect) - log p(answer | everything but e)

in nats over the answer's tokens. That is exact: the weights without one edit are rebuilt from the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catechism.errors import UsageError
from catechism.matching import passes
from catechism.registry import Composition, EditVersion, Epoch, Registry
from catechism.service.learning import active_of
from catechism.service.workbench import Workbench
from catechism.types import JSON

#: An answer hangs on an edit if it loses at least this much without it, in nats.
LEAST_PART = 0.1
MAX_NEW_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Part:
    """One edit's part in an answer.

    Attributes:
        edit: which.
        part: log-probability that the answer loses without it, in nats.
        without: what is said without it.
    """

    edit: EditVersion
    part: float
    without: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        fact = self.edit.fact
        return {
            "edit": self.edit.id, "version": self.edit.n, "method": self.edit.method, "part": self.part,
            "without": self.without, "fact": fact.sentence, "author": self.edit.author, "why": self.edit.why,
            "sources": [{"uri": s.uri, "retrieved_at": s.retrieved_at, "sha256": s.sha256} for s in fact.sources],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said, and under which composition.

    Attributes:
        question, text, stopped: the prompt, the answer, and whether it ended by itself.
        composition: what was in effect.
        parts: edits that the answer hangs on, most first; None where nobody asked.
        notes: ids of the edits that were read to the model as text.
        base_says: what the model says without any edit; None where nobody asked.
    """

    question: str
    text: str
    stopped: bool
    composition: Composition
    parts: tuple[Part, ...] | None = None
    notes: tuple[str, ...] = ()
    base_says: str | None = None

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "question": self.question, "answer": self.text, "stopped": self.stopped,
            "composition": self.composition.cid, "edits": [entry.edit for entry in self.composition.entries],
            "notes": list(self.notes), "base_says": self.base_says,
            "parts": None if self.parts is None else [part.json() for part in self.parts],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Breaking:
    """Where an answer changed: the first epoch whose answer is not good, and the last one before it.

    Attributes:
        probe: the prompt.
        good, bad: the epochs, next to each other.
        edits: what was put into effect, or taken out of it, between the two.
        said_good, said_bad: the answers there.
        asked: how many epochs were asked.
    """

    probe: str
    good: Epoch
    bad: Epoch
    edits: tuple[EditVersion, ...]
    said_good: str
    said_bad: str
    asked: int

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "probe": self.probe, "good": self.good.json(), "bad": self.bad.json(),
            "edits": [{"edit": e.id, "subject": e.subject, "object": e.object, "method": e.method} for e in self.edits],
            "said_good": self.said_good, "said_bad": self.said_bad, "asked": self.asked,
        }  # fmt: skip


def check_question(question: str) -> None:
    """Raise UsageError for a question without a word: the model would begin a text of its own."""
    if not question.strip():
        raise UsageError("The question is empty. Give what the model is to go on from, in quotation marks.")


class Answerer:
    """Asks a model under the compositions of a registry."""

    def __init__(self, bench: Workbench, registry: Registry) -> None:
        self._bench, self._registry = bench, registry

    def ask(
        self, question: str, composition: Composition, *, explain: bool = False, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Answer:
        """The answer under a composition, with the edits that it hangs on where `explain` is set.

        Raises: UsageError for a question without a word.
        """
        check_question(question)
        edits = self._registry.active(composition)
        active = active_of(self._registry, edits)
        with self._bench.serving(active.deltas, active.notes) as served:
            said = served.generate([question], max_new_tokens=max_new_tokens)[0]
            whole = served.score([question], [said.text])[0].logprob if explain and said.text else 0.0
        read = tuple(note.edit for note in active.notes if note.concerns(question))
        answer = Answer(question, said.text, said.stopped, composition, notes=read)
        if not explain:
            return answer
        base = self._bench.live.generate([question], max_new_tokens=max_new_tokens)[0].text
        parts = (
            [self._part(edit, edits, question, said.text, whole, max_new_tokens) for edit in edits] if said.text else []
        )
        parts = sorted((part for part in parts if part.part >= LEAST_PART), key=lambda part: -part.part)
        return Answer(question, said.text, said.stopped, composition, tuple(parts), read, base)

    def _part(
        self, edit: EditVersion, edits: Sequence[EditVersion], question: str, text: str, whole: float, budget: int
    ) -> Part:
        active = active_of(self._registry, [other for other in edits if other.id != edit.id])
        with self._bench.serving(active.deltas, active.notes) as served:
            part = whole - served.score([question], [text])[0].logprob
            without = served.generate([question], max_new_tokens=budget)[0].text if part >= LEAST_PART else text
        return Part(edit, part, without)

    def bisect(self, probe: str, *, expect: str | None = None, good: int = 0, bad: int | None = None) -> Breaking:
        """The change of what is served that broke a probe, found by halving: about log2 of the epochs are asked.

        As with git, one of several changes is found if the answer went back and forth.

        Args:
            probe: a prompt.
            expect: what a good answer says; None takes the answer of the good epoch.
            good, bad: numbers of two epochs; `bad` None is the present one.

        Raises: UsageError if the good epoch is not good or the bad one is not bad.
        """
        epochs = {epoch.number: epoch for epoch in self._registry.epochs()}
        last = self._registry.head().number if bad is None else bad
        if good not in epochs or last not in epochs or good >= last:
            raise UsageError(
                f"Epochs {good} and {last} are no good and bad one. Give two of 0 to {max(epochs)}, the good one first."
            )
        said: dict[int, str] = {}

        def is_good(number: int) -> bool:
            composition = self._registry.composition(epochs[number].cid)
            said[number] = self.ask(probe, composition).text
            return passes(said[number], (expect if expect is not None else said[good],))

        if not is_good(good):
            raise UsageError(f"At epoch {good} the answer is {said[good]!r} already. Give an earlier good epoch.")
        if is_good(last):
            raise UsageError(f"At epoch {last} the answer is {said[last]!r}, which is good: nothing broke the probe.")
        low, high = good, last
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_good(middle) else (low, middle)
        before = {edit.id: edit for edit in self._registry.active(self._registry.composition(epochs[low].cid))}
        after = {edit.id: edit for edit in self._registry.active(self._registry.composition(epochs[high].cid))}
        changed = tuple(edit for name, edit in (before | after).items() if (name in before) != (name in after))
        return Breaking(probe, epochs[low], epochs[high], changed, said[low], said[high], len(said))
