"""``catechism bench peers``: the user's own EasyEdit checkout beside ours, on the same model, facts and statistics.

The peer runs in a process and an interpreter of its own, on a copy of the model in a folder; it hands back the weights
that it changed, and both are scored by one scorer. Nothing of the peer is in this package. Its own settings are used as
they ship, but for the names of modules, the layer (ours, so that both edit the same one) and the covariance, which is
handed over in the form in which it keeps its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file

from catechism.bench import editors
from catechism.bench.course import Failure
from catechism.bench.rows import Costs, row_of
from catechism.bench.single import Request
from catechism.bench.trial import Job, alone, check, opened
from catechism.delta import Delta
from catechism.delta.dense import Dense
from catechism.errors import UnknownName, UsageError
from catechism.model import LiveModel
from catechism.settings import Settings
from catechism.types import JSON, Role, Site

PATIENCE_S = 6 * 3600
SAMPLES = 100_000  # stands in the name of the file that the checkout looks for


@dataclass(frozen=True, slots=True)
class _Peer:
    """A method of the checkout: its name there, its class of settings, and whether it takes all facts in one call."""

    name: str
    hparams_class: str
    is_batched: bool = False


PEERS: Mapping[str, _Peer] = {
    "alphaedit": _Peer("AlphaEdit", "AlphaEditHyperParams", True),
    "emmet": _Peer("EMMET", "EMMETHyperParams", True),
    "memit": _Peer("MEMIT", "MEMITHyperParams", True),
    "rome": _Peer("ROME", "ROMEHyperParams"),
}


@dataclass(frozen=True, slots=True)
class Checkout:
    """Somebody's copy of EasyEdit.

    Attributes:
        folder: of the checkout.
        python: an interpreter that has what it needs.
        hparams: a file of settings; None takes the one that ships for a model of this kind.
    """

    folder: Path
    python: Path
    hparams: Path | None = None


def find_checkout(folder: Path | None, python: Path | None, hparams: Path | None) -> Checkout:
    """The checkout that is meant. Raises UsageError, with what to do, where there is none."""
    if folder is None or not (folder / "easyeditor" / "__init__.py").is_file():
        raise UsageError(
            (f"There is no EasyEdit in {folder}. " if folder else "No checkout of EasyEdit was named. ")
            + "Make one: `git clone https://github.com/zjunlp/EasyEdit`, install what it needs into an environment "
            "of its own, and give `--easyedit FOLDER --python ENVIRONMENT/bin/python`."
        )
    return Checkout(folder.resolve(), (python or Path(sys.executable)).absolute(), hparams)


def run(request: Request, settings: Settings, checkout: Checkout, *, job: Job | None = None) -> dict[str, JSON]:
    """Run each method here and there.

    Returns: ``rows``, two for each method; ``ratios``, the peer's figure divided by ours, or the difference of rates.
    Raises: UnknownName for a method that the checkout is not known to have; UsageError if it cannot be run, which its
        imports are tried for before ours is.
    """
    check(request)
    for name in request.methods:
        if name not in PEERS:
            raise UnknownName(f"EasyEdit's {name!r} is not known here. Choose one of: {', '.join(PEERS)}.")
    _call(checkout, "-c", "import easyeditor")  # before anything that takes long
    like = job or Job(request, settings, "", threads=torch.get_num_threads())
    rows: list[JSON] = []
    ratios: list[JSON] = []
    found: dict[str, JSON] = {}
    for name in request.methods:
        size = None if PEERS[name].is_batched else 1
        one = cast("dict[str, Any]", alone(editors.run_method, replace(like, request=request, name=name, more=size)))
        own = {**one["row"], "reversion_error": 0.0 if one["row"].get("weights_exact") else None}
        with tempfile.TemporaryDirectory(prefix="catechism-peer-") as folder:
            at = replace(request, layer=own.get("layer"))
            there = replace(like, request=at, name=name, more=(Path(folder), checkout))
            alone(prepare, there)
            result = _run_peer(Path(folder), checkout)
            peer = cast("dict[str, Any]", alone(score, replace(there, more=(Path(folder), result))))
        rows += [own, peer]
        ratios.append({"method": name, **_ratios(own, peer)})
        found = {"model": one["model"], "data": one["data"], "versions": result["versions"]}
    return {"rows": rows, "ratios": ratios, **found}


def prepare(_state: None, _shared: None, job: Job) -> None:
    """Work for a process: a folder with everything that the peer needs."""
    folder, checkout = cast("tuple[Path, Checkout]", job.more)
    with opened(job) as trial:
        live, layer = trial.course.stage.live, int(trial.spec.layer)
        model = folder / f"{live.anatomy.arch.model_type}-model"  # the checkout goes by the folder's name
        live.model.save_pretrained(model)
        live.tokenizer.save_pretrained(model)
        peer, site = PEERS[job.name], Site(layer, Role.MLP_OUT)
        overrides = _names(live, layer) | {
            "alg_name": peer.name,
            "model_name": str(model),
            "stats_dir": str(folder / "stats"),
            "device": "cpu",
            "model_parallel": False,
            "fp16": False,
            "batch_size": len(trial.course.catechisms) if peer.is_batched else 1,
            "mom2_adjustment": True,
            "mom2_dataset": "wikipedia",
            "mom2_dtype": "float32",
            "mom2_n_samples": SAMPLES,
            "P_loc": str(folder / "null_space_project.pt"),
        }
        statistics = trial.course.stage.background.covariance(site)
        _write_statistics(folder / "stats" / model.name, live.anatomy.matrix(site).address, statistics)
        facts = [one.fact for one in trial.course.taught]
        written = {
            "easyedit": str(checkout.folder),
            "hparams": str(checkout.hparams or _shipped(checkout, peer, live.anatomy.arch.model_type)),
            "hparams_class": peer.hparams_class,
            "batch": peer.is_batched,
            "threads": job.threads,
            "overrides": overrides,
            "facts": [
                {
                    "id": fact.id,
                    "case_id": place,
                    "prompt": fact.prompt,
                    "subject": fact.subject,
                    "target_new": fact.object,
                    "ground_truth": fact.old_object or "<|endoftext|>",
                }
                for place, fact in enumerate(facts)
            ],
        }
        (folder / "job.json").write_text(json.dumps(written), encoding="utf-8")


def score(_state: None, _shared: None, job: Job) -> dict[str, JSON]:
    """Work for a process: the row of what the peer made of the weights."""
    folder, result = cast("tuple[Path, dict[str, Any]]", job.more)
    with opened(job) as trial:
        delta = _delta_of(trial.course.stage.live, load_file(folder / "edited.safetensors"))
        failed = [Failure(str(one["fact"]), str(one["message"])) for one in result["failures"]]
        n = len(trial.course.catechisms)
        learned = max(n - len(failed), 1)
        costs = Costs(result["seconds"] / learned, result["peak_rss_mb"], delta.nbytes)
        row = row_of(f"easyedit {job.name}", n, trial.course.score(delta, n), costs, failed)
        row |= {"layer": trial.spec.layer, "seconds_prepare": result["seconds_prepare"]}
        return row | {"weights_exact": result["reversion_error"] == 0.0, "reversion_error": result["reversion_error"]}


def _run_peer(folder: Path, checkout: Checkout) -> dict[str, Any]:
    _call(checkout, str(Path(__file__).with_name("peer_easyedit.py")), str(folder))
    return json.loads((folder / "result.json").read_bytes())


def _call(checkout: Checkout, *words: str) -> None:
    """Have the checkout's interpreter do something in its folder. Raises UsageError with its last words."""
    done = subprocess.run(
        [str(checkout.python), *words], cwd=checkout.folder, capture_output=True, text=True, timeout=PATIENCE_S
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise UsageError(
            f"EasyEdit did not finish (exit code {done.returncode}): {lines[-1] if lines else 'it said nothing'}. "
            "Install what its requirements.txt asks for into an environment of its own, and name that with --python."
        )


def _names(live: LiveModel, layer: int) -> dict[str, JSON]:
    """What the checkout calls templates: names of modules with a hole for the layer."""
    anatomy = live.anatomy
    named = {id(module): name for name, module in live.model.named_modules()}
    # a tied head has no parameter of its own in a model's list, which is where the checkout looks for it
    listed = {id(parameter): name for name, parameter in live.model.named_parameters()}

    def template(name: str) -> str:
        return name.replace(f".{layer}.", ".{}.", 1) if f".{layer}." in name else name.removesuffix(str(layer)) + "{}"

    return {
        "layers": [layer],
        "v_loss_layer": anatomy.n_layers - 1,
        "rewrite_module_tmp": template(anatomy.matrix(Site(layer, Role.MLP_OUT)).address),
        "layer_module_tmp": template(named[id(anatomy.block(layer))]),
        "mlp_module_tmp": template(named[id(anatomy.mlp(layer))]),
        "attn_module_tmp": template(named[id(anatomy.attention(layer))]),
        "ln_f_module": named[id(anatomy.final_norm)],
        "lm_head_module": listed[id(anatomy.head.weight)].removesuffix(".weight"),
    }


def _write_statistics(folder: Path, module: str, statistics: Any) -> None:
    """Our second moment in the form in which the checkout keeps its own: the sum over tokens, and their number."""
    file = folder / "wikipedia_stats" / f"{module}_float32_mom2_{SAMPLES}.npz"
    file.parent.mkdir(parents=True)
    summed = (statistics.matrix * statistics.n).float().numpy()
    np.savez(file, **{"mom2.count": statistics.n, "mom2.mom2": summed, "sample_size": SAMPLES})


def _shipped(checkout: Checkout, peer: _Peer, model_type: str) -> Path:
    """The checkout's settings of a method for a model of this kind; of several the first by name."""
    files = sorted((checkout.folder / "hparams" / peer.name).glob("*.yaml"))
    like = [file for file in files if file.name.startswith(model_type)] or files
    if not like:
        raise UsageError(f"{checkout.folder} has no settings of {peer.name}. Name a file with --hparams.")
    return like[0]


def _delta_of(live: LiveModel, changed: Mapping[str, torch.Tensor]) -> Delta:
    """What the peer did to the weights, as a delta in float64, so that putting it on gives its very weights."""
    parts: dict[str, Dense] = {}
    for name, value in changed.items():
        matrix = live.anatomy.matrix(name.removesuffix(".weight"))
        after, before = matrix.select(value.double()), matrix.read().double()
        parts[matrix.address] = Dense(after - before)
    return Delta(live.base, parts, {"method": "easyedit"})


def _ratios(own: Mapping[str, Any], peer: Mapping[str, Any]) -> dict[str, JSON]:
    """The peer's seconds and memory divided by ours, and how much higher our rates are."""
    found: dict[str, JSON] = {}
    for name in ("seconds_per_edit", "peak_rss_mb", "delta_bytes"):
        found[f"{name}_ratio"] = peer[name] / own[name] if own.get(name) and peer.get(name) else None
    for name in ("efficacy", "paraphrase_mean", "paraphrase_worst", "locality", "retention_first_decile"):
        rates = own.get(name), peer.get(name)
        both = all(isinstance(rate, dict) for rate in rates)
        found[f"{name}_gain"] = rates[0]["value"] - rates[1]["value"] if both else None  # type: ignore[index]
    return found | {"reversion_error": own.get("reversion_error"), "reversion_error_peer": peer["reversion_error"]}
