"""The architecture table: what each family calls its parts, and how it stores its matrices.

One row for each ``config.model_type``; nothing outside this room spells a module's name. Names inside a block are
relative to the block (``mlp.down_proj``), the others to the model (``model.norm``). `probe` checks a row against a
live model by value. To add a family: `replace` the closest row, then run ``catechism arch probe MODEL``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType


class Fusion(StrEnum):
    """How the gate matrix and the input matrix of a gated MLP share one parameter, by rows of (d_out, d_in)."""

    HALVES = "halves"  # the first d_ff rows are the gate's, the last d_ff rows the input's
    INTERLEAVED = "interleaved"  # even rows are the gate's, odd rows the input's


class Glu(StrEnum):
    """How a gated MLP joins its two halves before the output matrix."""

    PLAIN = "plain"  # act(gate) * in
    CLAMPED = "clamped"  # gate' * sigmoid(alpha gate') * (in' + 1), both clamped to `limit` (gpt_oss)


@dataclass(frozen=True, slots=True)
class Norms:
    """The norms of a block; None where the family has none at that place.

    Attributes:
        attn: before the attention.
        attn_post: on the attention's output, before it is added to the residual stream.
        mlp: before the MLP.
        mlp_post: on the MLP's output, before it is added to the residual stream.
    """

    attn: str | None = "input_layernorm"
    attn_post: str | None = None
    mlp: str | None = "post_attention_layernorm"
    mlp_post: str | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a mixture layer: one 3-D parameter for gate and input together, one for the output.

    Attributes:
        path: the module that holds them, relative to the block. It is called as ``(hidden, indices, weights)``.
        gate_in: name of the parameter with the gate and the input matrix of every expert.
        out: name of the parameter with the output matrix of every expert.
        fusion: how gate and input share `gate_in`.
        transposed: False for (expert, d_out, d_in), True for (expert, d_in, d_out).
        biased: True if ``<name>_bias`` holds a bias for each of the two parameters.
        glu: how gate and input are joined.
        act: the activation module, relative to `path`; None for a clamped gate, which brings its own.
    """

    path: str = "mlp.experts"
    gate_in: str = "gate_up_proj"
    out: str = "down_proj"
    fusion: Fusion = Fusion.HALVES
    transposed: bool = False
    biased: bool = False
    glu: Glu = Glu.PLAIN
    act: str | None = "act_fn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One row. The defaults are the Llama layout, which most families share.

    Attributes:
        model_type: key of the row, as in the model's ``config.json``.
        layers: the list of blocks.
        attn: the attention module of a block.
        attn_out: the matrix that writes the attention's result to the residual stream.
        mlp: the MLP module of a block; None where the block holds the MLP's matrices itself (opt).
        mlp_in: the MLP's input matrix; None where every layer is a mixture of experts.
        mlp_gate: the gate matrix; None for an MLP without a gate; the same name as `mlp_in` where both are fused.
        mlp_out: the MLP's output matrix.
        mlp_act: the activation module.
        fusion: how `mlp_gate` and `mlp_in` share a parameter; None if they do not.
        router: the router module. Its output starts with (logits, weights of the chosen experts, their indices).
        experts: the layout of the experts; None for a dense family. A layer without the experts module is dense.
        norms: the norms of a block.
        norm_first: True if `norms.attn` and `norms.mlp` come before their sublayer, False if they come after the
            residual sum; or the name of the config attribute that says so.
        parallel: True if the MLP reads the block's input and not the attention's result; or the config attribute.
        embed: the token embedding.
        final_norm: the norm before the head. The attribute may be None in a live model (opt-350m).
        project_out: a matrix between final norm and head (opt); the attribute may be None in a live model.
        head: the matrix that makes logits.
        softcap: config attribute with the soft cap of the logits; None if the family has none.
        transposed: True if linear modules inside blocks keep their weight as (d_in, d_out) (GPT-2's Conv1D).
    """

    model_type: str
    layers: str = "model.layers"
    attn: str = "self_attn"
    attn_out: str = "self_attn.o_proj"
    mlp: str | None = "mlp"
    mlp_in: str | None = "mlp.up_proj"
    mlp_gate: str | None = "mlp.gate_proj"
    mlp_out: str | None = "mlp.down_proj"
    mlp_act: str | None = "mlp.act_fn"
    fusion: Fusion | None = None
    router: str | None = None
    experts: Experts | None = None
    norms: Norms = Norms()
    norm_first: bool | str = True
    parallel: bool | str = False
    embed: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    project_out: str | None = None
    head: str = "lm_head"
    softcap: str | None = None
    transposed: bool = False


_LLAMA = Arch(model_type="llama")
_GPTJ = Arch(
    model_type="gptj",
    layers="transformer.h",
    attn="attn",
    attn_out="attn.out_proj",
    mlp_in="mlp.fc_in",
    mlp_gate=None,
    mlp_out="mlp.fc_out",
    mlp_act="mlp.act",
    norms=Norms(attn="ln_1", mlp="ln_1"),  # one norm feeds both
    parallel=True,
    embed="transformer.wte",
    final_norm="transformer.ln_f",
)
_GEMMA2 = replace(
    _LLAMA,
    model_type="gemma2",
    norms=Norms(
        attn="input_layernorm",
        attn_post="post_attention_layernorm",
        mlp="pre_feedforward_layernorm",
        mlp_post="post_feedforward_layernorm",
    ),
    softcap="final_logit_softcapping",
)
_MIXTRAL = replace(
    _LLAMA,
    model_type="mixtral",
    mlp_in=None,
    mlp_gate=None,
    mlp_out=None,
    mlp_act=None,
    router="mlp.gate",
    experts=Experts(),
)

_ROWS = (
    replace(
        _GPTJ,
        model_type="gpt2",
        attn_out="attn.c_proj",
        mlp_in="mlp.c_fc",
        mlp_out="mlp.c_proj",
        norms=Norms(attn="ln_1", mlp="ln_2"),
        parallel=False,
        transposed=True,
    ),
    Arch(
        model_type="gpt_neox",
        layers="gpt_neox.layers",
        attn="attention",
        attn_out="attention.dense",
        mlp_in="mlp.dense_h_to_4h",
        mlp_gate=None,
        mlp_out="mlp.dense_4h_to_h",
        mlp_act="mlp.act",
        parallel="use_parallel_residual",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
    ),
    _GPTJ,
    Arch(
        model_type="opt",
        layers="model.decoder.layers",
        attn_out="self_attn.out_proj",
        mlp=None,
        mlp_in="fc1",
        mlp_gate=None,
        mlp_out="fc2",
        mlp_act="activation_fn",
        norms=Norms(attn="self_attn_layer_norm", mlp="final_layer_norm"),
        norm_first="do_layer_norm_before",
        embed="model.decoder.embed_tokens",
        final_norm="model.decoder.final_layer_norm",
        project_out="model.decoder.project_out",
    ),
    _LLAMA,
    replace(_LLAMA, model_type="mistral"),
    replace(_LLAMA, model_type="qwen2"),
    replace(_LLAMA, model_type="qwen3"),
    _GEMMA2,
    replace(_GEMMA2, model_type="gemma3_text"),
    replace(
        _GEMMA2,
        model_type="gemma3",  # text and images; the text part is what gets edited
        layers="model.language_model.layers",
        embed="model.language_model.embed_tokens",
        final_norm="model.language_model.norm",
        softcap=None,
    ),
    replace(
        _LLAMA,
        model_type="phi3",
        mlp_in="mlp.gate_up_proj",
        mlp_gate="mlp.gate_up_proj",
        mlp_act="mlp.activation_fn",
        fusion=Fusion.HALVES,
    ),
    replace(
        _LLAMA,
        model_type="olmo2",
        norms=Norms(attn=None, attn_post="post_attention_layernorm", mlp=None, mlp_post="post_feedforward_layernorm"),
    ),
    _MIXTRAL,
    replace(_LLAMA, model_type="qwen3_moe", router="mlp.gate", experts=Experts()),  # some layers may be dense
    replace(_MIXTRAL, model_type="olmoe"),
    replace(
        _MIXTRAL,
        model_type="gpt_oss",
        router="mlp.router",
        experts=Experts(fusion=Fusion.INTERLEAVED, transposed=True, biased=True, glu=Glu.CLAMPED, act=None),
    ),
)

#: The rows by ``model_type``.
TABLE: Mapping[str, Arch] = MappingProxyType({row.model_type: row for row in _ROWS})
