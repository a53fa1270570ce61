"""What the model says: interviews, reports with intervals, and gates. It never knows who made a delta."""

from __future__ import annotations

from catechism.evaluate.gates import DEFAULT_GATES, Gate, GateResult, Status, Verdict, judge, read_policy
from catechism.evaluate.intervals import bootstrap, wilson
from catechism.evaluate.interview import Interview, interview, join
from catechism.evaluate.metrics import METRICS
from catechism.evaluate.report import Report, report
from catechism.matching import contains, passes

__all__ = [
    "DEFAULT_GATES",
    "METRICS",
    "Gate",
    "GateResult",
    "Interview",
    "Report",
    "Status",
    "Verdict",
    "bootstrap",
    "contains",
    "interview",
    "join",
    "judge",
    "passes",
    "read_policy",
    "report",
    "wilson",
]
