"""Facts: how they come in, what is wrong with them, and the questions that show whether they are known."""

from __future__ import annotations

from catechism.facts.bank import Relation, TemplateBank
from catechism.facts.belief import Belief, believes
from catechism.facts.conflicts import Finding, FindingKind, Ledger, find_conflicts, judge_belief
from catechism.facts.endpoint import Endpoint, EndpointWriter
from catechism.facts.feed import read_feed, write_feed
from catechism.facts.risk import Assessment, assess, raise_risk
from catechism.facts.self_writer import SelfWriter
from catechism.facts.sentence import read_sentence
from catechism.facts.synthesis import Writer, lesson_of, synthesise
from catechism.facts.teacher import Synthesis, check_with_teacher
from catechism.facts.templates import Amounts

__all__ = [
    "Amounts",
    "Assessment",
    "Belief",
    "Endpoint",
    "EndpointWriter",
    "Finding",
    "FindingKind",
    "Ledger",
    "Relation",
    "SelfWriter",
    "Synthesis",
    "TemplateBank",
    "Writer",
    "assess",
    "believes",
    "check_with_teacher",
    "find_conflicts",
    "judge_belief",
    "lesson_of",
    "raise_risk",
    "read_feed",
    "read_sentence",
    "synthesise",
    "write_feed",
]
