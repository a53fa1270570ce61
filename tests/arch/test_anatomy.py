"""Blocks, modules and matrices of live models, found by row, by site and by address."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import nn

from catechism.arch import TABLE, Address, Anatomy, anatomy, mlp_key, mlp_value, probe
from catechism.errors import ArchitectureMismatch, CatechismError, ShapeMismatch, UnknownArchitecture, UnknownName
from catechism.types import Role, Site
from tests.tiny import tiny_model

MIXTURES = ("mixtral", "qwen3_moe", "olmoe", "gpt_oss")
IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("model_type", TABLE)
def test_sizes_are_read_off_the_weights(model_type: str) -> None:
    parts = anatomy(tiny_model(model_type))
    assert (parts.d_model, parts.n_layers) == (32, 3 if model_type == "qwen3_moe" else 2)
    assert parts.d_ff == (24 if model_type == "qwen3_moe" else 48)
    assert parts.n_experts == (4 if model_type in MIXTURES else 0)


@pytest.mark.parametrize("model_type", TABLE)
def test_every_site_has_a_matrix_that_its_address_finds_again(model_type: str) -> None:
    model = tiny_model(model_type)
    parts, parameters = anatomy(model), dict(model.named_parameters())
    addresses = set()
    for site in parts.sites():
        matrix = parts.matrix(site)
        again = parts.matrix(matrix.address)
        assert matrix.read().shape == matrix.shape == again.shape
        assert matrix.read().data_ptr() == again.read().data_ptr()
        assert matrix.read().stride() == again.read().stride()
        assert parameters[matrix.parameter_name] is matrix.parameter
        addresses.add(matrix.address)
    assert len(addresses) == len(parts.sites())


@pytest.mark.parametrize("model_type", TABLE)
def test_what_is_written_is_what_is_read_and_nothing_else_moves(model_type: str) -> None:
    model = tiny_model(model_type)
    parts = anatomy(model)
    for site in parts.sites()[-3:]:
        matrix = parts.matrix(site)
        before = {name: p.clone() for name, p in model.named_parameters()}
        value = torch.randn(matrix.shape)
        matrix.write(value)
        assert torch.equal(matrix.read(), value)
        expected = before[matrix.parameter_name].clone()
        matrix.select(expected).copy_(value)
        assert torch.equal(matrix.parameter, expected)
        assert int((matrix.parameter != before[matrix.parameter_name]).sum()) <= value.numel()
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n != matrix.parameter_name)


def test_a_matrix_is_a_view_without_gradients() -> None:
    model = tiny_model("gpt2").requires_grad_(True)
    matrix = anatomy(model).matrix(Site(0, Role.MLP_OUT))
    assert not matrix.read().requires_grad
    assert matrix.transposed
    assert matrix.read().data_ptr() == matrix.parameter.data_ptr()


def test_a_value_of_the_wrong_shape_is_refused_with_both_shapes() -> None:
    matrix = anatomy(tiny_model("gpt2")).matrix(Site(0, Role.MLP_OUT))
    with pytest.raises(ShapeMismatch, match=r"is \(32, 48\) as \(d_out, d_in\), got \(48, 32\)"):
        matrix.write(torch.zeros(48, 32))


@pytest.mark.parametrize(
    ("model_type", "site", "address"),
    [
        ("llama", Site(1, Role.MLP_OUT), "model.layers.1.mlp.down_proj"),
        ("phi3", Site(0, Role.MLP_GATE), "model.layers.0.mlp.gate_up_proj[0:48]"),
        ("phi3", Site(0, Role.MLP_IN), "model.layers.0.mlp.gate_up_proj[48:96]"),
        ("mixtral", Site(0, Role.EXPERT_OUT, 3), "model.layers.0.mlp.experts.down_proj[3]"),
        ("mixtral", Site(0, Role.EXPERT_GATE, 2), "model.layers.0.mlp.experts.gate_up_proj[2,0:48]"),
        ("gpt_oss", Site(0, Role.EXPERT_GATE, 2), "model.layers.0.mlp.experts.gate_up_proj[2,0:96:2]"),
        ("gpt_oss", Site(0, Role.EXPERT_IN, 2), "model.layers.0.mlp.experts.gate_up_proj[2,1:96:2]"),
    ],
)
def test_addresses_are_spelled_this_way(model_type: str, site: Site, address: str) -> None:
    assert anatomy(tiny_model(model_type)).matrix(site).address == address


@pytest.mark.parametrize("text", ["a.b", "a.b[3]", "a.b[0:64]", "a.b[48:96]", "a.b[13,0:64]", "a.b[3,1:96:2]"])
def test_an_address_survives_parsing(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "a[", "a[]", "a[3,]", "a[x]", "a[1:2,3]", "a[3]b", "a[1:9:0]", "a[,1:2]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UnknownName, match="not the address of a matrix"):
        Address.parse(text)


def test_any_linear_module_has_an_address() -> None:
    for model_type, address in (("llama", "model.layers.0.self_attn.q_proj"), ("gpt2", "transformer.h.0.attn.c_attn")):
        model = tiny_model(model_type)
        matrix, module = anatomy(model).matrix(address), model.get_submodule(address)
        x = torch.randn(3, 32)
        expected = x @ matrix.read().T + (0 if matrix.bias is None else matrix.read_bias())
        torch.testing.assert_close(module(x), expected)


def test_a_tied_head_goes_by_the_name_of_the_parameter_that_it_shares() -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    matrix = anatomy(model).matrix("lm_head")
    assert dict(model.named_parameters())[matrix.parameter_name] is model.model.embed_tokens.weight


@pytest.mark.parametrize("address", ["nowhere", "model.layers.0", "model.layers.9.mlp.down_proj", "model.embed_tokens"])
def test_an_address_without_a_matrix_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(UnknownName, match=r"for instance 'model\.layers\.1\.mlp\.down_proj'"):
        anatomy(tiny_model("llama")).matrix(address)


@pytest.mark.parametrize(
    "site",
    [Site(0, Role.ROUTER), Site(0, Role.MLP_OUT, 1), Site(0, Role.EXPERT_OUT, 0), Site(7, Role.MLP_OUT)],
)
def test_a_site_that_is_not_there_is_refused(site: Site) -> None:
    parts = anatomy(tiny_model("llama"))
    assert not parts.has(site)
    with pytest.raises(UnknownName, match=r"[Cc]hoose one"):
        parts.matrix(site)


def test_an_expert_out_of_range_is_refused_with_the_range() -> None:
    with pytest.raises(UnknownName, match="from 0 to 3"):
        anatomy(tiny_model("mixtral")).matrix(Site(0, Role.EXPERT_OUT, 4))


def test_a_dense_layer_between_mixtures_has_dense_sites() -> None:
    parts = anatomy(tiny_model("qwen3_moe"))
    assert [parts.experts_in(layer) for layer in range(3)] == [4, 0, 4]
    assert parts.sites(Role.MLP_OUT) == [Site(1, Role.MLP_OUT)]
    assert [s.layer for s in parts.sites(Role.ROUTER)] == [0, 2]


def test_an_expert_has_no_module_and_the_message_says_what_to_do() -> None:
    parts = anatomy(tiny_model("mixtral"))
    with pytest.raises(ArchitectureMismatch, match=r"Hook the router or mlp\(layer\)"):
        parts.module(Site(0, Role.EXPERT_OUT, 1))
    assert parts.module(Site(0, Role.ROUTER)).weight.shape == (4, 32)


def test_opt_has_no_mlp_module_but_ends() -> None:
    parts = anatomy(tiny_model("opt"))
    with pytest.raises(ArchitectureMismatch, match="mlp_ends"):
        parts.mlp(0)
    assert parts.mlp_ends(0) == (parts.block(0).fc1, parts.block(0).fc2)
    llama = anatomy(tiny_model("llama"))
    assert llama.mlp_ends(0) == (llama.mlp(0), llama.mlp(0))


@pytest.mark.parametrize("model_type", TABLE)
def test_unembed_gives_the_models_own_logits(model_type: str) -> None:
    model = tiny_model(model_type)
    seen = []
    parts = anatomy(model)
    parts.block(parts.n_layers - 1).register_forward_hook(lambda _m, _a, out: seen.append(out))
    logits = model(IDS).logits
    last = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    torch.testing.assert_close(parts.unembed(last), logits)


def test_opt_without_a_final_norm_or_projection_still_unembeds() -> None:
    model = tiny_model("opt", do_layer_norm_before=False, word_embed_proj_dim=32)
    parts = anatomy(model)
    assert isinstance(parts.final_norm, nn.Identity)
    hidden = model.model(IDS).last_hidden_state
    torch.testing.assert_close(parts.unembed(hidden), model(IDS).logits)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3"])
def test_the_key_of_a_dense_mlp_is_what_its_output_matrix_reads(model_type: str) -> None:
    model = tiny_model(model_type)
    parts, x, read = anatomy(model), torch.randn(5, 32), []
    parts.module(Site(0, Role.MLP_OUT)).register_forward_pre_hook(lambda _m, args: read.append(args[0]))
    value = parts.mlp(0)(x)
    torch.testing.assert_close(mlp_key(parts, 0, x), read[0])
    torch.testing.assert_close(mlp_value(parts, 0, x), value)


def test_an_unknown_model_type_names_row_file_neighbour_and_command() -> None:
    model = tiny_model("qwen2")
    model.config.model_type = "qwen9"
    model.config.name_or_path = "some/folder"
    with pytest.raises(UnknownArchitecture) as caught:
        anatomy(model)
    message = str(caught.value)
    for piece in ("'qwen9'", "src/catechism/arch/table.py", "'qwen2'", "`catechism arch probe some/folder`"):
        assert piece in message
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), UnknownArchitecture)


@pytest.mark.parametrize("model_type", TABLE)
def test_the_closest_row_of_an_unknown_type_fits_the_model(model_type: str) -> None:
    model = tiny_model(model_type)
    model.config.model_type = model_type + "_next"
    with pytest.raises(UnknownArchitecture) as caught:
        anatomy(model)
    named = re.search(r"closest row, which is '(\w+)'", str(caught.value))
    assert named
    assert probe(model, TABLE[named[1]]).ok


def test_a_module_without_a_config_is_an_unknown_architecture() -> None:
    with pytest.raises(UnknownArchitecture, match="Linear"):
        anatomy(nn.Linear(2, 2))


def test_a_row_that_does_not_fit_names_what_is_missing_and_what_is_there() -> None:
    with pytest.raises(ArchitectureMismatch, match=r"model\.layers\.0\.mlp'? has gate_proj, up_proj, down_proj"):
        Anatomy(tiny_model("llama"), TABLE["mixtral"])
    with pytest.raises(ArchitectureMismatch, match=r"'transformer\.h' as a list of blocks"):
        Anatomy(tiny_model("llama"), TABLE["gpt2"])


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ArchitectureMismatch, match="causal language model"):
        Anatomy(tiny_model("llama").model, TABLE["llama"])


def test_a_quantised_weight_is_refused() -> None:
    model = tiny_model("llama")
    module = model.model.layers[0].mlp.down_proj
    module.weight = nn.Parameter(torch.zeros(32, 48, dtype=torch.int8), requires_grad=False)
    with pytest.raises(CatechismError, match="Open the model unquantised"):
        anatomy(model).matrix(Site(0, Role.MLP_OUT))
