"""``catechism bench path``: the whole way of a feed, what each station takes, and why facts were refused."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from catechism.bench.cases import draw_catechisms
from catechism.facts import write_feed
from catechism.reference.world import load_world
from catechism.service import Ending, Outcome, Plan, Service
from catechism.service.outcomes import STAGES
from catechism.settings import Settings
from catechism.types import JSON, Catechism


def run(model: str, facts: int, seed: int, settings: Settings, console: Console) -> dict[str, JSON]:
    """Teach a feed of drawn facts to a model with an empty store, release what passes, and roll all of it back.

    Returns: ``rows``, one for each station with its seconds and share; ``endings`` and ``refusals`` counted; and
        whether the weights are the original bytes in the end.
    """
    lessons = [_row(lesson) for lesson in draw_catechisms(load_world(), facts, seed=seed)]
    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder) / "feed.jsonl"
        write_feed(feed, lessons)
        with Service(model, replace(settings, home=Path(folder) / "store")) as service:
            opened = time.perf_counter()
            base = service.bench.live.digest(full=True)
            prepared = time.perf_counter() - opened
            outcomes: list[Outcome] = []
            with Progress(console=console) as progress:
                task = progress.add_task("path", total=facts)
                for outcome in service.learning(feed, plan=Plan(author="bench", release=True, seed=seed)):
                    outcomes.append(outcome)
                    progress.update(task, advance=1)
            service.rollback(to_epoch=0, by="bench", reason="end of the benchmark")
            verified, exact = service.verify().ok, service.bench.live.digest(full=True) == base
    seconds = {stage: sum(o.seconds.get(stage, 0.0) for o in outcomes) for stage in STAGES}
    whole = sum(seconds.values()) or 1.0
    rows: list[JSON] = [
        {"stage": stage, "seconds": seconds[stage], "share": seconds[stage] / whole, "per_fact": seconds[stage] / facts}
        for stage in STAGES
    ]
    return {
        "rows": rows,
        "facts": facts,
        "seconds_open": prepared,
        "seconds_total": whole,
        "endings": dict(Counter(o.ending.value for o in outcomes)),
        "methods": dict(Counter(o.choice.method for o in outcomes if o.choice and o.ending is Ending.RELEASED)),
        "refusals": dict(Counter(gate for o in outcomes for gate in _refused_by(o))),
        "weights_exact": exact,
        "store_verified": verified,
    }


def _row(lesson: Catechism) -> Catechism:
    """The fact alone, as a feed brings it: what is asked of the model has to be written on the way."""
    return Catechism(lesson.fact, lesson.questions[:1])


def _refused_by(outcome: Outcome) -> list[str]:
    """The gates that did not pass, or the ending of what never came to them."""
    if outcome.ending is Ending.REFUSED and outcome.verdict is not None:
        return [result.gate.metric for result in outcome.verdict.results if result.status.value != "PASS"]
    return [] if outcome.ending in {Ending.RELEASED, Ending.VALIDATED} else [outcome.ending.value]
