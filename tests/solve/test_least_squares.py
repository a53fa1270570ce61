from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catechism.errors import BadSpec, SingularCovariance, SolveError
from catechism.solve import equality_update, factorise, least_squares_update, rank_one, ridge_update, whitened_key

law = settings(derandomize=True, max_examples=20, deadline=None, database=None)


def problem(seed: int = 0, n: int = 3, d_in: int = 8, d_out: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, residuals, and the second moment of keys of uneven scale."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-2, 1, d_in, dtype=torch.float64)
    old = torch.randn(20 * d_in, d_in, generator=g, dtype=torch.float64) * spread
    K = torch.randn(n, d_in, generator=g, dtype=torch.float64) * spread
    return K, torch.randn(n, d_out, generator=g, dtype=torch.float64), old.T @ old / len(old)


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """The package as a user runs it: without the shape checks of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_rank_one_agrees_with_an_update_worked_out_by_hand() -> None:
    # C = diag(4, 1), k = (2, 1): u = C^-1 k = (1/2, 1), u.k = 2, B = (1/4, 1/2)
    C = torch.diag(torch.tensor([4.0, 1.0]))
    k, residual = torch.tensor([2.0, 1.0]), torch.tensor([3.0, -1.0, 2.0])
    A, B = rank_one(k, residual, whitened_key(k, C))
    assert torch.equal(A, torch.tensor([[3.0], [-1.0], [2.0]], dtype=torch.float64))
    assert torch.allclose(B, torch.tensor([[0.25, 0.5]], dtype=torch.float64), rtol=1e-15)


def test_an_equality_update_agrees_with_one_worked_out_by_hand() -> None:
    # C = diag(1, 2, 4), k1 = (1, 0, 2), k2 = (0, 2, 0): D = diag(2, 2), D^-1 K C^-1 = [[1/2, 0, 1/4], [0, 1/2, 0]]
    C = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    K, R = torch.tensor([[1.0, 0, 2], [0, 2, 0]]), torch.tensor([[2.0, 4], [6, 8]])
    A, B = equality_update(K, R, C)
    assert torch.allclose(A @ B, torch.tensor([[1, 3, 0.5], [2, 4, 1]], dtype=torch.float64), rtol=1e-14)


def test_a_ridge_update_agrees_with_one_worked_out_by_hand() -> None:
    # one dimension: Delta = r k / (lam c + k^2) = 6 * 2 / (3 * 4 + 4) = 3/4
    A, B = ridge_update(torch.tensor([[2.0]]), torch.tensor([[6.0]]), torch.tensor([[4.0]]), 3.0)
    assert float(A @ B) == pytest.approx(0.75, rel=1e-15)


@law
@given(st.integers(0, 99), st.integers(1, 8))
def test_an_equality_update_writes_every_residual_exactly(seed: int, n: int) -> None:
    K, R, C = problem(seed, n)
    A, B = equality_update(K, R, C)
    assert torch.allclose(K @ (A @ B).T, R, rtol=1e-8, atol=1e-8)
    assert A.shape == (5, n) and B.shape == (n, 8) and A.dtype == B.dtype == torch.float64


@law
@given(st.integers(0, 99), st.integers(1, 5))
def test_an_equality_update_disturbs_old_keys_least(seed: int, n: int) -> None:
    """Any other update with the same constraints costs more under C: the optimum is orthogonal to what is free."""
    K, R, C = problem(seed, n)
    A, B = equality_update(K, R, C)
    change = A @ B
    free = torch.eye(8, dtype=torch.float64) - K.T @ torch.linalg.solve(K @ K.T, K)  # projector on the complement
    other = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ free
    assert float((change @ C * other).sum()) == pytest.approx(0, abs=1e-7 * float(change.norm() * other.norm()))


@law
@given(st.integers(0, 99))
def test_one_fact_is_the_rank_one_update(seed: int) -> None:
    K, R, C = problem(seed, n=1)
    A, B = equality_update(K, R, C)
    A1, B1 = rank_one(K[0], R[0], whitened_key(K[0], C))
    assert torch.allclose(A @ B, A1 @ B1, rtol=1e-10)
    assert torch.allclose(A1 @ B1 @ K[0], R[0], rtol=1e-12)


@law
@given(st.integers(0, 99), st.sampled_from([1, 3, 8, 20]), st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_ridge_update_is_the_published_formula(seed: int, n: int, lam: float) -> None:
    """On both sides of n = d_in, where the solver changes to the smaller system."""
    K, R, C = problem(seed, n)
    A, B = ridge_update(K, R, C, lam)
    expected = R.T @ K @ torch.linalg.inv(lam * C + K.T @ K)
    assert torch.allclose(A @ B, expected, rtol=1e-7, atol=1e-9)
    assert A.shape[1] == min(n, 8)


def test_a_ridge_update_has_no_gradient_left() -> None:
    """At the optimum of |Delta K^T - R^T|^2 + lam tr(Delta C Delta^T) the derivative is zero, by autograd."""
    K, R, C = problem(1)
    A, B = ridge_update(K, R, C, 2.0)
    change = (A @ B).requires_grad_()
    loss = (K @ change.T - R).square().sum() + 2.0 * (change @ C * change).sum()
    (gradient,) = torch.autograd.grad(loss, change)
    assert float(gradient.abs().max()) < 1e-10


def test_a_vanishing_ridge_is_an_equality() -> None:
    K, R, C = problem(2)
    (A, B), (A0, B0) = ridge_update(K, R, C, 1e-9), equality_update(K, R, C)
    assert torch.allclose(A @ B, A0 @ B0, rtol=1e-5)


def test_the_scale_of_the_covariance_does_not_change_an_equality() -> None:
    K, R, C = problem(3)
    (A, B), (A1, B1) = equality_update(K, R, C), equality_update(K, R, 1e6 * C)
    assert torch.allclose(A @ B, A1 @ B1, rtol=1e-8)


def test_the_asymmetric_rank_one_update_writes_at_the_key_that_it_divides_by() -> None:
    K, R, C = problem(4, n=2)
    A, B = rank_one(K[0], R[0], whitened_key(K[1], C))
    assert torch.allclose(A @ B @ K[0], R[0])


def test_a_factor_made_once_gives_the_same_answer() -> None:
    K, R, C = problem(5)
    factor = factorise(C)
    for direct, cached in zip(equality_update(K, R, C), equality_update(K, R, factor), strict=True):
        assert torch.equal(direct, cached)
    assert torch.equal(whitened_key(K[0], C), whitened_key(K[0], factor))
    assert torch.allclose(factor.solve(K) @ C, K)


def test_float32_inputs_are_solved_in_float64() -> None:
    K, R, C = problem(6)
    A, B = equality_update(K.float(), R.float(), C.float())
    assert B.dtype == torch.float64
    assert torch.allclose(K.float().double() @ (A @ B).T, R.float().double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("exponent", [0, 3, 8, 11])
def test_the_condition_number_is_estimated_well_enough_to_judge(exponent: int) -> None:
    Q, _ = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    C = Q @ torch.diag(torch.logspace(-exponent, 0, 30, dtype=torch.float64)) @ Q.T
    assert 0.3 < factorise((C + C.T) / 2).condition / 10.0**exponent < 3


def test_a_covariance_of_too_few_tokens_is_refused_with_the_number_needed() -> None:
    old = torch.randn(7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(SingularCovariance, match=r"more tokens \(at least 160"):
        factorise(old.T @ old / 7)


def test_a_neuron_that_never_fires_is_refused_and_damping_mends_it() -> None:
    K, R, C = problem(7)
    C[3], C[:, 3], K[:, 3] = 0, 0, 0
    with pytest.raises(SingularCovariance, match="damping"):
        factorise(C)
    A, B = equality_update(K, R, factorise(C, damping=1e-6))
    assert torch.allclose(K @ (A @ B).T, R, rtol=1e-6)


def test_facts_with_one_key_cannot_be_constraints_but_can_be_weighed() -> None:
    K, R, C = problem(8)
    K[1] = K[0]
    with pytest.raises(SingularCovariance, match="ridge_update"):
        equality_update(K, R, C)
    A, B = ridge_update(K, R, C, 1e-6)
    assert torch.allclose(A @ B @ K[0], (R[0] + R[1]) / 2, rtol=1e-3)


def test_more_constraints_than_dimensions_are_refused() -> None:
    with pytest.raises(SingularCovariance, match="more facts than the layer is wide"):
        equality_update(*problem(9, n=12))


def test_an_orthogonal_direction_and_a_zero_key_are_refused() -> None:
    k, residual = torch.tensor([1.0, 0.0]), torch.tensor([1.0])
    for u in (torch.tensor([0.0, 1.0]), torch.zeros(2)):
        with pytest.raises(SingularCovariance, match="orthogonal"):
            rank_one(k, residual, u)


@pytest.mark.parametrize("lam", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_above_zero_is_refused(lam: float) -> None:
    with pytest.raises(BadSpec, match="equality_update"):
        ridge_update(*problem(), lam)


def test_numbers_that_are_not_finite_are_refused() -> None:
    for index, name in enumerate(("keys", "residuals", "covariance")):
        arguments = list(problem())
        arguments[index] = arguments[index].clone()
        arguments[index][0, 0] = float("nan")
        with pytest.raises(SolveError, match=f"{name} holds NaN"):
            least_squares_update(*arguments, ridge=0.0)


@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_that_do_not_belong_together_are_refused() -> None:
    K, R, C = problem()
    with pytest.raises(SolveError, match="do not belong together"):
        equality_update(K, R[:2], C)
    with pytest.raises(SolveError, match="do not belong together"):
        equality_update(K[:, :5], R, C)
    with pytest.raises(SolveError, match="square"):
        factorise(C[:3])
