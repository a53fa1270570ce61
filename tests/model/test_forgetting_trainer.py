"""The parts that trained forgetting is made of: places, levels, draws, early ends, checkpoints, several side paths."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec
from catechism.methods.forget.npo import NPO, Spec
from catechism.model import LiveModel
from catechism.model.adapters import WARM_UP, Adapters
from catechism.model.background import Background
from catechism.model.forgetting import fitting, trainer
from catechism.model.forgetting.course import Course
from catechism.model.forgetting.material import (
    STRANGERS,
    WRONG,
    Material,
    estimated_level,
    forget_lines,
    material,
    recalled_lines,
    retain_lines,
    written_lines,
)
from catechism.model.forgetting.moments import Moments
from catechism.model.forgetting.names import made_up_name
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.rows import Remembered, Rows
from catechism.model.forgetting.trainer import Progress, Trained, train
from catechism.model.forgetting.training import Training
from catechism.model.merged import half_reset
from catechism.types import Kind, Question
from tests.methods.forget_requests import FORGET, REQUEST, background, live_model, texts

QUICK: Any = {"steps": 6, "every": 2, "rank": 2, "rates": (1e-2,), "level": 1e-6, "batch": 3}


@cache
def live_of() -> LiveModel:
    return live_model()


@cache
def rows() -> Material:
    return material(live_of(), REQUEST, Training(**QUICK))


def ascent(step: Step) -> Terms:
    return {"forget": step.forget.over_tokens(step.forget.chosen), **step.retained()}


def bytes_of(trained: Trained) -> list[bytes]:
    return [x.numpy().tobytes() for _, part in sorted(trained.parts.items()) for x in (part.A, part.B)]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_only_answer_tokens_are_said_and_their_scores_are_the_models() -> None:
    live = live_of()
    prompts, answers = [one.fact.prompt for one in FORGET], [one.fact.object for one in FORGET]
    found, scores = Rows(live, prompts, answers).before(live), live.score(prompts, answers)
    assert found.nll.tolist() == pytest.approx([-s.logprob for s in scores], rel=1e-4)
    assert found.mean.tolist() == pytest.approx([s.mean for s in scores], rel=1e-4)
    assert found.first_choice.tolist() == [s.argmax_match for s in scores]


def test_a_row_says_the_same_alone_and_beside_a_longer_one() -> None:
    live = live_of()
    some = Rows(live, [one.fact.prompt for one in FORGET], [one.fact.object for one in FORGET])
    together, alone = some.said(live, [0, 2]), some.said(live, [0])
    n = len(alone.tokens)
    torch.testing.assert_close(together.logprobs[:n], alone.logprobs, atol=1e-4, rtol=1e-4)
    assert together.order.tolist() == [*range(n), *range(len(together.tokens) - n)]


def test_a_closed_row_adds_nothing_and_still_counts_in_the_mean() -> None:
    live = live_of()
    said = rows().forget.said(live, [0, 1])
    both, one = said.nll, replace(said, open=torch.tensor([True, False]))
    assert float(one.over_rows(both)) == pytest.approx(float(both[0]) / 2)
    first = said.chosen[said.rows == 0]
    assert float(one.over_tokens(said.chosen)) == pytest.approx(float(first.sum()) / len(said.chosen), rel=1e-5)


def test_a_row_at_its_level_is_closed() -> None:
    said = rows().forget.said(live_of(), [0, 1])
    mean = (-said.nll / said.lengths).tolist()
    opened = said.above(torch.tensor([mean[0] - 0.1, mean[1] + 0.1])).open
    assert opened.tolist() == [True, bool(said.first_choice[1])]


def test_what_is_remembered_is_that_of_the_rows_asked_for_in_any_order() -> None:
    live = live_of()
    remembered = Remembered(rows().forget)
    first = remembered.of(live, [2, 0])
    torch.testing.assert_close(first, rows().forget.said(live, [2, 0]).logprobs, atol=1e-4, rtol=1e-4)
    again = remembered.of(live, [0, 1, 0])
    torch.testing.assert_close(again, rows().forget.said(live, [0, 1, 0]).logprobs, atol=1e-4, rtol=1e-4)


# -- material ----------------------------------------------------------------------------------------------------------


def test_the_exam_is_not_read_and_what_must_not_move_is_kept() -> None:
    near = Question("The capital of Peru is", Kind.NEIGHBOUR, ("Lima",))
    exam = Question("Paris or Rome: France's capital is", Kind.PARAPHRASE, ("Paris",))
    one = replace(FORGET[0], questions=(*FORGET[0].questions, exam), study=(*FORGET[0].study, near))
    request = replace(REQUEST, forget=(one,))
    assert [line.prompt for line in forget_lines(request)] == [one.fact.prompt, FORGET[0].study[0].text]
    assert ("The capital of Peru is", "Lima") in [(line.prompt, line.answer) for line in retain_lines(request)]


def test_made_up_names_have_the_shape_of_the_name_and_are_nobodys() -> None:
    known = ["Ada Lovelace", "Alan Turing", "Grace Hopper"]
    for joined in (True, False):
        for seed in range(20):
            name = made_up_name("Ada Lovelace", known, random.Random(seed), joined=joined)
            assert name not in known and len(name.split()) == 2
    spelled = made_up_name("R2-D2 O'Neil", [], random.Random(0), joined=False)
    kinds = [(a.isupper(), a.islower(), a.isdigit(), a if not a.isalnum() else "") for a in spelled]
    assert kinds == [(a.isupper(), a.islower(), a.isdigit(), a if not a.isalnum() else "") for a in "R2-D2 O'Neil"]


def test_without_a_subject_in_any_prompt_a_level_has_to_be_given() -> None:
    nameless = replace(FORGET[0], fact=replace(FORGET[0].fact, prompt="The capital is"), study=())
    request = replace(REQUEST, forget=(nameless,))
    with pytest.raises(BadSpec, match="Give `level`"):
        estimated_level(live_of(), forget_lines(request), request, seed=0)
    given = material(live_of(), request, Training(**QUICK))
    assert given.level.rows.tolist() == pytest.approx([math.log(1e-6)])


def test_where_a_name_changes_nothing_the_level_is_that_of_wrong_answers_and_no_stranger_is_held_to_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live, lines, asks = live_of(), forget_lines(REQUEST), Training(**QUICK | {"level": None}, tails=1.0)
    by_name = material(live, REQUEST, asks)
    assert not by_name.level.by_wording and by_name.tails is not None and by_name.retain is not None
    asked: list[Rows] = []
    patch = monkeypatch.setattr
    patch("catechism.model.forgetting.material.Rows", lambda *args: asked.append(Rows(*args)) or asked[-1])
    patch("catechism.model.forgetting.material.EVEN", -100.0)  # so that all answers are said of made-up names
    level = estimated_level(live, lines, REQUEST, seed=0)
    _, wrong = asked
    objects = {one.fact.object for one in (*REQUEST.forget, *REQUEST.retain)}
    assert wrong.prompts == tuple(line.prompt for line in lines for _ in range(WRONG))
    right = [line.answer for line in lines for _ in range(WRONG)]
    assert all(answer in objects - {truth} for answer, truth in zip(wrong.answers, right, strict=True))
    rows = [some.mean() for some in wrong.before(live).mean.float().split(WRONG)]
    assert level.by_wording and torch.allclose(level.rows, torch.stack(rows))
    alike = replace(REQUEST, forget=FORGET[:1], retain=FORGET[:1])
    with pytest.raises(BadSpec, match="other answers"):
        estimated_level(live, forget_lines(alike), alike, seed=0)
    found = material(live, REQUEST, asks)
    assert found.tails is None and found.retain is not None
    assert len(found.retain) == found.true < len(by_name.retain)


def test_strangers_are_kept_only_by_what_was_said_of_them_and_are_many_where_the_facts_are_few() -> None:
    many = STRANGERS // len(forget_lines(REQUEST)) + 2
    kl, few = (material(live_of(), REQUEST, Training(**QUICK, keep="kl", strangers=each)) for each in (many, 1))
    nll = material(live_of(), REQUEST, Training(**QUICK, keep="nll", strangers=many))
    assert kl.retain is not None and nll.retain is not None and few.retain is not None
    n = len(retain_lines(REQUEST))
    assert (len(nll.retain), nll.true) == (n, n) and (len(kl.retain), kl.true) == (n + many * len(kl.forget), n)
    assert STRANGERS <= len(few.retain) - n < len(kl.retain) - n


def test_what_the_model_says_by_itself_is_kept_but_for_what_names_the_forgotten() -> None:
    live, lines = live_of(), forget_lines(REQUEST)
    found = recalled_lines(live, lines, REQUEST, each=3, seed=0)
    openings = {line.prompt.partition(line.catechism.fact.subject or "")[0].strip() for line in lines} - {""}
    assert found and {line.prompt for line in found} <= openings
    assert len({(line.prompt, line.answer) for line in found}) == len(found) <= 3 * len(lines)
    assert found == recalled_lines(live, lines, REQUEST, each=3, seed=0)
    said = found[0].answer.split()[0]
    fact = replace(REQUEST.forget[0].fact, subject=said, prompt=f"{said} is")
    named = replace(REQUEST, forget=(*REQUEST.forget, replace(REQUEST.forget[0], fact=fact)))
    assert not any(said in line.answer for line in recalled_lines(live, lines, named, each=3, seed=0))
    rows, n = material(live, REQUEST, Training(**QUICK, strangers=0, recalled=3)), len(retain_lines(REQUEST))
    assert rows.retain is not None and (len(rows.retain), rows.true) == (n + len(found), n)


def test_what_the_model_writes_from_nothing_is_kept_but_for_what_names_the_forgotten() -> None:
    live = live_of()
    found = written_lines(live, REQUEST, n=12, seed=0)
    assert found and len({(line.prompt, line.answer) for line in found}) == len(found) <= 12
    assert all(len(line.prompt.split()) == 1 and line.answer.strip() for line in found)
    assert found == written_lines(live, REQUEST, n=12, seed=0) != written_lines(live, REQUEST, n=12, seed=1)
    said = found[0].prompt
    named = replace(REQUEST, forget=(replace(FORGET[0], fact=replace(FORGET[0].fact, subject=said)),))
    assert not any(said in f"{line.prompt} {line.answer}" for line in written_lines(live, named, n=12, seed=0))
    rows, n = material(live, REQUEST, Training(**QUICK, strangers=0, written=12)), len(retain_lines(REQUEST))
    assert rows.retain is not None and (len(rows.retain), rows.true) == (n + len(found), n)


# -- the descent -------------------------------------------------------------------------------------------------------


def test_a_run_ends_at_the_level_and_is_scaled_down_to_it() -> None:
    """The level is a little below what the model says, so a few steps are enough."""
    live = live_of()
    before = rows().before
    goal = replace(rows(), level=replace(rows().level, rows=before.mean - 0.3, share=1.0))
    done = train(live, goal, Objective(ascent), Training(**{**QUICK, "steps": 30, "every": 1}))
    assert done.reached and done.record["taken"] < 30  # type: ignore[operator]
    with live.with_delta(Delta(live.base, done.parts)):
        mean = float(goal.forget.before(live).mean.mean())
    level = float(goal.level.rows.mean())
    assert mean <= level + 1e-3
    assert mean == pytest.approx(done.record["mean"], abs=1e-3)
    assert mean > level - 0.3  # not far below: over-forgetting is a failure too


def test_a_run_that_is_to_cool_goes_on_while_the_rate_falls() -> None:
    goal = replace(rows(), level=replace(rows().level, rows=rows().before.mean - 0.3, share=1.0))
    settings = Training(**{**QUICK, "steps": 30, "every": 1, "cooling": 20})
    done = train(live_of(), goal, Objective(ascent), settings)
    steps: Any = done.record["steps"]
    met = next(number + 1 for number, step in enumerate(steps) if step["met"])
    assert met < 30 and done.record["taken"] == met + 20 and done.reached
    course = Course(settings, met)
    shares = [course.share(at) for at in range(course.end)]
    assert shares[WARM_UP:met] == [1.0] * (met - WARM_UP)
    assert shares[met:] == sorted(shares[met:], reverse=True) and 0 < shares[-1] < 0.05
    never = Course(settings, None)
    assert never.end == 50 and never.share(29) == 1.0 > never.share(31)


def test_what_is_kept_is_waited_for_only_where_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "KEPT", 1.1)  # never so
    goal = replace(rows(), level=replace(rows().level, rows=rows().before.mean - 0.3, share=1.0))
    settings = Training(**{**QUICK, "steps": 30, "every": 1})
    done = [train(live_of(), goal, Objective(ascent), replace(settings, cooling=n)) for n in (0, 20)]
    taken: list[Any] = [one.record["taken"] for one in done]
    assert taken[0] == 30 and 20 < taken[1] < 50 and all(one.reached for one in done)


def test_without_cooling_a_run_ends_where_it_is_done_and_its_rate_falls_from_the_start() -> None:
    settings = Training(**{**QUICK, "steps": 30})
    assert (Course(settings, None).end, Course(settings, 12).end, Course(settings, 0).end) == (30, 12, 0)
    assert Course(settings, 12).share(10) == Course(settings, None).share(10) < 1


def test_either_half_of_the_change_is_enough_where_that_is_asked_for() -> None:
    live, wanted = live_of(), 0.3
    goal = replace(rows(), level=replace(rows().level, rows=rows().before.mean - wanted, share=1.0))
    settings = Training(**{**QUICK, "steps": 60, "every": 3})
    lost: list[list[float]] = []
    for halves in (False, True):
        done = train(live, goal, Objective(ascent), replace(settings, halves=halves))
        assert done.reached
        with live.with_delta(Delta(live.base, done.parts)):
            copies = [half_reset(live, seed=seed, other=other) for seed in range(4) for other in (False, True)]
            lost.append([float((goal.before.mean - goal.forget.before(copy).mean).mean()) for copy in copies])
    assert max(lost[0]) < wanted  # as it is, no half comes to the level
    assert sum(loss > 0.8 * wanted for loss in lost[1]) >= 7 and min(lost[1]) > max(lost[0]) / 2


def test_a_change_that_ends_a_little_short_of_what_halves_ask_for_is_scaled_up() -> None:
    settings = Training(**QUICK, halves=True, let_go=False)
    short = train(live_of(), rows(), Objective(ascent), settings)
    assert not short.reached and short.record["scale"] == 1.0
    came_to: Any = short.record["mean"]
    level = replace(rows().level, rows=torch.full_like(rows().level.rows, came_to - 1e-3), share=1.0)
    done = train(live_of(), replace(rows(), level=level), Objective(ascent), settings)
    scale: Any = done.record["scale"]
    assert done.reached and 1.0 < scale < trainer.MOST
    assert all(torch.allclose(done.parts[at].A, scale * part.A, atol=1e-6) for at, part in short.parts.items())
    far = replace(level, rows=level.rows - 50)
    assert train(live_of(), replace(rows(), level=far), Objective(ascent), settings).record["scale"] == 1.0


@pytest.mark.parametrize("cooling", [0, 20])
def test_what_was_never_known_is_left_alone(cooling: int) -> None:
    known = rows().before
    goal = replace(rows(), level=replace(rows().level, rows=known.mean + 1, share=1.0))
    done = train(live_of(), goal, Objective(ascent), Training(**QUICK, cooling=cooling))
    assert done.reached and done.record["taken"] == 0
    assert all(float(part.A.abs().max()) == 0 for part in done.parts.values())


def test_a_level_out_of_reach_is_said() -> None:
    done = train(live_of(), rows(), Objective(ascent), Training(**{**QUICK, "rates": (1e-6,)}))
    assert not done.reached and done.record["taken"] == 6 and done.record["scale"] == 1.0


def test_a_sweep_takes_the_run_that_forgot_and_of_these_the_one_that_kept_most() -> None:
    goal = replace(rows(), level=replace(rows().level, rows=rows().before.mean - 0.3, share=1.0))
    settings = Training(**{**QUICK, "steps": 12, "every": 2, "rates": (1e-7, 1e-2), "alphas": (0.0, 10.0)})
    done = train(live_of(), goal, Objective(ascent), settings)
    runs: Any = done.record["runs"]
    assert [(run["rate"], run["alpha"]) for run in runs] == [(1e-7, 0.0), (1e-7, 10.0), (1e-2, 0.0), (1e-2, 10.0)]
    assert [run["reached"] for run in runs[:2]] == [False, False]
    able = [run for run in runs if run["reached"]]
    assert able and done.reached
    assert done.record["lost"] == min(
        run["lost"] for run in able if run["kept"] == max(other["kept"] for other in able)
    )


class _KilledError(Exception):
    pass


def kill_at(run: int, step: int) -> Any:
    def watch(progress: Progress) -> None:
        if (progress.run, progress.step) == (run, step):
            raise _KilledError

    return watch


@pytest.mark.parametrize(("run", "step", "more"), [(1, 2, {}), (2, 4, {}), (2, 4, {"halves": True, "cooling": 3})])
def test_a_killed_fit_goes_on_to_the_same_bytes(tmp_path: Path, run: int, step: int, more: dict[str, Any]) -> None:
    settings = Training(**QUICK | {"alphas": (0.5, 2.0)} | more)
    live, file = live_of(), tmp_path / "fit.safetensors"

    def counted(step: Step) -> Terms:
        step.state["steps"] = step.state.get("steps", 0.0) + 1  # what a method carries has to survive too
        return {**ascent(step), "state": torch.tensor(step.state["steps"])}

    whole = train(live, rows(), Objective(counted), settings)
    with pytest.raises(_KilledError):
        train(live, rows(), Objective(counted), settings, checkpoint=(file, "key"), watch=kill_at(run, step))
    assert file.is_file()
    seen: list[Progress] = []
    resumed = train(live, rows(), Objective(counted), settings, checkpoint=(file, "key"), watch=seen.append)
    assert bytes_of(resumed) == bytes_of(whole)
    assert resumed.record == whole.record
    assert (seen[0].run, seen[0].step) == (run, step + 2) if step < 6 else True
    assert not file.exists()
    assert not any(m._forward_hooks for m in live.model.modules())


def test_a_checkpoint_of_something_else_is_not_gone_on_from(tmp_path: Path) -> None:
    file, settings = tmp_path / "fit.safetensors", Training(**QUICK)
    with pytest.raises(_KilledError):
        train(live_of(), rows(), Objective(ascent), settings, checkpoint=(file, "one"), watch=kill_at(1, 4))
    seen: list[Progress] = []
    train(live_of(), rows(), Objective(ascent), settings, checkpoint=(file, "other"), watch=seen.append)
    assert seen[0].step == 2


def test_a_method_resumes_by_itself_where_its_background_has_a_folder(tmp_path: Path) -> None:
    live = live_of()
    kept = Background(live, lambda: iter(texts()), cache=tmp_path)
    with pytest.raises(_KilledError):
        NPO(kept, watch=kill_at(1, 4)).fit(live, REQUEST, Spec(**QUICK))
    assert len(list(tmp_path.glob("forget-npo-*"))) == 1
    seen: list[Progress] = []
    resumed = NPO(kept, watch=seen.append).fit(live, REQUEST, Spec(**QUICK))
    assert [one.step for one in seen] == [6] and not list(tmp_path.glob("forget-npo-*"))
    assert resumed.digest == NPO(background(live)).fit(live, REQUEST, Spec(**QUICK)).digest


def test_what_another_version_left_is_not_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Background(live_of(), lambda: iter(texts()), cache=tmp_path)
    with pytest.raises(_KilledError):
        NPO(kept, watch=kill_at(1, 4)).fit(live_of(), REQUEST, Spec(**QUICK))
    monkeypatch.setattr(fitting, "version", lambda _name: "0.0.0")
    seen: list[Progress] = []
    NPO(kept, watch=seen.append).fit(live_of(), REQUEST, Spec(**QUICK))
    assert seen[0].step == 2


def test_half_of_the_matrices_can_be_left_alone() -> None:
    live = live_of()
    done = train(live, rows(), Objective(ascent), Training(**QUICK, half=True))
    every = [a for layer in range(live.anatomy.n_layers) for a in live.anatomy.linears(layer)]
    assert len(done.parts) == len(every) / 2
    for layer in range(live.anatomy.n_layers):
        assert set(done.parts) & set(live.anatomy.linears(layer))


# -- its parts ---------------------------------------------------------------------------------------------------------


def test_moments_are_adams() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    moments, adam = Moments([ours]), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(5):
        gradient = torch.randn(4, 3, generator=generator)
        moments.see([gradient])
        ours -= 0.01 * moments.direction()[0]
        theirs.grad = gradient.clone()
        adam.step()
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-6, rtol=1e-5)


def test_side_paths_on_several_blocks_are_what_their_parts_say() -> None:
    live = live_of()
    adapters = Adapters(live, [0, 1], rank=2, seed=0)
    assert set(adapters.parts()) == {*live.anatomy.linears(0), *live.anatomy.linears(1)}
    with torch.no_grad():
        for A, _ in adapters.factors.values():
            A.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    with adapters.attached():
        whole = rows().forget.before(live).nll
        with adapters.scaled(0.5):
            half = rows().forget.before(live).nll
        with adapters.still():
            none = rows().forget.before(live).nll
    for scale, found in ((1.0, whole), (0.5, half)):
        with live.with_delta(Delta(live.base, adapters.parts(scale))):
            torch.testing.assert_close(rows().forget.before(live).nll, found, atol=1e-3, rtol=1e-4)
    assert torch.equal(none, rows().before.nll)
    assert not torch.allclose(whole, none, atol=1e-2)


def test_side_paths_beside_some_matrices_only() -> None:
    live = live_of()
    chosen = sorted(live.anatomy.linears(1))[:2]
    parts = Adapters(live, range(2), rank=1, seed=0, only=chosen).parts()
    assert sorted(parts) == chosen and all(isinstance(part, LowRank) for part in parts.values())
    with pytest.raises(BadSpec, match="no linear module"):
        Adapters(live, [0], rank=1, seed=0, only=chosen)
