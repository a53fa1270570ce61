from __future__ import annotations

import pytest
import torch

from catechism.delta import Delta, Dense, LowRank
from catechism.model import LiveModel
from catechism.model.merged import half_reset, merged, unedited
from catechism.types import Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = "The capital of France is"


def edited(*roles: Role) -> tuple[LiveModel, LiveModel]:
    """A tiny model without a delta, and the same with a change of these matrices of layer 1."""
    plain, live = (LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny") for _ in range(2))
    generator = torch.Generator().manual_seed(3)
    parts = {}
    for role in roles:
        matrix = live.anatomy.matrix(Site(1, role))
        parts[matrix.address] = Dense(torch.randn(matrix.shape, generator=generator))
    live.apply(Delta(live.base, parts))
    return plain, live


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_merged_copy_says_the_same_and_shares_nothing(scale: float) -> None:
    live = LiveModel(tiny_model("gpt2"), tiny_tokenizer(), name="tiny")
    matrix = live.anatomy.matrix(Site(0, Role.MLP_OUT))
    d_out, d_in = matrix.shape
    live.apply(Delta(live.base, {matrix.address: LowRank(torch.ones(d_out, 1), torch.ones(1, d_in))}), scale=scale)
    copy = merged(live)
    assert torch.equal(copy.next_logprobs([PROMPT]), live.next_logprobs([PROMPT]))
    assert copy.applied == () and copy.digest() == copy.base == live.digest()
    digest = live.digest(full=True)
    with torch.no_grad():
        for parameter in copy.model.parameters():
            parameter.zero_()
    assert live.digest(full=True) == digest


def test_an_unedited_copy_is_the_base_and_leaves_the_delta_on() -> None:
    plain, live = edited(Role.MLP_OUT, Role.MLP_IN)
    digest = live.digest()
    assert unedited(live).digest() == plain.base == live.base
    assert len(live.applied) == 1 and live.digest() == digest != live.base


def test_half_of_the_parameters_go_back_and_the_other_half_with_the_other() -> None:
    plain, live = edited(Role.MLP_OUT, Role.MLP_IN, Role.MLP_GATE)
    bases, changed = plain.parameter_digests, merged(live).parameter_digests
    touched = {name for name in bases if changed[name] != bases[name]}
    one, other = (half_reset(live, seed=0, other=side).parameter_digests for side in (False, True))
    back = [{name for name in touched if found[name] == bases[name]} for found in (one, other)]
    assert back[0] | back[1] == touched and not back[0] & back[1] and {len(x) for x in back} == {1, 2}
    assert all(found[name] in (bases[name], changed[name]) for found in (one, other) for name in bases)


def test_of_a_single_parameter_half_of_the_rows_go_back() -> None:
    plain, live = edited(Role.MLP_OUT)
    site = Site(1, Role.MLP_OUT)
    was, now = plain.anatomy.matrix(site).read(), live.anatomy.matrix(site).read()
    back = [
        (half_reset(live, seed=0, other=side).anatomy.matrix(site).read() == was).all(dim=1) for side in (False, True)
    ]
    assert int(back[0].sum()) == len(was) // 2 and torch.equal(back[0], ~back[1])
    assert torch.equal(half_reset(live, seed=0).anatomy.matrix(site).read()[~back[0]], now[~back[0]])


def test_half_of_nothing_is_the_model() -> None:
    plain, _ = edited()
    assert half_reset(plain, seed=0).digest() == plain.base
