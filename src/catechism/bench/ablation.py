"""``catechism bench ablation``: what each phase of a distillation is good for, beside plain fine-tuning.

Every arm has the same block, rank, rate and number of steps; only what is fitted differs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from rich.console import Console

from catechism.bench.layers import choose_layer
from catechism.bench.single import Bench, Request, describe, prepare, run_one
from catechism.methods import Method
from catechism.methods.train.distill import Distill
from catechism.methods.train.distill import Spec as DistillSpec
from catechism.methods.train.lora import Lora
from catechism.methods.train.lora import Spec as LoraSpec
from catechism.settings import Settings
from catechism.types import JSON


def run(request: Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """Run the ablation; the request's methods are not read.

    Returns: ``rows``, one for each arm: both phases, A alone, B alone, and plain fine-tuning on the fact's sentence;
        ``layers``, what the choice of the block rests on; ``misses``, the questions that went wrong.
    Raises: as `catechism.bench.single.run`.
    """
    started, layers = time.perf_counter(), list[JSON]()
    bench, layer = prepare(request, settings), request.layer
    if layer is None:
        layer, layers = choose_layer(Distill.name, bench.live, bench.catechisms, bench.background)
    prepared = time.perf_counter() - started
    rows: list[JSON] = []
    misses: list[JSON] = []
    for label, editor, spec in _arms(bench, DistillSpec(layer=layer, seed=request.seed)):
        row, missed = run_one(bench, editor, spec, console, label=label)
        rows.append({**row, "layer": layer, "seconds_prepare": prepared + cast("float", row["seconds_prepare"])})
        misses += [{"method": label, **miss} for miss in missed]
    return {"rows": rows, "model": describe(bench.live), "layers": {Distill.name: layers}, "misses": misses}


def _arms(bench: Bench, both: DistillSpec) -> Iterator[tuple[str, Method, DistillSpec | LoraSpec]]:
    distill, steps = Distill(bench.background), both.steps_a + both.steps_b
    yield "both phases", distill, both
    yield "A only", distill, replace(both, steps_a=steps, steps_b=0)
    yield "B only", distill, replace(both, steps_a=0, steps_b=steps)
    plain = LoraSpec(layer=both.layer, rank=both.rank, steps=steps, lr=both.lr, seed=both.seed)
    yield "plain LoRA", Lora(bench.background), plain
