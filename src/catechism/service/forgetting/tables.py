"""Plans, deletions and audits on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from catechism.evaluate import Status
from catechism.service.forgetting.copies import Copy, Place
from catechism.service.forgetting.outcome import ForgetEnding, Forgotten
from catechism.service.forgetting.plan import AUTO, ForgetPlan, Probe
from catechism.service.forgetting.proof import MEANINGS, Proof
from catechism.types import Rate

SHOWN = 12  # facts, neighbours and copies that are shown to a person; a program gets all
_COLOUR = {
    ForgetEnding.RELEASED: "green", ForgetEnding.VALIDATED: "green", ForgetEnding.WAITING: "yellow",
    ForgetEnding.UNKNOWN: "blue", ForgetEnding.PLANNED: "blue",
}  # fmt: skip


def plan_view(plan: ForgetPlan) -> RenderableType:
    """What is known, who taught it, what would be done, what could be hurt, and where else it is written down."""
    if not plan.probes:
        return Text("No fact goes by that name.")
    parts: list[RenderableType] = [_probes(plan.probes), *_steps(plan)]
    if plan.surroundings.near:
        parts.append(_near(plan))
    if plan.copies:
        parts.append(_copies(plan.copies))
    return Group(*parts)


def forgotten_view(done: Forgotten) -> RenderableType:
    """How a request ended, after its plan."""
    said = Text.assemble((done.ending.value, f"bold {_COLOUR.get(done.ending, 'red')}"), f"  {done.reason}")
    parts: list[RenderableType] = [plan_view(done.plan)] if done.plan.probes else []
    if done.trial is not None:
        grid = Table(title=f"Gates of {done.edit.id if done.edit else ''}")
        for name in ("gate", "before", "now", "asked for", "outcome"):
            grid.add_column(name, overflow="fold")
        for result in done.trial.verdict.results:
            value, colour = result.value, "green" if result.status is Status.PASS else "red"
            before = f"{value.before:.3f}" if isinstance(value, Rate) and value.before is not None else "-"
            now = (
                f"{value.value:.3f} of {value.n}"
                if isinstance(value, Rate)
                else "-"
                if value is None
                else f"{value:.3f}"
            )
            grid.add_row(result.gate.metric, before, now, result.gate.bounds, Text(result.status.value, style=colour))
        parts.append(grid)
    parts += [Text(f"tried: {attempt}", style="dim") for attempt in done.attempts]
    if done.seals:
        parts.append(_copies(done.copies))
    return Group(*parts, said, *(Text(line) for line in _next(done)))


def proof_view(proof: Proof) -> RenderableType:
    """Every measure with its control, and the verdict with its reasons and limits."""
    grid = Table(title=f"Audit of {proof.edit.id} ({proof.audit.profile}, control {proof.control or 'none'})")
    for name in ("measure", "model", "95 %", "control", "before", "n", "tells it apart"):
        grid.add_column(name, overflow="fold")
    for row in proof.audit.rows:
        interval = "" if row.low is None or row.high is None else f"{row.low:.3g} to {row.high:.3g}"
        tells = {True: Text("yes", style="red"), False: Text("no", style="green")}.get(bool(row.tells), Text(""))
        shown = Text("cannot say", style="dim") if row.tells is None else tells
        cells = [Text(row.name), _figure(row.value), interval, _figure(row.control), _figure(row.before), str(row.n)]
        grid.add_row(*cells, shown if row.decides else Text("not asked", style="dim"))
    word = str(proof.audit.verdict)
    parts: list[RenderableType] = [grid, Text.assemble((word, "bold"), f"  {MEANINGS[word]}")]
    parts += [Text(f"because: {reason}") for reason in proof.audit.reasons]
    parts += [Text(f"not shown: {limit}", style="dim") for limit in proof.limits]
    return Group(*parts)


def _probes(probes: Sequence[Probe]) -> Table:
    grid = Table(title="What the model knows of it")
    for name in ("fact", "says now", "phrasings answered", "without own edits", "what it takes"):
        grid.add_column(name, overflow="fold")
    for probe in probes[:SHOWN]:
        takes = "nothing: not known"
        if probe.known:
            ways = ["own edits out"] if probe.taught_by else []
            takes = " and ".join([*ways, *(["a weight change"] if probe.stays else [])])
        grid.add_row(
            Text(probe.lesson.fact.sentence), Text(probe.says), f"{probe.right} of {probe.asked}",
            f"{probe.left} of {probe.asked}" if probe.taught_by else "-", takes,
        )  # fmt: skip
    if len(probes) > SHOWN:
        grid.caption = f"and {len(probes) - SHOWN} more; --json gives all"
    return grid


def _steps(plan: ForgetPlan) -> list[Text]:
    """The steps in words, in their order."""
    if not plan.known:
        return []
    lines = [f"Own edits taken out, exactly: {', '.join(edit.id for edit in plan.own) or 'none taught it'}."]
    lines += [
        f"{edit.id} taught other facts too: it is solved again for those {len(kept)}." for edit, kept in plan.merged
    ]
    if plan.left:
        named, n = ", ".join(plan.methods) or "there is none", len(plan.left)
        how = "tried in this order, until the gates pass" if plan.options.method == AUTO else "asked for by name"
        lines.append(f"Weight change for {n} fact{'s' * (n != 1)} by: {named} ({how}).")
        around = plan.surroundings
        lines.append(
            f"It is shown {len(around.retain)} facts to keep, {len(around.dependents)} of which depend on the target."
        )
        if plan.entangled:
            lines.append("That is more than half of them: it will be refused without --force.")
    else:
        lines.append("No weight change is needed.")
    asked = len(plan.surroundings.neighbours), len(plan.surroundings.utility)
    lines.append(f"Asked before and after: {asked[0]} neighbours and {asked[1]} other facts that no method is shown.")
    lines.append(f"Control that never learned: {plan.control or 'none, so the bound is the stated one'}.")
    return [Text(line) for line in lines]


def _near(plan: ForgetPlan) -> Table:
    near = plan.surroundings.near
    grid = Table(title=f"Near enough to be hurt ({len(near)})")
    for name in ("fact", "why", "depends on the target"):
        grid.add_column(name, overflow="fold")
    for one in near[:SHOWN]:
        grid.add_row(Text(one.fact.sentence), Text(", ".join(one.why)), "yes" if one.depends else "no")
    if len(near) > SHOWN:
        grid.caption = f"and {len(near) - SHOWN} more"
    return grid


def _copies(copies: Sequence[Copy]) -> Table:
    grid = Table(title=f"Written down elsewhere ({len(copies)})")
    for name in ("where", "what", "what becomes of it"):
        grid.add_column(name, overflow="fold")
    named = [copy for copy in copies if copy.place is not Place.CACHE]
    for copy in named[:SHOWN]:
        grid.add_row(Text(f"{copy.place} {copy.name}"), Text(copy.what), Text(copy.done))
    if len(named) > SHOWN:
        grid.caption = f"and {len(named) - SHOWN} more; --json gives all"
    cached = Counter((copy.what, copy.done) for copy in copies if copy.place is Place.CACHE)
    for (what, done), n in cached.items():  # their names are digests, which tell a person nothing
        grid.add_row(f"{n} {'file' if n == 1 else 'files'} in the cache", Text(what), Text(done))
    return grid


def _next(done: Forgotten) -> list[str]:
    if done.edit is None:
        return []
    edit = done.edit.id
    return {
        ForgetEnding.VALIDATED: [f"Put it into effect: catechism promote {edit}", f"Audit it: catechism audit {edit}"],
        ForgetEnding.WAITING: [f"Let somebody approve it: catechism approve {edit}"],
        ForgetEnding.RELEASED: [] if done.seals else [
            f"Audit it: catechism audit {edit} --profile full --certificate FILE.json",
            f"Take it back: catechism rollback {edit}    or for good: catechism seal {edit}",
        ],
    }.get(done.ending, [])  # fmt: skip


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
