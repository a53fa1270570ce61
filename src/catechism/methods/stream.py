"""A stream of edits on one model: one step after the other, each on what the earlier ones left.

A method that keeps something between edits (statistics, a table of masks, an order of merging) brings its own stream,
`Streaming.stream`. Any other method is fitted on the model that carries the edits so far, and its deltas add up.

What a stream has done is a `Delta` for the base at any time. Together with `tensors` that is all there is to it, so an
interrupted stream is taken up again from these two and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.methods.registry import Method
from catechism.model import LiveModel
from catechism.types import Catechism


@dataclass(frozen=True, eq=False)
class Progress:
    """All there is to a stream: what it did to the model, and what it needs beside that to go on.

    Attributes:
        delta: every edit so far, for the base; None before the first one.
        tensors: statistics and tables, by name.
        steps: how many times `Stream.add` has been called.
    """

    delta: Delta | None = None
    tensors: Mapping[str, Tensor] | None = None
    steps: int = 0


@runtime_checkable
class Stream(Protocol):
    """Edits one after the other. The model that it is opened on is never left changed."""

    @property
    def progress(self) -> Progress:
        """Where it stands; a new stream opened with this goes on as this one would."""
        ...

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """Learn these facts on top of all that were learned before.

        Returns: the delta of everything so far, for the base.
        Raises: as the method's `fit`; the stream then stands where it stood before.
        """
        ...


@runtime_checkable
class Streaming(Protocol):
    """A method that brings a stream of its own."""

    def stream(self, live: LiveModel, spec: Any, progress: Progress = Progress()) -> Stream:
        """A stream with these settings, from the beginning or from where another one stood."""
        ...


def open_stream(method: Method, live: LiveModel, spec: Any, progress: Progress = Progress()) -> Stream:
    """The stream of a method: its own, or one that fits every step on the model with the earlier ones on it."""
    if isinstance(method, Streaming):
        return method.stream(live, spec, progress)
    return Stacked(method, live, spec, progress)


class Stacked:
    """Every step is a fit of its own on the model that carries the earlier ones; the deltas are added up.

    Statistics stay those of the base model: a step before any edit makes the method take them, and it keeps them.
    """

    def __init__(self, method: Method, live: LiveModel, spec: Any, progress: Progress = Progress()) -> None:
        self._method, self._live, self._spec, self._progress = method, live, spec, progress
        self._warm = False

    @property
    def progress(self) -> Progress:
        """Where it stands. It needs nothing beside the delta."""
        return self._progress

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """See `Stream.add`."""
        done = self._progress.delta
        if done is None:
            found = self._method.fit(self._live, catechisms, self._spec)
        else:
            if not self._warm:
                self._method.fit(self._live, catechisms, self._spec)
            with self._live.with_delta(done):
                found = done + self._method.fit(self._live, catechisms, self._spec)
        self._warm = True
        self._progress = Progress(found, None, self._progress.steps + 1)
        return found


class Stepwise:
    """A stream whose every step is a function of the facts and of where it stood.

    Args:
        step: gives where it stands after these facts; whatever it raises leaves the stream as it is.
        progress: where it stands.
    """

    def __init__(self, step: Callable[[Sequence[Catechism], Progress], Progress], progress: Progress) -> None:
        self._step, self._progress = step, progress

    @property
    def progress(self) -> Progress:
        """Where it stands."""
        return self._progress

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        """See `Stream.add`."""
        after = self._step(catechisms, self._progress)
        if after.delta is None:
            raise BadSpec("There is nothing to fit. Give at least one catechism.")
        self._progress = after
        return after.delta
