"""Was it forgotten? Every measure and attack there is, beside a model that never learned; the verdict is one word."""

from __future__ import annotations

from catechism.evaluate.audit.items import Kept
from catechism.evaluate.audit.measures import Before, Progress
from catechism.evaluate.audit.profile import FULL, QUICK, Margins, Profile
from catechism.evaluate.audit.result import Audit, Family, Row, Word
from catechism.evaluate.audit.run import Auditor, audit, measure_before
from catechism.evaluate.audit.sequence import InSequence, Series, in_sequence

__all__ = [
    "FULL",
    "QUICK",
    "Audit",
    "Auditor",
    "Before",
    "Family",
    "InSequence",
    "Kept",
    "Margins",
    "Profile",
    "Progress",
    "Row",
    "Series",
    "Word",
    "audit",
    "in_sequence",
    "measure_before",
]
