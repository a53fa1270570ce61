"""Names of the table looked up in a live model, whether they are there or not."""

from __future__ import annotations

from difflib import SequenceMatcher

from torch import nn

from catechism.arch.table import TABLE, Arch

#: Where a row is added or corrected.
TABLE_FILE = "src/catechism/arch/table.py"


def resolve(root: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None."""
    module: object = root
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)
    return module if isinstance(module, nn.Module) else None


def model_type_of(model: nn.Module) -> str:
    """``config.model_type``; empty for a module without a config."""
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def setting_of(model: nn.Module, name: str) -> object:
    """An attribute of the config, of its text part where a model has several; None if it is not there."""
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", None)
    return getattr(text() if callable(text) else config, name, None)


def probe_command(model: nn.Module) -> str:
    """The command that checks this model's row."""
    return f"catechism arch probe {getattr(getattr(model, 'config', None), 'name_or_path', '') or 'MODEL'}"


def closest(model: nn.Module) -> tuple[Arch, int, int]:
    """The row most of whose names are in the model: (row, names found, names in the row).

    Among equals the one whose `model_type` is spelled most alike wins.
    """

    def score(row: Arch) -> tuple[float, float]:
        found, names = _count(model, row)
        return found / names, SequenceMatcher(None, row.model_type, model_type_of(model)).ratio()

    best = max(TABLE.values(), key=score)
    return best, *_count(model, best)


def _count(model: nn.Module, row: Arch) -> tuple[int, int]:
    """How many of the row's module names the model has, and how many there are."""
    blocks = resolve(model, row.layers)
    # layers may differ, dense ones between mixtures for instance, so a name counts if any block has it
    homes = list(blocks) if isinstance(blocks, nn.ModuleList) else []
    inside = [row.attn, row.attn_out, row.mlp, row.mlp_in, row.mlp_gate, row.mlp_out, row.mlp_act, row.router]
    inside += [row.norms.attn, row.norms.attn_post, row.norms.mlp, row.norms.mlp_post]
    inside += [row.experts.path] if row.experts else []
    paths = {path for path in inside if path is not None}
    outside = (row.layers, row.embed, row.final_norm, row.head)
    found = sum(any(resolve(block, path) is not None for block in homes) for path in paths)
    return found + sum(resolve(model, path) is not None for path in outside), len(paths) + len(outside)
