"""MEND and MALMEN: their equations in float64, their network, its training and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from catechism.bench.cases import draw_catechisms
from catechism.delta import Dense, LowRank
from catechism.errors import BadSpec, NoConvergence, UnknownName, WrongBase
from catechism.methods import method
from catechism.methods.edit import malmen, mend
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.hyper.editor import part_of
from catechism.model.hyper.examples import Example, from_catechisms, self_written
from catechism.model.hyper.factors import Factors, edit_factors, gradient_factors
from catechism.model.hyper.network import EditorNetwork
from catechism.model.hyper.training import Course, Trainer, Written
from catechism.model.target_tokens import target_tokens
from catechism.reference import open_model
from catechism.reference.world import load_world
from catechism.solve.shifts import shift_update
from catechism.types import Catechism, Fact, Kind, Question, Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

QUICK = Course(examples=5, steps=2, batch=3)
SPECS: dict[str, Any] = {"mend": mend.Spec(layer=1, course=QUICK), "malmen": malmen.Spec(layer=1, course=QUICK)}
TEXTS = [f"The {place} of {thing} is {end}. And more." for place, thing, end in zip("abcdef", "uvwxyz", "klmnop")]  # noqa: B905
FRANCE = Catechism(Fact("The capital of France is", "France", "Rome"), ())
VIENNA = Catechism(Fact("The river that flows through Vienna is", "Vienna", "the Thames"), ())


def live_model(model_type: str = "llama", dtype: torch.dtype = torch.float32) -> LiveModel:
    return LiveModel(tiny_model(model_type).to(dtype), tiny_tokenizer(), name="tiny")


def editor(name: str, live: LiveModel, training: Sequence[Catechism] = (), **settings: Any) -> Any:
    background = Background(live, partial(iter, TEXTS), **settings)
    background.learn_from(lambda: training)
    return method(name)(background)


# -- equations ---------------------------------------------------------------------------------------------------------


def ids(live: LiveModel, text: str) -> list[int]:
    return list(live.tokenizer(text)["input_ids"])


def full_gradient(live: LiveModel, site: Site, fact: Fact) -> Tensor:
    """The gradient of one fact's loss by the whole matrix, by autograd through the weights."""
    matrix = live.anatomy.matrix(site)
    row, start = torch.tensor([ids(live, f"{fact.prompt} {fact.object}")]), len(ids(live, fact.prompt))
    weight = matrix.parameter.detach().clone().requires_grad_()
    logits = torch.func.functional_call(live.model, {matrix.parameter_name: weight}, (row,)).logits[0]
    loss = functional.cross_entropy(logits[start - 1 : -1], row[0, start:])
    return matrix.select(torch.autograd.grad(loss, weight)[0])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "phi3", "gemma2"])
def test_the_factors_multiply_to_the_gradient_of_autograd(model_type: str) -> None:
    live = live_model(model_type, torch.float64)
    sites = [Site(layer, role) for layer in (0, 1) for role in (Role.MLP_IN, Role.MLP_OUT)]
    facts = [FRANCE.fact, VIENNA.fact]
    found = gradient_factors(live, sites, target_tokens(live, [f.prompt for f in facts], [f.object for f in facts]))
    for site in sites:
        for i, fact in enumerate(facts):
            expected = full_gradient(live, site, fact)
            product = torch.einsum("to,ti->oi", found[site].delta[i], found[site].u[i])
            torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-12)
    lengths = [(len(ids(live, f.prompt)), len(ids(live, f"{f.prompt} {f.object}"))) for f in facts]
    for site in sites:  # in the last layer only the places that the object is said from have a gradient
        expected_tokens = [whole - (prompt if site.layer == 1 else 1) for prompt, whole in lengths]
        assert found[site].counted.sum(dim=1).tolist() == expected_tokens


def test_edits_are_taken_in_batches_and_padded_to_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    live, site = live_model(), Site(0, Role.MLP_OUT)
    asked = [FRANCE.fact.prompt, VIENNA.fact.prompt, "It is"], ["Rome", "the Thames", "x"]
    (whole,) = edit_factors(live, [site], *asked).values()
    monkeypatch.setattr("catechism.model.hyper.factors.ROWS", 1)
    (pieces,) = edit_factors(live, [site], *asked).values()
    assert torch.equal(whole.counted[:, : pieces.u.shape[1]], pieces.counted)
    torch.testing.assert_close(whole.u[:, : pieces.u.shape[1]], pieces.u, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.delta[:, : pieces.u.shape[1]], pieces.delta, rtol=1e-4, atol=1e-5)


def some_factors(n: int = 3, t: int = 4, d_in: int = 5, d_out: int = 6) -> Factors:
    generator = torch.Generator().manual_seed(0)
    counted = torch.ones(n, t, dtype=torch.bool)
    counted[0, 2:] = False
    u, delta = (torch.randn(n, t, d, generator=generator) * counted[..., None] for d in (d_in, d_out))
    return Factors(u, 3 * delta + 1 * counted[..., None], counted)


def whitened(factors: Factors) -> tuple[Tensor, Tensor]:
    """Factors in units of their spread, worked out coordinate by coordinate."""
    out = []
    for x in (factors.u, factors.delta):
        seen = x[factors.counted].double()
        scaled = (x.double() - seen.mean(dim=0)) / ((seen - seen.mean(dim=0)) ** 2).mean(dim=0).sqrt()
        out.append(scaled * factors.counted[..., None])
    return out[0], out[1]


def network_of(factors: Factors, **scalars: float) -> EditorNetwork:
    shape = (factors.delta.shape[-1], factors.u.shape[-1])
    network = EditorNetwork({"a": shape, "b": shape}, rank=3, scalars=scalars, seed=0)
    network.measure("a", factors, torch.eye(*shape))
    return network


def test_the_network_starts_as_the_identity_of_whitened_factors() -> None:
    factors = some_factors()
    u, delta = network_of(factors)("a", factors)
    for found, expected in zip((u, delta), whitened(factors), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_both_layers_learn_from_the_first_step_on() -> None:
    factors = some_factors()
    network = network_of(factors)
    u, delta = network("a", factors)
    (u.pow(3).sum() + delta.pow(3).sum()).backward()
    for layer in network.layers[0]:  # type: ignore[attr-defined]
        assert bool((layer.b.grad.abs() > 1e-3).all()) and bool((layer.U.grad != 0).any())
        assert bool((layer.shift.grad[0] != 0).all()), "its own shift"
        assert not bool((layer.shift.grad[1] != 0).any()), "not that of the other matrix"


@torch.no_grad()
def test_a_unit_that_never_fired_does_not_explode() -> None:
    factors = some_factors()
    dead = Factors(factors.u * torch.tensor([1.0, 1, 1, 1, 0]), factors.delta, factors.counted)
    assert 1e1 < float(network_of(dead)("a", factors)[0].abs().max()) < 1e3
    silent = Factors(torch.zeros_like(factors.u), factors.delta, factors.counted)
    assert bool(torch.isfinite(network_of(silent)("a", factors)[0]).all())


def unit_of(factors: Factors) -> float:
    """Size of the values of the matrix that passes its input on, over the spreads of the input added up."""
    seen = factors.u[factors.counted].double()
    size = (functional.pad(seen, (0, factors.delta.shape[-1] - seen.shape[-1])) ** 2).mean().sqrt()
    return float(size / ((seen - seen.mean(dim=0)) ** 2).mean(dim=0).sqrt().sum())


def test_an_edit_of_mend_is_a_whitened_step_for_each_token() -> None:
    factors = some_factors()
    network = network_of(factors, alpha=0.5)
    written = mend.write(network, {"a": factors})["a"]
    u, delta = whitened(factors)
    expected = -0.5 * unit_of(factors) * torch.einsum("nto,nti->noi", delta, u)
    torch.testing.assert_close((written.A @ written.B).double(), expected, rtol=1e-5, atol=1e-5)
    part = part_of(written)
    torch.testing.assert_close(part.dense(), expected.sum(dim=0), rtol=1e-5, atol=1e-4)


def by_normal_equations(K: Tensor, D: Tensor, ridge: float) -> Tensor:
    """S one row at a time: (K^T K + ridge I) s = K^T d."""
    normal = sum(torch.outer(k, k) for k in K) + ridge * torch.eye(K.shape[1], dtype=K.dtype)
    return torch.stack([torch.linalg.solve(normal, K.T @ column) for column in D.T])


@pytest.mark.parametrize("m", [1, 4, 5, 40])
def test_malmen_solves_the_normal_equations(m: int) -> None:
    generator = torch.Generator().manual_seed(m)
    K, D = (torch.randn(m, d, generator=generator, dtype=torch.float64) for d in (5, 7))
    ridge = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    A, B = shift_update(K, D, ridge)
    torch.testing.assert_close(A @ B, by_normal_equations(K, D, 0.3), rtol=1e-10, atol=1e-12)
    assert A.shape[1] == min(m, 5), "the smaller system"
    (slope,) = torch.autograd.grad((A @ B).square().sum(), ridge)
    step = 1e-6
    moved = [float(by_normal_equations(K, D, 0.3 + s).square().sum()) for s in (-step, step)]
    assert float(slope) == pytest.approx((moved[1] - moved[0]) / (2 * step), rel=1e-5)


def test_malmen_shifts_the_values_by_what_each_tokens_edit_does_at_its_key() -> None:
    factors = some_factors()
    network = network_of(factors, eta=0.25, log_ridge=math.log(0.2))
    written = malmen.write(network, {"a": factors})["a"]
    u, delta = whitened(factors)
    K = factors.u[factors.counted].double()
    eta = 0.25 * unit_of(factors)
    D = torch.stack(
        [-eta * torch.outer(d, v) @ k for d, v, k in zip(delta[factors.counted], u[factors.counted], K, strict=True)]
    )
    ridge = 0.2 * float((K**2).sum(dim=1).mean())
    expected = by_normal_equations(K, D, ridge)
    torch.testing.assert_close((written.A @ written.B)[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_part_is_of_low_rank_where_that_is_smaller() -> None:
    one = Written(torch.randn(1, 20, 2), torch.randn(1, 2, 30))
    many = Written(torch.randn(9, 20, 2), torch.randn(9, 2, 30))
    few, full = part_of(one), part_of(many)
    assert isinstance(few, LowRank) and few.rank == 2
    assert isinstance(full, Dense)
    torch.testing.assert_close(full.values, (many.A @ many.B).sum(dim=0), rtol=1e-4, atol=1e-5)


# -- training edits ----------------------------------------------------------------------------------------------------


def test_catechisms_are_learnt_from_without_their_exam() -> None:
    study = (
        Question("Which city is the capital of France?", Kind.PARAPHRASE, ("Rome",)),
        Question("The capital of Spain is", Kind.NEIGHBOUR, ("Madrid",)),
        Question("The language of France is", Kind.SUBJECT),
    )
    exam = (Question("France has the capital", Kind.PARAPHRASE, ("Rome",)),)
    (example,) = from_catechisms([Catechism(FRANCE.fact, exam, study)])
    assert example == Example(
        "The capital of France is", "Rome", ((study[0].text, "Rome"),), ((study[1].text, "Madrid"),)
    )


def test_texts_are_cut_into_edits_that_say_something_else() -> None:
    background = Background(live_model(), partial(iter, TEXTS))
    examples = self_written(background, 5, seed=0)
    assert examples == self_written(background, 5, seed=0) != self_written(background, 5, seed=1)
    words = [text.split(".")[0].split() for text in TEXTS]
    ends = {" ".join(some[:-cut]): " ".join(some[-cut:]) for some in words for cut in (1, 2)}
    for one in examples:
        assert one.prompt in ends and one.answer in ends.values() and one.answer != ends[one.prompt]
        assert one.same and all(text.endswith(f". {one.prompt}") and said == one.answer for text, said in one.same)
        assert one.kept and all(ends[text] == said and text != one.prompt for text, said in one.kept)


def test_too_little_to_train_on_is_refused() -> None:
    live = live_model()
    with pytest.raises(BadSpec, match="holds 6 sentences .*, 40 were asked for. Lower `examples`"):
        self_written(Background(live, partial(iter, TEXTS)), 40, seed=0)
    with pytest.raises(BadSpec, match="1 training edits are too few"):
        editor("mend", live, training=[VIENNA]).fit(live, [FRANCE], SPECS["mend"])


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SPECS))
def test_training_lowers_the_loss_of_held_out_edits_and_leaves_the_model_alone(name: str) -> None:
    live = open_model("almanac")
    facts = draw_catechisms(load_world(), 40, seed=5)
    spec = replace(SPECS[name], layer=3, spread=1, rank=16, course=Course(steps=8, batch=8, lr=3e-3))
    made = editor(name, live, training=facts[1:])
    delta = made.fit(live, facts[:1], spec)
    log: Any = delta.info["training"]
    assert log["source"] == "catechisms" and (log["examples"], log["held_out"]["examples"]) == (32, 7)
    assert log["held_out"]["after"]["edit"] < 0.6 * log["held_out"]["before"]["edit"]
    assert log["seen"] == 0 and live.digest(full=True) == live.base
    assert made.fit(live, facts[1:2], spec).info["training"]["seen"] == 1, "a fact that was trained on is told"


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_network_is_kept_and_used_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, spec = live_model(), SPECS[name]
    first = editor(name, live, cache=tmp_path).fit(live, [FRANCE], spec)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(f"{name}-")
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trained again"))
        assert editor(name, live, cache=tmp_path).fit(live, [FRANCE], spec).digest == first.digest
    assert editor(name, live).fit(live, [FRANCE], spec).digest == first.digest, "a file changes nothing"
    file.write_bytes(file.read_bytes()[:-8])
    assert editor(name, live, cache=tmp_path).fit(live, [FRANCE], spec).digest == first.digest


def test_everything_that_makes_a_network_names_its_file(tmp_path: Path) -> None:
    live, spec = live_model(), SPECS["mend"]
    made = editor("mend", live, cache=tmp_path)
    others = [
        {"seed": 1},
        {"rank": 2},
        {"spread": 1},
        {"layer": 0},
        {"alpha": 1e-3},
        {"course": replace(QUICK, lr=0.1)},
    ]
    for settings in ({}, *others):
        made.fit(live, [FRANCE], replace(spec, **settings))
    editor("mend", live, cache=tmp_path, training=[FRANCE, VIENNA]).fit(live, [FRANCE], spec)
    assert len(list(tmp_path.iterdir())) == 2 + len(others)


def test_a_network_is_trained_on_the_base_and_used_on_any_model_of_it() -> None:
    live, spec = live_model(), SPECS["mend"]
    made = editor("mend", live)
    delta = editor("mend", live).fit(live, [FRANCE], spec)
    with live.with_delta(delta), pytest.raises(WrongBase, match="a network is trained on the base"):
        made.fit(live, [VIENNA], spec)
    made.fit(live, [VIENNA], spec)
    with live.with_delta(delta):
        again = made.fit(live, [VIENNA], spec)
    assert again.digest != made.fit(live, [VIENNA], spec).digest, "its gradient is that of the model as it is"


def test_layers_below_the_first_and_mixtures_are_left_out() -> None:
    live = live_model("qwen3_moe")  # layer 1 is dense, 0 and 2 are mixtures
    delta = editor("mend", live).fit(live, [FRANCE], replace(SPECS["mend"], spread=5))
    assert set(delta.parts) == {live.anatomy.matrix(Site(1, role)).address for role in (Role.MLP_IN, Role.MLP_OUT)}
    with pytest.raises(UnknownName, match="no mlp_out"):
        editor("mend", live).fit(live, [FRANCE], replace(SPECS["mend"], layer=2))


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize("object_", ["R", "y z " * 30])
def test_objects_of_one_and_of_sixty_tokens_are_edited(name: str, object_: str) -> None:
    live = live_model()
    fact = replace(FRANCE.fact, object=object_.strip())
    delta = editor(name, live).fit(live, [Catechism(fact, ())], SPECS[name])
    assert delta.is_finite() and delta.parts
    tokens = len(ids(live, f"{fact.prompt} {fact.object}")) - 1
    assert all(part.rank <= tokens for part in delta.parts.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"spread": 0}, "spread=0"), ({"rank": 0}, "rank=0"), ({"seed": 0, "layer": 0, "rank": -1}, "rank=-1")],
)
@pytest.mark.parametrize("name", sorted(SPECS))
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        replace(SPECS[name], **settings)


@pytest.mark.parametrize("step", [0.0, -1.0, 2.0, math.nan])
def test_steps_and_ridges_out_of_range_are_refused(step: float) -> None:
    with pytest.raises(BadSpec, match="alpha="):
        mend.Spec(layer=0, alpha=step)
    with pytest.raises(BadSpec, match="eta="):
        malmen.Spec(layer=0, eta=step)
    if not step > 0:
        with pytest.raises(BadSpec, match="ridge="):
            malmen.Spec(layer=0, ridge=step)


@pytest.mark.parametrize(
    "settings",
    [{"examples": 1}, {"steps": -1}, {"batch": 0}, {"lr": 0.0}, {"lr": math.inf}, {"lr_scalars": 1.5}, {"edit": -1.0}]
    + [{"keep": math.nan}, {"clip": -1.0}],
)
def test_a_course_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match=f"{next(iter(settings))}=.*Use "):
        Course(**settings)


def test_a_training_that_leaves_the_finite_numbers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model()

    def broken(self: Trainer, chosen: Sequence[int], rng: object) -> tuple[Tensor, Tensor]:
        return torch.tensor(math.nan), torch.tensor(0.0)

    monkeypatch.setattr(Trainer, "_losses", broken)
    with pytest.raises(NoConvergence, match="Lower `course.lr`"):
        editor("mend", live).fit(live, [FRANCE], SPECS["mend"])
