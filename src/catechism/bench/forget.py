"""``catechism bench forget``: methods of forgetting side by side, each attacked and held against a control.

Chosen people of the invented town are forgotten by every method on a model that knows them, and the result is audited
(`catechism.evaluate.audit`) against a model of the same recipe that was never shown them. With a folder of TOFU whole
authors are forgotten, on a model that was trained on them. Two more rows say what the figures mean: ``control`` audits
the control itself, and ``exact`` teaches it the facts by an edit of ours and takes the edit out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from catechism.bench.charts import value
from catechism.bench.forget_cases import PEOPLE, YARDSTICKS, ForgetCase, forget_people
from catechism.bench.forget_saved import SavedRows
from catechism.bench.forget_sequence import Turns, asked_of, cut, in_words, request_rows, requests_of
from catechism.bench.forget_tofu import check_known, chosen, forget_authors
from catechism.bench.layers import choose_layer, pilots_of
from catechism.bench.single import describe
from catechism.bench.stage import Stage, open_stage
from catechism.delta import Delta
from catechism.errors import CatechismError, UsageError
from catechism.evaluate import wilson
from catechism.evaluate.audit import FULL, QUICK, Audit, Auditor, Before, Kept, Row, Series
from catechism.evaluate.interview import answer_budget
from catechism.hashing import digest_json
from catechism.matching import says
from catechism.methods.forgetting import FORGETTERS, Forgetter, forgetter
from catechism.model import LiveModel
from catechism.model.merged import merged
from catechism.reference import SHIPPED
from catechism.reference.world import load_world
from catechism.settings import Settings
from catechism.types import JSON, Rate

#: Measures a row.
Work = Callable[[], tuple[dict[str, JSON], Audit]]
ALL = "all"
TEACHER = "lora"  # teaches the facts that `exact` takes out again
PROFILES = {profile.name: profile for profile in (QUICK, FULL)}
#: Columns of a row, after its name. What each is, is in docs/audit.md.
COLUMNS = (
    "forget_recall", "worst_attack_recall", "worst_attack", "relearn_ratio", "int4_recall", "probe_gap", "ks_p",
    "mia_auc", "neighbour", "retain", "utility", "perplexity_ratio", "seconds", "delta_bytes", "verdict",
)  # fmt: skip
#: Column -> row of the audit whose value it is.
_VALUES = {
    "forget_recall": "recall_mean", "relearn_ratio": "relearning", "int4_recall": "int4", "mia_auc": "mia_min_k",
    "neighbour": "neighbours", "utility": "utility", "perplexity_ratio": "perplexity_ratio",
}  # fmt: skip
#: What is aimed at: gap of the worst attack, relearning ratio, and shares of before.
AIM_GAP, AIM_RELEARNING, AIM_NEIGHBOURS, AIM_UTILITY = 0.02, 0.9, 0.98, 0.99


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        model: knows the people. control: the same recipe, never shown them; "" for none.
        methods: of forgetting.
        people: how many are forgotten, with five facts each.
        profile: of the audit, "quick" or "full".
        seed: of the draws, the fits and the audits.
        requests: that the facts are forgotten in, one after another, each fitted on what the ones before have left.
        data: a folder of TOFU, whose authors are forgotten in place of people of the town.
        authors, forget: how many authors the model knows and how many of them go; None is what its card says.
        resume: a folder for finished rows, and those that are in it are not measured again; None keeps none.
    """

    model: str = "almanac"
    control: str = "almanac-control"
    methods: tuple[str, ...] = ("npo",)
    people: int = PEOPLE
    profile: str = "full"
    seed: int = 0
    requests: int = 1
    data: Path | None = None
    authors: int | None = None
    forget: int | None = None
    resume: Path | None = None

    def case(self) -> ForgetCase:
        """What is forgotten. Raises: UsageError for people, or authors, who are not there."""
        if self.data is None:
            return forget_people(load_world(), self.people, seed=self.seed)
        control = "" if self.control in SHIPPED else self.control
        parted = chosen(self.data, self.model, control, self.authors, self.forget)
        return forget_authors(parted, seed=self.seed)


def run(request: Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """Run the benchmark.

    Returns: ``rows``, one for each method and, with a control, ``control`` and ``exact``; ``audits``, every audit in
        full, by method; ``conclusions``, in words.
    Raises: UnknownName for a method that there is not; UsageError without methods, for a profile that there is not, or
        for people or authors who are not there, or whom the model does not know, or for rows of another run in the
        folder to resume from.
    """
    if request.profile not in PROFILES:
        raise UsageError(f"There is no profile {request.profile!r}. Choose one of: {', '.join(sorted(PROFILES))}.")
    names = tuple(sorted(FORGETTERS)) if request.methods == (ALL,) else request.methods
    made = {name: forgetter(name) for name in names}
    if not made:
        raise UsageError("No method was named. Give at least one, for instance --methods npo, or --methods all.")
    case = request.case()
    cut(case.request, request.requests)  # too many are refused before a model is opened
    stage, control = _stage(request.model, request.seed, settings), None
    if request.data is not None:
        check_known(stage.live, case, request.model)
    if request.control:
        control = _stage(request.control, request.seed, settings)
    trial = Trial(stage, control, case, request, console)
    work: dict[str, Work] = {}
    if control is not None:
        work = {"control": lambda: trial.control(control), "exact": lambda: trial.exact(control)}
    work |= {name: lambda one=one: trial.method(one(stage.background)) for name, one in made.items()}
    defaults = {name: repr(one(stage.background).Spec()) for name, one in made.items()}
    saved = SavedRows(request.resume, _identity(request, case, stage, control), defaults)
    rows, audits = _measure(work, saved)
    about: dict[str, JSON] = {"model": describe(stage.live), "control": request.control or None}
    asked: dict[str, JSON] = {
        "facts": len(case.request.forget),
        "requests": request.requests,
        "retain": len(case.request.retain),
        "neighbours": len(case.neighbours),
        "utility": len(case.utility),
    }
    words = list[JSON](conclusions(rows))
    return {"rows": list(rows), **about, "data": asked, "audits": audits, "conclusions": words}


def _stage(model: str, seed: int, settings: Settings) -> Stage:
    """A model with the text that stands in its folder, if there is some."""
    text = Path(model) / "text.txt"
    return open_stage(model, text if text.is_file() else None, seed, settings)


def _identity(request: Request, case: ForgetCase, stage: Stage, control: Stage | None) -> dict[str, JSON]:
    """All that a row depends on beside the defaults of its method."""
    asked = [[one.fact.prompt, one.fact.object, *(q.text for q in (*one.questions, *one.study))] for one in case.every]
    return {
        "model": stage.live.digest(full=True),
        "control": control and control.live.digest(full=True),
        "profile": request.profile,
        "seed": request.seed,
        "requests": request.requests,
        "choice of facts": digest_json(asked),
        "version": version("catechism"),
    }


def _measure(work: Mapping[str, Work], saved: SavedRows) -> tuple[list[dict[str, JSON]], dict[str, JSON]]:
    """A row and an audit of each, or what went wrong: the other methods go on, and an error is not kept."""
    finished = {name: saved.find(name) for name in work}  # a folder of another run is refused before anything is done
    rows: list[dict[str, JSON]] = []
    audits: dict[str, JSON] = {}
    for name, measure in work.items():
        found = finished[name]
        if found is None:
            try:
                row, audit = measure()
            except CatechismError as error:
                rows.append({"method": name, "error": f"{error.code}: {error}"})
                continue
            found = row, audit.json()
            saved.keep(name, *found)
        rows.append({"method": name, **found[0]})
        audits[name] = found[1]
    return rows, audits


class Trial:
    """Everything that the rows of one request share: the models, what is asked, and the control's values."""

    def __init__(self, stage: Stage, control: Stage | None, case: ForgetCase, asked: Request, console: Console) -> None:
        self._stage, self._request, self._seed, self._console = stage, case.request, asked.seed, console
        kept = Kept(case.neighbours, case.utility, stage.held_out, case.holdout)
        never = None if control is None else control.live
        profile, seed, parts = PROFILES[asked.profile], asked.seed, cut(case.request, asked.requests)
        self._auditor = Auditor(never, case.request, kept, profile=profile, seed=seed, progress=self._tell)
        self._series = (
            Series(never, parts, kept, profile=profile, seed=seed, progress=self._tell) if len(parts) > 1 else None
        )
        self._what = ""
        self._asked: dict[str, Rate] = {}

    @cached_property
    def _before(self) -> Before:
        return self._auditor.measure_before(self._stage.live)

    def method(self, one: Forgetter) -> tuple[dict[str, JSON], Audit]:
        """Forget by a method and audit what is left."""
        live, self._what = self._stage.live, one.name
        before, retained = self._before, self._retained(live).value
        self._console.print(f"{live.name}: {one.name} forgets {len(self._request.forget)} facts")
        turns, more = Turns(one, self._seed), dict[str, JSON]()
        try:
            if self._series is None:
                turns.forget(live, self._request)
                more["record"] = turns.deltas[0].info.get("record")
            else:
                more["requests"] = request_rows(self._series.run(live, turns.forget), turns)
            audit = self._auditor.audit(live, before=before)
            retain = replace(self._retained(live), before=retained)
        finally:
            turns.take_off(live)
        row = row_of(audit, retain, sum(turns.seconds), sum(delta.nbytes for delta in turns.deltas))
        return {**row, "how": asked_of(self._request, one.hows).how.value, **more}, audit

    def control(self, control: Stage) -> tuple[dict[str, JSON], Audit]:
        """The control in the place of the model, with its own values: what no forgetting can be better than."""
        self._what = "control"
        audit = self._auditor.audit(control.live)
        return row_of(audit, self._retained(control.live), 0.0, 0), audit

    def exact(self, control: Stage) -> tuple[dict[str, JSON], Audit]:
        """Teach the control by an edit of ours, take the edit out, and audit: what the removal of an edit is worth.

        The bytes are proven by hashing every parameter again, here and by the auditor. Only if they are the control's
        are its values taken for the row's; were a bit of the edit left, the model would be measured as it is.
        """
        live, self._what = control.live, "exact"
        editor: Any = control.editor(TEACHER)
        layer, _ = choose_layer(TEACHER, live, pilots_of(self._request.forget), control.background)
        started = time.perf_counter()
        spec = editor.Spec(layer=layer, rank=32, steps=400, seed=self._seed)
        taught: Delta = editor.fit(live, self._request.forget, spec)
        seconds, base = time.perf_counter() - started, live.digest(full=True)
        with live.with_delta(taught):
            before = self._auditor.measure_before(merged(live))
            retained = self._retained(live).value
        audit = self._auditor.audit(live, before=before, exact=live.digest(full=True) == base)
        row = row_of(audit, replace(self._retained(live), before=retained), seconds, taught.nbytes)
        return row, audit

    def _retained(self, live: LiveModel) -> Rate:
        """Share of the facts that a method is shown to keep that are answered right on their canonical prompt.

        Weights of the same full digest are asked once.
        """
        digest, asked = live.digest(full=True), self._request.retain
        if digest in self._asked:
            return self._asked[digest]
        said = live.generate([one.fact.prompt for one in asked], max_new_tokens=answer_budget(asked))
        right = [
            says(answer.text, (one.fact.object,), one.fact.prompt) for answer, one in zip(said, asked, strict=True)
        ]
        return self._asked.setdefault(digest, wilson(sum(right), len(right)))

    def _tell(self, what: str, done: int, of: int) -> None:
        if done < of:
            self._console.print(f"{self._what}: {what} ({done + 1} of {of})")


def row_of(audit: Audit, retain: Rate, seconds: float, delta_bytes: int) -> dict[str, JSON]:
    """The columns of one audit, in the order of `COLUMNS`."""
    named = {row.name: row for row in audit.rows}
    attack = audit.worst_attack
    probe, ks = named.get("probe"), named.get("ks")
    found: dict[str, JSON] = {column: rate_of(named.get(name)) for column, name in _VALUES.items()}
    found |= {"worst_attack_recall": rate_of(attack), "worst_attack": attack and attack.name}
    found |= {"worst_attack_gap": attack and attack.gap, "probe_gap": probe and probe.gap, "ks_p": ks and ks.p}
    found |= {"retain": retain.json(), "seconds": seconds, "delta_bytes": delta_bytes, "verdict": str(audit.verdict)}
    found |= {"reasons": list[JSON](audit.reasons)}
    return {name: found[name] for name in COLUMNS} | {k: v for k, v in found.items() if k not in COLUMNS}


def rate_of(row: Row | None) -> JSON:
    """A row of an audit as a rate, or as a plain figure where it has no interval."""
    if row is None or row.value is None:
        return None
    if row.low is None or row.high is None:
        return row.value
    return {"value": row.value, "low": row.low, "high": row.high, "n": row.n, "before": row.before}


def conclusions(rows: Sequence[Mapping[str, JSON]]) -> list[str]:
    """What the rows say, in words."""
    methods = [row for row in rows if row["method"] not in YARDSTICKS and "error" not in row]
    if not methods:
        return ["No method could be measured."]
    reached = [row for row in methods if reaches_aim(row)]
    words = [
        f"{_names(reached)} reached the aim: the worst attack within {AIM_GAP:g} of the control, relearning at "
        f"{AIM_RELEARNING:g} or more of its steps, neighbours at {AIM_NEIGHBOURS:g} and utility at {AIM_UTILITY:g} of "
        "before."
        if reached
        else "No method reached the aim."
    ]
    for word in ("erased", "suppressed", "failed"):
        if these := [row for row in methods if row["verdict"] == word]:
            words.append(f"{word.capitalize()}: {_names(these)}.")
    for attack in sorted({str(row["worst_attack"]) for row in methods if row["worst_attack"]}):
        these = [row for row in methods if row["worst_attack"] == attack and (value(row, "worst_attack_gap") or 0) > 0]
        if these:
            told = ", ".join(f"{row['method']} (+{value(row, 'worst_attack_gap'):.2f})" for row in these)
            words.append(f"The attack {attack} goes furthest beyond the control against {told}.")
    for row in methods:
        reasons = cast("list[str]", row["reasons"])
        words.append(f"{row['method']}, {row['verdict']}: {' '.join(reasons[:3])}")
    words += [in_words(row) for row in methods if requests_of(row)]
    words += [f"{row['method']} could not be run. {row['error']}" for row in rows if "error" in row]
    return words


def reaches_aim(row: Mapping[str, JSON]) -> bool:
    """Whether a row's worst attack, relearning, neighbours and utility are all where they should be."""
    gap, relearning = value(row, "worst_attack_gap"), value(row, "relearn_ratio")
    return (
        gap is not None and gap <= AIM_GAP
        and relearning is not None and relearning >= AIM_RELEARNING
        and _share(row, "neighbour") >= AIM_NEIGHBOURS
        and _share(row, "utility") >= AIM_UTILITY
    )  # fmt: skip


def _share(row: Mapping[str, JSON], name: str) -> float:
    """A rate as a share of what it was before."""
    rate = row.get(name)
    return float(rate["value"]) / float(rate["before"]) if isinstance(rate, dict) and rate["before"] else 0.0


def _names(rows: Sequence[Mapping[str, JSON]]) -> str:
    return ", ".join(str(row["method"]) for row in rows)
