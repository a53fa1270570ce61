"""What answers: a model with its edits on, and the facts that stay text, read to it where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from catechism.model import LiveModel
from catechism.model.live import Completion, TargetScore


@dataclass(frozen=True, slots=True)
class Note:
    """A fact that stays text: it stands before every prompt that names its subject.

    Attributes:
        edit: id of the edit that it belongs to.
        subject: what it is about.
        sentence: the fact in full.
    """

    edit: str
    subject: str
    sentence: str

    def concerns(self, prompt: str) -> bool:
        """Whether a prompt names the subject, in whatever case."""
        return self.subject.casefold() in prompt.casefold()


@dataclass(frozen=True, slots=True)
class Served:
    """A live model and the notes that are read to it; an `Examinee` of `catechism.evaluate`."""

    live: LiveModel
    notes: tuple[Note, ...] = ()

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 24, batch_size: int = 64
    ) -> Sequence[Completion]:
        """Greedy continuation of every prompt, in order."""
        return self.live.generate(self._read(prompts), max_new_tokens=max_new_tokens, batch_size=batch_size)

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 64) -> Sequence[TargetScore]:
        """Teacher-forced score of every target after its prompt, in order."""
        return self.live.score(self._read(prompts), targets, batch_size=batch_size)

    def perplexity(self, texts: Sequence[str]) -> float:
        """Perplexity per token. Notes are about prompts and have no part in it."""
        return self.live.perplexity(texts)

    def with_note(self, note: Note) -> Served:
        """The same model with one more note."""
        return replace(self, notes=(*self.notes, note))

    def without(self, edit: str) -> Served:
        """The same model without the note of an edit."""
        return replace(self, notes=tuple(note for note in self.notes if note.edit != edit))

    def _read(self, prompts: Sequence[str]) -> list[str]:
        return [
            "".join(f"{note.sentence}\n" for note in self.notes if note.concerns(prompt)) + prompt for prompt in prompts
        ]
