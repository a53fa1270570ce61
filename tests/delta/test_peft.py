"""PEFT adapters, held against the real `peft` on tiny random models."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from catechism.delta import Delta, LowRank, from_peft, to_peft
from catechism.errors import DeltaCorrupt, NonFiniteDelta, ShapeMismatch, UnsafeDelta, UsageError, WrongBase
from tests.tiny import tiny_model

peft = pytest.importorskip("peft", reason="the extra is not installed: pip install catechism[peft]")

BASE = "sha256:" + "ab" * 32
# peft asks transformers for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOKENS = torch.tensor([[5, 17, 99, 3, 42, 250, 8]])
LLAMA = {"model.layers.0.mlp.down_proj": 2, "model.layers.1.mlp.down_proj": 1, "model.layers.1.self_attn.o_proj": 3}
GPT2 = {"transformer.h.0.mlp.c_proj": 2, "transformer.h.1.mlp.c_fc": 1, "transformer.h.1.attn.c_proj": 3}


def weight(model: PreTrainedModel, module: str) -> tuple[Tensor, bool]:
    """The weight of a module as (d_out, d_in), a view, and whether it is stored the other way round."""
    linear = model.get_submodule(module)
    stored = linear.weight
    assert isinstance(stored, Tensor)
    return (stored.T, True) if isinstance(linear, Conv1D) else (stored, False)


def random_delta(model: PreTrainedModel, ranks: Mapping[str, int], dtype: torch.dtype = torch.float32) -> Delta:
    g = torch.Generator().manual_seed(7)
    parts = {}
    for module, rank in ranks.items():
        d_out, d_in = weight(model, module)[0].shape
        A, B = torch.randn(d_out, rank, generator=g), torch.randn(rank, d_in, generator=g)
        parts[module] = LowRank(A.to(dtype), (B / d_in**0.5).to(dtype))
    return Delta(BASE, parts, {"method": "rome"})


@torch.no_grad()
def logits_with(model: PreTrainedModel, dense: Mapping[str, Tensor]) -> Tensor:
    """The logits of the model with these changes added to its weights."""
    changed = copy.deepcopy(model)
    for module, change in dense.items():
        weight(changed, module)[0].add_(change.to(model.dtype))
    return changed(TOKENS).logits


@torch.no_grad()
def logits_through_peft(model: PreTrainedModel, folder: Path) -> Tensor:
    return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)(TOKENS).logits


def dense(delta: Delta) -> dict[str, Tensor]:
    return {module: part.dense() for module, part in delta.parts.items()}


def assert_same_logits(a: Tensor, b: Tensor) -> None:
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize(("model_type", "ranks"), [("llama", LLAMA), ("gpt2", GPT2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_exported_delta_gives_the_same_logits_through_peft(
    tmp_path: Path, model_type: str, ranks: dict[str, int], dtype: torch.dtype
) -> None:
    model = tiny_model(model_type)
    delta = random_delta(model, ranks, dtype)
    to_peft(delta, tmp_path, base_model_name="tiny", fan_in_fan_out=model_type == "gpt2")
    through_peft, by_weights = logits_through_peft(model, tmp_path), logits_with(model, dense(delta))
    assert_same_logits(through_peft, by_weights)
    assert not torch.allclose(by_weights, logits_with(model, {}), atol=1e-2)


@pytest.mark.parametrize(("model_type", "ranks"), [("llama", LLAMA), ("gpt2", GPT2)])
def test_merging_an_exported_delta_in_peft_changes_the_right_weights(
    tmp_path: Path, model_type: str, ranks: dict[str, int]
) -> None:
    model = tiny_model(model_type)
    delta = random_delta(model, ranks)
    to_peft(delta, tmp_path, base_model_name="tiny", fan_in_fan_out=model_type == "gpt2")
    merged = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).merge_and_unload()
    for module, part in delta.parts.items():
        moved = weight(merged, module)[0] - weight(model, module)[0]
        assert torch.allclose(moved, part.dense(torch.float32), atol=1e-5)


def test_an_export_has_one_rank_alpha_equal_to_it_and_full_module_names(tmp_path: Path) -> None:
    folder = to_peft(random_delta(tiny_model("llama"), LLAMA), tmp_path / "adapter", base_model_name="org/tiny")
    config = peft.PeftConfig.from_pretrained(folder)
    assert (config.r, config.lora_alpha, config.bias, config.use_rslora) == (3, 3, "none", False)
    assert config.target_modules == set(LLAMA)
    assert config.base_model_name_or_path == "org/tiny"
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {t.shape[0] for name, t in tensors.items() if "lora_A" in name} == {3}
    assert {t.shape[1] for name, t in tensors.items() if "lora_B" in name} == {3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_export_and_import_preserve_the_change_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    delta = random_delta(tiny_model("llama"), LLAMA, dtype)
    again = from_peft(to_peft(delta, tmp_path, base_model_name="tiny"), base=BASE)
    assert list(again.parts) == list(delta.parts)
    for module, part in delta.parts.items():
        assert again.parts[module].dtype == dtype
        # the padding is zero and the factors are the same bytes; a product of another width may round otherwise
        assert torch.equal(again.parts[module].A[:, : part.rank], part.A)
        assert torch.equal(again.parts[module].B[: part.rank], part.B)
        assert torch.allclose(again.parts[module].dense(), part.dense(), rtol=1e-14, atol=1e-14)
    assert again.info["exported_from"] == {"digest": delta.digest, "info": {"method": "rome"}}


def test_many_modules_stay_apart_when_peft_shortens_their_names(tmp_path: Path) -> None:
    """From twenty target modules on, peft replaces full names by endings; layers 1 and 11 must not be mixed up."""
    model = tiny_model("llama", num_hidden_layers=24)
    ranks = {f"model.layers.{layer}.mlp.down_proj": 1 for layer in range(24) if layer != 11}
    delta = random_delta(model, ranks)
    to_peft(delta, tmp_path, base_model_name="tiny")
    assert_same_logits(logits_through_peft(model, tmp_path), logits_with(model, dense(delta)))


def test_slices_of_a_fused_matrix_are_padded_to_the_whole(tmp_path: Path) -> None:
    model = tiny_model("phi3")
    fused = "model.layers.0.mlp.gate_up_proj"
    rows, d_in = weight(model, fused)[0].shape
    half = rows // 2
    g = torch.Generator().manual_seed(0)
    gate = LowRank(torch.randn(half, 1, generator=g), torch.randn(1, d_in, generator=g))
    up = LowRank(torch.randn(half, 2, generator=g), torch.randn(2, d_in, generator=g))
    delta = Delta(BASE, {f"{fused}[0:{half}]": gate, f"{fused}[{half}:{rows}]": up})
    to_peft(delta, tmp_path, base_model_name="tiny", full_rows={fused: rows})
    whole = torch.cat([gate.dense(), up.dense()])
    assert_same_logits(logits_through_peft(model, tmp_path), logits_with(model, {fused: whole}))
    assert torch.allclose(from_peft(tmp_path, base=BASE).parts[fused].dense(), whole)


def test_rows_with_a_step_are_padded_to_the_whole(tmp_path: Path) -> None:
    part = LowRank(torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(1, 2))
    to_peft(Delta(BASE, {"m[1:6:2]": part}), tmp_path, base_model_name="tiny", full_rows={"m": 6})
    assert from_peft(tmp_path, base=BASE).parts["m"].dense()[:, 0].tolist() == [0, 1, 0, 2, 0, 3]


@pytest.mark.parametrize(
    ("address", "full_rows", "message"),
    [
        ("m.gate_up_proj[0:4]", {}, r"full_rows=\{'m.gate_up_proj'"),
        ("m.gate_up_proj[0:4]", {"m.gate_up_proj": 3}, "does not fit"),
        ("m.gate_up_proj[0:5]", {"m.gate_up_proj": 8}, "does not fit"),
        ("m.experts.down_proj[3]", {"m.experts.down_proj": 8}, r"catechism\.delta\.save"),
        ("m.experts.gate_up_proj[3,0:8:2]", {}, r"catechism\.delta\.save"),
        ("m.gate_up_proj[0:8:3]", {"m.gate_up_proj": 8}, "does not fit"),
    ],
)
def test_a_part_that_is_no_change_of_a_whole_module_is_refused(
    tmp_path: Path, address: str, full_rows: dict[str, int], message: str
) -> None:
    delta = Delta(BASE, {address: LowRank(torch.ones(4, 1), torch.ones(1, 2))})
    with pytest.raises(ShapeMismatch, match=message):
        to_peft(delta, tmp_path, base_model_name="tiny", full_rows=full_rows)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_delta_and_one_with_nan_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Export another delta"):
        to_peft(Delta(BASE, {}), tmp_path, base_model_name="tiny")
    nan = Delta(BASE, {"m": LowRank(torch.tensor([[float("nan")]]), torch.ones(1, 1))})
    with pytest.raises(NonFiniteDelta, match="Fit it again"):
        to_peft(nan, tmp_path, base_model_name="tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_zero_change_is_exported_with_rank_one(tmp_path: Path) -> None:
    model = tiny_model("llama")
    delta = random_delta(model, {"model.layers.0.mlp.down_proj": 0})
    to_peft(delta, tmp_path, base_model_name="tiny")
    assert torch.equal(logits_through_peft(model, tmp_path), logits_with(model, {}))


def adapter(model: PreTrainedModel, folder: Path, **settings: Any) -> Tensor:
    """Save an adapter as peft makes it, with random factors; returns the logits of the model under it."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 10, "target_modules": ["down_proj", "q_proj"], **settings})
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.3)
        wrapped.save_pretrained(folder)
        return wrapped(TOKENS).logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"lora_dropout": 0.5},
        {"init_lora_weights": "gaussian"},
        {"target_modules": r".*layers\.1\.mlp\..*_proj"},
        {"layers_to_transform": [1]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}},
        {"rank_pattern": {"model.layers.1.mlp.down_proj": 3}},
        {"rank_pattern": {r"layers\.[01]\..*q_proj": 1}, "use_rslora": True},
        {"alpha_pattern": {"^model.layers.0.mlp.down_proj": 40, "down_proj": 1}},
    ],
)
def test_an_adapter_made_by_peft_is_imported_with_its_scale(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = tiny_model("llama")
    expected = adapter(model, tmp_path, **settings)
    delta = from_peft(tmp_path, base=BASE)
    assert_same_logits(logits_with(model, dense(delta)), expected)
    assert delta.base == BASE and delta.info["method"] == "peft" and "exported_from" not in delta.info


def test_an_adapter_of_conv1d_maps_is_imported(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    expected = adapter(model, tmp_path, target_modules=["c_proj", "c_attn"], fan_in_fan_out=True)
    assert_same_logits(logits_with(model, dense(from_peft(tmp_path, base=BASE))), expected)


def test_an_imported_adapter_can_be_exported_again(tmp_path: Path) -> None:
    model = tiny_model("llama")
    expected = adapter(model, tmp_path / "theirs", rank_pattern={"q_proj": 2})
    to_peft(from_peft(tmp_path / "theirs", base=BASE), tmp_path / "ours", base_model_name="tiny")
    assert_same_logits(logits_through_peft(model, tmp_path / "ours"), expected)


def test_a_scale_that_half_precision_cannot_hold_is_worked_in_at_float32(tmp_path: Path) -> None:
    lora_A, lora_B = torch.ones(3, 5).bfloat16(), torch.full((4, 3), 1.25).bfloat16()
    for alpha, dtype in ((6, torch.bfloat16), (1, torch.float32)):
        write_adapter(tmp_path, {"m.lora_A.weight": lora_A, "m.lora_B.weight": lora_B}, r=3, lora_alpha=alpha)
        part = from_peft(tmp_path, base=BASE).parts["m"]
        assert part.dtype == dtype
        assert torch.allclose(part.dense(), torch.full((4, 5), 1.25 * alpha).double(), rtol=1e-6)


def write_adapter(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / WEIGHTS)
    return folder


WEIGHTS = "adapter_model.safetensors"
FACTORS = {"m.lora_A.weight": torch.ones(1, 3), "m.lora_B.weight": torch.ones(2, 1)}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["embed_tokens"]}, "whole modules"),
        ({"lora_bias": True}, "biases"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"target_modules": ["embed_tokens"]}, "no factor of a linear map"),
        ({"trainable_token_indices": [1, 2]}, "rows of the embedding"),
        ({"layer_replication": [(0, 2), (1, 2)]}, "repeats layers"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # peft has something to say about some of these
def test_an_adapter_that_is_more_than_a_low_rank_change_is_refused_with_the_reason(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    adapter(tiny_model("llama", tie_word_embeddings=False), tmp_path, **settings)
    with pytest.raises(UnsafeDelta, match=rf"(?s){reason}"):
        from_peft(tmp_path, base=BASE)


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeDelta, match="'IA3'.*Import LoRA adapters only"):
        from_peft(write_adapter(tmp_path, FACTORS, peft_type="IA3"), base=BASE)


def test_pickled_adapters_are_refused_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(UnsafeDelta, match="pickle.*safe_serialization=True"):
        from_peft(tmp_path, base=BASE)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeDelta, match="save_pretrained"):
        from_peft(tmp_path, base=BASE)
    save_file(FACTORS, tmp_path / WEIGHTS)
    with pytest.raises(UnsafeDelta, match=r"no adapter_config\.json"):
        from_peft(tmp_path, base=BASE)


def test_an_export_of_a_delta_of_another_base_is_refused(tmp_path: Path) -> None:
    to_peft(random_delta(tiny_model("llama"), LLAMA), tmp_path, base_model_name="tiny")
    with pytest.raises(WrongBase, match="Open the model"):
        from_peft(tmp_path, base="sha256:" + "cd" * 32)


def test_corrupt_adapters_are_refused(tmp_path: Path) -> None:
    one_factor = {"m.lora_A.weight": torch.ones(1, 3)}
    with pytest.raises(DeltaCorrupt, match="only one of its two factors"):
        from_peft(write_adapter(tmp_path, one_factor), base=BASE)
    with pytest.raises(DeltaCorrupt, match="has rank 2 by"):
        from_peft(write_adapter(tmp_path, FACTORS, r=2), base=BASE)
    with pytest.raises(DeltaCorrupt, match="one kind"):
        from_peft(write_adapter(tmp_path, {**FACTORS, "m.lora_B.weight": torch.ones(2, 2)}), base=BASE)
    with pytest.raises(DeltaCorrupt, match="one floating dtype"):
        from_peft(write_adapter(tmp_path, {name: t.long() for name, t in FACTORS.items()}), base=BASE)
    for alpha in (None, "x", 0, True, math.inf):
        with pytest.raises(DeltaCorrupt, match="number above zero"):
            from_peft(write_adapter(tmp_path, FACTORS, lora_alpha=alpha), base=BASE)
    path = write_adapter(tmp_path, FACTORS) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DeltaCorrupt, match="Fetch it again"):
        from_peft(tmp_path, base=BASE)
    (write_adapter(tmp_path, FACTORS) / "adapter_config.json").write_text("{")
    with pytest.raises(DeltaCorrupt, match="not JSON"):
        from_peft(tmp_path, base=BASE)
    save_file({"m": torch.ones(1)}, tmp_path / WEIGHTS, {"catechism.delta": "["})
    with pytest.raises(DeltaCorrupt):
        from_peft(tmp_path, base=BASE)


def test_an_adapter_with_nan_is_refused(tmp_path: Path) -> None:
    bad = {**FACTORS, "m.lora_B.weight": torch.full((2, 1), float("nan"))}
    with pytest.raises(NonFiniteDelta, match="learning rate"):
        from_peft(write_adapter(tmp_path, bad), base=BASE)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(.*)*", ".*.*.*.*x", "(a|a)*b"])
def test_a_pattern_that_could_keep_the_matcher_busy_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UnsafeDelta, match="full module names"):
        from_peft(write_adapter(tmp_path, FACTORS, alpha_pattern={pattern: 2}), base=BASE)


def test_a_pattern_that_is_no_regular_expression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeltaCorrupt, match="no regular expression"):
        from_peft(write_adapter(tmp_path, FACTORS, rank_pattern={"[": 2}), base=BASE)
