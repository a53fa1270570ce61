from __future__ import annotations

import json
import random
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catechism.errors import MissingExtra, UnknownName, UsageError
from catechism.evaluate import wilson
from catechism.evaluate.harness import Suite, run_tasks


@dataclass
class FakeTokenizer:
    pad_token: str | None = None


@dataclass
class FakeLive:
    model: object = field(default_factory=object)
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)


RESULTS: dict[str, Any] = {
    "results": {
        "pair": {"alias": "pair", "acc,none": 0.5, "acc_stderr,none": "N/A"},
        "one": {"acc,none": 0.25, "acc_norm,none": 0.75, "perplexity,none": 12.5, "sample_len": 4},
        "two": {"exact_match,strict": 1.0, "acc,none": float("nan"), "exact_match_stderr,strict": 0.1},
    },
    "n-samples": {"one": {"original": 9, "effective": 4}, "two": {"original": 4, "effective": 4}},
    "group_subtasks": {"pair": ["one", "two"]},
}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for lm-evaluation-harness that behaves badly where the real one does; the calls made to it."""
    calls: list[dict[str, Any]] = []

    class HFLM:
        def __init__(self, pretrained: object, tokenizer: FakeTokenizer, **kwargs: object) -> None:
            tokenizer.pad_token = "set by the harness"
            self.pretrained = pretrained

    class TaskManager:
        def __init__(self, include_path: str | None = None) -> None:
            self.all_tasks = ["pair", "one", "two", "gone"]

    def simple_evaluate(**kwargs: Any) -> dict[str, Any]:
        calls.append(kwargs)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        if kwargs["tasks"] == ["gone"]:
            raise ConnectionError("no network")
        return RESULTS

    names = ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface", "lm_eval.tasks")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    modules["lm_eval"].simple_evaluate = simple_evaluate
    modules["lm_eval.models.huggingface"].HFLM = HFLM
    modules["lm_eval.tasks"].TaskManager = TaskManager
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_results_become_rates_under_our_names(harness: list[dict[str, Any]]) -> None:
    suite = run_tasks(FakeLive(), ["pair"], limit=4)
    assert suite == Suite(
        {
            "harness/pair/acc": wilson(4.0, 8),
            "harness/one/acc": wilson(1.0, 4),
            "harness/one/acc_norm": wilson(3.0, 4),
            "harness/one/perplexity": 12.5,
            "harness/two/exact_match,strict": wilson(4.0, 4),
            "harness/two/acc": None,
        }
    )
    assert harness[0]["limit"] == 4


def test_values_before_the_edit_are_joined(harness: list[dict[str, Any]]) -> None:
    before = run_tasks(FakeLive(), ["pair"])
    found = Suite({"harness/one/acc": wilson(3, 4), "harness/new/acc": wilson(1, 1)}).since(before)
    assert found.metrics == {"harness/one/acc": wilson(3, 4, before=0.25), "harness/new/acc": wilson(1, 1)}


def test_a_task_whose_data_cannot_be_had_is_an_error_of_that_task_alone(harness: list[dict[str, Any]]) -> None:
    suite = run_tasks(FakeLive(), ["gone", "one"])
    assert suite.errors == {"harness/gone": "The task 'gone' could not be run: no network"}
    assert "harness/one/acc" in suite.metrics


def test_tokenizer_and_random_states_stay_as_they_were(harness: list[dict[str, Any]]) -> None:
    live = FakeLive()
    np.random.seed(5)
    torch.manual_seed(5)
    expected = (float(np.random.rand()), float(torch.rand(1)))
    random.seed(0)
    seeded_by_harness = random.random()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    run_tasks(live, ["one"])
    assert (float(np.random.rand()), float(torch.rand(1))) == expected
    assert random.random() != seeded_by_harness  # the type checker of the tests draws from it too, so no equality
    assert live.tokenizer.pad_token is None


def test_an_unknown_task_and_no_task_are_refused(harness: list[dict[str, Any]]) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'pair'"):
        run_tasks(FakeLive(), ["pairs"])
    with pytest.raises(UsageError, match="Name at least one"):
        run_tasks(FakeLive(), [])


def test_without_the_harness_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra, match=r"pip install 'catechism\[harness\]'"):
        run_tasks(FakeLive(), ["one"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own imports warn
def test_the_real_harness_runs_a_task_on_a_live_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'catechism[harness]'")
    from catechism.model import LiveModel
    from tests.tiny import tiny_model, tiny_tokenizer

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"{i} is", "choices": ["even", "odd"], "gold": i % 2} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "parity.yaml").write_text(
        f"""task: parity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}]
"""
    )
    live = LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    digest, pad = live.digest(full=True), live.tokenizer.pad_token
    suite = run_tasks(live, ["parity"], folder=tmp_path)
    rate = suite.metrics["harness/parity/acc"]
    assert suite.errors == {}
    assert not isinstance(rate, float | None) and rate.n == 6 and 0 <= rate.value <= 1
    assert (live.digest(full=True), live.tokenizer.pad_token) == (digest, pad)
