"""What a model says before any edit, asked once and kept in the cache for every method and every later run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from catechism.bench.stage import Stage
from catechism.delta import Delta
from catechism.delta.file import write_atomically
from catechism.evaluate.interview import Answers, Sheet, answer, gather
from catechism.fanout import Executor
from catechism.hashing import canonical_json, digest_json
from catechism.model.live import TargetScore
from catechism.types import JSON


def answer_sheet(stage: Stage, delta: Delta | None, sheet: Sheet) -> Answers:
    """Work for an executor: what the model says to one sheet with this delta on it."""
    stage.wear(*([] if delta is None else [delta]))
    return answer(stage.live, sheet)


def answers_before(stage: Stage, sheets: Sequence[Sheet], executor: Executor, cache: Path) -> Answers:
    """What the model says without any edit, from the cache where it was asked before.

    What the answers depend on is in the file's name: the base, the sheets, torch's release, device and threads.
    """
    if not sheets:
        return gather([], 1)
    asked: JSON = [[list(one.prompts), [list(pair) for pair in one.pairs], one.max_new_tokens] for one in sheets]
    circumstances: JSON = [str(stage.live.device), str(stage.live.dtype), torch.__version__, torch.get_num_threads()]
    key = digest_json({"base": stage.live.base, "asked": digest_json(asked), "with": circumstances})
    file = cache / f"answers-{key.removeprefix('sha256:')}.json"
    if (found := _read(file)) is not None:
        return found
    answers = gather(executor.map(answer_sheet, sheets), sheets[0].max_new_tokens)
    write_atomically(file, canonical_json(_dump(answers)))
    return answers


def _dump(answers: Answers) -> dict[str, JSON]:
    scores: list[JSON] = []
    for (prompt, target), one in answers.scores.items():
        if not isinstance(one, TargetScore):
            raise TypeError(f"A score of a live model is a TargetScore, got {type(one).__name__}.")
        scores.append([prompt, target, one.logprob, one.mean, one.accuracy, list(one.choices)])
    return {"said": dict(answers.said), "scores": scores, "max_new_tokens": answers.max_new_tokens}


def _read(file: Path) -> Answers | None:
    """What `_dump` wrote; None where there is nothing that can be read."""
    try:
        held = json.loads(file.read_bytes())
        scores = {
            (prompt, target): TargetScore(logprob, mean, len(choices), accuracy == 1.0, accuracy, tuple(choices))
            for prompt, target, logprob, mean, accuracy, choices in held["scores"]
        }
        return Answers(held["said"], scores, held["max_new_tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
