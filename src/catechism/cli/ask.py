"""``catechism ask``: what a model says."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from catechism.cli.output import Result, verb
from catechism.errors import UsageError
from catechism.settings import Settings

DEFAULT_MODEL = "almanac"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "ask")(ask)


def ask(
    words: Annotated[
        list[str], typer.Argument(metavar="[MODEL] QUESTION", help="The model, then what it goes on from.")
    ],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where to cut an answer that does not end.")] = 24,
) -> Result:
    """Ask a model.

    It goes on from the question, always with the likeliest token, and stops by itself.

    MODEL is a shipped model, a folder or a hub name; without it, almanac answers.
    """
    if len(words) > 2:
        raise UsageError(f"Got {len(words)} words. Put the question in quotation marks.")
    model, question = words if len(words) == 2 else (DEFAULT_MODEL, words[0])

    from catechism.reference import open_model

    live = open_model(model, device_map=Settings.from_environment(os.environ).device)
    answer = live.generate([question], max_new_tokens=max_new_tokens)[0]
    payload = {"model": model, "question": question, "answer": answer.text, "stopped": answer.stopped}
    return Result(payload, answer.text if answer.stopped else f"{answer.text} …")
