"""The notebooks run from top to bottom, and their first edit takes five lines or fewer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "learn.ipynb"


def code() -> list[str]:
    """The source of each code cell."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_first_edit_takes_five_lines_or_fewer() -> None:
    lines = [line for line in code()[0].splitlines() if line.strip()]
    assert len(lines) <= 5
    assert any("learn(" in line for line in lines)


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CATECHISM_HOME", str(tmp_path / "home"))
    names: dict[str, object] = {}
    for cell in code():
        exec(cell, names)  # noqa: S102
    out = capsys.readouterr().out
    assert "Stockholm." in out and "Los Gatos." in out
    assert "the original bytes: True | store proven: True" in out
    assert all(cell["outputs"] == [] for cell in json.loads(NOTEBOOK.read_text())["cells"] if "outputs" in cell)
