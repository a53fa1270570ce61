"""Deltas on and off a live model: byte for byte, in every order, whatever goes wrong."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catechism.arch import TABLE
from catechism.delta import Delta, LowRank
from catechism.errors import (
    ArchitectureMismatch,
    BrokenWeights,
    NonFiniteDelta,
    NotApplied,
    RevertError,
    ShapeMismatch,
    UnknownName,
    UsageError,
    WrongBase,
)
from catechism.model import Applied, LiveModel, digest_tensor
from catechism.types import Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def live_model(model_type: str = "llama", dtype: torch.dtype = torch.float32, **overrides: object) -> LiveModel:
    """A tiny model; a quarter of the entries of each matrix are zeros of both signs."""
    model = tiny_model(model_type, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                flat = parameter.view(-1)
                flat[::8], flat[4::8] = 0.0, -0.0
    return LiveModel(model.to(dtype), tiny_tokenizer(), name="tiny")


def delta_for(live: LiveModel, *addresses: str, seed: int = 0, rank: int = 2, size: float = 0.3) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for address in addresses:
        d_out, d_in = live.anatomy.matrix(address).shape
        A, B = torch.randn(d_out, rank, generator=generator), torch.randn(rank, d_in, generator=generator)
        parts[address] = LowRank(A * size, B * size)
    return Delta(live.base, parts, {"seed": seed})


def mlp_outs(live: LiveModel) -> list[str]:
    role = Role.EXPERT_OUT if live.anatomy.n_experts else Role.MLP_OUT
    return [live.anatomy.matrix(site).address for site in live.anatomy.sites(role)]


def weights(live: LiveModel) -> dict[str, bytes]:
    """The bytes of every tensor of the model, tied names and buffers included."""
    return {name: raw(tensor) for name, tensor in live.model.state_dict().items()}


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_revert_restores_every_byte(model_type: str, dtype: torch.dtype) -> None:
    live = live_model(model_type, dtype)
    before, base = weights(live), live.base
    delta = delta_for(live, *mlp_outs(live)[:3])
    applied = live.apply(delta)
    assert weights(live) != before
    assert live.digest() == live.digest(full=True) != base
    live.revert(applied)
    assert weights(live) == before
    assert live.digest() == live.digest(full=True) == live.base == base
    assert live.applied == ()


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_every_kind_of_matrix_takes_a_delta_where_it_lies(model_type: str) -> None:
    """Transposed, fused or one of many experts: the matrix moves by exactly its part, and nothing else moves."""
    live = live_model(model_type)
    sites = [s for s in live.anatomy.sites() if s.layer == 0 and s.expert in (None, 1)]
    for site in sites:
        others = {s: live.anatomy.matrix(s).read().clone() for s in live.anatomy.sites() if s != site}
        matrix = live.anatomy.matrix(site)
        before, delta = matrix.read().clone(), delta_for(live, matrix.address)
        with live.with_delta(delta, scale=0.5):
            wanted = before.double() + 0.5 * delta.parts[matrix.address].dense()
            assert torch.equal(matrix.read(), wanted.float())
            assert all(torch.equal(live.anatomy.matrix(s).read(), was) for s, was in others.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_deltas_in_every_order_give_the_same_bytes_and_come_off_in_every_order(dtype: torch.dtype) -> None:
    live = live_model(dtype=dtype)
    first, second = mlp_outs(live)
    deltas = [
        delta_for(live, first, seed=1),
        delta_for(live, first, second, seed=2),
        delta_for(live, second, seed=3, size=3.0),
    ]
    base, together = weights(live), None
    alone = {}
    for i, delta in enumerate(deltas):
        with live.with_delta(delta):
            alone[i] = weights(live)
    for on in permutations(range(3)):
        for off in permutations(range(3)):
            applied = {i: live.apply(deltas[i]) for i in on}
            together = together or weights(live)
            assert weights(live) == together
            for i in off[:2]:
                live.revert(applied[i])
            assert weights(live) == alone[off[2]]
            live.revert(applied[off[2]])
            assert weights(live) == base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_even_a_sum_that_cancels_depends_on_the_order(dtype: torch.dtype) -> None:
    """(1e17 + 1) - 1e17 is 0 in float64 and (1e17 - 1e17) + 1 is 1."""
    live = live_model(dtype=dtype)
    address = mlp_outs(live)[0]
    d_out, d_in = live.anatomy.matrix(address).shape
    parts = [LowRank(torch.full((d_out, 1), size), torch.ones(1, d_in)) for size in (1e17, 1.0, -1e17)]
    deltas = [Delta(live.base, {address: part}) for part in parts]
    found = set()
    for order in permutations(deltas):
        for delta in order:
            live.apply(delta)
        found.add(raw(live.anatomy.matrix(address).parameter))
        live.revert_all()
    assert len(found) == 1


@settings(max_examples=25)
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.25, 1.0]), st.booleans()), max_size=12),
    dtype=st.sampled_from(DTYPES),
)
def test_weights_depend_on_what_is_on_and_not_on_the_way_there(
    steps: list[tuple[int, float, bool]], dtype: torch.dtype
) -> None:
    live = live_model(dtype=dtype)
    first, second = mlp_outs(live)
    pool = [delta_for(live, *where, seed=i) for i, where in enumerate([[first], [second], [first, second], [first]])]
    base = weights(live)
    for number, scale, take_off in steps:
        if take_off and live.applied:
            live.revert(live.applied[number % len(live.applied)])
        else:
            live.apply(pool[number], scale=scale)
    found, on = weights(live), [(a.delta, a.scale) for a in live.applied]
    assert live.digest() == live.digest(full=True)
    live.revert_all()
    assert weights(live) == base and live.digest(full=True) == live.base
    for delta, scale in reversed(on):
        live.apply(delta, scale=scale)
    assert weights(live) == found


def test_the_sum_of_a_delta_and_its_negative_is_the_base_and_keeps_the_sign_of_zero() -> None:
    live = live_model(dtype=torch.bfloat16)
    delta, base = delta_for(live, *mlp_outs(live)), weights(live)
    live.apply(delta, scale=0.0)
    assert weights(live) == base
    live.apply(delta, scale=2.0)
    live.apply(delta, scale=-2.0)
    assert weights(live) == base


def test_the_same_delta_twice_is_two_things() -> None:
    live = live_model()
    delta = delta_for(live, mlp_outs(live)[0])
    one = live.apply(delta)
    with_one = weights(live)
    two = live.apply(delta)
    assert live.applied == (one, two) and one is not two
    live.revert(one)
    assert weights(live) == with_one
    with pytest.raises(NotApplied, match="not on the model"):
        live.revert(one)
    assert live.applied == (two,)


def test_half_precision_takes_the_sum_in_double_and_rounds_once() -> None:
    live = live_model(dtype=torch.bfloat16)
    address = mlp_outs(live)[0]
    matrix = live.anatomy.matrix(address)
    base = matrix.read().clone()
    deltas = [delta_for(live, address, seed=i, size=0.02) for i in range(20)]
    for delta in deltas:
        live.apply(delta)
    wanted = base.double()
    for delta in sorted(deltas, key=lambda d: d.digest):
        wanted = wanted + delta.parts[address].dense()
    assert torch.equal(matrix.read(), wanted.bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_weights_stay_tied(dtype: torch.dtype) -> None:
    live = live_model(dtype=dtype, tie_word_embeddings=True)
    head, embed = live.anatomy.head, live.anatomy.embed
    assert head.weight is embed.weight
    before = weights(live)
    with live.with_delta(delta_for(live, "lm_head")):
        assert head.weight is embed.weight
        assert raw(head.weight) == raw(embed.weight) != before["lm_head.weight"]
        assert live.digest() == live.digest(full=True) != live.base
    assert weights(live) == before


def test_gradients_and_identities_of_parameters_stay_as_they_are() -> None:
    live = live_model()
    parameters = dict(live.model.named_parameters())
    with live.with_delta(delta_for(live, *mlp_outs(live))):
        assert all(parameter is parameters[name] for name, parameter in live.model.named_parameters())
        assert not any(parameter.requires_grad for parameter in live.model.parameters())


def test_with_delta_reverts_when_the_body_raises_and_does_not_mind_an_earlier_revert() -> None:
    live = live_model()
    delta, before = delta_for(live, *mlp_outs(live)), weights(live)
    with pytest.raises(KeyboardInterrupt), live.with_delta(delta):
        raise KeyboardInterrupt
    assert weights(live) == before
    with live.with_delta(delta):
        live.revert_all()
    assert weights(live) == before and live.applied == ()


def test_a_delta_is_kept_under_another_ones_body() -> None:
    live = live_model()
    below = live.apply(delta_for(live, mlp_outs(live)[0], seed=1))
    alone = weights(live)
    with live.with_delta(delta_for(live, *mlp_outs(live), seed=2)):
        pass
    assert weights(live) == alone and live.applied == (below,)


def refused(live: LiveModel, delta: Delta, error: type[Exception], message: str, scale: float = 1.0) -> None:
    """The error comes, and weights and list of deltas are as before, both on the bare base and above another delta."""
    for _ in range(2):
        before, on = weights(live), live.applied
        with pytest.raises(error, match=message):
            live.apply(delta, scale=scale)
        assert weights(live) == before and live.applied == on
        live.apply(delta_for(live, mlp_outs(live)[0], seed=9))


def test_a_delta_of_another_base_is_refused() -> None:
    live = live_model()
    delta = delta_for(live, *mlp_outs(live))
    refused(live, Delta("sha256:other", delta.parts), WrongBase, "was made for base sha256:other")


def test_a_delta_that_is_not_finite_is_refused() -> None:
    live = live_model()
    first, second = mlp_outs(live)
    good = delta_for(live, first, second)
    A = good.parts[second].A.clone()
    A[0, 0] = float("nan")
    bad = Delta(live.base, {first: good.parts[first], second: LowRank(A, good.parts[second].B)})
    refused(live, bad, NonFiniteDelta, "NaN or infinity")


def test_a_part_of_another_shape_is_refused() -> None:
    live = live_model()
    first, second = mlp_outs(live)
    good = delta_for(live, first, second)
    part = good.parts[second]
    bad = Delta(live.base, {first: good.parts[first], second: LowRank(part.B.T, part.A.T)})
    refused(live, bad, ShapeMismatch, r"\(48, 32\), the matrix is \(32, 48\)")


def test_a_part_for_a_matrix_that_is_not_there_is_refused() -> None:
    live = live_model()
    good = delta_for(live, mlp_outs(live)[0])
    part = next(iter(good.parts.values()))
    refused(live, Delta(live.base, {**good.parts, "model.layers.9.mlp.down_proj": part}), UnknownName, "model.layers.9")


def test_a_scale_that_is_not_finite_is_refused() -> None:
    live = live_model()
    refused(live, delta_for(live, *mlp_outs(live)), UsageError, "scale=nan", scale=float("nan"))


def test_an_overflow_in_half_precision_is_refused() -> None:
    live = live_model(dtype=torch.float16)
    refused(live, delta_for(live, *mlp_outs(live), size=1e4), NonFiniteDelta, "overflow torch.float16")


def test_a_write_that_fails_half_way_leaves_the_model_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model()
    live.apply(delta_for(live, mlp_outs(live)[0], seed=1))
    before, on = weights(live), live.applied
    write, calls = live._surgeon._write, []

    def failing(name: str, value: Tensor) -> None:
        calls.append(name)
        if len(calls) == 2:
            live._surgeon._originals[name].parameter.view(-1)[:7] = 1.0  # half of the bytes are there already
            raise KeyboardInterrupt
        write(name, value)

    with monkeypatch.context() as patched:
        patched.setattr(live._surgeon, "_write", failing)
        with pytest.raises(KeyboardInterrupt):
            live.apply(delta_for(live, *mlp_outs(live), seed=2))
    assert weights(live) == before and live.applied == on and len(calls) == 4
    live.revert_all()
    assert live.digest(full=True) == live.base


def test_a_revert_that_does_not_give_the_recorded_bytes_is_an_error() -> None:
    live = live_model()
    applied = live.apply(delta_for(live, mlp_outs(live)[0]))
    original = next(iter(live._surgeon._originals.values()))
    original.base.view(-1)[3] += 1.0  # a memory fault
    with pytest.raises(RevertError, match="open it again"):
        live.revert(applied)


def test_a_zero_that_changed_its_sign_is_an_error() -> None:
    live = live_model(dtype=torch.bfloat16)
    applied = live.apply(delta_for(live, mlp_outs(live)[0]))
    original = next(iter(live._surgeon._originals.values()))
    flat = original.base.view(-1)
    flat[flat == 0] = 0.0
    with pytest.raises(RevertError):
        live.revert(applied)


def test_weights_changed_by_other_means_are_noticed() -> None:
    live = live_model()
    delta = delta_for(live, mlp_outs(live)[0])
    with torch.no_grad():
        live.anatomy.matrix(mlp_outs(live)[0]).parameter.add_(1.0)
    assert live.digest(full=True) != live.base
    with pytest.raises(WrongBase, match="changed by other means"):
        live.apply(delta)


def test_weights_that_are_not_floating_point_are_refused() -> None:
    live = live_model()
    delta = delta_for(live, mlp_outs(live)[0])
    module = live.anatomy.module(Site(0, Role.MLP_OUT))
    module.weight = torch.nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ArchitectureMismatch):
        live.apply(delta)


def test_a_model_with_offloaded_weights_has_no_digest() -> None:
    with pytest.raises(BrokenWeights, match="device_map=None"):
        digest_tensor(torch.empty(2, device="meta"))


def test_the_base_is_a_digest_of_values_shapes_and_names() -> None:
    base = live_model().base
    assert live_model().base == base
    assert live_model(dtype=torch.bfloat16).base != base  # values were rounded
    other = live_model()
    with torch.no_grad():
        flat = next(other.model.parameters()).view(-1)
        flat[0] = -flat[0]  # the sign of a zero
    assert other.base != base
    assert digest_tensor(torch.zeros(2, 3)) != digest_tensor(torch.zeros(3, 2))
    live = live_model()
    assert sorted(live.parameter_digests) == sorted(name for name, _ in live.model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_values_in_a_wider_type_are_the_same_base(dtype: torch.dtype) -> None:
    narrow = live_model(dtype=dtype)
    wide = LiveModel(live_model(dtype=dtype).model.float(), tiny_tokenizer(), name="wide")
    assert narrow.base == wide.base
    with narrow.with_delta(delta_for(wide, *mlp_outs(wide))):
        assert narrow.digest() != narrow.base


def test_a_large_tensor_is_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(7, 5).bfloat16()
    whole = digest_tensor(tensor)
    monkeypatch.setattr("catechism.model.surgery._CHUNK", 4)
    assert digest_tensor(tensor) == whole == digest_tensor(tensor.T.contiguous().T)


def test_what_is_applied_names_its_delta_and_scale() -> None:
    live = live_model()
    delta = delta_for(live, *mlp_outs(live))
    applied = live.apply(delta, scale=0.5)
    assert isinstance(applied, Applied) and applied.delta is delta and applied.scale == 0.5
