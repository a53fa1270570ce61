"""The peer benchmark with a stand-in for the checkout: what it is handed, and what becomes of the weights it gives."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from catechism.bench import peer_easyedit
from catechism.bench.peers import _ratios, _run_peer, find_checkout, prepare, run, score
from catechism.bench.single import Request
from catechism.bench.trial import Job
from catechism.cli.main import main
from catechism.errors import UnknownName, UsageError
from catechism.settings import Settings
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = [
    {"prompt": f"The capital of {s} is", "subject": s, "new_object": new, "old_object": old, "id": s}
    for s, old, new in (("France", "Paris", "Rome"), ("Italy", "Rome", "Tokyo"), ("Japan", "Tokyo", "Vienna"))
]
PARAGRAPH = "The river that flows through London is the Thames. The language of the country is French."


@dataclass
class StandInHyperParams:
    """The fields that a checkout of the day has, among others."""

    alg_name: str
    model_name: str
    layers: list[int]
    rewrite_module_tmp: str
    v_lr: float
    stats_dir: str


class StandInEditor:
    """An editor that adds 1 to an entry of the edited matrix for each fact, and cannot learn about Italy."""

    def __init__(self, hparams: StandInHyperParams) -> None:
        self.hparams = hparams
        self.model = AutoModelForCausalLM.from_pretrained(hparams.model_name, dtype=torch.float32)
        self.tok = AutoTokenizer.from_pretrained(hparams.model_name)

    @classmethod
    def from_hparams(cls, hparams: StandInHyperParams) -> StandInEditor:
        return cls(hparams)

    def apply_algo(self, model: Any, _tok: Any, requests: list[dict[str, str]], hparams: Any, **_: Any) -> Any:
        assert hparams.v_lr == 0.5, "a number, though YAML reads 5e-1 as a text"
        if requests[0]["subject"] == "Italy":
            raise ValueError("no such place")
        name = hparams.rewrite_module_tmp.format(hparams.layers[0]) + ".weight"
        weight = dict(model.named_parameters())[name]
        kept = {name: weight.detach().clone()}
        with torch.no_grad():
            weight[0, len(requests[0]["subject"])] += 1.0
        return model, kept


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for file in ("easyeditor/__init__.py", "hparams/ROME/gpt2-xl.yaml", "hparams/ROME/llama-7b.yaml"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("v_lr: 5e-1\nlayers: [5]\nanother_key: 1\n" if file.endswith("yaml") else "")
    return folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def done(
    request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Job, Path, dict[str, Any]]:
    """A job, the peer's folder, and what the peer measured."""
    model, folder = tmp_path_factory.mktemp("tiny"), tmp_path_factory.mktemp("peer")
    tiny_model(request.param).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    (model / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (model / "plain.txt").write_text("\n\n".join([PARAGRAPH] * 90))
    wanted = Request(str(model), ("rome",), 3, model / "facts.jsonl", model / "plain.txt", layer=1)
    found = find_checkout(checkout, None, None)
    job = Job(wanted, Settings(cache=model / "cache"), "rome", more=(folder, found))
    prepare(None, None, job)
    stand_in = ModuleType("easyeditor")
    stand_in.__dict__.update(BaseEditor=StandInEditor, ROMEHyperParams=StandInHyperParams)
    here, path = os.getcwd(), list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "easyeditor", stand_in)
        patch.setitem(sys.modules, "yaml", SimpleNamespace(safe_load=_yaml))  # type: ignore[arg-type]
        try:
            peer_easyedit.main(folder)
        finally:
            os.chdir(here)
            sys.path[:] = path
    return job, folder, json.loads((folder / "result.json").read_text())


def _yaml(text: str) -> dict[str, Any]:
    """As YAML 1.1 reads these lines: 5e-1 is a text there."""
    pairs = (line.split(": ") for line in text.splitlines())
    return {key: [5] if value == "[5]" else value for key, value in pairs}


def test_the_peer_gets_the_model_the_facts_the_layer_and_the_statistics(done: tuple[Job, Path, dict[str, Any]]) -> None:
    job, folder, _ = done
    written = json.loads((folder / "job.json").read_text())
    assert [fact["subject"] for fact in written["facts"]] == ["France", "Italy", "Japan"]
    assert written["overrides"]["layers"] == [1] and written["overrides"]["v_loss_layer"] == 1
    template = written["overrides"]["rewrite_module_tmp"]
    assert ".{}." in template and written["overrides"]["layer_module_tmp"].endswith(".{}")
    parameters = dict(AutoModelForCausalLM.from_pretrained(written["overrides"]["model_name"]).named_parameters())
    assert written["overrides"]["lm_head_module"] + ".weight" in parameters, "of a tied head the embedding's name"
    model_type = Path(written["overrides"]["model_name"]).name.split("-")[0]
    assert Path(written["hparams"]).name.startswith(model_type), "its own settings for a model of this kind"
    (file,) = (folder / "stats").rglob("*.npz")
    assert file.name.startswith(template.format(1))
    held = np.load(file)
    assert held["mom2.mom2"].shape == (48, 48) and int(held["mom2.count"]) == 480
    assert job.request.layer == 1


def test_what_the_peer_cannot_learn_is_reported_and_the_rest_goes_on(done: tuple[Job, Path, dict[str, Any]]) -> None:
    _, _, result = done
    assert result["failures"] == [{"fact": "Italy", "message": "ValueError: no such place"}]
    assert result["reversion_error"] == 1.0, "its last copy takes back the last edit alone"


def test_the_peers_very_weights_are_scored(done: tuple[Job, Path, dict[str, Any]]) -> None:
    job, folder, result = done
    row = cast("dict[str, Any]", score(None, None, replace(job, more=(folder, result))))
    assert (row["method"], row["n"], row["failed"], row["layer"]) == ("easyedit rome", 3, 1, 1)
    assert row["weights_exact"] is False and row["reversion_error"] == 1.0
    assert row["norm_growth"] > 0 and row["delta_bytes"] == 8 * 32 * 48


def test_ratios_are_the_peers_figure_by_ours(done: tuple[Job, Path, dict[str, Any]]) -> None:
    own = {"seconds_per_edit": 2.0, "efficacy": {"value": 0.75}, "reversion_error": 0.0}
    peer = {"seconds_per_edit": 6.0, "efficacy": {"value": 0.5}, "reversion_error": 1.0}
    found = _ratios(own, peer)
    assert found["seconds_per_edit_ratio"] == 3.0 and found["efficacy_gain"] == 0.25
    assert found["peak_rss_mb_ratio"] is None and found["reversion_error_peer"] == 1.0


def test_without_a_checkout_the_command_says_how_to_point_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "peers", "--json"])
    assert end.value.code == 2
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert "git clone" in message and "--easyedit FOLDER --python" in message
    with pytest.raises(UsageError, match="There is no EasyEdit in"):
        find_checkout(tmp_path, None, None)


def test_a_checkout_that_cannot_run_is_reported_with_its_last_words(checkout: Path, tmp_path: Path) -> None:
    (script := tmp_path / "python").write_text("#!/bin/sh\necho 'ModuleNotFoundError: higher' >&2\nexit 1\n")
    script.chmod(0o755)
    found = find_checkout(checkout, script, None)
    with pytest.raises(UsageError, match="exit code 1.*ModuleNotFoundError: higher.*--python"):
        _run_peer(tmp_path, found)
    with pytest.raises(UsageError, match="exit code 1.*ModuleNotFoundError: higher.*--python"):
        run(Request("no such model", methods=("rome",), facts=1), Settings(cache=tmp_path), found)  # nothing is opened


def test_a_method_that_is_not_known_there_is_refused(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Choose one of: alphaedit, emmet, memit, rome"):
        run(Request(methods=("lora",), facts=1), Settings(cache=tmp_path), find_checkout(checkout, None, None))
