"""Who may open which door: the import directions of the design, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.style.source import Module, modules

BASICS = {"types", "errors", "hashing"}

#: Room -> rooms that it may import. Nothing points back.
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "hashing": set(),
    "matching": set(),
    "settings": set(),
    "solve": {"errors"},
    "fanout": {"errors"},
    "delta": BASICS,
    "arch": {"types", "errors"},
    "model": BASICS | {"arch", "delta"},
    "facts": BASICS | {"matching"},
    "datasets": BASICS | {"matching", "facts"},
    "evaluate": BASICS | {"matching", "model", "datasets"},
    "reference": BASICS | {"arch", "model"},
    "methods": BASICS | {"solve", "model", "delta", "arch"},
    "locate": BASICS | {"solve", "model", "delta", "arch"},
    "memory": BASICS | {"solve", "model", "delta", "arch"},
    "registry": BASICS | {"matching", "delta"},
    "page": {"types", "delta"},
    "service": BASICS
    | {"matching", "settings", "evaluate", "methods", "locate", "facts", "registry", "reference", "model", "delta"}
    | {"page", "datasets"},
}
MAY_IMPORT["bench"] = MAY_IMPORT["service"] | {"service", "datasets", "fanout", "memory", "solve"}
MAY_IMPORT["cli"] = set(MAY_IMPORT) | {"__init__"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"cli"}  # looked up on first use

#: Room -> libraries that it may import beside the standard library. A room that is not named may import any.
LIBRARIES: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "hashing": set(),
    "matching": set(),
    "facts": {"httpx"},
    "datasets": set(),
    "settings": {"platformdirs"},
    "solve": {"torch", "jaxtyping"},
    "fanout": {"ray"},
    "delta": {"torch", "safetensors", "jaxtyping"},
    "arch": {"torch", "jaxtyping"},
    "registry": {"sqlalchemy", "alembic", "cryptography"},
    "__init__": set(),
}


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "catechism":
            yield from ((node.lineno, f"catechism.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def rooms(name: str) -> str:
    """The room of a name below ``catechism``; ``__init__`` for the package itself, as in ``catechism.__version__``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "__init__"


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_rooms_import_only_what_they_may(module: Module) -> None:
    assert module.room in MAY_IMPORT, f"{module.name}: give the room {module.room!r} a line in MAY_IMPORT"
    allowed = MAY_IMPORT[module.room] | {module.room}
    wrong = [
        f"{module.name}:{line} imports {name}; {module.room} may import {', '.join(sorted(allowed))}"
        for line, name in imported(module)
        if name.split(".")[0] == "catechism" and rooms(name) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_low_rooms_stand_on_few_libraries(module: Module) -> None:
    if module.room not in LIBRARIES:
        return
    allowed = LIBRARIES[module.room] | sys.stdlib_module_names | {"catechism"}
    wrong = [
        f"{module.name}:{line} imports {name}; beside the standard library: {sorted(LIBRARIES[module.room])}"
        for line, name in imported(module)
        if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_do_not_import_methods() -> None:
    """What two methods share belongs in `solve`; modules that are no methods are named, and a package lists its own."""
    no_methods = tuple(f"catechism.methods.{name}" for name in ("registry", "stream", "forgetting", "searching"))
    wrong = [
        f"{module.name}:{line} imports {name}"
        for module in modules()
        if module.room == "methods" and module.path.name != "__init__.py"
        for line, name in imported(module)
        if name.startswith("catechism.methods.") and name not in no_methods
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_directions_has_no_cycle() -> None:
    """Leave out what nothing else imports, again and again; a cycle would be left over."""
    left = {room: allowed - {"__init__"} for room, allowed in MAY_IMPORT.items() if room != "__init__"}
    while ready := [room for room, allowed in left.items() if not allowed & set(left)]:
        for room in ready:
            del left[room]
    assert not left
