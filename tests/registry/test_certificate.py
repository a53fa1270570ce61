"""Certificates: what is signed, that every changed byte is found and named, and that no text can become markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catechism.errors import BadCertificate
from catechism.page.certificate import CertificatePage, Measure, Section, certificate_html
from catechism.registry.certificate import issue, page_of, verify
from catechism.registry.signing import Keys, pem_of

BODY: dict[str, Any] = {
    "request": {"facts": ["sha256:" + "a" * 64], "how": "erase", "asked_by": "ada"},
    "edit": {"id": "E0123456789abcdef", "delta": None},
    "audit": {"verdict": "erased", "rows": [{"name": "recall", "value": 0.05, "control": 0.04}]},
    "texts": None,
}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    (tmp_path / "keys").mkdir()
    return Keys(tmp_path / "keys")


@pytest.fixture
def file(keys: Keys, tmp_path: Path) -> Path:
    file = tmp_path / "out.json"
    page = b"<p>what it says</p>"
    file.write_bytes(issue(keys, BODY, page, file))
    page_of(file).write_bytes(page)
    return file


def test_a_certificate_holds_without_a_store(keys: Keys, file: Path) -> None:
    pem = pem_of(keys.signer().public_key())
    found = verify(file, key=pem)
    assert found.ok and found.trusted and found.signer == keys.own_id() and found.notes == ()
    assert found.body == BODY
    alone = verify(file)
    assert alone.ok and not alone.trusted and "who signed it was not checked" in alone.notes[0]


def test_any_changed_byte_is_found(file: Path) -> None:
    """Every byte in turn, by another digit or letter: some break the JSON, all others are named."""
    raw = file.read_bytes()
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        file.write_bytes(changed)
        try:
            found = verify(file)
        except BadCertificate:
            continue
        assert not found.ok, f"byte {place}: {raw[place - 10 : place + 10]!r}"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"value":0.05', '"value":0.04', "audit: it is not what was signed"),
        ('"verdict":"erased"', '"verdict":"removed"', "audit: it is not what was signed"),
        ('"asked_by":"ada"', '"asked_by":"bob"', "request: it is not what was signed"),
        ('"id":"E0', '"id":"E1', "edit: it is not what was signed"),
        ('"texts":null', '"texts":null,"more":1', "more: it was put in"),
        ('"texts":null', '"textz":null', "texts: it was taken out"),
        ('"name":"out.html"', '"name":"oot.html"', "page: its name or digest"),
        ('"body":', ' "body":', "bytes outside its content"),
        ("-----BEGIN", "-----BEGIM", "public_key: it holds no key"),
    ],
)
def test_what_was_changed_is_named(file: Path, old: str, new: str, named: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert any(named in problem for problem in verify(file).problems)


def test_a_changed_page_is_found_and_a_missing_one_is_said(file: Path) -> None:
    page_of(file).write_bytes(b"<p>what it sayz</p>")
    assert verify(file).problems == ("out.html: it is not the page that belongs to this certificate",)
    page_of(file).unlink()
    found = verify(file)
    assert found.ok and any("no out.html beside it" in note for note in found.notes)


def test_another_signer_is_not_taken_for_the_one_that_is_trusted(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    forged = Keys(tmp_path / "other")
    pem = pem_of(forged.signer().public_key())
    problems = verify(file, key=pem).problems
    assert any("not known" in problem for problem in problems) and any("--key" in problem for problem in problems)
    again = file.with_name("again.json")
    again.write_bytes(issue(forged, BODY, b"x", again))
    assert verify(again).ok and not verify(again, key=pem_of(Keys(tmp_path / "keys").signer().public_key())).ok


@pytest.mark.parametrize("content", ["", "[]", "nope", '{"schema": "catechism.certificate/9"}', "{}"])
def test_what_is_no_certificate_is_said(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(BadCertificate, match="no certificate"):
        verify(file)
    with pytest.raises(BadCertificate, match="cannot be read"):
        verify(tmp_path / "none.json")


def test_a_key_that_is_none_is_said(file: Path) -> None:
    with pytest.raises(BadCertificate, match="--key"):
        verify(file, key=b"no key")


def test_nothing_on_the_page_becomes_markup() -> None:
    evil = "<script>alert(1)</script>&\"'"
    page = CertificatePage(
        evil, evil, evil, evil, [evil], [Section(evil, [(evil, evil)])],
        [Measure(evil, evil, evil, evil, evil, evil, evil)], [evil], evil,
    )  # fmt: skip
    made = certificate_html(page).decode()
    assert "<script" not in made and made.count("&lt;script&gt;") == 18
    assert "http" not in made.replace("http-equiv", ""), "it needs nothing from elsewhere"
    assert json.loads(json.dumps(made)) == made
