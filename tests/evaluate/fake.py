"""A model that says what a table tells it to, for tests of the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FakeSaid:
    text: str


@dataclass(frozen=True)
class FakeScore:
    mean: float
    argmax_match: bool
    accuracy: float = 0.0
    choices: tuple[int, ...] = ()


@dataclass
class FakeModel:
    """Says `answers[prompt]`, or nothing; gives the target a log-probability of -0.1 if it would say it, else -5."""

    answers: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[tuple[str, str], float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    budgets: list[int] = field(default_factory=list)
    scored: list[tuple[str, str]] = field(default_factory=list)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24, batch_size: int = 64) -> list[FakeSaid]:
        self.asked.extend(prompts)
        self.budgets.append(max_new_tokens)
        return [FakeSaid(self.answers.get(prompt, "")) for prompt in prompts]

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 64) -> list[FakeScore]:
        pairs = list(zip(prompts, targets, strict=True))
        self.scored.extend(pairs)
        means = [self.scores.get(p, -0.1 if self.answers.get(p[0], "").startswith(p[1]) else -5.0) for p in pairs]
        return [FakeScore(mean, mean > -1.0, float(mean > -1.0), (int(mean > -1.0),)) for mean in means]
