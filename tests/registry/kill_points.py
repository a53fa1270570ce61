"""Kill every verb at every named point, look whether anything is lost, and do it again.

    python tests/registry/kill_points.py

prints one JSON object: for each verb and point how the process ended, how much of the verb was there, and every
invariant that did not hold. The exit code is 1 if there was one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from catechism.registry import Registry
from catechism.registry.failpoints import NAMES, VARIABLE
from tests.registry.crash import ended, forked, violations
from tests.registry.sample import PASS, draft, opened, promoted, validated


def add(registry: Registry) -> None:
    registry.add_edit(draft("Norway", "Bergen"))


def add_report(registry: Registry) -> None:
    registry.add_report(registry.edits(subject="Italy")[0].id, {"efficacy": 1.0}, PASS)


def approve(registry: Registry) -> None:
    registry.approve(registry.edits(subject="Spain")[0].id, "bo")


def reject(registry: Registry) -> None:
    registry.reject(registry.edits(subject="Italy")[0].id, "bo", "no")


def promote(registry: Registry) -> None:
    registry.promote(registry.edits(subject="Spain")[0].id, "ann")


def supersede(registry: Registry) -> None:
    registry.promote(registry.edits(state="validated", subject="France")[0].id, "ann")


def rollback(registry: Registry) -> None:
    registry.rollback(registry.edits(subject="France")[0].id, by="ann", reason="no")


def rollback_to_epoch(registry: Registry) -> None:
    registry.rollback(to_epoch=0, by="ann", reason="no")


def import_(registry: Registry) -> None:
    registry.import_(registry.home.parent / "bundle.tar", "bo")


VERBS: tuple[Callable[[Registry], None], ...] = (
    add, add_report, approve, reject, promote, supersede, rollback, rollback_to_epoch, import_,
)  # fmt: skip
PUBLISHING = {"add", "import_"}


def prepare(folder: Path) -> Path:
    """A store in which each verb has something to do, and a bundle of another one."""
    with opened(folder / "other") as other:
        other.export(
            [promoted(other, "Peru", "Cusco").id, other.add_edit(draft("Ghana", "Kumasi")).id], folder / "bundle.tar"
        )
    with opened(folder / "home") as registry:
        first = promoted(registry)
        validated(registry, "Spain", "Seville")
        registry.add_edit(draft("Italy", "Milan"))
        validated(registry, object="Nice", supersedes=first.id)
    return folder / "home"


def told(home: Path) -> str:
    """Everything that a verb can change, as a text."""
    with opened(home) as registry:
        states = {edit.id: (edit.state, edit.report) for edit in registry.edits()}
        given = [approval.by for identity in states for approval in registry.approvals(identity)]
        return repr((states, given, registry.head().number, registry.head().cid, registry.log(limit=1)[0].seq))


def at_point(verb: Callable[[Registry], None], point: str, prepared: Path, before: str) -> dict[str, Any]:
    """Kill one verb at one point. It has to be there as a whole or not at all, and to go through when done again."""
    with tempfile.TemporaryDirectory() as folder:
        home = shutil.copytree(prepared, Path(folder) / "all") / "home"
        end = ended(forked(lambda: _dying(home, verb, point)))
        wrong, left = violations(home, [])
        after = told(home)
        is_fired = end == -signal.SIGKILL
        is_expected = point in NAMES[2:] or verb.__name__ in PUBLISHING
        if is_fired != is_expected:
            wrong.append(f"ended with {end}")
        if (after != before) != (point == "after_commit" or not is_fired):
            wrong.append("half of it is there" if after != before else "what was committed is lost")
        if point != "after_commit" and is_fired and (again := ended(forked(lambda: _dying(home, verb, "")))):
            wrong.append(f"done again it ended with {again}")
        wrong += violations(home, [])[0]
    return {"verb": verb.__name__, "point": point, "killed": is_fired, **left, "violations": wrong}


def opening(point: str) -> dict[str, Any]:
    """Kill the making of a store at one point. Opening it again has to finish it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        end = ended(forked(lambda: _dying(home, lambda registry: None, point)))
        wrong, left = violations(home, [])
    return {"verb": "open", "point": point, "killed": end == -signal.SIGKILL, **left, "violations": wrong}


def _dying(home: Path, verb: Callable[[Registry], None], point: str) -> None:
    if verb in VERBS:
        with opened(home) as registry:
            os.environ[VARIABLE] = f"{point}:kill"
            verb(registry)
            os.environ.pop(VARIABLE)  # closing signs the audit, which writes too
        return
    os.environ[VARIABLE] = f"{point}:kill"
    opened(home)


def main() -> list[dict[str, Any]]:
    """Every verb at every point."""
    with tempfile.TemporaryDirectory() as folder:
        before = told(prepare(Path(folder)))
        rows = [at_point(verb, point, Path(folder), before) for verb in VERBS for point in NAMES]
    return rows + [opening(point) for point in NAMES[2:]]


if __name__ == "__main__":
    rows = main()
    bad = [row for row in rows if row["violations"]]
    sys.stdout.write(json.dumps({"rows": rows, "killed": sum(r["killed"] for r in rows), "violations": bad}) + "\n")
    sys.exit(bool(bad))
