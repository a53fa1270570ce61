"""Only `arch` knows what the parts of an architecture are called, and nobody asks for a model's name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.style.source import Module, modules

PARTS = re.compile(
    r"\b(down_proj|up_proj|gate_proj|gate_up_proj|o_proj|q_proj|k_proj|v_proj|qkv_proj|out_proj|c_proj|c_fc|c_attn|fc_in|fc_out|fc1|fc2"
    r"|lm_head|embed_tokens|wte|ln_f|self_attn|transformer\.h|model\.layers)\b"
)
MODEL_NAMES = re.compile(r"\b(model_type|model_name|name_or_path|architecture)s?\b", re.IGNORECASE)
TAKE_APART = {"lower", "upper", "casefold", "startswith", "endswith"}


def docstrings(tree: ast.Module) -> set[ast.expr]:
    """The nodes that only document; an address may serve as an example there."""
    found: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.add(node.value)
    return found


def part_names(module: Module) -> Iterator[str]:
    """Strings and attributes that spell the part of an architecture."""
    documentation = docstrings(module.tree)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            spelled = PARTS.search(node.value)
        elif isinstance(node, ast.Attribute):
            spelled = PARTS.fullmatch(node.attr)
        else:
            continue
        if spelled:
            yield f"{module.name}:{node.lineno} spells {spelled.group()!r}"


def model_names(module: Module) -> Iterator[str]:
    """Code that compares a model's type or name, or folds its case to look for a substring."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literal = any(
                isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) for s in sides for leaf in ast.walk(s)
            )
            if literal and any(MODEL_NAMES.search(ast.unparse(side)) for side in sides):
                yield f"{module.name}:{node.lineno} asks for a model's name: {ast.unparse(node)}"
        elif (
            isinstance(node, ast.Attribute) and node.attr in TAKE_APART and MODEL_NAMES.search(ast.unparse(node.value))
        ):
            yield f"{module.name}:{node.lineno} takes a model's name apart: {ast.unparse(node)}"


def test_no_architecture_names_outside_arch() -> None:
    wrong = [where for module in modules() if module.room != "arch" for where in part_names(module)]
    assert not wrong, "Ask `Anatomy` for the role instead:\n" + "\n".join(wrong)


def test_nobody_asks_for_a_models_name() -> None:
    wrong = [where for module in modules() if module.room != "arch" for where in model_names(module)]
    assert not wrong, "Give the row in arch/table.py a field instead:\n" + "\n".join(wrong)
