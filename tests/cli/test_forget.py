"""Forgetting on the command line: what a mistake is told, exit codes, and one object on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catechism.cli.main import main
from catechism.registry.certificate import issue, page_of
from catechism.registry.signing import Keys, pem_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command on a store of its own; gives exit code, standard output and standard error."""
    monkeypatch.setenv("CATECHISM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CATECHISM_USER", "ada")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out, out.err

    return run


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("forget",), "expected one"),
        (("forget", "A is B.", "--subject", "A"), "expected one"),
        (("forget", "A is B.", "--how", "vanish"), "abstain, replace, erase"),
        (("forget", "--how", "replace", "--subject", "A"), "Write it last"),
        (("forget", "A is B.", "C"), "quotation marks"),
        (("forget", "A is B.", "--seal"), "--release"),
        (("forget", "A is B.", "--method", "nppo"), "no method of forgetting"),
        (("audit", "E00", "--profile", "fast"), "quick, full"),
        (("audit", "E00", "--certificate", "x.pdf"), ".json"),
        (("seal", "E00"), "catechism list"),
        (("certificate", "verify", "none.json"), "none.json"),
    ],
)
def test_a_mistake_is_told_with_its_fix_before_a_model_is_opened(run: Run, words: tuple[str, ...], fix: str) -> None:
    code, _, err = run(*words)
    assert code == 2 and fix in err, err


def test_a_certificate_is_verified_without_a_store(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    keys, file = Keys(tmp_path / "keys"), tmp_path / "c.json"
    page_of(file).write_bytes(b"page")
    file.write_bytes(issue(keys, {"audit": {"verdict": "removed"}}, b"page", file))
    key = tmp_path / "key.pub"
    key.write_bytes(pem_of(keys.signer().public_key()))
    code, out, _ = run("certificate", "verify", str(file), "--key", str(key))
    assert code == 0 and "The certificate holds. Its verdict: removed." in out
    file.write_text(file.read_text().replace("removed", "erased!"))
    code, out, _ = run("certificate", "verify", str(file), "--json")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and found["problems"] == ["audit: it is not what was signed"]
    assert not (tmp_path / "home").exists()
