from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catechism.delta.low_rank import DTYPES, LowRank
from catechism.errors import BadSpec, NonFiniteDelta, ShapeMismatch

law = settings(derandomize=True, max_examples=25, deadline=None, database=None)

EPS = torch.finfo(torch.float64).eps


def low_rank(seed: int, d_out: int = 5, d_in: int = 7, rank: int = 2, dtype: torch.dtype = torch.float64) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(d_out, rank, generator=g, dtype=torch.float64)
    return LowRank(A.to(dtype), torch.randn(rank, d_in, generator=g, dtype=torch.float64).to(dtype))


@st.composite
def changes(draw: st.DrawFn, count: int = 1) -> list[LowRank]:
    """`count` changes of one matrix, of different ranks (0 included) and dtypes."""
    d_out, d_in = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    return [
        low_rank(
            draw(st.integers(0, 2**16)), d_out, d_in, draw(st.integers(0, 10)), draw(st.sampled_from(list(DTYPES)))
        )
        for _ in range(count)
    ]


def close(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> bool:
    return torch.allclose(a, b, rtol=1e-11, atol=1e-11 * max(1.0, scale))


@law
@given(changes(2))
def test_a_sum_is_the_sum_of_the_matrices_and_commutes(pair: list[LowRank]) -> None:
    a, b = pair
    assert close((a + b).dense(), a.dense() + b.dense())
    assert close((a + b).dense(), (b + a).dense())
    assert (a + b).rank == a.rank + b.rank


@law
@given(changes(3))
def test_sums_associate_byte_for_byte(three: list[LowRank]) -> None:
    a, b, c = three
    assert ((a + b) + c).equals(a + (b + c))


@law
@given(changes(1))
def test_the_zero_change_is_neutral_and_rank_zero(one: list[LowRank]) -> None:
    (a,) = one
    zero = LowRank(a.A[:, :0], a.B[:0])
    assert zero.rank == 0 and zero.norm() == 0 and zero.nbytes == 0
    assert torch.equal(zero.dense(), torch.zeros(a.shape, dtype=torch.float64))
    assert (a + zero).equals(a) and (zero + a).equals(a)
    assert zero.compressed(0.1).rank == 0


@law
@given(changes(1), st.integers(-4, 4), st.integers(-4, 4))
def test_scaling_by_powers_of_two_is_exact_and_multiplies(one: list[LowRank], i: int, j: int) -> None:
    (a,) = one
    a = LowRank(a.A.float(), a.B.float())
    assert torch.equal(a.scaled(2.0**i).dense(), a.dense() * 2.0**i)
    assert a.scaled(2.0**i).scaled(2.0**j).equals(a.scaled(2.0 ** (i + j)))
    assert a.scaled(1.0).equals(a)
    assert a.scaled(-1.0).scaled(-1.0).equals(a)


@law
@given(st.integers(0, 99), st.floats(-8, 8), st.floats(-8, 8))
def test_scaling_distributes_over_sums_of_changes_and_of_numbers(seed: int, s: float, t: float) -> None:
    a, b = low_rank(seed), low_rank(seed + 1, rank=3)
    assert close((a + b).scaled(s).dense(), (a.scaled(s) + b.scaled(s)).dense())
    assert close(a.scaled(s + t).dense(), (a.scaled(s) + a.scaled(t)).dense())
    assert close((a + a.scaled(-1)).dense(), torch.zeros(a.shape, dtype=torch.float64))


def test_scale_zero_changes_nothing() -> None:
    assert not low_rank(0).scaled(0.0).dense().any()


@law
@given(changes(1))
def test_the_norm_is_the_frobenius_norm_of_the_matrix(one: list[LowRank]) -> None:
    (a,) = one
    assert a.norm() == pytest.approx(float(torch.linalg.matrix_norm(a.dense())), rel=1e-12, abs=1e-12)


def test_the_norm_keeps_its_digits_where_the_terms_nearly_cancel() -> None:
    a = low_rank(3, 40, 50, 2)
    nearly_nothing = a + LowRank(-a.A * (1 + 1e-9), a.B)
    expected = float(torch.linalg.matrix_norm(nearly_nothing.dense()))
    assert nearly_nothing.norm() == pytest.approx(expected, rel=1e-5)  # by Gram matrices it would be noise


@law
@given(changes(1), st.floats(0, 0.99))
def test_compression_stays_within_its_tolerance(one: list[LowRank], tolerance: float) -> None:
    (a,) = one
    smaller = a.compressed(tolerance)
    rounding = 4 * torch.finfo(smaller.dtype).eps
    assert smaller.rank <= min(a.rank, *a.shape)
    error = float(torch.linalg.matrix_norm(smaller.dense() - a.dense()))
    assert error <= (tolerance + rounding) * a.norm() + 1e-300


def test_compression_finds_the_true_rank_of_a_sum_of_repeats() -> None:
    a = low_rank(1, 20, 30, 2)
    repeated = a + a + a.scaled(-0.5)
    assert repeated.rank == 6
    assert repeated.compressed(0.0).rank == 2
    assert close(repeated.compressed(0.0).dense(), repeated.dense())


def test_compression_gives_the_smallest_rank_that_the_tolerance_allows() -> None:
    # singular values 8, 4, 1: the last is 1/9 of the norm sqrt(81), the last two are sqrt(17)/9
    a = LowRank(torch.eye(5, 3).double(), torch.diag(torch.tensor([8.0, 4.0, 1.0])).double() @ torch.eye(3, 6).double())
    ranks = [a.compressed(tolerance).rank for tolerance in (0.0, 0.11, 0.112, 0.45, 0.46)]
    assert ranks == [3, 3, 2, 2, 1]


def test_compression_of_half_precision_is_float32_so_that_the_tolerance_holds() -> None:
    assert low_rank(0, dtype=torch.bfloat16).compressed(1e-6).dtype == torch.float32


@law
@given(changes(1), st.integers(0, 3))
def test_applying_is_multiplying_by_the_matrix(one: list[LowRank], rows: int) -> None:
    (a,) = one
    a = LowRank(a.A.double(), a.B.double())
    x = torch.randn(2, rows, a.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert close(a.apply(x), x @ a.dense().T, a.norm())


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_the_matrix_is_multiplied_in_float64_and_cast_once(dtype: torch.dtype) -> None:
    a = low_rank(5, rank=4, dtype=dtype)
    assert a.dense().dtype == torch.float64
    assert torch.equal(a.dense(dtype), (a.A.double() @ a.B.double()).to(dtype))


def test_equality_is_of_bytes() -> None:
    a = low_rank(0)
    minus_zero = LowRank(torch.tensor([[-0.0]]), torch.ones(1, 1))
    nan = LowRank(torch.tensor([[float("nan")]]), torch.ones(1, 1))
    assert a.equals(low_rank(0)) and not a.equals(low_rank(1))
    assert not minus_zero.equals(LowRank(torch.zeros(1, 1), torch.ones(1, 1)))
    assert nan.equals(nan) and not nan.is_finite()
    assert not a.equals(LowRank(a.A.float(), a.B.float()))


def test_the_factors_are_detached_and_contiguous() -> None:
    A = torch.ones(2, 3, requires_grad=True)
    a = LowRank(A.T, torch.ones(5, 2).T)
    assert not a.A.requires_grad and a.A.is_contiguous() and a.B.is_contiguous()
    assert (a.shape, a.rank, a.nbytes, a.kind) == ((3, 5), 2, 64, "low_rank")


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """The package as a user runs it: without the shape checks of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("A", "B"),
    [
        (torch.ones(3, 2), torch.ones(3, 4)),
        (torch.ones(3), torch.ones(3, 4)),
        (torch.ones(3, 2), torch.ones(2, 4).double()),
        (torch.ones(3, 2).long(), torch.ones(2, 4).long()),
    ],
)
def test_factors_that_do_not_belong_together_are_refused(A: torch.Tensor, B: torch.Tensor) -> None:
    with pytest.raises(ShapeMismatch, match=r"(Give both factors|Cast both)"):
        LowRank(A, B)


def test_changes_of_different_matrices_do_not_add() -> None:
    with pytest.raises(ShapeMismatch, match="same matrix"):
        low_rank(0, 5, 7) + low_rank(0, 7, 5)


@pytest.mark.parametrize("s", [float("nan"), float("inf")])
def test_scaling_by_no_number_is_refused(s: float) -> None:
    with pytest.raises(NonFiniteDelta, match="finite number"):
        low_rank(0).scaled(s)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float) -> None:
    with pytest.raises(BadSpec, match=r"\[0, 1\)"):
        low_rank(0).compressed(tolerance)
