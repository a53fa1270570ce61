"""The public interface: exactly the names listed here, each of them reachable and documented."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib

import pytest

import catechism
from tests.style.source import PACKAGE, ROOT, modules

PUBLIC = [
    "Catechism",
    "CatechismError",
    "Delta",
    "Fact",
    "Gate",
    "Interview",
    "Kind",
    "LiveModel",
    "LowRank",
    "Question",
    "Rate",
    "Report",
    "Role",
    "Service",
    "Site",
    "Verdict",
    "open_model",
    "read_feed",
]


def test_the_public_names_are_these() -> None:
    assert catechism.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_described(name: str) -> None:
    assert getattr(catechism, name).__doc__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_stands_in_the_reference(name: str) -> None:
    assert f"::: catechism.{name}\n" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_type_checkers_see_the_same_names_in_the_same_rooms() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {a.name: node.module for node in guard.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert seen == {name: f"catechism.{room}" for name, room in catechism._HOME.items()}
    assert sorted(seen) == sorted(PUBLIC)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Fakt'"):
        catechism.Fakt  # noqa: B018  # the access is what is tested


def test_every_list_of_public_names_is_true() -> None:
    """`from room import *` works in every room; asked in a fresh process, where nothing has been imported yet."""
    rooms = sorted(m.path for m in modules() if m.path.name == "__init__.py" and "__all__" in m.text)
    names = [".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in rooms]
    check = "; ".join(f"from {name} import *" for name in names)
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_dependency_is_declared_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    distribution = {"lm_eval": "lm-eval", "huggingface_hub": "huggingface-hub"}
    declared = {requirement.split(">")[0] for requirement in project["dependencies"]}
    extras = project["optional-dependencies"]
    named = ("peft", "harness", "endpoint", "index", "ray")
    optional = {r.split(">")[0].split("[")[0] for extra in named for r in extras[extra]}
    used = {
        distribution.get(name, name)
        for module in modules()
        for node in ast.walk(module.tree)
        for name in top_levels(node)
        if name not in sys.stdlib_module_names and name != "catechism"
    }
    assert used - declared - optional == set(), "used, not declared"
    assert declared - used == set(), "declared, not used"


def top_levels(node: ast.AST) -> list[str]:
    """The packages that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").split(".")[0]]
    return []
