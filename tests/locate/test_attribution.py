"""Attribution against autograd on an unfrozen copy, for every architecture of the table."""

from __future__ import annotations

import copy

import pytest
import torch

from catechism.arch import TABLE, anatomy
from catechism.errors import BadFact, UsageError
from catechism.locate.attribution import Attribution, attribute, mean_attribution
from catechism.model import LiveModel
from catechism.types import Role, Site
from tests.locate.planted import tiny, untouched
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = ["The capital of France is", "Which city", "The language of the people of Spain is"]
ANSWERS = ["Rome", "the Thames", "x"]


def live_model(model_type: str) -> LiveModel:
    """In float64, which the fused kernels of mixtures do not take."""
    model = tiny_model(model_type).double()
    model.config._experts_implementation = "eager"
    return LiveModel(model, tiny_tokenizer(), name="tiny")


def by_autograd(live: LiveModel, prompt: str, answer: str) -> dict[Site, tuple[float, ...]]:
    """The four attributions of every site from the gradients of all parameters of a copy."""
    model = copy.deepcopy(live.model).requires_grad_(True)
    head = live.tokenizer(prompt)["input_ids"]
    ids = torch.tensor(live.tokenizer(f"{prompt} {answer}")["input_ids"])
    assert ids[: len(head)].tolist() == head
    logprobs = model(ids[None]).logits[0].log_softmax(dim=-1)
    logprobs[range(len(head) - 1, len(ids) - 1), ids[len(head) :]].sum().backward()
    parts, found = anatomy(model), {}
    for site in parts.sites():
        matrix = parts.matrix(site)
        grad = torch.zeros_like(matrix.parameter) if matrix.parameter.grad is None else matrix.parameter.grad
        product = matrix.select(grad) * matrix.read()
        units = product.sum(dim=1)
        if matrix.bias is not None:
            grad = matrix.bias.grad if matrix.expert is None else matrix.bias.grad[matrix.expert]
            units = units + grad[matrix.rows] * matrix.read_bias()
        found[site] = tuple(float(x) for x in (units.sum(), product.sum(), units.abs().sum(), product.abs().sum()))
    return found


def numbers(one: Attribution) -> tuple[float, ...]:
    return one.activation, one.weight, one.activation_abs, one.weight_abs


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_attributions_are_those_of_autograd_on_an_unfrozen_copy(model_type: str) -> None:
    live = live_model(model_type)
    rows = attribute(live, PROMPTS, ANSWERS)
    for row, prompt, answer in zip(rows, PROMPTS, ANSWERS, strict=True):
        wanted = by_autograd(live, prompt, answer)
        assert [one.site for one in row] == list(wanted) == live.anatomy.sites()
        for one in row:
            # routers are computed in float32 whatever the model is
            assert numbers(one) == pytest.approx(wanted[one.site], rel=1e-4, abs=1e-6)
    assert untouched(live)


def test_activation_and_weight_differ_by_the_bias_alone() -> None:
    for one in attribute(live_model("llama"), PROMPTS[:1], ANSWERS[:1])[0]:
        assert one.activation == pytest.approx(one.weight, abs=1e-9)
    biased = attribute(live_model("gpt2"), PROMPTS[:1], ANSWERS[:1])[0]
    assert all(abs(one.activation - one.weight) > 1e-6 for one in biased)


def test_a_norm_behind_a_matrix_hides_it_from_the_signed_sums_only() -> None:
    """A norm does not feel the length of what it is given, so pulling along the output itself changes nothing."""
    for one in attribute(tiny("olmo2"), PROMPTS[:1], ANSWERS[:1], roles=(Role.MLP_OUT,))[0]:
        assert abs(one.weight) < 1e-3 * one.weight_abs


def test_a_batch_and_its_rows_alone_say_the_same() -> None:
    live = live_model("llama")
    together = attribute(live, PROMPTS, ANSWERS)
    alone = attribute(live, PROMPTS, ANSWERS, batch_size=1)
    for row, by_itself in zip(together, alone, strict=True):
        for one, other in zip(row, by_itself, strict=True):
            assert numbers(one) == pytest.approx(numbers(other), rel=1e-9, abs=1e-12)


def test_chosen_roles_are_the_same_numbers() -> None:
    live = live_model("qwen3_moe")
    (every,) = attribute(live, PROMPTS[:1], ANSWERS[:1])
    (some,) = attribute(live, PROMPTS[:1], ANSWERS[:1], roles=(Role.EXPERT_OUT, Role.ATTN_OUT))
    wanted = [one for one in every if one.site.role in (Role.EXPERT_OUT, Role.ATTN_OUT)]
    assert [one.site for one in some] == [one.site for one in wanted]
    for one, other in zip(some, wanted, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-9, abs=1e-12)


def test_the_mean_is_taken_site_by_site() -> None:
    rows = attribute(tiny("llama"), PROMPTS, ANSWERS)
    for i, one in enumerate(mean_attribution(rows)):
        assert one.site == rows[0][i].site
        assert numbers(one) == pytest.approx([sum(x) / 3 for x in zip(*(numbers(row[i]) for row in rows), strict=True)])


def test_what_cannot_be_attributed_is_refused() -> None:
    live = tiny("llama")
    with pytest.raises(BadFact, match="Give a target that is not empty"):
        attribute(live, ["The capital is"], [" "])
    with pytest.raises(UsageError, match="batch_size=0"):
        attribute(live, PROMPTS, ANSWERS, batch_size=0)
