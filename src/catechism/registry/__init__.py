"""The store of edits: what was learned, by whom, on what evidence, and what is in effect. Loads no torch."""

from __future__ import annotations

from catechism.registry.policy import Policy
from catechism.registry.records import (
    Approval,
    AuditEntry,
    Composition,
    Draft,
    EditVersion,
    Entry,
    Epoch,
    Problem,
    Seal,
    State,
    Sweep,
    Verification,
)
from catechism.registry.registry import Registry

__all__ = [
    "Approval",
    "AuditEntry",
    "Composition",
    "Draft",
    "EditVersion",
    "Entry",
    "Epoch",
    "Policy",
    "Problem",
    "Registry",
    "Seal",
    "State",
    "Sweep",
    "Verification",
]
