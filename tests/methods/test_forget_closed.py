"""The closed forms of forgetting against their equations, worked out once more in float64 numpy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from catechism.delta import LowRank
from catechism.errors import BadSpec, SolveError, UnknownName
from catechism.methods.forget.kfac import Kfac
from catechism.methods.forget.kfac import Spec as KfacSpec
from catechism.methods.forget.leace import Leace
from catechism.methods.forget.leace import Spec as LeaceSpec
from catechism.methods.forget.memit_forget import MemitForget
from catechism.methods.forget.memit_forget import Spec as MemitSpec
from catechism.methods.forget.negation import Negation, largest_scale
from catechism.methods.forget.negation import Spec as NegationSpec
from catechism.methods.forget.rome_forget import RomeForget
from catechism.methods.forget.rome_forget import Spec as RomeSpec
from catechism.model.curvature import curvature
from catechism.model.forgetting.prompts import as_fact, subject_rows, subjects_of
from catechism.model.reading import Reading, half_for_the_bare_prompt
from catechism.model.seen import Stretch, read_together, states_at
from catechism.solve import DAMPING
from catechism.solve.curvature import kept_pairs, without_flat_directions
from catechism.solve.erasure import leace, one_hot, shrunk
from catechism.solve.values import Search
from catechism.types import How, Role, Site
from tests.methods.forget_requests import FORGET, REQUEST, RETAIN, asking, background, live_model, texts


def states(n: int = 300, d: int = 12, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """States in which a class shows, far from the origin and with much else in them; concept; labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    shown = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + 2 * shown[labels] + 5
    return X, one_hot(labels.tolist(), classes), labels


def probed(X: Tensor, Z: Tensor) -> float:
    """Share of the concept's variance that least squares with a constant explains on its own training states.

    Directions below what float32 can tell are not read: of two of them 150 states say a share of 2 / 150 by chance.
    """
    inputs = torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], dim=1).numpy()
    centred = (Z - Z.mean(dim=0)).numpy()
    weights = np.linalg.lstsq(inputs, centred, rcond=1e-5)[0]
    return 1 - float(np.square(centred - inputs @ weights).sum() / np.square(centred).sum())


def logistic(X: Tensor, labels: Tensor) -> float:
    """Mean log-likelihood gained over the best constant by a fitted logistic regression."""
    X = (X - X.mean(dim=0)) / X.std(dim=0)
    classes = int(labels.max()) + 1
    W = torch.zeros(X.shape[1] + 1, classes, dtype=X.dtype, requires_grad=True)
    inputs = torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], dim=1)
    optimiser = torch.optim.LBFGS([W], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ W, labels)
        value.backward()
        return value

    optimiser.step(loss)
    share = torch.bincount(labels).double() / len(labels)
    return float(-(share * share.log()).sum() - torch.nn.functional.cross_entropy(inputs @ W, labels).detach())


# -- erasure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["moment", "covariance"])
def test_the_eraser_is_the_papers_projection(measure: str) -> None:
    X, Z, _ = states()
    found = leace(X, Z, measure=measure, shrink=False, tolerance=1e-9, guard=False)  # type: ignore[arg-type]
    x, z = X.numpy(), Z.numpy()
    centred = x - x.mean(axis=0)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    C = centred.T @ z / len(x)
    seen = x if measure == "moment" else centred
    values, vectors = np.linalg.eigh(seen.T @ seen / len(x))
    W = vectors @ np.diag(values**-0.5) @ vectors.T
    U, s, _ = np.linalg.svd(W @ C, full_matrices=False)
    U = U[:, s > 1e-9]
    P = np.eye(12) - np.linalg.inv(W) @ U @ U.T @ W
    np.testing.assert_allclose(np.eye(12) - (found.left @ found.right).numpy(), P, atol=1e-9)
    assert found.rank == 2  # three classes, less the one that the others tell
    np.testing.assert_allclose(P @ C, 0, atol=1e-9)
    np.testing.assert_allclose((found.right @ found.left).numpy(), np.eye(2), atol=1e-9)


def test_no_fitted_linear_probe_does_better_than_the_constant_on_erased_states() -> None:
    X, Z, labels = states()
    erased = leace(X, Z)(X)
    assert probed(X, Z) > 0.5 and logistic(X, labels) > 0.5
    assert probed(erased, Z) < 1e-9 and logistic(erased, labels) < 1e-6


def test_the_guarantee_holds_with_the_trace_guard_which_keeps_the_total_from_growing() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (400,), generator=generator)
    X = torch.randn(400, 6, generator=generator, dtype=torch.float64) * torch.tensor([0.02, 0.02, 3, 3, 1, 1])
    X[:, 0] += 0.04 * z
    X[:, 2] += 60 * X[:, 0] + 2.0 * z
    X[:, 1] += X[:, 0]  # narrow, skew directions: the oblique projection blows some states up
    Z = one_hot(z.tolist(), 2)
    free, held = leace(X, Z, shrink=False, guard=False), leace(X, Z, shrink=False, guard=True)
    before = X.square().sum()
    assert free(X).square().sum() > before * 1.0001 or held.mixed == 1.0
    assert held(X).square().sum() <= before * (1 + 1e-9)
    assert probed(held(X), Z) < 1e-9


def test_the_mean_is_moved_less_where_the_second_moment_is_the_measure() -> None:
    X, Z, _ = states()
    moved = {m: float((leace(X, Z, measure=m)(X).mean(0) - X.mean(0)).norm()) for m in ("moment", "covariance")}  # type: ignore[arg-type]
    assert moved["moment"] < 0.2 * moved["covariance"]


def test_shrinkage_is_that_of_the_paper_and_vanishes_with_many_states() -> None:
    X, _, _ = states(n=40)
    S = (X - X.mean(0)).T @ (X - X.mean(0)) / 40
    trace, spread = np.trace(S.numpy()), np.square(S.numpy()).sum()
    share = 1 - (trace**2 / 40 / 12) / (spread / 12 - (trace / 12) ** 2)  # Eq. 2.8 with I / d as target
    wanted = share * S.numpy() + (1 - share) * trace / 12 * np.eye(12)
    np.testing.assert_allclose(shrunk(S, 40).numpy(), wanted, rtol=1e-9)
    torch.testing.assert_close(shrunk(S, 10**9), S, rtol=1e-6, atol=1e-6)


def test_what_is_no_state_or_concept_is_refused() -> None:
    X, Z, _ = states(n=20)
    with pytest.raises(SolveError, match="belong together"):
        leace(X[:1], Z[:1])
    with pytest.raises(SolveError, match="NaN"):
        leace(X * float("nan"), Z)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("place", ["stream", "values"])
def test_folded_weights_give_exactly_what_erased_states_give_and_probes_find_nothing(
    model_type: str, place: str
) -> None:
    live = live_model(model_type)
    spec = LeaceSpec(place=place, texts=4, tolerance=1e-7)  # type: ignore[arg-type]
    delta = Leace(background(live)).fit(live, REQUEST, spec)
    side = "input" if place == "stream" else "output"
    stretches = [Stretch(q, live.subject_last(q, c.fact.subject)) for c in FORGET for q in _asked(c)]
    labels = [i for i, c in enumerate(FORGET) for _ in _asked(c)]
    classes = [0 if FORGET[i].fact.subject == "France" else 1 for i in labels]
    stretches += [Stretch(q, 0) for c in RETAIN for q in _asked(c)] + [Stretch(t, 0) for t in texts()[:4]]
    classes += [-1] * (len(stretches) - len(classes))
    for address, part in delta.parts.items():
        assert isinstance(part, LowRank) and part.rank == 2
        W = live.anatomy.matrix(address).read().double()
        with live.with_delta(delta):
            changed = live.anatomy.matrix(address).read().double()
            seen, owner = states_at(live, [address], stretches, what=side)  # type: ignore[arg-type]
        X = seen[address]
        Z = one_hot([classes[i] for i in owner.tolist()], 2)
        if side == "input":  # what a matrix reads does not depend on its own change
            found = leace(X, Z, tolerance=1e-7)
            torch.testing.assert_close(changed, W - W @ found.left @ found.right, rtol=1e-4, atol=1e-5)
            assert probed(X, Z) > 0.05
            X = found(X)
        elif (bias := live.anatomy.matrix(address).read_bias()) is not None:
            X = X - bias.double()
        assert probed(X, Z) < 1e-6


def _asked(one: object) -> list[str]:
    return [one.fact.prompt, *(question.text for question in one.study)]  # type: ignore[attr-defined]


def test_matrices_that_read_one_tensor_are_found_by_what_they_read() -> None:
    llama = [[name.rsplit(".")[-1] for name in one] for one in read_together(live_model("llama"), 0, "Rome")]
    assert [len(one) for one in llama] == [3, 1, 2, 1]
    assert [len(one) for one in read_together(live_model("gpt2"), 1, "Rome")] == [1, 1, 1, 1]


# -- values written at subjects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_rome_forget_writes_each_subjects_value_at_its_key_by_the_closed_form(model_type: str) -> None:
    live, spec = live_model(model_type), RomeSpec(contexts=1, context_tokens=3, search=Search(steps=3, stop=0.0))
    ground, request = background(live), asking(How.ABSTAIN)
    delta = RomeForget(ground).fit(live, replace(request, forget=FORGET[:2]), spec)
    ((address, part),) = delta.parts.items()
    assert address == live.anatomy.matrix(Site(0, Role.MLP_OUT)).address and part.rank == 1
    contexts = ground.contexts(1, tokens=3, seed=0)
    facts = tuple(as_fact(one).fact for one in subjects_of(live, request, seed=0)[:1])
    (k,) = half_for_the_bare_prompt(
        Reading(facts, contexts, frames=True).keys(live, [Site(0, Role.MLP_OUT)])[Site(0, Role.MLP_OUT)]
    ).numpy()
    C = ground.covariance(Site(0, Role.MLP_OUT)).matrix.numpy()
    u = np.linalg.solve(C + DAMPING * np.diag(C).mean() * np.eye(len(C)), k)
    change = part.dense().numpy()
    value = change @ k
    np.testing.assert_allclose(change, np.outer(value, u) / (u @ k), rtol=1e-3, atol=1e-3 * np.abs(change).max())
    assert len(delta.info["nll"]) == 1  # type: ignore[arg-type]


def test_memit_forget_solves_all_subjects_in_one_ridge_regression() -> None:
    live, spec = live_model(), MemitSpec(contexts=1, context_tokens=3, ridge=0.5, search=Search(steps=3, stop=0.0))
    ground, request = background(live), asking(How.ABSTAIN)
    delta = MemitForget(ground).fit(live, request, spec)
    ((_, part),) = delta.parts.items()
    site = Site(0, Role.MLP_OUT)
    facts = tuple(as_fact(one).fact for one in subjects_of(live, request, seed=0))
    assert [fact.subject for fact in facts] == ["France", "Vienna"] and part.rank == 2
    K = half_for_the_bare_prompt(
        Reading(facts, ground.contexts(1, tokens=3, seed=0), frames=True).keys(live, [site])[site]
    ).numpy()
    C = ground.covariance(site).matrix.numpy()
    C = C + DAMPING * np.diag(C).mean() * np.eye(len(C))
    change = part.dense().numpy()
    # Delta (lambda C + K'K) = R'K lies in the rows of K: whatever R was, its rows are a combination of the keys
    normal = change @ (0.5 * len(C) * C + K.T @ K)
    combination = np.linalg.lstsq(K.T, normal.T, rcond=None)[0]
    np.testing.assert_allclose(K.T @ combination, normal.T, atol=1e-3 * np.abs(normal).max())


def test_every_prompt_of_a_subject_is_a_row_of_its_one_value() -> None:
    live = live_model()
    subjects = subjects_of(live, asking(How.REPLACE), seed=0)
    assert [one.name for one in subjects] == ["France", "Vienna"]
    assert [len(one.prompts) for one in subjects] == [3, 2] and set(subjects[0].answers) == {"Rome"}
    rows = subject_rows(live, subjects, ["It is so."])
    assert rows.owner.tolist() == [0, 0, 0, 0, 1, 1, 1] and not any(rows.kept)


# -- curvature ---------------------------------------------------------------------------------------------------------


def test_the_fewest_pairs_with_the_share_of_the_curvature_stay() -> None:
    l, m = torch.tensor([4.0, 1.0, -1e-9]), torch.tensor([3.0, 0.5])  # noqa: E741
    mass = torch.outer(l.clamp_min(0), m).reshape(-1)
    for rho in (0.1, 0.5, 0.7, 0.9, 0.99, 1.0):
        kept = kept_pairs(l, m, rho).reshape(-1)
        fewest = min(
            len(some)
            for n in range(1, 7)
            for some in combinations(range(6), n)
            if mass[list(some)].sum() >= rho * mass.sum() * (1 - 1e-12)
        )
        assert int(kept.sum()) == fewest and mass[kept].sum() >= rho * mass.sum() * (1 - 1e-6)
    with pytest.raises(BadSpec, match="rho=0"):
        kept_pairs(l, m, 0.0)
    with pytest.raises(SolveError, match="no curvature"):
        kept_pairs(l * 0, m, 0.5)


def test_a_matrix_loses_its_flat_directions_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    W, a, g = (torch.randn(*shape, generator=generator).double() for shape in ((4, 5), (50, 5), (50, 4)))
    A, G = a.T @ a / 50, g.T @ g / 50
    edited, share = without_flat_directions(W, A, G, 0.7)
    l, UG = np.linalg.eigh(G.numpy())  # noqa: E741
    m, UA = np.linalg.eigh(A.numpy())
    core, mass = UG.T @ W.numpy() @ UA, np.outer(l, m)
    total = 0.0
    kept = np.zeros_like(core)
    for i, j in sorted(np.ndindex(4, 5), key=lambda at: -mass[at]):
        if total >= 0.7 * mass.sum():
            break
        total += mass[i, j]
        kept[i, j] = 1
    np.testing.assert_allclose(edited.numpy(), UG @ (core * kept) @ UA.T, atol=1e-10)
    assert share == pytest.approx(kept.mean())
    torch.testing.assert_close(without_flat_directions(W, A, G, 1.0)[0], W)


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_the_factors_are_second_moments_over_single_tokens_with_labels_drawn_from_the_model(model_type: str) -> None:
    live, site = live_model(model_type), Site(1, Role.MLP_GATE)
    found = curvature(live, [site], texts()[:1], seed=3)[site]
    ids = live.encode(texts()[:1])["input_ids"]
    module, rows = live.anatomy.module(site), live.anatomy.matrix(site).rows
    kept: dict[str, Tensor] = {}

    def see(_module: object, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        kept["a"], kept["out"] = args[0].detach(), out.detach().requires_grad_()
        return kept["out"]

    handle = module.register_forward_hook(see)
    logits = live.model(ids, use_cache=False).logits[0, :-1]
    handle.remove()
    chances = logits.float().softmax(dim=-1)
    label = torch.multinomial(chances.detach(), 1, generator=torch.Generator().manual_seed(3))
    (-chances.log().gather(1, label).sum()).backward()
    counted = slice(0, -1)
    a, g = kept["a"][0, counted].double(), kept["out"].grad[0, counted, rows].double()  # type: ignore[index]
    torch.testing.assert_close(found.inputs, a.T @ a / len(a), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.gradients, g.T @ g / len(g), rtol=1e-3, atol=1e-7)
    assert found.n == len(a)


def test_curvature_editing_reads_nothing_of_the_request_and_needs_a_matrix() -> None:
    live = live_model()
    method, spec = Kfac(background(live)), KfacSpec(texts=4)
    one, other = (method.fit(live, replace(REQUEST, forget=some), spec) for some in (FORGET[:1], FORGET[1:]))
    assert all(one.parts[address].equals(part) for address, part in other.parts.items())
    with pytest.raises(BadSpec, match="none of"):
        method.fit(live, REQUEST, replace(spec, roles=(Role.ROUTER,)))
    with pytest.raises(UnknownName, match="no layer 9"):
        method.fit(live, REQUEST, replace(spec, layers=(9,)))


# -- negation ----------------------------------------------------------------------------------------------------------


def test_the_scale_is_the_largest_that_is_good() -> None:
    spec = NegationSpec(most=4.0, halvings=10)
    assert largest_scale(lambda a: a <= 1.3, spec) == pytest.approx(1.3, abs=4 / 2**10)
    assert largest_scale(lambda a: True, spec) == 4.0
    assert 0 < largest_scale(lambda a: False, spec) <= 4 / 2**10


def test_negation_makes_less_likely_what_its_adapter_made_likelier() -> None:
    live = live_model()
    spec = NegationSpec(steps=12, lr=0.02, halvings=1, most=0.5, keep=1e-9, level=False)
    delta = Negation(background(live)).fit(live, REQUEST, spec)
    assert delta.info["scale"] == 0.5
    prompts, answers = [c.fact.prompt for c in FORGET], [c.fact.object for c in FORGET]

    def mean() -> float:
        return sum(score.mean for score in live.score(prompts, answers)) / len(prompts)

    before = mean()
    with live.with_delta(delta):
        negated = mean()
    with live.with_delta(delta, scale=-2.0):
        learnt = mean()  # the adapter itself
    assert negated < before - 0.05 and learnt > before + 0.5
