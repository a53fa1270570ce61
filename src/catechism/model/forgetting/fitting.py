"""From a request to a delta: the checks and the record that all trained methods of forgetting share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model.background import Background
from catechism.model.cache import cache_file
from catechism.model.forgetting.material import Material, material
from catechism.model.forgetting.objective import Objective, Step, Terms, Turn, descend
from catechism.model.forgetting.trainer import Watch, train
from catechism.model.forgetting.training import Training
from catechism.model.live import LiveModel
from catechism.types import JSON, Forgetting, How

S = TypeVar("S", bound=Training)


class Fitting:
    """Fits of one method.

    Args:
        background: of the model. Its cache folder, where it has one, holds the checkpoint of a fit that is under way: a
            fit that was killed goes on from there when the same is asked for again.
        name: of the method.
        hows: what it can put in the place of what is forgotten.
        keeps: whether it needs something to keep.
        watch: called after every look at the rows to forget.
    """

    def __init__(
        self,
        background: Background,
        name: str,
        hows: Collection[How],
        *,
        keeps: bool = True,
        watch: Watch | None = None,
    ) -> None:
        self._background, self._name, self._hows, self._keeps, self._watch = background, name, hows, keeps, watch

    def check(self, live: LiveModel, request: Forgetting) -> None:
        """Refuse what cannot be done, before anything is computed.

        Raises: BadSpec for a `how` that the method does not know, for an empty forget set, and for an empty retain set
            where it needs one; WrongBase if the background is that of another model.
        """
        self._background.check(live)
        if request.how not in self._hows:
            known = ", ".join(sorted(self._hows))
            raise BadSpec(f"{self._name} cannot {request.how}, it can {known}. Choose one of these or another method.")
        if not request.forget:
            raise BadSpec("There is nothing to forget. Give at least one catechism in `forget`.")
        if self._keeps and not request.retain:
            raise BadSpec(
                f"{self._name} needs facts to keep, and `retain` is empty. Give facts of the same relations, or use "
                "grad_ascent, which keeps nothing."
            )

    def fit(
        self,
        live: LiveModel,
        request: Forgetting,
        objective: Objective,
        spec: Training,
        *,
        instead: Sequence[str] | None = None,
    ) -> Delta:
        """Train, and say in the delta's `info` how it went. `instead` as for `material`.

        Raises: as `material` and `train`.
        """
        return self.fit_rows(
            live,
            request,
            material(live, request, spec, instead=instead),
            objective,
            spec,
        )

    def fit_rows(
        self, live: LiveModel, request: Forgetting, rows: Material, objective: Objective, spec: Training
    ) -> Delta:
        """The same for rows that the method has made itself. Raises as `train`."""
        settings: dict[str, JSON] = {
            "method": self._name,
            "spec": asdict(spec),
            "how": request.how.value,
            "replacement": request.replacement,
            "forget": [digest_json(asdict(one)) for one in request.forget],
            "retain": digest_json([asdict(one) for one in request.retain]),
        }
        trained = train(
            live, rows, objective, spec, checkpoint=self._checkpoint(live, rows, settings), watch=self._watch
        )
        level: dict[str, JSON] = {
            "mean": float(rows.level.rows.mean()),
            "share": rows.level.share,
            "before": float(rows.before.mean.mean()),
        }
        info: dict[str, JSON] = {**settings, "reached": trained.reached, "level": level, "training": trained.record}
        return Delta(live.base, trained.parts, info)

    def _checkpoint(self, live: LiveModel, rows: Material, settings: dict[str, JSON]) -> tuple[Path, str] | None:
        """The file of this fit, and the key of all that it depends on; None where nothing is kept."""
        other = [] if rows.instead is None else list(rows.instead.answers)
        asked = [list(rows.forget.prompts), list(rows.forget.answers), other]
        made_by: dict[str, JSON] = {"catechism": version("catechism"), "torch": version("torch")}
        key = digest_json({"settings": settings, "model": live.digest(), "rows": asked, "versions": made_by})
        file = cache_file(self._background.cache, f"forget-{self._name}", key)
        return None if file is None else (file, key)


class TrainedForgetter(ABC, Generic[S]):
    """A method that is its loss: `terms`. The other hooks are for methods that need more.

    Attributes:
        name: of the method.
        Spec: its settings.
        hows: what it can put in the place of what is forgotten.
        keeps: whether it needs something to keep.

    Args:
        background, watch: as for `Fitting`.
    """

    name: ClassVar[str]
    Spec: ClassVar[type[Training]]
    hows: ClassVar[frozenset[How]] = frozenset({How.ERASE})
    keeps: ClassVar[bool] = True

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, keeps=self.keeps, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: S) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check`, `instead` and `Fitting.fit`."""
        self._fitting.check(live, request)
        instead = self.instead(live, request, spec)
        return self._fitting.fit(live, request, self.objective(spec), spec, instead=instead)

    @abstractmethod
    def terms(self, step: Step, spec: S) -> Terms:
        """The losses of a step."""

    def direct(self, turn: Turn, spec: S) -> tuple[list[Tensor], Terms]:
        """The direction of a step, with the losses that it was made from: Adam's, of the weighted sum."""
        return descend(turn)

    def instead(self, live: LiveModel, request: Forgetting, spec: S) -> Sequence[str] | None:
        """Another answer for every one of `forget_lines`; None for a method that asks for none."""
        return None

    def objective(self, spec: S) -> Objective:
        """What the trainer is handed."""
        return Objective(lambda step: self.terms(step, spec), lambda turn: self.direct(turn, spec))
