"""``catechism models``: the models that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from catechism.cli.output import Result, table, verb
from catechism.errors import ModelError
from catechism.types import JSON

CARD = "card.json"  # the measured figures, written beside the weights when a model is published


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "models")(models)


def models() -> Result:
    """List the shipped models.

    Each with its measured figures, and whether its bytes are the recorded ones.
    """
    rows = inspect_models()
    shown = [{key: row[key] for key in ("name", "intact", "bytes", "detail")} | _flat(row["figures"]) for row in rows]
    return Result({"rows": rows}, table(shown), exit_code=0 if all(row["intact"] for row in rows) else 1)


def inspect_models() -> list[dict[str, JSON]]:
    """One row for each shipped model: whether its bytes are the recorded ones, and what was measured of it."""
    from catechism.reference.open import SHIPPED, shipped_folder

    rows: list[dict[str, JSON]] = []
    for name in SHIPPED:
        try:
            folder = shipped_folder(name)
        except ModelError as error:
            rows.append({"name": name, "intact": False, "bytes": None, "detail": str(error), "figures": {}})
        else:
            size = sum(file.stat().st_size for file in folder.iterdir())
            rows.append(
                {"name": name, "intact": True, "bytes": size, "detail": "as recorded", "figures": _figures(folder)}
            )
    return rows


def _figures(folder: Path) -> JSON:
    card = folder / CARD
    return json.loads(card.read_text(encoding="utf-8")).get("figures", {}) if card.is_file() else {}


def _flat(figures: JSON) -> dict[str, JSON]:
    """Only plain numbers and rates fit into a table."""
    if not isinstance(figures, dict):
        return {}
    return {
        key: value
        for key, value in figures.items()
        if isinstance(value, int | float) or (isinstance(value, dict) and "value" in value)
    }
