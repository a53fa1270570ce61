"""How the rate of a run of trained forgetting goes, and when the run ends."""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.adapters import WARM_UP
from catechism.model.forgetting.training import Training
from catechism.model.schedule import share_of_rate


@dataclass(frozen=True)
class Course:
    """The course of a run, as far as it can be told at a step.

    Without `Training.cooling` the rate falls along a cosine from the first step on, and the run ends as soon as what
    was asked for is there. With it the rate is level until then, and falls to nothing over `cooling` more steps: what
    is kept recovers meanwhile.

    Attributes:
        training: the settings.
        met: steps that were taken until everything was as asked for; 0 if it was so from the start, None if it is not.
    """

    training: Training
    met: int | None

    @property
    def climb(self) -> int:
        """Steps until the rate begins to fall for good."""
        return self.training.steps if self.met is None else self.met

    @property
    def end(self) -> int:
        """Steps of the run."""
        return self.climb + self.training.cooling if self.climb else 0

    def share(self, at: int) -> float:
        """Of the rate that was asked for, at a step, counted from 0."""
        cools = self.training.cooling > 0
        start, end = (self.climb, self.end) if cools else (0, self.training.steps)
        gone = max(at - start, 0) / (end - start)
        return share_of_rate(at, warm_up=WARM_UP, gone=gone)
