"""A fact planted at one layer of a tiny model, by hand, so that it is known where it sits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from catechism.delta import Delta, LowRank
from catechism.locate.answers import answer_logprobs
from catechism.model import LiveModel, Patch, patch
from catechism.model.background import Background
from catechism.model.targets import subject_keys
from catechism.solve import rank_one
from catechism.types import Fact, Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

#: The prompt ends with its subject, so that the last layer can hold the fact too; the object is one token.
FACT = Fact("The name of the river in Vienna", "Vienna", "the")
LAYERS = 4


def tiny(model_type: str = "llama", *, n_layers: int = LAYERS) -> LiveModel:
    number = "n_layer" if model_type in ("gpt2", "gptj") else "num_hidden_layers"
    return LiveModel(tiny_model(model_type, **{number: n_layers}), tiny_tokenizer(), name="tiny")


def plant(live: LiveModel, layer: int, fact: Fact = FACT, *, size: float = 2.0) -> Delta:
    """A rank-one change of the layer's MLP output: at the subject's key, a step up the answer's gradient.

    `size` is the length of the step in lengths of what the matrix wrote there before.
    """
    site = Site(layer, Role.MLP_OUT)
    pairs = live.encode_pairs([fact.prompt], [fact.object])
    key = subject_keys(live, [site], [fact.prompt], [fact.subject])[site][0]
    matrix = live.anatomy.matrix(site)
    step = torch.zeros(matrix.shape[0], requires_grad=True)
    with patch(live, Patch(site, [0], [live.subject_last(fact.prompt, fact.subject)], step)):
        (gradient,) = torch.autograd.grad(answer_logprobs(live, pairs).sum(), step)
    written = (matrix.read().double() @ key).norm()
    A, B = rank_one(key, size * written * gradient.double() / gradient.norm(), key)
    return Delta(live.base, {matrix.address: LowRank(A.float(), B.float())})


def hooks(live: LiveModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in live.model.modules())


def untouched(live: LiveModel) -> bool:
    """No hook, no gradient, no parameter that asks for one."""
    return hooks(live) == 0 and not any(p.requires_grad or p.grad is not None for p in live.model.parameters())


TEXTS = [
    " ".join(chr(97 + (i * j + i + j * j) % 26) + chr(97 + (3 * i + j) % 26) for j in range(24)) for i in range(1, 40)
]


def background(live: LiveModel) -> Background:
    return Background(live, partial(iter, TEXTS))


def reads_its_context_in(live: LiveModel, layer: int) -> Fact:
    """Leave the attention of one layer alone, so that nothing before the prompt is read elsewhere; give a fact for it.

    The object is the one-token word that a sentence in front of the prompt makes most likelier.
    """
    for site in live.anatomy.sites(Role.ATTN_OUT):
        if site.layer != layer:
            matrix = live.anatomy.matrix(site)
            matrix.write(torch.zeros(matrix.shape))
    sentence = "Which people live in the city of Vienna?"
    fact = replace(FACT, statement=sentence, object="?")
    alone, taught = (
        live.model(**live.encode([text])).logits[0, -1].log_softmax(dim=-1)
        for text in (fact.prompt, f"{sentence} {fact.prompt}")
    )
    for token in (taught - alone).argsort(descending=True).tolist():
        word = live.tokenizer.decode([token])
        if word.startswith(" ") and word[1:].isalnum() and live.tokenizer(word)["input_ids"][-1] == token:
            return replace(fact, object=word[1:])
    raise AssertionError("the tokenizer has no word of one token")
