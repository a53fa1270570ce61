"""A model that is opened for a benchmark, with the texts for its statistics and its perplexity; also elsewhere."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from catechism.bench.cases import other_catechisms
from catechism.delta import Delta
from catechism.errors import UsageError
from catechism.methods import Method, method
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.reference import SHIPPED, open_model
from catechism.reference.corpus import background_texts, held_out_prose
from catechism.reference.world import load_world
from catechism.settings import Settings
from catechism.types import Catechism

HELD_OUT_TEXTS = 24


@dataclass(frozen=True)
class Stage:
    """An opened model, its background, and the held-out texts that its perplexity is measured on."""

    live: LiveModel
    background: Background
    held_out: list[str]

    def editor(self, name: str) -> Method:
        """The method of this name, with this background."""
        return method(name)(self.background)

    def learn_beside(self, taught: Sequence[Catechism], *, seed: int) -> None:
        """Give methods that learn how to edit other facts to learn from, where it is known what the model knows."""
        if self.live.name in SHIPPED:
            self.background.learn_from(partial(other_catechisms, load_world(), taught, seed=seed))

    def wear(self, *deltas: Delta) -> None:
        """Have these deltas on the model, in this order, and nothing else."""
        if [one.delta.digest for one in self.live.applied] != [delta.digest for delta in deltas]:
            self.live.revert_all()
            for delta in deltas:
                self.live.apply(delta)


@dataclass(frozen=True, slots=True)
class OpenStage:
    """How to open the same stage again in another process. Calling it opens it.

    Attributes:
        model: a shipped model, a folder, or a hub name.
        text: a file of paragraphs, see `open_stage`.
        seed: of the texts that the model writes.
        settings: device and cache.
        threads: of torch; other numbers of threads may round differently.
    """

    model: str
    text: Path | None
    seed: int
    settings: Settings
    threads: int

    def __call__(self) -> Stage:
        """Open it."""
        torch.set_num_threads(self.threads)
        return open_stage(self.model, self.text, self.seed, self.settings)


def open_stage(model: str, text: Path | None, seed: int, settings: Settings) -> Stage:
    """Open a model with its texts.

    They are those of a file, half for statistics and half for perplexity; the Almanac's own for a shipped model; for
    another what the model writes by itself, and none for perplexity.

    Raises: UsageError for a file without two paragraphs; whatever `open_model` raises.
    """
    texts: Callable[[], Iterable[str]] | None = None
    held_out: list[str] = []
    if text is not None:
        paragraphs = _paragraphs(text)
        half = len(paragraphs) // 2
        texts, held_out = partial(iter, paragraphs[:half]), paragraphs[half:][:HELD_OUT_TEXTS]
    elif model in SHIPPED:
        texts, held_out = partial(background_texts, load_world()), held_out_prose(HELD_OUT_TEXTS)
    live = open_model(model, device_map=settings.device)
    return Stage(live, Background(live, texts, cache=settings.cache, seed=seed), held_out)


def _paragraphs(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as text: {error}. Give a plain UTF-8 text file.") from error
    paragraphs = [p.strip() for p in text.split("\n\n") if len(p.split()) > 3]
    if len(paragraphs) < 2:
        raise UsageError(
            f"{file} holds {len(paragraphs)} paragraphs. Give at least two, with blank lines between them."
        )
    return paragraphs


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far, in MB. Linux counts in kB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
