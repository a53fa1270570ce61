"""The error tree: every error has a code, a page, a parent that the standard library knows, and survives pickling."""

from __future__ import annotations

import pickle
import re

import pytest

from catechism import errors
from catechism.errors import CatechismError
from tests.style.source import ROOT

PAGES = ROOT / "docs" / "errors"
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CatechismError)]
LEAVES = [kind for kind in KINDS if not kind.__subclasses__()]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
each_leaf = pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


@each_kind
def test_every_error_has_a_code_of_its_own(kind: type[CatechismError]) -> None:
    assert "code" in vars(kind)
    assert re.fullmatch(r"E\d{3}", kind.code)


@each_kind
def test_every_error_has_a_page_with_symptom_cause_and_fix(kind: type[CatechismError]) -> None:
    page = (PAGES / f"{kind.code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {kind.code} {kind.__name__}\n")
    sections = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    assert sections[1::2] == ["Symptom", "Cause", "Fix"]
    symptom, cause, fix = sections[2::2]
    assert "```" in symptom and (kind.code in symptom or kind.__name__ in symptom)
    assert cause.strip()
    assert "`" in fix, "a fix names a command or a call"


def test_every_page_belongs_to_an_error_and_stands_in_the_index() -> None:
    pages = {page.stem for page in PAGES.glob("E*.md")}
    assert pages == {kind.code for kind in KINDS}
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert all(f"[{kind.code}]({kind.code}.md) | `{kind.__name__}`" in index for kind in KINDS)


@each_kind
def test_every_error_survives_pickling(kind: type[CatechismError]) -> None:
    error = pickle.loads(pickle.dumps(kind("Got 3, expected 4. Give 4.")))
    assert type(error) is kind
    assert str(error) == "Got 3, expected 4. Give 4."


@each_leaf
def test_every_leaf_has_a_parent_from_the_standard_library(kind: type[CatechismError]) -> None:
    builtin = [parent for parent in kind.__mro__ if parent.__module__ == "builtins"]
    assert set(builtin) - {object, BaseException, Exception}


@each_leaf
def test_every_leaf_is_drawn_in_the_tree_with_its_code(kind: type[CatechismError]) -> None:
    assert re.search(rf"[├└]── {kind.__name__} .*{kind.code}  \S", errors.__doc__ or "")


@each_kind
def test_every_error_has_an_exit_code_of_the_list(kind: type[CatechismError]) -> None:
    assert kind.exit_code in {1, 2, 3, 4, 5} or kind is errors.Interrupted  # which has the shells' own


@each_kind
def test_every_error_is_described(kind: type[CatechismError]) -> None:
    assert kind.__doc__ and kind.__doc__.split("\n")[0].endswith(".")
