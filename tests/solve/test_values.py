"""The value search on objectives whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from catechism.solve.values import Objective, Search, find_values

TARGETS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.3, 0.0], [-1.0, 1.0, 2.0]])
SCALE = torch.tensor([1.0, 2.0, 0.5])


class Bowl:
    """loss_i = |v_i - t_i|^2; remembers which facts it was asked for."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
        self.asked: list[list[int]] = []

    def __call__(self, values: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(active.tolist())
        loss = (values - self.targets[active]).pow(2).sum(dim=1)
        return loss, loss


def rugged(values: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """A loss with many hollows, another for every fact, that no search calls done."""
    loss = (torch.sin(3 * values + active[:, None]) + 0.1 * values**2).sum(dim=1)
    return loss, torch.ones_like(loss)


def test_the_search_finds_a_known_optimum() -> None:
    found = find_values(Bowl(TARGETS), SCALE, 3, Search(steps=300, lr=0.1, stop=-1.0, clamp=20.0))
    torch.testing.assert_close(found.values, TARGETS, rtol=0, atol=1e-4)
    assert found.steps.tolist() == [300, 300, 300]
    assert (found.nll < 1e-8).all()


def test_no_value_leaves_its_ball() -> None:
    corners = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]])
    seen: list[Tensor] = []

    def objective(values: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(values.detach().norm(dim=1) / SCALE[active])
        return Bowl(10 * corners)(values, active)

    found = find_values(objective, SCALE, 3, Search(steps=60, lr=0.05, stop=0.0, clamp=1.5))
    assert float(torch.stack(seen).max()) <= 1.5 + 1e-5
    # the nearest point of a ball to a target outside it lies in the target's direction
    torch.testing.assert_close(found.values, 1.5 * SCALE[:, None] * corners / 3**0.5, rtol=1e-4, atol=0)


def test_a_fact_that_has_converged_leaves_the_batch() -> None:
    bowl = Bowl(TARGETS)
    found = find_values(bowl, SCALE, 3, Search(steps=300, lr=0.1, stop=0.05, clamp=20.0))
    assert (found.nll <= 0.05).all()
    assert len(set(found.steps.tolist())) > 1, "facts are to end at different steps"
    for fact in range(3):
        asked = [call for call, active in enumerate(bowl.asked) if fact in active]
        assert asked == list(range(int(found.steps[fact]) + 1))  # once before the first step, once after each
    assert bowl.asked[-1] != []


def test_what_is_done_from_the_start_is_not_moved() -> None:
    bowl = Bowl(torch.zeros(2, 4))
    found = find_values(bowl, torch.ones(2), 4, Search())
    assert bowl.asked == [[0, 1]]
    assert not found.values.any() and not found.nll.any() and found.steps.tolist() == [0, 0]


@pytest.mark.parametrize("objective", [Bowl(TARGETS), rugged])
def test_the_other_facts_of_a_batch_do_not_matter(objective: Objective) -> None:
    search = Search(steps=40, lr=0.1, stop=0.05, clamp=4.0)
    together = find_values(objective, SCALE, 3, search)
    for fact in range(3):

        def alone(values: Tensor, active: Tensor, fact: int = fact) -> tuple[Tensor, Tensor]:
            return objective(values, active + fact)

        found = find_values(alone, SCALE[fact : fact + 1], 3, search)
        torch.testing.assert_close(found.values[0], together.values[fact], rtol=1e-6, atol=1e-7)
        assert int(found.steps[0]) == int(together.steps[fact])


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_the_steps_are_those_of_torchs_adam(steps: int) -> None:
    search = Search(steps=steps, lr=0.07, stop=0.0, clamp=1e6)
    scale = SCALE.double()
    found = find_values(rugged, scale, 5, search)
    for fact in range(3):
        value = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([value], lr=search.lr / 5**0.5 * float(scale[fact]))
        for _ in range(steps):
            adam.zero_grad()
            rugged(value, torch.tensor([fact]))[0].sum().backward()
            adam.step()
        torch.testing.assert_close(found.values[fact], value.detach()[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_the_likelihood_is_that_of_the_value_that_is_returned(steps: int) -> None:
    bowl = Bowl(TARGETS)
    found = find_values(bowl, SCALE, 3, Search(steps=steps, lr=0.05, stop=0.0, clamp=20.0))
    torch.testing.assert_close(found.nll, (found.values - TARGETS).pow(2).sum(dim=1), rtol=1e-6, atol=1e-7)
    assert found.steps.tolist() == [steps] * 3 and len(bowl.asked) == steps + 1


def test_the_loss_is_minimised_and_the_likelihood_only_says_when_to_stop() -> None:
    def objective(values: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        loss = (values - TARGETS[active]).pow(2).sum(dim=1)
        return loss, 1.0 + values.sum(dim=1)  # its own minimum is elsewhere

    found = find_values(objective, SCALE, 3, Search(steps=300, lr=0.1, stop=-100.0, clamp=20.0))
    torch.testing.assert_close(found.values, TARGETS, rtol=0, atol=1e-4)


def test_the_search_works_where_the_caller_has_switched_gradients_off() -> None:
    search = Search(steps=9)
    with torch.no_grad():
        found = find_values(Bowl(TARGETS), SCALE, 3, search)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.values, find_values(Bowl(TARGETS), SCALE, 3, search).values)
    assert not (found.values.requires_grad or found.nll.requires_grad)
