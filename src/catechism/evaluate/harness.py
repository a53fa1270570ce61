"""Tasks of lm-evaluation-harness as a suite: does the model still do what it did, apart from the facts?

The harness is optional. It gets the live model as it is, with the deltas that are on it, and a copy of its
tokenizer, because it sets padding on the one it is given. Its metrics are named ``harness/TASK/METRIC``.
"""

from __future__ import annotations

import copy
import importlib
import math
import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from catechism.errors import MissingExtra, UnknownName, UsageError
from catechism.evaluate.intervals import wilson
from catechism.types import Rate

#: Metrics of the harness that are means of zeros and ones, so that Wilson's interval is theirs.
_PROPORTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em"})


@runtime_checkable
class Wrappable(Protocol):
    """What the harness needs of a model; `catechism.model.LiveModel` has it."""

    @property
    def model(self) -> Any:
        """The transformers model."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        ...


@dataclass(frozen=True)
class Suite:
    """Results of tasks: metrics by name, and the tasks that could not be run with the reason."""

    metrics: Mapping[str, Rate | float | None]
    errors: Mapping[str, str] = field(default_factory=dict[str, str])

    def since(self, before: Suite) -> Suite:
        """These results with the values before the edit in their rates."""

        def joined(name: str, value: Rate | float | None) -> Rate | float | None:
            old = before.metrics.get(name)
            return replace(value, before=old.value) if isinstance(value, Rate) and isinstance(old, Rate) else value

        return Suite(
            {name: joined(name, value) for name, value in self.metrics.items()}, {**before.errors, **self.errors}
        )


def run_tasks(
    live: Wrappable,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    fewshot: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    folder: Path | None = None,
) -> Suite:
    """Run tasks of lm-evaluation-harness on a live model.

    Args:
        live: the model as it is now.
        tasks: names of tasks or groups, as ``lm-eval ls tasks`` lists them.
        limit: questions per task; None asks all.
        fewshot: examples in the context; None leaves it to the task.
        batch_size: rows that are run together.
        seed: of the choice of examples. The global random states are the same afterwards.
        folder: with tasks of your own, in the harness's format.

    Raises:
        MissingExtra: lm-evaluation-harness is not installed.
        UnknownName: it has no task of that name.
        UsageError: no task is named.
    """
    harness = _import("lm_eval")
    language_model = _import("lm_eval.models.huggingface").HFLM
    manager = _import("lm_eval.tasks").TaskManager(include_path=str(folder) if folder else None)
    _check_names(tasks, list(manager.all_tasks))
    metrics: dict[str, Rate | float | None] = {}
    errors: dict[str, str] = {}
    with _kept_random_states():
        wrapped = language_model(
            pretrained=live.model, tokenizer=copy.deepcopy(live.tokenizer), batch_size=batch_size, backend="causal"
        )
        for task in dict.fromkeys(tasks):
            try:
                found = harness.simple_evaluate(
                    model=wrapped,
                    tasks=[task],
                    num_fewshot=fewshot,
                    limit=limit,
                    task_manager=manager,
                    log_samples=False,
                    bootstrap_iters=0,  # intervals are ours
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
            except OSError as error:  # its data set cannot be had: offline, gone, or not cached
                errors[f"harness/{task}"] = f"The task {task!r} could not be run: {error}"
                continue
            metrics.update(_read(found))
    return Suite(metrics, errors)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"Harness tasks need lm-evaluation-harness ({error}). Install it: pip install 'catechism[harness]'"
        ) from None


def _check_names(tasks: Sequence[str], known: list[str]) -> None:
    if not tasks:
        raise UsageError("No task is named. Name at least one; `lm-eval ls tasks` lists them.")
    for task in tasks:
        if task not in known:
            close = get_close_matches(task, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else "`lm-eval ls tasks` lists them."
            raise UnknownName(f"lm-evaluation-harness has no task {task!r}. {hint}")


def _read(found: Mapping[str, Any]) -> dict[str, Rate | float | None]:
    """The harness's results under our names. Its keys are ``METRIC,FILTER``."""
    metrics: dict[str, Rate | float | None] = {}
    for task, values in found["results"].items():
        n = _questions_of(task, found)
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if metric.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not kind:  # counts and names, not metrics
                continue
            name = f"harness/{task}/{metric}" if kind == "none" else f"harness/{task}/{metric},{kind}"
            if not math.isfinite(value):
                metrics[name] = None
            elif metric in _PROPORTIONS and n and 0 <= value <= 1:
                metrics[name] = wilson(value * n, n)
            else:
                metrics[name] = float(value)
    return metrics


def _questions_of(task: str, found: Mapping[str, Any]) -> int:
    """Questions behind a task's figures; of a group, those of its tasks together."""
    counts = found.get("n-samples", {})
    if task in counts:
        return int(counts[task]["effective"])
    return sum(_questions_of(child, found) for child in found.get("group_subtasks", {}).get(task, ()) if child != task)


@contextmanager
def _kept_random_states() -> Generator[None]:
    """Put the global random states back afterwards; the harness seeds them all."""
    torch = importlib.import_module("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
