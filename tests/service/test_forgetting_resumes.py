"""A deletion that is killed while it trains: asked for again, it goes on from its checkpoint to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from catechism.methods import forgetting as table
from catechism.methods.forget import npo
from catechism.model.background import Background
from catechism.model.forgetting.trainer import Progress
from catechism.service import Service
from catechism.service.forgetting.copies import Place
from catechism.service.forgetting.neighbours import Sizes
from catechism.service.forgetting.outcome import Forgotten
from catechism.service.forgetting.plan import Options
from catechism.service.forgetting.target import Sort, Target
from catechism.settings import Settings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Spec(npo.Spec):
    """So little training that it reaches nothing: three looks."""

    rank: int = 2
    strangers: int = 1
    steps: int = 6
    every: int = 2
    level: float | None = 1e-9


class Brief(npo.NPO):
    """NPO that says which steps it has looked at, and may be killed at one of them."""

    name = "brief"
    Spec = Spec
    seen: ClassVar[list[int]] = []
    killed_at: ClassVar[int | None] = None

    def __init__(self, background: Background) -> None:
        super().__init__(background, watch=self._look)

    def _look(self, progress: Progress) -> None:
        self.seen.append(progress.step)
        if progress.step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)


def forget(folder: Path, *, cache: Path) -> tuple[Forgotten, list[int]]:
    """What `catechism forget --subject ... --method brief` does."""
    Brief.seen.clear()
    options = Options(author="ada", method="brief", sizes=Sizes(6, 4), control="none")
    with Service("almanac", Settings(cache=cache, home=folder / "home", user="ada")) as service:
        done = service.forget(Target(Sort.SUBJECT, "Mavoly Nightingrove"), options)
        return done, list(Brief.seen)


def be_killed(folder: Path) -> None:
    """The same in a process of its own, which does not survive its second look."""
    table.FORGETTERS = {"brief": f"{__name__}:Brief"}
    Brief.killed_at = 4
    forget(folder, cache=folder / "cache")


@pytest.mark.slow
def test_a_deletion_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.FORGETTERS, "brief", f"{__name__}:Brief")
    code = f"import sys; from pathlib import Path; from {__name__} import be_killed; be_killed(Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}  # no set may decide what is shown
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "cache").glob("forget-brief-*.safetensors")

    done, seen = forget(tmp_path, cache=tmp_path / "cache")
    assert seen == [6], "the first four steps are not taken again"
    assert left.name in {copy.name for copy in done.plan.copies if copy.place is Place.CACHE}, "it is a copy till then"
    assert not left.exists()

    whole, all_seen = forget(tmp_path / "other", cache=tmp_path / "other-cache")
    assert all_seen == [2, 4, 6]
    assert done.edit is not None and whole.edit is not None
    assert done.edit.artifact == whole.edit.artifact
