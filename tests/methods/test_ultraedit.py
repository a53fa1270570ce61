"""UltraEdit: its statistics, its tokens and its solution, each worked out another way; and a stream that is resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from catechism.errors import BadSpec
from catechism.methods.edit.ultraedit import Running, Spec, UltraEdit, _tokens, _write
from catechism.methods.stream import Progress, Stream, Streaming
from catechism.model.background import Background
from catechism.types import Role, Site
from tests.methods.test_contract import FACTS, live_model, texts

SPEC = Spec(layer=1, warm=4)


def editor(live) -> UltraEdit:
    return UltraEdit(Background(live, lambda: iter(texts())))


@pytest.mark.parametrize("cuts", [[7], [1, 6], [3, 3, 1]])
def test_running_statistics_are_those_of_everything_at_once(cuts: list[int]) -> None:
    z = torch.randn(7, 5, dtype=torch.float64) * 3 + 2
    running = Running.nothing(5)
    for part in z.split(cuts):
        running = running.add(part)
    assert float(running.n) == 7
    torch.testing.assert_close(running.mean, z.mean(dim=0))
    torch.testing.assert_close(running.squares / 7, z.var(dim=0, correction=0))
    torch.testing.assert_close(running.normalised(z), (z - z.mean(dim=0)) / z.std(dim=0, correction=0))


def test_a_coordinate_that_never_differs_is_zero_and_not_infinite() -> None:
    z = torch.cat([torch.randn(4, 1), torch.full((4, 1), 3.0)], dim=1)
    normal = Running.nothing(2).add(z).normalised(z)
    assert bool(torch.isfinite(normal).all()) and bool((normal[:, 1] == 0).all())


def test_the_change_is_the_ridge_solution_for_the_normalised_shifts() -> None:
    torch.manual_seed(1)
    W, h, g = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4), (6, 4), (6, 3)))
    running = Running.nothing(7).add(torch.cat([h, g], dim=1)).add(torch.randn(9, 7))
    A, B = _write(W, h, g, running, SPEC)
    mean, std = running.mean, (running.squares / running.n).sqrt()
    size = sum(float((W @ x).square().mean()) for x in h) / 6
    D = torch.stack([
        -SPEC.eta * size**0.5 * float((((x - mean[:4]) / std[:4]) ** 2).sum()) / 4 * ((y - mean[4:]) / std[4:])
        for x, y in zip(h, g, strict=True)
    ])  # fmt: skip
    ridge = SPEC.ridge * float((h**2).sum()) / 6
    expected = torch.linalg.solve(h.T @ h + ridge * torch.eye(4, dtype=torch.float64), h.T @ D).T
    torch.testing.assert_close(A @ B, expected)


def test_a_token_counts_if_a_token_of_the_answer_is_said_from_it() -> None:
    live, site = live_model(), Site(1, Role.MLP_OUT)
    prompt, answer = FACTS[1].fact.prompt, FACTS[1].fact.object
    h, g = _tokens(live, [site], [prompt], [answer])[site]
    start, end = live.encode_pairs([prompt], [answer]).spans[0]
    assert len(h) == len(g) == end - start > 1
    assert bool((g != 0).any(dim=1).all())


def test_a_stream_that_is_resumed_ends_with_the_same_bytes() -> None:
    live = live_model()
    assert isinstance(editor(live), Streaming)
    whole, half = editor(live).stream(live, SPEC), editor(live).stream(live, SPEC)
    for fact in FACTS:
        whole.add([fact])
    half.add(FACTS[:1])
    stood = half.progress
    again = editor(live).stream(live, SPEC, Progress(stood.delta, stood.tensors, stood.steps))
    assert again.add(FACTS[1:]).digest == whole.progress.delta.digest
    assert again.progress.steps == 2 and live.applied == () and live.digest(full=True) == live.base


def test_the_statistics_of_a_stream_count_every_token_of_every_turn() -> None:
    live = live_model()
    spans = [live.encode_pairs([c.fact.prompt], [c.fact.object]).spans[0] for c in FACTS]
    sizes = [end - start for start, end in spans]
    stream = editor(live).stream(live, replace(SPEC, warm=0, spread=1))
    stream.add(FACTS[:1])
    assert counted(stream) == [sizes[0]]
    stream.add(FACTS[1:])
    assert counted(stream) == [sum(sizes)]


def counted(stream: Stream) -> list[float]:
    return [float(x) for name, x in (stream.progress.tensors or {}).items() if name.endswith(".n")]


@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"ridge": 0.0}, {"spread": 0}, {"warm": -1}, {"eta": float("nan")}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSpec, match="Use|use"):
        replace(SPEC, **wrong)
