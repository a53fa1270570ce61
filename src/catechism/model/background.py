"""What a model's layers see when nothing is being edited: texts, and the statistics of any site over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from catechism.errors import BadSpec, WrongBase
from catechism.model.contexts import OPENINGS, opening_of_nothing, sample_texts
from catechism.model.live import LiveModel
from catechism.model.sharing import Share, here
from catechism.model.statistics import Covariance, covariance
from catechism.types import Catechism, Site

TOKENS_PER_DIMENSION = 10  # enough for the covariance, arXiv:2506.04226


class Background:
    """Texts of one model with the statistics that were taken over them. Each is computed once.

    Args:
        live: the model, without deltas.
        texts: makes an iterator over texts that the model finds likely. None lets the model write them itself, which
            needs no data and is right for a model whose training text is not at hand.
        cache: folder for statistics; None keeps them in memory only.
        seed: of the texts that the model writes.

    Attributes:
        share: does the parts of a search over many facts; by itself on the model at hand.
    """

    def __init__(
        self,
        live: LiveModel,
        texts: Callable[[], Iterable[str]] | None = None,
        *,
        cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        self._live, self._texts, self._cache, self._seed = live, texts, cache, seed
        self.share: Share = here
        self._training: Callable[[], Iterable[Catechism]] | None = None
        self._known: dict[Site, Covariance] = {}
        self._written: list[str] = []
        self._contexts: dict[tuple[int, int, int], tuple[str, ...]] = {}

    def check(self, live: LiveModel) -> None:
        """Raise WrongBase if these are not the statistics of this model."""
        if live.base != self._live.base:
            raise WrongBase(
                f"The background is that of base {self._live.base}, the model is {live.base}. "
                "Make a Background of the model that is edited."
            )

    @property
    def cache(self) -> Path | None:
        """Folder for what can be computed again; None where nothing is kept."""
        return self._cache

    def learn_from(self, training: Callable[[], Iterable[Catechism]]) -> None:
        """Take over what gives catechisms of facts that nobody is going to edit, for methods that learn how to edit.

        Without them these methods make edits of the texts. To be called before the first fit of such a method.
        """
        self._training = training

    def training(self) -> list[Catechism]:
        """Catechisms to learn how to edit from; none where none were given."""
        return list(self._training()) if self._training else []

    def texts(self, n: int) -> list[str]:
        """The first `n` texts, the same ones at every call."""
        return list(islice((self._texts or self._own_texts)(), n))

    def contexts(self, n: int, *, tokens: int, seed: int) -> tuple[str, ...]:
        """`n` sentences that the model goes on with after common openings, to be put before a prompt."""
        wanted = (n, tokens, seed)
        if wanted not in self._contexts:
            openings = [OPENINGS[i % len(OPENINGS)] for i in range(n)]
            texts = sample_texts(self._live, openings, tokens=tokens, seed=seed) if openings else []
            self._contexts[wanted] = tuple(text if text.endswith(".") else f"{text}." for text in texts)
        return self._contexts[wanted]

    def covariance(self, site: Site) -> Covariance:
        """Uncentred second moment of the site's inputs over about ten tokens per dimension."""
        if site not in self._known:
            d_in = self._live.anatomy.matrix(site).shape[1]
            texts = self._texts or self._own_texts
            n_tokens = TOKENS_PER_DIMENSION * d_in
            self._known[site] = covariance(self._live, site, texts(), n_tokens=n_tokens, cache=self._cache)
        return self._known[site]

    def keep(self, site: Site, statistics: Covariance) -> None:
        """Take over the statistics of a site that were computed elsewhere, from the same model and texts."""
        self._known[site] = statistics

    def _own_texts(self) -> Iterator[str]:
        """Texts that the model writes from nothing, kept for the next site, until the caller has enough."""
        yield from self._written
        start = opening_of_nothing(self._live)
        while True:
            seed = self._seed + len(self._written)
            texts = [text for text in sample_texts(self._live, [start] * 32, tokens=64, seed=seed) if text.strip()]
            if not texts:
                raise BadSpec("The model writes nothing by itself. Give texts for its statistics.")
            self._written += texts
            yield from texts
