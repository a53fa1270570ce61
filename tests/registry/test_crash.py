"""Killed at named points and at random, by SIGKILL; two processes at once. The scripts also run by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from catechism.errors import Conflict
from catechism.registry import Registry
from catechism.registry.failpoints import NAMES, VARIABLE, Failpoint
from tests.registry.sample import draft, opened, promoted, validated

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

HERE = Path(__file__).parent
CITIES = ("Lyon", "Seville", "Milan", "Bergen", "Kumasi", "Cusco", "Graz", "Porto")


def script(name: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(HERE / name), *arguments], capture_output=True, text=True)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_every_verb_killed_at_every_point_is_done_or_not_begun() -> None:
    found = script("kill_points.py")
    assert found["violations"] == []
    assert found["killed"] == 7 * 3 + 2 * 5 + 3  # seven verbs publish nothing, two do; opening migrates
    assert any(row["unfinished"] for row in found["rows"])  # so the sweep had something to do


def test_random_kills_lose_nothing() -> None:
    found = script("kill_loop.py", "6", "1")
    assert found["violations"] == [] and found["kills"] == 6


@pytest.mark.parametrize("kind", ["same", "different"])
def test_of_two_processes_that_promote_at_once_exactly_one_wins(kind: str) -> None:
    found = script("race.py", kind)
    assert found == {"codes": [0, 4], "violations": [], "epochs": 2}


def test_two_processes_may_make_a_store_at_once() -> None:
    assert script("race.py", "open") == {"codes": [0, 0], "violations": [], "epochs": 1}


def test_eight_threads_promote_and_none_is_lost(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def run(registry: Registry, number: int) -> None:
        try:
            for subject in ("Here", "There"):
                edit = validated(registry, f"{subject} {number}", CITIES[number])
                while True:
                    try:
                        registry.promote(edit.id, "ann")
                        break
                    except Conflict:
                        continue
        except BaseException as error:
            failed.append(error)

    with opened(tmp_path, timeout_s=120.0) as registry:
        threads = [threading.Thread(target=run, args=(registry, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(registry.active()) == 16 and registry.head().number == 16
        assert registry.verify().ok


@pytest.mark.parametrize("point", NAMES)
def test_an_interrupt_anywhere_leaves_all_or_nothing(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ctrl-C does: an exception in the middle, and the process goes on."""
    with opened(tmp_path) as registry:
        promoted(registry)
        monkeypatch.setenv(VARIABLE, f"{point}:raise")
        with pytest.raises(Failpoint):
            registry.add_edit(draft("Spain", "Seville"))
        monkeypatch.delenv(VARIABLE)
        assert len(registry.edits(subject="Spain")) == (point == "after_commit")
        assert list((tmp_path / "store" / "tmp").iterdir()) == []
        registry.sweep()
        assert registry.verify().ok
        assert registry.add_edit(draft("Spain", "Seville")).subject == "Spain"


def test_a_sweep_leaves_what_others_are_publishing(tmp_path: Path) -> None:
    with opened(tmp_path) as registry, opened(tmp_path) as other:
        with registry._room.store.publishing() as folder:
            (folder / "half").write_text("written")
            assert other.sweep().unfinished == 0 and (folder / "half").exists()
        orphan = tmp_path / "store" / "sha256" / "ab" / ("ab" * 32)
        orphan.mkdir(parents=True)
        assert other.sweep().orphans == 1 and not orphan.exists()
