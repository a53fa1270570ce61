"""The objective of a value search, against plain forward passes of one prompt at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from catechism.arch import TABLE
from catechism.errors import BadFact
from catechism.model import LiveModel
from catechism.model.suffix import can_part
from catechism.model.targets import Rows, TargetObjective, row_inputs, subject_keys, target_rows
from catechism.types import Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = [
    ["The capital of France is", "In 1987 it was. The capital of France is"],
    ["Tokyo lies in", "Therefore. Tokyo lies in", "I. Tokyo lies in"],
]
TARGETS = ["Rome", "the country of the Danube"]
SUBJECTS = ["France", "Tokyo"]
KEPT = [["France is a"], ["Tokyo is a"]]
FLAT = [(0, PROMPTS[0][0]), (0, PROMPTS[0][1]), *((1, prompt) for prompt in PROMPTS[1])]
DENSE = sorted(name for name, arch in TABLE.items() if arch.mlp_out is not None)
MODELS = ("llama", "gpt2", "opt", "gemma2", "phi3")  # plain, Conv1D, flattened, soft cap and post-norm, fused


def live_model(
    model_type: str = "llama", *, add_bos: bool = True, dtype: torch.dtype = torch.float32, **overrides: object
) -> LiveModel:
    model = tiny_model(model_type, **overrides).to(dtype)
    return LiveModel(model, tiny_tokenizer(add_bos=add_bos), name="tiny")


def the_rows(live: LiveModel) -> Rows:
    return target_rows(live, PROMPTS, TARGETS, SUBJECTS, KEPT)


def a_gain(rows: Rows, seed: int = 0) -> Tensor:
    """Some share of the value at every token, half of them none."""
    generator = torch.Generator().manual_seed(seed)
    gain = torch.rand(rows.input_ids.shape, generator=generator)
    return torch.where(torch.rand(gain.shape, generator=generator) < 0.5, gain, 0.0) * rows.attention_mask


def forward(live: LiveModel, site: Site, ids: list[int], added: Tensor | None = None) -> Tensor:
    """Log-probabilities (t, v) in float64 of one row, without padding, `added` (t, d) put on the site's output."""

    def add(_module: object, _args: object, output: Tensor) -> Tensor:
        return output if added is None else output + added.to(output.dtype).reshape(output.shape)

    handle = live.anatomy.module(site).register_forward_hook(add)
    try:
        with torch.no_grad():
            return live.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    finally:
        handle.remove()


def expected(
    live: LiveModel, site: Site, rows: Rows, gain: Tensor, values: Tensor, *, kl: float, decay: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """(loss, negative log-likelihood) of every fact, one prompt after the other."""
    tokenizer = live.tokenizer

    def added(ids: list[int], row: int, fact: int) -> Tensor:
        return gain[row, : len(ids), None] * values[fact]

    nll: list[list[float]] = [[], []]
    moved: list[list[float]] = [[], []]
    for row, (fact, prompt) in enumerate(FLAT):
        start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(f"{prompt} {TARGETS[fact]}")["input_ids"]
        logprobs = forward(live, site, ids, added(ids, row, fact))
        chosen = [float(logprobs[t - 1, ids[t]]) for t in range(start, len(ids))]
        nll[fact].append(-sum(chosen) / len(chosen))
    for fact, (prompt,) in enumerate(KEPT):
        ids = tokenizer(prompt)["input_ids"]
        before = forward(live, site, ids)[-1]
        after = forward(live, site, ids, added(ids, len(FLAT) + fact, fact))[-1]
        moved[fact].append(float((before.exp() * (before - after)).sum()))
    mean = torch.tensor([sum(x) / len(x) for x in nll])
    divergence = torch.tensor([sum(x) / len(x) for x in moved])
    return mean + kl * divergence + decay * values.norm(dim=1) / scale**2, mean


@pytest.mark.parametrize("add_bos", [True, False])
def test_rows_know_where_their_targets_and_subjects_are(add_bos: bool) -> None:
    live = live_model(add_bos=add_bos)
    rows = the_rows(live)
    assert rows.owner.tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert rows.kept == (False,) * 5 + (True,) * 2
    for row, (fact, _prompt) in enumerate([*FLAT, (0, ""), (1, "")]):
        ids = rows.input_ids[row].tolist()
        counted = live.tokenizer.decode(ids[rows.starts[row] + 1 : rows.ends[row] + 1])
        if rows.kept[row]:
            assert rows.ends[row] == rows.starts[row] + 1
            assert live.tokenizer.decode(ids[: rows.starts[row] + 1], skip_special_tokens=True) == KEPT[fact][0]
        else:
            assert counted == f" {TARGETS[fact]}"
            assert rows.ends[row] + 1 == int(rows.attention_mask[row].sum())
        until = live.tokenizer.decode(ids[: int(rows.subject[row]) + 1], skip_special_tokens=True)
        assert until.endswith(SUBJECTS[fact])


@pytest.mark.parametrize("where", ["prompt", "kept"])
def test_a_prompt_without_its_subject_is_refused_by_name(where: str) -> None:
    live = live_model()
    prompts, kept = ([["Paris is"]], [["Vienna is a"]]) if where == "prompt" else ([["Vienna is"]], [["Paris is a"]])
    with pytest.raises(BadFact, match=r"'Vienna' is not in the prompt 'Paris"):
        target_rows(live, prompts, ["Rome"], ["Vienna"], kept)
    with pytest.raises(BadFact, match=r"'Vienna' is not in the prompt 'Paris"):
        subject_keys(live, [Site(0, Role.MLP_OUT)], ["Vienna is", "Paris is"], ["Vienna", "Vienna"])


@pytest.mark.parametrize("model_type", MODELS)
def test_keys_are_the_inputs_at_the_subjects_last_token(model_type: str) -> None:
    live = live_model(model_type)
    sites = live.anatomy.sites(Role.MLP_OUT)
    prompts = [prompt for _, prompt in FLAT]
    found = subject_keys(live, sites, prompts, [SUBJECTS[fact] for fact, _ in FLAT])
    assert list(found) == sites
    for row, (fact, prompt) in enumerate(FLAT):
        end = prompt.index(SUBJECTS[fact]) + len(SUBJECTS[fact])
        last = len(live.tokenizer(prompt[:end])["input_ids"]) - 1  # what follows is a word of its own
        for site in sites:
            inputs = plain_inputs(live, site, live.tokenizer(prompt)["input_ids"])
            assert found[site].dtype == torch.float64
            torch.testing.assert_close(found[site][row], inputs[last].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", MODELS)
def test_row_inputs_are_those_of_every_row_alone(model_type: str) -> None:
    live, site = live_model(model_type), Site(1, Role.MLP_OUT)
    rows = the_rows(live)
    found = row_inputs(live, site, rows)
    for row, mask in enumerate(rows.attention_mask.bool()):
        alone = plain_inputs(live, site, rows.input_ids[row][mask].tolist())
        torch.testing.assert_close(found[row][mask], alone, rtol=1e-4, atol=1e-5)


def plain_inputs(live: LiveModel, site: Site, ids: list[int]) -> Tensor:
    seen: list[Tensor] = []
    handle = live.anatomy.module(site).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        live.model(torch.tensor([ids]))
    handle.remove()
    return seen[0].reshape(len(ids), -1)


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("model_type", MODELS)
def test_the_loss_is_the_papers(model_type: str, add_bos: bool) -> None:
    live, site = live_model(model_type, add_bos=add_bos), Site(0, Role.MLP_OUT)
    rows = the_rows(live)
    gain, scale, weights = a_gain(rows), torch.tensor([0.7, 1.9]), {"kl": 0.6, "decay": 0.3}
    objective = TargetObjective(live, site, rows, gain, scale=scale, **weights)
    values = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss, nll = objective(values, torch.arange(2))
    wanted_loss, wanted_nll = expected(live, site, rows, gain, values, scale=scale, **weights)
    torch.testing.assert_close(nll, wanted_nll, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", DENSE)
def test_only_what_a_value_can_change_is_run_again(model_type: str) -> None:
    """The published search, on whatever layer is dense: all before the subject's last token is read once."""
    live = live_model(model_type)
    site, rows = live.anatomy.sites(Role.MLP_OUT)[-1], the_rows(live)
    scale, weights = torch.tensor([0.7, 1.9]), {"kl": 0.6, "decay": 0.3}
    values = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    gain = torch.zeros(rows.input_ids.shape)
    gain[torch.arange(len(rows.kept)), rows.subject] = 1.0
    objective = TargetObjective(live, site, rows, gain, scale=scale, **weights)
    run: list[int] = []
    block = live.anatomy.block(live.anatomy.n_layers - 1)
    handle = block.register_forward_pre_hook(
        lambda _m, args, kwargs: run.append(_tokens(args, kwargs)), with_kwargs=True
    )
    found = [objective(values[active], torch.tensor(active)) for active in ([0, 1], [1], [0])]
    handle.remove()
    wanted = expected(live, site, rows, gain, values, scale=scale, **weights)
    for active, (loss, nll) in zip(([0, 1], [1], [0]), found, strict=True):
        torch.testing.assert_close(loss, wanted[0][active], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(nll, wanted[1][active], rtol=1e-4, atol=1e-4)
    longest = int((rows.attention_mask.sum(dim=1) - rows.subject).max())
    assert min(run) <= longest < int(rows.attention_mask.sum(dim=1).max())


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return int((args[0] if args else kwargs["hidden_states"]).shape[1])


def test_a_row_whose_window_might_be_cut_is_run_whole() -> None:
    live = live_model("mistral", sliding_window=40)
    rows = the_rows(live)
    assert can_part(live, 20) and not can_part(live, 21)
    values, gain = torch.randn(2, 32), a_gain(rows)
    gain[:, :3] = 0.0
    objective = TargetObjective(live, Site(1, Role.MLP_OUT), rows, gain, kl=0.5, decay=0.1, scale=torch.ones(2))
    wanted = expected(live, Site(1, Role.MLP_OUT), rows, gain, values, kl=0.5, decay=0.1, scale=torch.ones(2))
    torch.testing.assert_close(objective(values, torch.arange(2))[0], wanted[0], rtol=1e-4, atol=1e-4)


def test_without_a_change_the_loss_is_the_teacher_forced_score_of_the_model() -> None:
    live = live_model("gpt2")
    rows = the_rows(live)
    objective = TargetObjective(live, Site(1, Role.MLP_OUT), rows, a_gain(rows), kl=1.0, decay=1.0, scale=torch.ones(2))
    loss, nll = objective(torch.zeros(2, 32), torch.arange(2))
    scores = live.score([prompt for _, prompt in FLAT], [TARGETS[fact] for fact, _ in FLAT])
    mean = torch.tensor(
        [
            -sum(score.mean for score, (owner, _) in zip(scores, FLAT, strict=True) if owner == fact)
            / len(PROMPTS[fact])
            for fact in range(2)
        ]
    )
    torch.testing.assert_close(nll, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, nll, rtol=0, atol=1e-6)


@pytest.mark.parametrize("active", [[0], [1], [1, 0]])
def test_a_fact_has_the_same_loss_in_any_company(active: list[int]) -> None:
    live, site = live_model(), Site(0, Role.MLP_OUT)
    rows = the_rows(live)
    objective = TargetObjective(live, site, rows, a_gain(rows), kl=0.5, decay=0.1, scale=torch.tensor([1.0, 2.0]))
    values = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    every = objective(values, torch.arange(2))
    some = objective(values[active], torch.tensor(active))
    for one, all_of_them in zip(some, every, strict=True):
        torch.testing.assert_close(one, all_of_them[active], rtol=1e-5, atol=1e-5)


def test_the_gradient_is_the_slope_and_goes_to_the_facts_own_value() -> None:
    live, site = live_model(dtype=torch.float64), Site(0, Role.MLP_OUT)
    rows = the_rows(live)
    gain = a_gain(rows).double()
    objective = TargetObjective(live, site, rows, gain, kl=0.5, decay=0.4, scale=torch.tensor([0.9, 1.1]))
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2, 32, generator=generator, dtype=torch.float64, requires_grad=True)
    loss, _ = objective(values, torch.arange(2))
    (first,) = torch.autograd.grad(loss[0], values, retain_graph=True)
    (second,) = torch.autograd.grad(loss[1], values)
    assert first[0].any() and not first[1].any() and second[1].any() and not second[0].any()
    way = torch.randn(2, 32, generator=generator, dtype=torch.float64)
    way, step = way / way.norm(dim=1, keepdim=True), 0.05  # logits are compared in float32
    with torch.no_grad():
        up, down = (objective(values + sign * step * way, torch.arange(2))[0] for sign in (1, -1))
    slope = torch.stack([(first[0] * way[0]).sum(), (second[1] * way[1]).sum()])
    torch.testing.assert_close(((up - down) / (2 * step)).double(), slope, rtol=0.02, atol=1e-3)


def test_the_model_keeps_no_gradient_and_no_hook() -> None:
    live = live_model("opt")
    rows = the_rows(live)
    objective = TargetObjective(live, Site(0, Role.MLP_OUT), rows, a_gain(rows), kl=0.1, decay=0.1, scale=torch.ones(2))
    values = torch.zeros(2, 32, requires_grad=True)
    objective(values, torch.arange(2))[0].sum().backward()
    assert values.grad is not None and bool(values.grad.isfinite().all())
    assert all(parameter.grad is None for parameter in live.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in live.model.modules())
