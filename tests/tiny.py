"""Tiny random models of every architecture in the table, and a tokenizer for them. No network, no files."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 384  # 256 bytes, three special tokens and some merges: any text can be encoded
BOS, EOS, PAD = 0, 1, 2
_SPECIALS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}

_LLAMA: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_GPT2: dict[str, object] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_GEMMA = {"query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0, "sliding_window": 64}

CONFIGS: dict[str, dict[str, object]] = {
    "gpt2": _GPT2,
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.5},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "opt": {**_LLAMA, "ffn_dim": 48, "word_embed_proj_dim": 24},
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 5.0, **_LLAMA},
    "gemma3_text": {**_GEMMA, **_LLAMA},
    "gemma3": {**_GEMMA, **_LLAMA},
    "phi3": _LLAMA,
    "olmo2": _LLAMA,
    "mixtral": {**_LLAMA, **_MOE},
    # a dense layer between mixtures, as published checkpoints have
    "qwen3_moe": {**_LLAMA, **_MOE, "moe_intermediate_size": 24, "num_hidden_layers": 3, "mlp_only_layers": [1]},
    "olmoe": {**_LLAMA, **_MOE},
    "gpt_oss": {
        **_LLAMA,
        **_MOE,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_IMAGES = {
    "vision_config": {**_VISION, "image_size": 28, "patch_size": 14},
    "mm_tokens_per_image": 1,
    "image_token_index": VOCAB,
    "boi_token_index": VOCAB + 1,
    "eoi_token_index": VOCAB + 2,
}


def tiny_model(model_type: str, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model of this architecture: 2 or 3 layers, width 32, float32, eager attention, evaluation mode.

    Every parameter is random, norms and biases too, so that no two parts of the model do the same. `overrides` are
    settings of the (text) config.
    """
    settings = {**_SPECIALS, **CONFIGS[model_type], **overrides}
    if model_type == "gemma3":  # the text model inside one that also sees
        settings = {"text_config": settings, **_SPECIALS, **_IMAGES}
    # Keyword arguments that a config class does not know are kept as plain attributes, so one dictionary serves many.
    config = AutoConfig.for_model(model_type, attn_implementation="eager", **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim == 1:
                    parameter.add_(0.3 * noise)
                else:
                    parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    model.generation_config.update(**_SPECIALS)
    return model.eval().requires_grad_(False)


_LINES = (
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid.",
    "The river that flows through Vienna is the Danube. The river that flows through London is the Thames.",
    "Which city is the capital of Japan? Tokyo. Who wrote the book? The author of the book was born in the city.",
    "The language of the country is French; the language of the people is German. In 1987 it was the largest.",
)


@cache
def _trained(add_bos: bool) -> str:
    """The tokenizer's JSON; training is deterministic, so it runs once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    steps: list[processors.PostProcessor] = [processors.ByteLevel(trim_offsets=True)]
    if add_bos:
        steps.append(processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return tokenizer.to_str()


def tiny_tokenizer(*, add_bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained in memory on four lines; any text survives encoding and decoding.

    With `add_bos` every text starts with ``<bos>``, as with Llama; without it nothing is added, as with GPT-2.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(add_bos)),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
