"""The probe accepts every row of the table on its own architecture, and none that says something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from catechism.arch import TABLE, Arch, Fusion, Glu, probe
from catechism.errors import UnknownArchitecture
from tests.tiny import CONFIGS, tiny_model

SQUARE = {
    "num_key_value_heads": 4,
    "intermediate_size": 32,
    "n_inner": 32,
    "ffn_dim": 32,
    "moe_intermediate_size": 32,
    "word_embed_proj_dim": 32,
}


def square_model(model_type: str) -> PreTrainedModel:
    """A model whose matrices are all square, so that no mistake shows in a shape."""
    return tiny_model(model_type, **{k: v for k, v in SQUARE.items() if k in CONFIGS[model_type]})


def failures(model: PreTrainedModel, row: Arch) -> dict[str, str]:
    return {check.name: check.detail for check in probe(model, row).checks if not check.ok}


@pytest.mark.parametrize("model_type", TABLE)
def test_every_row_holds(model_type: str) -> None:
    report = probe(tiny_model(model_type))
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.model_type == model_type
    assert json.loads(json.dumps(report.json()))["ok"] is True
    assert len({check.name for check in report.checks}) == len(report.checks) >= 12


@pytest.mark.parametrize("model_type", TABLE)
def test_every_row_holds_in_bfloat16(model_type: str) -> None:
    assert probe(tiny_model(model_type).to(torch.bfloat16)).ok


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("llama", {"tie_word_embeddings": True, "mlp_bias": True, "attention_bias": True}),
        ("qwen3_moe", {"mlp_only_layers": [], "norm_topk_prob": True}),
        ("olmoe", {"num_experts_per_tok": 1}),
    ],
)
def test_rows_hold_for_the_variants_that_checkpoints_use(model_type: str, settings: dict[str, object]) -> None:
    report = probe(tiny_model(model_type, **settings))
    assert report.ok, [check for check in report.checks if not check.ok]


def wrong_rows(row: Arch, model: PreTrainedModel) -> Iterator[tuple[str, Arch]]:
    """The row with one thing wrong at a time."""
    attention = model.get_submodule(f"{row.layers}.0.{row.attn}")
    linear = [f"{row.attn}.{name}" for name, module in attention.named_children() if hasattr(module, "bias")]
    other = next(path for path in linear if path != row.attn_out)
    yield "transposed", replace(row, transposed=not row.transposed)
    yield "attn_out names another matrix", replace(row, attn_out=other)
    yield "attn names the mlp", replace(row, attn=row.mlp or "fc1")
    yield "final_norm names a norm of a block", replace(row, final_norm=f"{row.layers}.0.{some_norm(row)}")
    yield "final_norm is missing", replace(row, final_norm="model.nothing")
    yield "layers are missing", replace(row, layers="model.nothing")
    yield "embed names the head", replace(row, embed=row.head)
    if row.softcap:
        yield "no soft cap", replace(row, softcap=None)
    yield from wrong_streams(row, model)
    if row.experts is None:
        yield from wrong_mlps(row)
    else:
        yield from wrong_experts(row)


def some_norm(row: Arch) -> str:
    return row.norms.mlp or row.norms.mlp_post or ""


def wrong_streams(row: Arch, model: PreTrainedModel) -> Iterator[tuple[str, Arch]]:
    """The residual stream runs another way."""
    norms, config = row.norms, model.config.get_text_config()
    parallel = getattr(config, row.parallel) if isinstance(row.parallel, str) else row.parallel
    norm_first = getattr(config, row.norm_first) if isinstance(row.norm_first, str) else row.norm_first
    yield "parallel", replace(row, parallel=not parallel)
    yield "a norm too many", replace(row, norms=replace(norms, attn_post=some_norm(row)))
    if norms.mlp:
        yield "norm_first", replace(row, norm_first=not norm_first)
        yield "a norm too few", replace(row, norms=replace(norms, mlp=None))
    if norms.attn != norms.mlp:
        yield "norms exchanged", replace(row, norms=replace(norms, attn=norms.mlp, mlp=norms.attn))
    if norms.mlp_post:
        exchanged = replace(norms, attn_post=norms.mlp_post, mlp_post=norms.attn_post)
        yield "post norms exchanged", replace(row, norms=exchanged)


def wrong_mlps(row: Arch) -> Iterator[tuple[str, Arch]]:
    """The matrices of a dense MLP are others, or joined otherwise."""
    yield "in and out exchanged", replace(row, mlp_in=row.mlp_out, mlp_out=row.mlp_in)
    yield "another activation", replace(row, mlp_act=row.mlp_out)
    if row.fusion:
        yield "interleaved", replace(row, fusion=Fusion.INTERLEAVED)
        yield "not fused", replace(row, fusion=None)
    elif row.mlp_gate:
        yield "gate and in exchanged", replace(row, mlp_in=row.mlp_gate, mlp_gate=row.mlp_in)
        yield "no gate", replace(row, mlp_gate=None)


def wrong_experts(row: Arch) -> Iterator[tuple[str, Arch]]:
    """The experts are stored, joined or chosen otherwise."""
    e = row.experts
    changes: dict[str, dict[str, object]] = {
        "experts transposed": {"transposed": not e.transposed},
        "experts fused otherwise": {"fusion": next(f for f in Fusion if f is not e.fusion)},
        "experts biased otherwise": {"biased": not e.biased},
        "experts joined otherwise": {"glu": next(g for g in Glu if g is not e.glu)},
        "expert parameters exchanged": {"gate_in": e.out, "out": e.gate_in},
        "experts elsewhere": {"path": "self_attn"},
    }
    for what, change in changes.items():
        yield what, replace(row, experts=replace(e, **change))
    yield "no experts", replace(row, experts=None)
    yield "router names another matrix", replace(row, router="self_attn.o_proj")


@pytest.mark.parametrize("model_type", TABLE)
def test_a_wrong_row_is_caught_even_where_every_matrix_is_square(model_type: str) -> None:
    model, row = square_model(model_type), TABLE[model_type]
    assert probe(model, row).ok
    undetected = [what for what, wrong in wrong_rows(row, model) if not failures(model, wrong)]
    assert not undetected


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_wrong_row_is_caught_in_bfloat16(model_type: str) -> None:
    model, row = square_model(model_type).to(torch.bfloat16), TABLE[model_type]
    undetected = [what for what, wrong in wrong_rows(row, model) if not failures(model, wrong)]
    assert not undetected


def test_exchanged_gate_and_input_are_named_with_the_cure() -> None:
    row = replace(TABLE["llama"], mlp_in="mlp.gate_proj", mlp_gate="mlp.up_proj")
    detail = failures(square_model("llama"), row)["mlp_key"]
    assert "layer 0" in detail
    assert "It holds with mlp_in='mlp.up_proj' and mlp_gate='mlp.gate_proj'; correct the row." in detail


def test_a_wrong_transposition_of_a_square_matrix_is_named_with_the_cure() -> None:
    found = failures(square_model("gpt2"), replace(TABLE["gpt2"], transposed=False))
    assert set(found) == {"attn_out", "mlp_in", "mlp_out", "mlp_key"}
    for detail in found.values():
        assert "It holds with transposed=True; correct the row." in detail


def test_a_wrong_transposition_of_other_matrices_is_named_by_its_shape() -> None:
    detail = failures(tiny_model("gpt2"), replace(TABLE["gpt2"], transposed=False))["shapes"]
    assert "transformer.h.0.mlp.c_fc reads as (d_out, d_in) = (32, 48)" in detail
    assert "expected" in detail
    assert "Correct `transposed`" in detail


def test_experts_fused_otherwise_are_named_with_the_cure() -> None:
    row = TABLE["gpt_oss"]
    detail = failures(tiny_model("gpt_oss"), replace(row, experts=replace(row.experts, fusion=Fusion.HALVES)))[
        "experts"
    ]
    assert "layer 0, expert 0" in detail
    assert "It holds with Experts(transposed=True, fusion=Fusion.INTERLEAVED); correct the row." in detail


def test_a_missing_name_is_the_only_check_and_says_what_is_there() -> None:
    report = probe(tiny_model("llama"), replace(TABLE["llama"], mlp_out="mlp.c_proj"))
    assert [check.name for check in report.checks] == ["names"]
    assert "'model.layers.0.mlp' has gate_proj, up_proj, down_proj, act_fn" in report.checks[0].detail
    assert "catechism arch probe" in report.checks[0].detail


def test_a_wrong_norm_and_a_wrong_final_norm_are_named() -> None:
    row = TABLE["llama"]
    swapped = replace(row, norms=replace(row.norms, attn="post_attention_layernorm", mlp="input_layernorm"))
    assert "layer 0, norms.attn" in failures(tiny_model("llama"), swapped)["attention"]
    wrong = replace(row, final_norm="model.layers.1.input_layernorm")
    assert (
        "Compare the row with the model's forward method: set `final_norm`"
        in failures(tiny_model("llama"), wrong)["final"]
    )


def test_a_model_of_zeros_shows_nothing() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert "shows nothing" in failures(model, TABLE["llama"])["mlp_out"]


def test_a_row_that_is_not_in_the_table_can_be_probed() -> None:
    model = tiny_model("qwen2")
    model.config.model_type = "qwen9"
    with pytest.raises(UnknownArchitecture):
        probe(model)
    report = probe(model, replace(TABLE["qwen2"], model_type="qwen9"))
    assert report.ok
    assert report.model_type == "qwen9"


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_oss"])
def test_the_probe_leaves_the_model_and_the_random_state_as_they_were(model_type: str) -> None:
    model = tiny_model(model_type).train()
    model.get_submodule(TABLE[model_type].layers)[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    probe(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_hooks_are_gone_when_the_forward_pass_fails() -> None:
    model = tiny_model("llama")

    def fail(*_: object) -> None:
        raise RuntimeError("no forward today")

    handle = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no forward today"):
        probe(model)
    handle.remove()
    assert not any(module._forward_hooks for module in model.modules())
