"""Processes that are killed while they write, and what must hold afterwards. Shared by the scripts beside it.

A parent forks a child for each experiment, so that nothing has to be imported anew; it holds no database open then.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from catechism.errors import CatechismError
from catechism.registry import EditVersion, Policy, Registry, State
from catechism.types import Risk
from tests.registry.sample import FAIL, PASS, draft, opened

PLACES = ("France", "Spain", "Italy", "Norway", "Ghana", "Peru")
OBJECTS = ("Lyon", "Seville")
NO_WAIT = Policy(dict.fromkeys(Risk, 0), timedelta(days=14))

_FITTING = {
    "report": (State.DRAFT,), "approve": (State.VALIDATED,), "promote": (State.VALIDATED,),
    "rollback": (State.PRODUCTION,), "reject": (State.DRAFT,),
}  # fmt: skip


def forked(act: Callable[[], None]) -> int:
    """Run something in a child and give the child's process id."""
    child = os.fork()
    if child:
        return child
    try:
        act()
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for a child: 0 or 1 as it left, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def violations(home: Path, acknowledged: list[dict[str, Any]]) -> tuple[list[str], dict[str, int]]:
    """What must hold after a kill and does not, and what was swept."""
    left = leftovers(home)
    with opened(home) as registry:
        wrong = [f"damage: {problem.problem}" for problem in registry.damage]
        wrong += [f"{p.object}: {p.problem}" for p in registry.verify().problems]
        wrong += [f"left over: {path}" for path in leftovers_after(home, registry)]
        in_effect = {edit.id for edit in registry.active()}
        wrong += [f"{edit.id} is {edit.state}" for edit in registry.active() if edit.state is not State.PRODUCTION]
        wrong += [f"{e.id} is not in effect" for e in registry.edits(state="production") if e.id not in in_effect]
        numbers = [epoch.number for epoch in registry.epochs()]
        wrong += [f"epochs {numbers}"] if numbers != list(range(len(numbers))) else []
        edits = {edit.id: edit for edit in registry.edits()}
        epochs = {epoch.number: epoch.cid for epoch in registry.epochs()}
        for done in acknowledged:
            if "edit" in done and done["edit"] not in edits:
                wrong.append(f"lost: {done}")
            if "epoch" in done and epochs.get(done["epoch"]) != done["cid"]:
                wrong.append(f"lost: {done}")
            if "seq" in done and registry.log(limit=1)[0].seq < done["seq"]:
                wrong.append(f"lost: {done}")
    return wrong, left


def leftovers(home: Path) -> dict[str, int]:
    return {"unfinished": len(list((home / "store" / "tmp").glob("*")))}


def leftovers_after(home: Path, registry: Registry) -> list[str]:
    known = {edit.digest.removeprefix("sha256:") for edit in registry.edits()}
    folders = [path.name for path in (home / "store").glob("sha256/??/*") if path.name not in known]
    return folders + [path.name for path in (home / "store" / "tmp").glob("*")]


def work(home: Path, seed: int, acknowledge: Callable[[dict[str, Any]], None], verbs: int = 10_000) -> None:
    """Do random things to a store, and say of each that it is done."""
    rng = random.Random(seed)
    with opened(home, policy=NO_WAIT) as registry:
        acknowledge({"verb": "open", "seq": registry.log(limit=1)[0].seq})
        for number in range(verbs):
            with suppress(CatechismError):
                acknowledge({**one(registry, rng, home, f"{seed}-{number}"), "seq": registry.log(limit=1)[0].seq})


def one(registry: Registry, rng: random.Random, home: Path, tag: str) -> dict[str, Any]:
    """One random verb; its result as far as it must survive."""
    edits = registry.edits()
    act = rng.choice(["add", "add", "report", "report", "approve", "promote", "promote", "rollback", "epoch", "reject"])
    fit = [edit for edit in edits if edit.state in _FITTING.get(act, ())]

    def pick() -> EditVersion:
        """As a rule one that the verb is for; now and then any."""
        return rng.choice(fit if fit and rng.random() < 0.9 else edits)

    if act == "add" or not edits:
        of = rng.choice(edits).id if edits and rng.random() < 0.3 else None
        made = registry.add_edit(draft(rng.choice(PLACES), rng.choice(OBJECTS), seed=rng.randrange(9), supersedes=of))
        return {"verb": act, "edit": made.id}
    if act == "report":
        made = registry.add_report(pick().id, {"tag": tag}, rng.choice([PASS, PASS, FAIL]))
        return {"verb": act, "edit": made.id}
    if act == "approve":
        return {"verb": act, "edit": registry.approve(pick().id, rng.choice(["bo", "cy"])).edit}
    if act == "reject":
        return {"verb": act, "edit": registry.reject(pick().id, "bo", "no").id}
    if act == "promote":
        epoch = registry.promote(pick().id, "ann")
    elif act == "rollback":
        epoch = registry.rollback(pick().id, by="ann", reason=tag)
    else:
        epoch = registry.rollback(to_epoch=rng.randrange(len(registry.epochs())), by="ann", reason=tag)
    return {"verb": act, "epoch": epoch.number, "cid": epoch.cid}


def written(path: Path) -> list[dict[str, Any]]:
    """What a worker has acknowledged; a line that was cut off is none."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
