"""No function is written twice."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.style.source import Function, modules

SHORTEST = 8  # lines; below that two functions may well be alike


def body(function: Function) -> str:
    """The statements of a function without its docstring."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    return "\n".join(ast.dump(statement) for statement in statements)


def test_no_two_functions_have_the_same_body() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        for name, function in module.functions():
            if (function.end_lineno or 0) - function.body[0].lineno + 1 >= SHORTEST:
                places[body(function)].append(f"{module.name}:{function.lineno} {name}")
    twice = [" = ".join(where) for where in places.values() if len(where) > 1]
    assert not twice, "Share these, or say what differs:\n" + "\n".join(twice)
