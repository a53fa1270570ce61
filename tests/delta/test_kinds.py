"""What holds of every kind of change: it adds, scales, survives its file, and no byte of it escapes the digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from catechism.delta import Context, Delta, Dense, Gated, LowRank, Part, load, matrix_of, save, to_peft
from catechism.delta.addresses import ActivationAddress, PaperAddress, RadiusAddress
from catechism.delta.bits import overlaps, pack, unpack, words
from catechism.delta.effect import Firing
from catechism.delta.effects import Matrices, Vectors
from catechism.delta.residual import Residual
from catechism.errors import DeltaCorrupt, NonFiniteDelta, ShapeMismatch, UsageError
from tests.delta.test_file import BASE, law, with_header

D_OUT, D_IN, K = 3, 10, 4
MATRIX = "layers.0.out"


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(n: int, seed: int = 0) -> Tensor:
    order = torch.rand(n, D_IN, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)[:, :K]
    return pack(torch.zeros(n, D_IN, dtype=torch.bool).scatter(1, order, True))


def dense(seed: int = 0) -> Dense:
    return Dense(numbers(D_OUT, D_IN, seed=seed))


def low_rank(seed: int = 0) -> LowRank:
    return LowRank(numbers(D_OUT, 2, seed=seed), numbers(2, D_IN, seed=seed + 1))


def paper(seed: int = 0, e: int = 2) -> PaperAddress:
    permutation = torch.randperm(D_IN, generator=torch.Generator().manual_seed(1))
    return PaperAddress(
        masks(e, seed), torch.arange(e), torch.full((e,), 0.5), numbers(D_IN), permutation, k=K, layer=0, entries=e
    )


def residual(seed: int = 0, e: int = 2, shared: bool = False) -> Residual:
    owner = torch.arange(e).repeat_interleave(2)
    values = numbers(2 * e, D_OUT, seed=seed)
    bank = torch.zeros(e, dtype=torch.int64)
    return Residual(numbers(2 * e, K, seed=seed), values, owner, bank, masks(e, seed), D_IN, 1e-3, shared)


def gated(address: object, effect: object, e: int = 2) -> Gated:
    return Gated(address, effect, torch.ones(e), D_IN)  # type: ignore[arg-type]


def memoir(seed: int = 0) -> Gated:
    return gated(paper(seed), residual(seed))


def shared(seed: int = 0) -> Gated:
    return gated(paper(seed), residual(seed, shared=True))


def grace(seed: int = 0) -> Gated:
    return gated(RadiusAddress(numbers(2, D_IN, seed=seed), torch.ones(2), 0), Vectors(numbers(2, D_OUT, seed=seed)))


def wise(seed: int = 0) -> Gated:
    sides = Matrices(numbers(2, D_OUT, D_IN, seed=seed), torch.arange(2), torch.zeros(0, words(D_IN)).to(torch.uint8))
    return gated(ActivationAddress(torch.ones(2), "silu"), sides)


def published(seed: int = 0) -> Gated:
    one = torch.zeros(2, dtype=torch.int64)
    return gated(paper(seed), Matrices(numbers(1, D_OUT, D_IN, seed=seed), one, masks(2, seed)))


def context(seed: int = 0) -> Context:
    return Context(numbers(2, 5, seed=seed), torch.zeros(5), torch.full((2,), 0.5), (f"Süß {seed}.", "b"), layer=0)


MEMORIES = (memoir, shared, grace, wise, published)
KINDS: dict[Callable[..., Part], str] = {
    low_rank: MATRIX, dense: MATRIX, context: "#texts", **dict.fromkeys(MEMORIES, f"{MATRIX}#memory"),
}  # fmt: skip
every = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
memories = pytest.mark.parametrize("make", MEMORIES, ids=lambda make: make.__name__)


def delta(make: Callable[..., Part], seed: int = 0) -> Delta:
    return Delta(BASE, {KINDS[make]: make(seed)}, {"seed": seed})


@every
def test_a_kind_survives_its_file_byte_for_byte(make: Callable[..., Part], tmp_path: Path) -> None:
    one = delta(make)
    back = load(save(one, tmp_path / "a"), base=BASE)
    assert back.digest == one.digest and back.parts[KINDS[make]].equals(one.parts[KINDS[make]])
    assert save(back, tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert one.header()["version"] == (1 if make is low_rank else 2)


@every
def test_a_change_of_any_byte_of_a_kind_is_refused(make: Callable[..., Part], tmp_path: Path) -> None:
    good, bad = save(delta(make), tmp_path / "good").read_bytes(), tmp_path / "bad"
    for position in range(0, len(good), 7):
        raw = bytearray(good)
        raw[position] ^= 1 << position % 8
        bad.write_bytes(raw)
        with pytest.raises((DeltaCorrupt, NonFiniteDelta, UsageError, RuntimeError)):
            load(bad)


@every
def test_the_digest_covers_every_tensor_of_a_kind(make: Callable[..., Part]) -> None:
    digest, seen = delta(make).digest, 0
    for name in make(0).tensors():
        part = make(0)
        if not part.tensors()[name].numel():
            continue
        part.tensors()[name].view(torch.uint8).reshape(-1)[0] ^= 1
        assert Delta(BASE, {KINDS[make]: part}, {"seed": 0}).digest != digest, name
        assert not part.equals(make(0)), name
        seen += 1
    assert seen


@every
def test_a_kind_knows_whether_it_is_finite(make: Callable[..., Part], tmp_path: Path) -> None:
    part = make(0)
    assert part.is_finite() and part.nbytes > 0
    name, tensor = next((n, t) for n, t in part.tensors().items() if t.is_floating_point())
    tensor.reshape(-1)[0] = float("nan")
    bad = Delta(BASE, {KINDS[make]: part})
    assert not bad.is_finite(), name
    with pytest.raises(NonFiniteDelta):
        save(bad, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@every
def test_a_kind_is_not_scaled_by_nan(make: Callable[..., Part]) -> None:
    with pytest.raises(NonFiniteDelta):
        delta(make).scaled(float("nan"))


def test_low_rank_and_dense_add_to_dense_and_to_the_same_sum_either_way() -> None:
    a, b = low_rank(), dense()
    wanted = a.dense() + b.dense()
    for one, other in ((a, b), (b, a)):
        total = (Delta(BASE, {MATRIX: one}) + Delta(BASE, {MATRIX: other})).parts[MATRIX]
        assert isinstance(total, Dense) and torch.allclose(total.dense(), wanted, atol=1e-6)
    assert total.rank == D_OUT and total.norm() == pytest.approx(float(wanted.norm()))


def test_a_dense_change_becomes_low_rank_for_what_takes_nothing_else(tmp_path: Path) -> None:
    whole = Delta(BASE, {MATRIX: dense()})
    with pytest.raises(ShapeMismatch, match=r"'dense'.*Dense\.factored"):
        to_peft(whole, tmp_path / "a", base_model_name="m")
    factored = dense().factored()
    assert torch.allclose(factored.dense(), dense().dense(), atol=1e-5)
    assert to_peft(Delta(BASE, {MATRIX: factored}), tmp_path / "b", base_model_name="m").is_dir()


@memories
def test_a_memory_does_not_leave_as_an_adapter(make: Callable[..., Part], tmp_path: Path) -> None:
    with pytest.raises(ShapeMismatch, match=r"'gated'.*Ship this delta as a file"):
        to_peft(delta(make), tmp_path, base_model_name="m")


@memories
def test_a_memory_stands_beside_a_change_of_its_matrix(make: Callable[..., Part]) -> None:
    both = delta(make) + Delta(BASE, {MATRIX: low_rank()})
    assert list(both.parts) == [MATRIX, f"{MATRIX}#memory"]
    assert {matrix_of(key) for key in both.parts} == {MATRIX}


@memories
def test_a_sum_of_memories_holds_the_entries_of_both(make: Callable[..., Part]) -> None:
    total = (delta(make, 0) + delta(make, 1)).parts[f"{MATRIX}#memory"]
    assert isinstance(total, Gated) and total.entries == 4
    for first, seed in ((0, 0), (2, 1)):
        back = total.select(torch.arange(first, first + 2))
        assert set(back.tensors()) == set(make(seed).tensors())
        assert torch.equal(back.scales, torch.ones(2)) and back.effect.norm() == pytest.approx(make(seed).norm())


@memories
def test_a_scaled_memory_adds_so_much_and_fires_as_before(make: Callable[..., Part]) -> None:
    part = make(0).scaled(0.5)
    assert isinstance(part, Gated) and torch.equal(part.scales, torch.full((2,), 0.5))
    assert part.address.equals(make(0).address) and part.effect.equals(make(0).effect)  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["", MATRIX, "#texts", "a#b#c"])
def test_a_part_under_the_key_of_another_kind_is_refused(key: str) -> None:
    with pytest.raises((ShapeMismatch, UsageError), match=r"Key it as MATRIX#NAME|Give a full name"):
        Delta(BASE, {key: memoir()})
    with pytest.raises((ShapeMismatch, UsageError)):
        Delta(BASE, {f"{MATRIX}#memory": dense()})


def test_memories_of_different_settings_do_not_add() -> None:
    for one, other in ((memoir(), grace()), (memoir(), shared())):
        with pytest.raises(ShapeMismatch, match="Apply both deltas instead"):
            Delta(BASE, {f"{MATRIX}#memory": one}) + Delta(BASE, {f"{MATRIX}#memory": other})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "spell"},
        {"kind": "dense"},
        {"scales": "F64"},
        {"shape": [D_OUT, D_IN + 1]},
        {"address": {"kind": "paper"}},
        {"address": None},
        {"effect": {"kind": "paper", "tensors": {}}},
    ],
)
def test_a_header_that_lies_about_a_memory_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    claim = {**memoir().header(), **change}
    with pytest.raises(DeltaCorrupt):
        load(with_header(save(delta(memoir), tmp_path / "a"), {"parts": {f"{MATRIX}#memory": claim}}))


@pytest.mark.parametrize("field", ["k", "layer", "pooling", "entries"])
@pytest.mark.parametrize("value", ["nonsense", -1, None, [1], True])
def test_a_setting_of_the_wrong_type_or_out_of_range_is_refused(tmp_path: Path, field: str, value: object) -> None:
    header = memoir().header()
    claim = {**header, "address": {**header["address"], field: value}}
    with pytest.raises(DeltaCorrupt):
        load(with_header(save(delta(memoir), tmp_path / "a"), {"parts": {f"{MATRIX}#memory": claim}}))


@law
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 99))
def test_bits_count_what_two_masks_share(d: int, n: int, seed: int) -> None:
    drawn = torch.rand(2, n, d, generator=torch.Generator().manual_seed(seed)) < 0.5
    a, b = pack(drawn[0]), pack(drawn[1])
    assert torch.equal(unpack(a, d), drawn[0]) and a.shape[1] == words(d)
    assert torch.equal(overlaps(a, b), (drawn[0].int() @ drawn[1].int().T).long())


# -- what a residual is made of --------------------------------------------------------------------------------------


def full_keys(part: Residual) -> Tensor:
    """The keys over all columns, float64."""
    K = torch.zeros(len(part.keys), D_IN, dtype=torch.float64)
    for row, owner in enumerate(part.owner.tolist()):
        K[row, unpack(part.masks, D_IN)[owner]] = part.keys[row].double()
    return K


@pytest.mark.parametrize("e", [2, 9])  # fewer rows than columns, and more
def test_a_shared_residual_solves_its_equation(e: int) -> None:
    part = residual(e=e, shared=True)
    K, V = full_keys(part), part.values.double()
    damping = 1e-3 * K.square().sum() / len(K)
    wanted = V.T @ K @ torch.linalg.inv(K.T @ K + damping * torch.eye(D_IN).double())
    assert torch.allclose(part.matrices[0].double(), wanted, atol=1e-5)
    assert part.norm() == pytest.approx(float(wanted.norm()), rel=1e-5)


def test_an_own_residual_is_the_shared_one_of_a_single_edit() -> None:
    own, x = residual(), numbers(2, 3, D_IN, seed=5)
    found = own.change(_firing(torch.tensor([1, 0]), x))
    for row, entry in enumerate((1, 0)):
        alone = own.select(torch.tensor([entry]))
        lone = Residual(
            alone.keys, alone.values, alone.owner, torch.zeros(1, dtype=torch.int64), alone.masks, D_IN, 1e-3, True
        )
        assert torch.allclose(found[row], lone.change(_firing(torch.tensor([0]), x[row : row + 1]))[0], atol=1e-5)


@pytest.mark.parametrize("as_one", [False, True])
def test_a_residual_less_one_edit_is_the_residual_of_the_others(as_one: bool) -> None:
    whole = residual(e=5, shared=as_one)
    kept = torch.tensor([0, 1, 3, 4])
    left, x = whole.select(kept), numbers(4, 2, D_IN, seed=7)
    rows = torch.tensor([0, 1, 2, 3, 6, 7, 8, 9])
    never = Residual(
        whole.keys[rows], whole.values[rows], torch.arange(4).repeat_interleave(2), torch.zeros(4, dtype=torch.int64),
        whole.masks[kept], D_IN, 1e-3, as_one,
    )  # fmt: skip
    assert left.equals(never)
    firing = _firing(torch.arange(4), x)
    assert torch.equal(left.change(firing), never.change(firing))
    order = torch.tensor([3, 1, 0, 2])
    turned = never.select(order).change(_firing(torch.arange(4), x[order]))
    assert torch.allclose(turned, never.change(firing)[order], atol=1e-5)


def _firing(entry: Tensor, x: Tensor) -> Firing:
    y = torch.zeros(*x.shape[:2], D_OUT)
    return Firing(entry, x, y, torch.zeros(x.shape[:2], dtype=torch.bool))
