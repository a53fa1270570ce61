"""The losses of trained forgetting against their equations, written out in plain Python float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from catechism.errors import BadSpec
from catechism.solve import forgetting as losses

K, V = 5, 7
SAID = [0, 3, 6, 3, 1]
TOKENS = torch.tensor(SAID)
NOW, WAS, LONG = [1.5, 0.25, 7.0], [0.125, 0.5, 2.0], [3.0, 1.0, 4.0]


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(K, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logprobs(seed: int) -> Tensor:
    return logits(seed).log_softmax(dim=-1)


def softmax(row: Sequence[float]) -> list[float]:
    total = math.fsum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def chances(seed: int) -> list[list[float]]:
    return [softmax(row) for row in logits(seed).tolist()]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def double(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def check(found: Tensor, wanted: Sequence[float]) -> None:
    assert found.tolist() == pytest.approx(list(wanted), rel=1e-9, abs=1e-12)


def test_npo() -> None:
    wanted = [-2 / 0.1 * log_sigmoid(0.1 * (now - was)) for now, was in zip(NOW, WAS, strict=True)]
    check(losses.npo(double(NOW), double(WAS), 0.1), wanted)


def test_the_gradient_of_npo_is_that_of_ascent_times_its_weight() -> None:
    nll = double(NOW).requires_grad_()
    (found,) = torch.autograd.grad(losses.npo(nll, double(WAS), 0.1).sum(), nll)
    p, q = [math.exp(-0.1 * x) for x in NOW], [math.exp(-0.1 * x) for x in WAS]
    check(found, [-2 * a / (a + b) for a, b in zip(p, q, strict=True)])


def test_npo_becomes_ascent_as_beta_falls() -> None:
    nll = double(NOW).requires_grad_()
    (found,) = torch.autograd.grad(losses.npo(nll, double(WAS), 1e-9).sum(), nll)
    assert found.tolist() == pytest.approx([-1.0] * 3, abs=1e-7)


def test_simnpo() -> None:
    wanted = [-2 / 4.5 * log_sigmoid(4.5 * (now / n - 0.2)) for now, n in zip(NOW, LONG, strict=True)]
    check(losses.simnpo(double(NOW), double(LONG), 4.5, 0.2), wanted)


def test_dpo() -> None:
    other_now, other_was = [2.0, 0.5, 1.0], [6.0, 0.25, 9.0]
    wanted = [
        -2 / 0.1 * log_sigmoid(0.1 * ((a0 - a) - (y0 - y)))
        for a, a0, y, y0 in zip(other_now, other_was, NOW, WAS, strict=True)
    ]
    gained, lost = double(other_was) - double(other_now), double(WAS) - double(NOW)
    check(losses.dpo(gained, lost, 0.1), wanted)


def test_undial() -> None:
    wanted = []
    for y, now, was in zip(SAID, chances(0), logits(1).tolist(), strict=True):
        target = softmax([x - 10 * (v == y) for v, x in enumerate(was)])
        wanted.append(-math.fsum(t * math.log(p) for t, p in zip(target, now, strict=True)))
    check(losses.undial(logprobs(0), logprobs(1), TOKENS, 10.0), wanted)


def test_ceu() -> None:
    wanted = []
    for y, now in zip(SAID, chances(0), strict=True):
        rest = math.fsum(p for v, p in enumerate(now) if v != y)
        wanted.append(-math.fsum(p / rest * math.log(p) for v, p in enumerate(now) if v != y))
    check(losses.ceu(logprobs(0), TOKENS), wanted)


def test_the_target_of_ceu_carries_no_gradient() -> None:
    x = logits(0).requires_grad_()
    (found,) = torch.autograd.grad(losses.ceu(x.log_softmax(dim=-1), TOKENS).sum(), x)
    for row, y, now in zip(found.tolist(), SAID, chances(0), strict=True):
        rest = 1 - now[y]
        assert row == pytest.approx([p - (0 if v == y else p / rest) for v, p in enumerate(now)], abs=1e-9)


def test_weighted_ascent() -> None:
    chosen = logprobs(0).gather(1, TOKENS[:, None])[:, 0].requires_grad_()
    p = [row[y] for row, y in zip(chances(0), SAID, strict=True)]
    found = losses.weighted_ascent(chosen, 1.5)
    check(found, [x**1.5 * math.log(x) for x in p])
    (gradient,) = torch.autograd.grad(found.sum(), chosen)
    check(gradient, [x**1.5 for x in p])  # the weight is no variable


def test_satimp() -> None:
    chosen = logprobs(0).gather(1, TOKENS[:, None])[:, 0].requires_grad_()
    p = [row[y] for row, y in zip(chances(0), SAID, strict=True)]
    found = losses.satimp(chosen, 5.0, 1.0)
    check(found, [x**5 * (1 - x) * math.log(x) for x in p])
    (gradient,) = torch.autograd.grad(found.sum(), chosen)
    check(gradient, [x**5 * (1 - x) for x in p])


def test_flatness() -> None:
    wanted = [(max(row) - math.fsum(row) / V) ** 2 for row in logits(0).tolist()]
    check(losses.flatness(logits(0)), wanted)
    check(losses.flatness(logprobs(0)), wanted)  # a constant on all logits changes nothing


def test_inverted_hinge() -> None:
    wanted = [
        max(0.0, 1 + row[y] - max(p for v, p in enumerate(row) if v != y))
        for row, y in zip(chances(0), SAID, strict=True)
    ]
    check(losses.inverted_hinge(logprobs(0), TOKENS), wanted)


def test_capped_ascent_has_no_gradient_beyond_the_cap() -> None:
    chosen = double([-0.5, -3.0]).requires_grad_()
    found = losses.capped_ascent(chosen, math.log(V))
    check(found, [-0.5, -math.log(V)])
    (gradient,) = torch.autograd.grad(found.sum(), chosen)
    assert gradient.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("loss", "wanted"), [(0.5, 3.0), (0.1, 0.0), (0.3, 1.0)])
def test_the_multiplier_rises_above_the_bound_and_never_falls_below_zero(loss: float, wanted: float) -> None:
    assert losses.dual(1.0, loss, 0.3, 10.0) == pytest.approx(wanted, abs=1e-12)


# -- two gradients -----------------------------------------------------------------------------------------------------


def directions(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]


def test_the_projection_is_the_published_one_without_preconditioning() -> None:
    retain, forget = directions(0), directions(1)
    found = losses.forget_first(retain, forget, forget, gamma=1.0)
    g_r, g_f = (torch.cat([x.flatten() for x in some]) for some in (retain, forget))
    wanted = g_r + (1.0 - g_r @ g_f / (g_f @ g_f)) * g_f
    torch.testing.assert_close(torch.cat([x.flatten() for x in found]), wanted)


def test_the_projection_keeps_its_guarantee_when_both_steps_are_preconditioned() -> None:
    slope = directions(1)
    scale = [x.square() + 0.1 for x in directions(2)]
    forget = [s * g for s, g in zip(scale, slope, strict=True)]
    retain = [-50 * x for x in forget]  # as much against forgetting as can be
    found = losses.forget_first(retain, forget, slope, gamma=0.5)
    assert losses.inner(retain, slope) < 0
    assert losses.inner(found, slope) == pytest.approx(0.5 * losses.inner(forget, slope))


def test_with_nothing_left_to_forget_the_step_is_the_retain_step() -> None:
    retain, zero = directions(0), [torch.zeros_like(x) for x in directions(0)]
    found = losses.forget_first(retain, zero, zero, gamma=1.0)
    assert all(torch.equal(a, b) for a, b in zip(found, retain, strict=True))


def test_away_from_is_the_derivative_of_the_cosine() -> None:
    a, b = [x.requires_grad_() for x in directions(0)], directions(1)
    flat, other = torch.cat([x.flatten() for x in a]), torch.cat([x.flatten() for x in b])
    cosine = flat @ other / (flat.norm() * other.norm())
    assert losses.cosine([x.detach() for x in a], b) == pytest.approx(float(cosine.detach()))
    plain = [x.detach() for x in a]
    for found, wanted in zip(losses.away_from(plain, b), torch.autograd.grad(cosine, a), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_zero_gradient_has_no_angle() -> None:
    zero = [torch.zeros_like(x) for x in directions(0)]
    assert losses.cosine(zero, directions(1)) == 0.0
    assert all(float(x.abs().sum()) == 0 for x in losses.away_from(zero, directions(1)))


# -- subspaces ---------------------------------------------------------------------------------------------------------


def test_the_forget_directions_are_those_that_only_the_forgotten_takes() -> None:
    generator = torch.Generator().manual_seed(0)
    forget, retain = (0.01 * torch.randn(40, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    sign = (-1.0) ** torch.arange(40)
    forget[:, 2] += 3
    forget[:, 4] += 5 * sign  # larger, but what is kept takes it too
    retain[:, 4] += 6
    found = losses.forget_directions(forget, retain, rank=1, share=0.5)
    assert found.shape == (6, 1)
    assert abs(float(found[2, 0])) == pytest.approx(1.0, abs=1e-2)
    kept = losses.retain_directions(retain, rank=2)
    assert abs(float(kept[4, 0])) == pytest.approx(1.0, abs=1e-2)
    torch.testing.assert_close(kept.T @ kept, torch.eye(2, dtype=torch.float64))


def test_overlap_is_the_squared_norm_of_the_product() -> None:
    A, P = directions(0)[0], torch.eye(3, dtype=torch.float64)[:, :2]
    wanted = math.fsum(x * x for row in A.tolist()[:2] for x in row)
    assert float(losses.overlap(A, P)) == pytest.approx(wanted)


def test_more_directions_than_there_are_is_refused() -> None:
    with pytest.raises(BadSpec, match="7 directions .* space of 6"):
        losses.retain_directions(torch.zeros(3, 6, dtype=torch.float64), rank=7)
