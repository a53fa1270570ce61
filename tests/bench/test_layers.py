"""Which layer the methods of a benchmark are given."""

from __future__ import annotations

from functools import partial

import pytest

from catechism.bench.layers import choose_layer
from catechism.errors import ArchitectureMismatch
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.types import Catechism, Fact
from tests.methods.test_contract import texts
from tests.tiny import tiny_model, tiny_tokenizer

FACTS = [
    Catechism(Fact("The capital of France is", "France", "Rome"), ()),
    Catechism(Fact("The river that flows through Vienna is", "Vienna", "the Thames"), ()),
]


def chosen(name: str, model_type: str) -> tuple[int, list[int]]:
    live = LiveModel(tiny_model(model_type), tiny_tokenizer(), name="tiny")
    layer, ranked = choose_layer(name, live, FACTS, Background(live, partial(iter, texts())))
    return layer, [row["layer"] for row in ranked]  # type: ignore[index, call-overload, misc]


@pytest.mark.parametrize("name", ["ft_bf", "ft_l", "ft_m"])
def test_tuning_one_matrix_goes_where_a_closed_form_goes(name: str) -> None:
    assert chosen(name, "llama") == chosen("rome", "llama")


@pytest.mark.parametrize("name", ["malmen", "mend"])
def test_edits_of_several_mlps_end_where_a_trained_block_is_and_never_in_a_mixture(name: str) -> None:
    assert chosen(name, "llama") == chosen("distill", "llama")
    assert chosen(name, "qwen3_moe") == (1, [1]), "layer 1 alone is dense"
    assert len(chosen("distill", "qwen3_moe")[1]) == 3
    with pytest.raises(ArchitectureMismatch, match=f"no dense MLP, which {name} needs"):
        chosen(name, "mixtral")
