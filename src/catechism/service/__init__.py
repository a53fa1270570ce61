"""The whole path of a fact as a Python API: learn, test, approve, promote, ask, roll back, explain, verify."""

from catechism.service.answering import Answer, Breaking, Part
from catechism.service.learning import Plan
from catechism.service.outcomes import Ending, Outcome
from catechism.service.service import DEFAULT_MODEL, Service
from catechism.service.workbench import Workbench

__all__ = ["DEFAULT_MODEL", "Answer", "Breaking", "Ending", "Outcome", "Part", "Plan", "Service", "Workbench"]
