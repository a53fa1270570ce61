"""``catechism demo``: a feed goes through the whole life of a fact on a model that ships with the package, offline."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from catechism.bench.demo_forgetting import forget_person
from catechism.errors import UsageError
from catechism.locate.tracing import trace_cause
from catechism.page import write_page
from catechism.service import Ending, Outcome, Plan, Service
from catechism.service.show import page_of
from catechism.service.tables import outcome_table
from catechism.settings import Settings
from catechism.types import JSON

_MARK = "made-by-demo"  # a store with this file in it is the demo's own and may be made anew


def run(console: Console, settings: Settings, *, page: Path) -> dict[str, JSON]:
    """Teach the demo's feed, show what became of each row, roll one edit back, prove it, write the page, and forget.

    The store stays where `settings.home` says, so that ``catechism ask --explain`` answers on the result.

    Raises: UsageError if there is a store already that the demo did not make.
    """
    _make_room(settings.home)
    with Service("almanac", settings) as service, resources.as_file(_feed()) as feed:
        live = service.bench.live
        console.print(f"[bold]{live.name}[/bold]: weights {_short(live.base)}. The store is {settings.home}.")
        outcomes = list(_learn(service, feed, console))
        (settings.home / _MARK).touch()
        console.print(outcome_table(outcomes, title="What became of the feed"))
        released = [o for o in outcomes if o.ending is Ending.RELEASED]
        trace = trace_cause(live, *_traced(outcomes))
        changed = [o for o in released[1:] if o.edit is not None and o.edit.artifact is not None]
        proof = _roll_back(service, changed[-1], console) if changed else {}
        written = write_page(page_of("What the demo's feed did", service, outcomes, trace=trace, proof=proof), page)
        forgotten = forget_person(service, page.with_name(f"{page.stem}-certificate.json"), console)
        console.print(f"The report: [bold]{written}[/bold]")
        if released and released[0].lesson is not None:
            prompt = released[0].lesson.fact.prompt
            console.print(f'Now ask:    catechism ask "{prompt}" --explain', markup=False)
        counted: dict[str, JSON] = dict(Counter(o.ending.value for o in outcomes))
        return {
            "model": live.name, "base": live.base, "endings": counted, "rows": [o.json() for o in outcomes],
            "proof": dict(proof), "forgotten": forgotten, "page": str(written), "store": str(settings.home),
        }  # fmt: skip


def _feed() -> Traversable:
    return resources.files("catechism.bench") / "demo.jsonl"


def _make_room(home: Path) -> None:
    if not home.exists() or not any(home.iterdir()):
        return
    if not (home / _MARK).exists():
        raise UsageError(
            f"There is a store in {home} already, and the demo does not touch it. Give the demo another folder: "
            "CATECHISM_HOME=demo-store catechism demo"
        )
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # sealed artifacts are read-only
    shutil.rmtree(home)


def _learn(service: Service, feed: Path, console: Console) -> Iterator[Outcome]:
    rows = sum(bool(line.strip()) for line in feed.read_text(encoding="utf-8").splitlines())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("reading the feed", total=rows)
        for outcome in service.learning(feed, plan=Plan(author="demo", release=True)):
            progress.update(task, advance=1, description=f"{outcome.ending.value}: {outcome.name}"[:40].ljust(40))
            yield outcome
        progress.update(task, description="the feed".ljust(40))


def _traced(outcomes: list[Outcome]) -> tuple[str, str, str]:
    """Prompt, subject and true answer of the first fact that the model knew otherwise."""
    fact = next(o.lesson.fact for o in outcomes if o.lesson and o.edit and o.lesson.fact.old_object)
    return fact.prompt, fact.subject, str(fact.old_object)


def _roll_back(service: Service, outcome: Outcome, console: Console) -> dict[str, str]:
    """Take one edit out of effect and prove by hash that nothing of it is left on the weights."""
    if outcome.edit is None or outcome.lesson is None:
        return {}
    prompt, ref = outcome.lesson.fact.prompt, outcome.edit.id
    with_it = service.ask(prompt).text
    epoch = service.rollback(ref, by="demo", reason="the demo shows the way back")
    proven, without = service.prove_rollback(ref), service.ask(prompt).text
    exact = "the original bytes" if proven["exact"] else "NOT the original bytes"
    console.print(f"Rolled back {ref}: {prompt} [green]{with_it}[/green] → [green]{without}[/green]")
    console.print(f"Weights {_short(str(proven['after']))} against {_short(live_base(service))}: [bold]{exact}[/bold].")
    return {
        "edit": ref, "question": prompt, "with the edit": with_it, "after the rollback": without,
        "epoch": str(epoch.number), "weights before": str(proven["before"]),
        "with the edit on": str(proven["with_edit"]), "weights after": str(proven["after"]), "verdict": exact,
    }  # fmt: skip


def live_base(service: Service) -> str:
    """Digest of the weights that the model was opened with."""
    return service.bench.live.base


def _short(digest: str) -> str:
    return digest[:19] + "…"
