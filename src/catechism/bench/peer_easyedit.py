"""Run by the interpreter of somebody's EasyEdit checkout, in a folder that `catechism.bench.peers` has made ready.

It stands alone: nothing of this package can be imported here. It calls the checkout's own editor and algorithm on the
facts of ``job.json``, measures them, and leaves ``edited.safetensors`` and ``result.json`` in the folder.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Edit the facts of a folder's job."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    os.chdir(folder)  # the checkout writes logs where it stands
    sys.path.insert(0, job["easyedit"])
    with open("log.txt", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        result = edit(job)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def edit(job: dict[str, Any]) -> dict[str, Any]:
    """All facts one after the other, or in one call where the method takes a batch."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(job["threads"])
    easyeditor = importlib.import_module("easyeditor")
    kind = getattr(easyeditor, job["hparams_class"])
    known = {field.name for field in fields(kind)}
    config = {**numbers(settings(Path(job["hparams"]))), **job["overrides"]}
    editor = easyeditor.BaseEditor.from_hparams(kind(**{key: value for key, value in config.items() if key in known}))

    def call(requests: list[dict[str, str]]) -> tuple[float, dict[str, Any]]:
        started = time.perf_counter()
        _, kept = editor.apply_algo(
            editor.model, editor.tok, requests, editor.hparams, copy=False, return_orig_weights=True,
            keep_original_weight=False,
        )  # fmt: skip
        return time.perf_counter() - started, kept

    facts: list[dict[str, str]] = job["facts"]
    parameters = dict(editor.model.named_parameters())
    prepared, kept = call(facts[:1])  # statistics and sampled contexts are taken now, and the edit is dropped
    put_back(torch, parameters, kept)
    seconds, failures = 0.0, []
    for requests in [facts] if job["batch"] else [[fact] for fact in facts]:
        try:
            took, kept = call(requests)
            seconds += took
        except Exception as error:  # whatever the checkout raises, the next fact is tried
            failures.append({"fact": requests[0]["id"], "message": f"{type(error).__name__}: {error}"})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    reversion = compare(torch, job, parameters, kept)
    return {"seconds": seconds, "seconds_prepare": prepared, "peak_rss_mb": peak, "failures": failures, **reversion}


def compare(torch: Any, job: dict[str, Any], parameters: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Save what has changed, take it back as far as the checkout keeps what it was, and say how far from it that is."""
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(job["overrides"]["model_name"], torch_dtype=torch.float32)
    before = dict(model.named_parameters())
    changed = {n: p.detach().clone() for n, p in parameters.items() if not torch.equal(p, before[n])}
    importlib.import_module("safetensors.torch").save_file(changed, "edited.safetensors")
    put_back(torch, parameters, kept)
    errors = [float((p.detach() - before[n].detach()).abs().max()) for n, p in parameters.items()]
    return {"reversion_error": max(errors), "versions": {m.__name__: m.__version__ for m in (torch, transformers)}}


def put_back(torch: Any, parameters: dict[str, Any], kept: dict[str, Any]) -> None:
    """Copy the weights back that the last call handed out."""
    with torch.no_grad():
        for name, value in kept.items():
            parameters[name].copy_(value)


def settings(file: Path) -> dict[str, Any]:
    """The checkout's own settings of a method."""
    return importlib.import_module("yaml").safe_load(file.read_text(encoding="utf-8"))


def numbers(config: dict[str, Any]) -> dict[str, Any]:
    """Settings with numbers such as 5e-1, which YAML reads as texts, as numbers."""

    def number(value: Any) -> Any:
        if isinstance(value, str) and value[:1].isdigit():
            with contextlib.suppress(ValueError):
                return float(value)
        return value

    return {key: number(value) for key, value in config.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
