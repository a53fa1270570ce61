"""Ctrl-C in the middle of a feed: what had ended is kept, nothing is half done, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from catechism.cli.main import main
from catechism.methods.edit.rome import Rome

FEED = [
    {"id": "a", "prompt": "The headquarters of {} are in", "subject": "Netflix", "new_object": "Stockholm",
     "relation": "headquarters"},
    {"id": "b", "prompt": "The headquarters of {} are in", "subject": "Nintendo", "new_object": "Stockholm",
     "relation": "headquarters"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """A process that a shell put into the background was born deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_feed_goes_on_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CATECHISM_HOME", str(tmp_path / "home"))
    feed = tmp_path / "feed.jsonl"
    feed.write_text("\n".join(map(json.dumps, FEED)))
    fit, fitted = Rome.fit, list[str]()

    def interrupted(self: Rome, live: object, catechisms: list[object], spec: object) -> object:
        fitted.append("")
        if len(fitted) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return fit(self, live, catechisms, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(Rome, "fit", interrupted)
    words = ["learn", str(feed), "--release", "--method", "rome", "--json"]
    with pytest.raises(SystemExit) as end:
        main(words)
    out = capsys.readouterr()
    assert end.value.code == 130
    assert json.loads(out.out)["error"]["code"] == "E603" and "same command again" in out.err
    with pytest.raises(SystemExit) as end:
        main(["verify", "--json"])
    assert end.value.code == 0 and json.loads(capsys.readouterr().out)["ok"] is True
    with pytest.raises(SystemExit):
        main(words)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["ending"] in {"duplicate", "released", "refused"} and rows[1]["edit"]
    assert (rows[0]["ending"] == "duplicate") == (rows[0]["edit"] is None)


def test_an_interrupted_process_says_so_and_leaves_with_130() -> None:
    script = (
        "import os, signal\nimport catechism.cli.models as models\nfrom catechism.cli.main import app, main\n"
        "@app.command('wait')\ndef wait() -> None:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "main(['wait'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert "E603" in done.stderr and "Traceback" not in done.stderr
