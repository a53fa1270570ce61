"""Gates: what a report has to show before an edit may go on.

A gate sets bounds on one metric; a policy is a list of gates, from a file or `DEFAULT_GATES`. Missing data never
passes. ``docs/gates.md`` describes the policy file and how a verdict is reached.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import cast

from catechism.errors import BadPolicy
from catechism.evaluate.metrics import FIGURES, METRICS
from catechism.evaluate.report import Report
from catechism.types import JSON, Rate

#: Metrics of the lm-evaluation-harness suite are named ``harness/TASK/METRIC``, those of a deletion ``forget/METRIC``.
SUITE_PREFIXES = ("harness/", "forget/")


class Status(StrEnum):
    """Outcome of a gate or of a policy."""

    FAIL = "FAIL"
    ERROR = "ERROR"
    INCONCLUSIVE = "INCONCLUSIVE"
    PASS = "PASS"


#: The worst outcome of its gates is the outcome of a policy; worst first.
SEVERITY = (Status.FAIL, Status.ERROR, Status.INCONCLUSIVE, Status.PASS)
_EXIT_CODES = {Status.FAIL: 1, Status.ERROR: 1, Status.INCONCLUSIVE: 5, Status.PASS: 0}


def _check_metric(metric: str) -> None:
    if metric in METRICS or metric.startswith(SUITE_PREFIXES):
        return
    raise BadPolicy(f"Unknown metric {metric!r}. {_did_you_mean(metric, list(METRICS))}")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Use one of: {', '.join(known)}."


@dataclass(frozen=True, slots=True)
class Gate:
    """Bounds on one metric; every bound that is set must hold.

    Attributes:
        metric: a name in `catechism.evaluate.METRICS`, or of a suite.
        at_least: least value.
        at_most: greatest value.
        max_drop: how far the value may lie under its value before the edit.
        min_n: observations from which on the value itself is judged. Below it the whole 95 % interval has to lie on
            one side of a bound, else the gate is inconclusive.

    Raises: BadPolicy for an unknown metric, no bound, bounds out of range or in conflict, or min_n below 1.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    max_drop: float | None = None
    min_n: int = 1

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        if self.at_least is None and self.at_most is None and self.max_drop is None:
            raise BadPolicy(f"The gate on {self.metric!r} has no bound. Set at_least, at_most or max_drop.")
        for name in ("at_least", "at_most", "max_drop"):
            self._check_bound(name)
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise BadPolicy(
                f"The gate on {self.metric!r} wants at least {self.at_least} and at most {self.at_most}, which no "
                "value is. Exchange the two or drop one."
            )
        if self.max_drop is not None and self.metric in FIGURES:
            raise BadPolicy(
                f"{self.metric!r} has no value before the edit of its own. Use at_most in place of max_drop."
            )
        if self.min_n < 1:
            raise BadPolicy(f"min_n of the gate on {self.metric!r} is {self.min_n}. Set 1 or more.")

    @property
    def bounds(self) -> str:
        """What is asked, in words."""
        words = {"at least": self.at_least, "at most": self.at_most, "a drop of at most": self.max_drop}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)

    def _check_bound(self, name: str) -> None:
        bound: float | None = getattr(self, name)
        if bound is None:
            return
        is_rate = self.metric in METRICS and self.metric not in FIGURES
        least = -1.0 if self.metric == "tf_magnitude" and name != "max_drop" else 0.0
        most = 2.0 if self.metric == "tf_magnitude" and name == "max_drop" else 1.0
        if not math.isfinite(bound) or (is_rate and not least <= bound <= most):
            want = f"a number between {least:g} and {most:g}" if is_rate else "a finite number"
            raise BadPolicy(f"{name} of the gate on {self.metric!r} is {bound}. Set {want}.")


#: What an edit has to reach where no policy says otherwise. The facts of an edit are all asked, so their number is no
#: sample and one is enough; questions that must not move stand for all that were not asked, so there must be some.
DEFAULT_GATES: tuple[Gate, ...] = (
    Gate("efficacy", at_least=0.99),
    Gate("paraphrase_mean", at_least=0.95),
    Gate("paraphrase_worst", at_least=0.90),
    Gate("locality_neighbour", at_least=0.95, min_n=10),
    Gate("locality_unrelated", at_least=0.95, min_n=10),
    Gate("perplexity_ratio", at_most=1.05),
)


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate with its outcome, the value it judged and the reason in words."""

    gate: Gate
    status: Status
    value: Rate | float | None
    reason: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object, with the bounds that are set."""
        row: dict[str, JSON] = {"metric": self.gate.metric, "status": self.status.value, "reason": self.reason}
        for name in ("at_least", "at_most", "max_drop"):
            if (bound := getattr(self.gate, name)) is not None:
                row[name] = bound
        row["min_n"] = self.gate.min_n
        row["value"] = self.value.json() if isinstance(self.value, Rate) else self.value
        return row


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says about a report."""

    status: Status
    results: tuple[GateResult, ...]

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this verdict: 0 pass, 1 fail or error, 5 inconclusive."""
        return _EXIT_CODES[self.status]

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"status": self.status.value, "gates": [result.json() for result in self.results]}


def judge(report: Report, gates: Sequence[Gate] = DEFAULT_GATES) -> Verdict:
    """Hold a report against gates. The worst outcome counts: FAIL > ERROR > INCONCLUSIVE > PASS.

    Without gates nothing was asked, so the verdict is inconclusive.
    """
    results = tuple(_judge_one(report, gate) for gate in gates)
    statuses = {result.status for result in results} or {Status.INCONCLUSIVE}
    return Verdict(next(status for status in SEVERITY if status in statuses), results)


def read_policy(path: str | Path) -> tuple[Gate, ...]:
    """The gates of a policy file, TOML or (by its ending) JSON. They replace the default gates.

    Raises: BadPolicy, naming the file, the gate and what to write.
    """
    path = Path(path)
    table = _read_table(path)
    try:
        if set(table) != {"gates"}:
            found = ", ".join(map(repr, sorted(table))) or "nothing"
            raise BadPolicy(f"The file holds {found} at its top. Write one table [gates.METRIC] for each gate.")
        gates = _mapping(table["gates"], "gates")
        if not gates:
            raise BadPolicy("The file holds no gate. Write at least one, for instance [gates.efficacy] at_least = 0.99")
        return tuple(_gate(metric, _mapping(bounds, metric)) for metric, bounds in gates.items())
    except BadPolicy as error:
        raise BadPolicy(f"{path}: {error}") from None


def _judge_one(report: Report, gate: Gate) -> GateResult:
    value = report.metrics.get(gate.metric)
    for name, reason in report.errors.items():
        if gate.metric == name or gate.metric.startswith(f"{name}/"):  # a task that failed has no metrics at all
            return GateResult(gate, Status.ERROR, None, reason)
    if value is None:
        return GateResult(gate, Status.INCONCLUSIVE, None, "not measured")
    if not math.isfinite(value.value if isinstance(value, Rate) else value):
        return GateResult(gate, Status.ERROR, None, f"the value is {value}")
    outcomes: list[tuple[Status, str]] = []
    if gate.at_least is not None:
        outcomes.append(_hold(value, gate.min_n, gate.at_least, "at least"))
    if gate.at_most is not None:
        outcomes.append(_hold(value, gate.min_n, gate.at_most, "at most"))
    if gate.max_drop is not None:
        before = value.before if isinstance(value, Rate) else None
        if before is None:
            outcomes.append((Status.INCONCLUSIVE, "not measured before the edit"))
        else:
            outcomes.append(_hold(value, gate.min_n, before - gate.max_drop, "at least"))
    status = next(s for s in SEVERITY if s in {outcome for outcome, _ in outcomes})
    return GateResult(gate, status, value, "; ".join(reason for outcome, reason in outcomes if outcome is status))


def _hold(value: Rate | float, min_n: int, bound: float, side: str) -> tuple[Status, str]:
    """Hold a value against one bound."""

    def keeps(x: float) -> bool:
        # Room for rounding: 0.97 - 0.02 must not miss a bound of 0.95.
        return x >= bound - 1e-12 if side == "at least" else x <= bound + 1e-12

    if not isinstance(value, Rate):
        return (Status.PASS if keeps(value) else Status.FAIL), f"{value:.4g}, {side} {bound:.4g}"
    words = f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}] of {value.n}, {side} {bound:.4g}"
    if value.n < min_n and keeps(value.low) != keeps(value.high):
        return Status.INCONCLUSIVE, f"{words}: too few to tell, ask {min_n} or more"
    return (Status.PASS if keeps(value.value) else Status.FAIL), words


def _read_table(path: Path) -> dict[str, object]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadPolicy(f"The policy {path} cannot be read: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise BadPolicy(f"The policy {path} is not UTF-8 at byte {error.start + 1}. Save it as UTF-8.") from None
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        table: object = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPolicy(f"The policy {path} is not {kind}: {error}. Correct that place.") from None
    return dict(_mapping(table, str(path)))


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BadPolicy(f"{name!r} must be a table, got {value!r}. Write [gates.METRIC] and the bounds under it.")
    return cast("dict[str, object]", value)


def _gate(metric: str, bounds: Mapping[str, object]) -> Gate:
    _check_metric(metric)
    known = [f.name for f in fields(Gate) if f.name != "metric"]
    for name, value in bounds.items():
        if name not in known:
            raise BadPolicy(f"The gate on {metric!r} has the unknown setting {name!r}. {_did_you_mean(name, known)}")
        number = isinstance(value, int) if name == "min_n" else isinstance(value, int | float)
        if not number or isinstance(value, bool):
            want = "a whole number" if name == "min_n" else "a number"
            raise BadPolicy(f"{name} of the gate on {metric!r} must be {want}, got {value!r}. Write it without quotes.")
    return Gate(metric, **cast("dict[str, float]", dict(bounds)))  # pyright: ignore[reportArgumentType]
