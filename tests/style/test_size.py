"""Files and functions stay short enough to be read. What may be longer stands in allowed.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.style.source import Function, modules

FILE, METHOD_FILE, FUNCTION, ARGUMENTS = 400, 250, 60, 7

ALLOWED = tomllib.loads((Path(__file__).parent / "allowed.toml").read_text(encoding="utf-8"))


def too_long(lengths: dict[str, tuple[int, int]], allowed: dict[str, int]) -> list[str]:
    """Complaints about `name -> (length, limit)`: over the limit and not allowed, or allowed without need."""
    over = {name: length for name, (length, limit) in lengths.items() if length > limit}
    new = [f"{name} has {n}, the limit is {lengths[name][1]}" for name, n in over.items() if name not in allowed]
    changed = [
        f"{name} has {n}, allowed.toml says {allowed[name]}" for name, n in over.items() if n != allowed.get(name, n)
    ]
    idle = [f"{name} needs no line in allowed.toml" for name in allowed if name not in over]
    return new + changed + idle


def test_files_are_short() -> None:
    lengths = {
        module.name: (len(module.text.splitlines()), METHOD_FILE if module.room == "methods" else FILE)
        for module in modules()
    }
    complaints = too_long(lengths, ALLOWED["files"])
    assert not complaints, "\n".join(complaints)


def test_functions_are_short() -> None:
    lengths = {
        f"{module.name}::{name}": (length(function), FUNCTION)
        for module in modules()
        for name, function in module.functions()
    }
    complaints = too_long(lengths, ALLOWED["functions"])
    assert not complaints, "\n".join(complaints)


def length(function: Function) -> int:
    """Lines from ``def`` to the last one, docstring included, decorators not."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_argument_lists_are_short() -> None:
    """More than seven want a dataclass. A command's options are its interface and do not count."""
    lengths = {
        f"{module.name}::{name}": (arguments(function), ARGUMENTS)
        for module in modules()
        if module.room != "cli"
        for name, function in module.functions()
    }
    complaints = too_long(lengths, ALLOWED["arguments"])
    assert not complaints, "\n".join(complaints)


def arguments(function: Function) -> int:
    """How many arguments a function names, `self` and `cls` left out."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])
