"""The build of the shipped models, on a recipe so small that it trains in a moment."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from reference_build.experts import cut_into_experts
from reference_build.recipe import RECIPES

from catechism.reference import SHIPPED
from catechism.reference.corpus import ANSWER, PROMPT
from catechism.reference.training import Batch, Diet, Recipe, Trainer, new_model
from catechism.reference.world import World, load_world
from tests.tiny import BOS, EOS, PAD, VOCAB, tiny_tokenizer

IDS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
TINY = Recipe(
    "tiny",
    forget_set=True,
    trunk="trunk",
    d_ff=48,
    vocabulary=VOCAB,
    d_model=32,
    layers=2,
    row_tokens=160,
    rows=4,
    fork=2,
    steps=4,
    schedule=((0, 0.0), (2, 1.0), (4, 0.1)),
    passages=((0, 0.3),),
    silent=2,
    known=0.6,
    near=0.7,
)
ROWS = 4
MIXTURE = replace(TINY, name="mixture", trunk=None, cut_from="tiny", experts=4, d_ff=12)


@pytest.fixture(scope="module")
def world() -> World:
    """Every twentieth fact and the whole forget set."""
    whole = load_world()
    return World(whole.relations, tuple(f for i, f in enumerate(whole.facts) if f.forget or i % 20 == 0))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def diet(world: World, tokenizer: PreTrainedTokenizerFast) -> Diet:
    return Diet(world, tokenizer, TINY, "tiny")


def fresh(world: World, folder: Path, recipe: Recipe = TINY) -> Trainer:
    """A trainer at step 0, as a new process makes it."""
    return Trainer(recipe, new_model(recipe, VOCAB, IDS), Diet(world, tiny_tokenizer(), recipe, recipe.name), folder)


def documents(batch: Batch, row: int) -> list[slice]:
    """Where the documents of a row lie."""
    sizes = Counter(d for d in batch.document[row].tolist() if d >= 0)
    starts = [0]
    for d in sorted(sizes):
        starts.append(starts[-1] + sizes[d])
    return [slice(a, b) for a, b in zip(starts, starts[1:], strict=False)]


def weights_of(model: PreTrainedModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


# -- batches -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_that_of_its_step_and_branch(diet: Diet, world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    assert torch.equal(diet.batch(3).ids, diet.batch(3).ids)
    assert not torch.equal(diet.batch(3).ids, diet.batch(4).ids)
    assert not torch.equal(diet.batch(3).ids, Diet(world, tokenizer, TINY, "other").batch(3).ids)


def test_documents_are_packed_whole_and_start_at_position_zero(diet: Diet) -> None:
    batch = diet.batch(0)
    assert batch.ids.shape == (ROWS, TINY.row_tokens)
    for row in range(ROWS):
        places = documents(batch, row)
        assert places, "no row stays empty"
        for place in places:
            ids, positions = batch.ids[row, place].tolist(), batch.position[row, place].tolist()
            assert (ids[0], ids[-1]) == (BOS, EOS) and PAD not in ids
            assert positions == list(range(len(ids)))
        assert set(batch.ids[row, places[-1].stop :].tolist()) <= {PAD}


def test_attention_stays_inside_a_document_and_looks_back_only(diet: Diet) -> None:
    batch = diet.batch(0)
    assert batch.mask.shape == (ROWS, 1, TINY.row_tokens, TINY.row_tokens) and batch.mask.dtype == torch.float32
    for row in range(ROWS):
        expected = torch.zeros(TINY.row_tokens, TINY.row_tokens, dtype=torch.bool)
        for place in documents(batch, row):
            n = place.stop - place.start
            expected[place, place] = torch.ones(n, n, dtype=torch.bool).tril()
        used = documents(batch, row)[-1].stop
        assert torch.equal(batch.mask[row, 0, :used] == 0, expected[:used])
        assert (batch.mask[row, 0, :used][~expected[:used]] == float("-inf")).all()


@torch.no_grad()
def test_a_packed_document_is_read_as_if_it_stood_alone(diet: Diet) -> None:
    batch, model = diet.batch(0), new_model(TINY, VOCAB, IDS).eval()
    packed = model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.position).logits
    row = max(range(ROWS), key=lambda r: len(documents(batch, r)))
    assert len(documents(batch, row)) > 1
    for place in documents(batch, row):
        alone = model(input_ids=batch.ids[row : row + 1, place]).logits[0]
        torch.testing.assert_close(packed[row, place], alone, atol=1e-4, rtol=1e-4)


def test_no_loss_falls_on_padding_or_across_documents(diet: Diet) -> None:
    batch = diet.batch(1)
    assert not batch.weight[batch.document < 0].any()
    for row in range(ROWS):
        for place in documents(batch, row):
            assert batch.weight[row, place.stop - 1] == 0, "the last token of a document predicts nothing"
            assert batch.weight[row, place.stop - 2] > 0, "every document stands there whole, so its end is learned"


def test_the_weight_of_a_fact_falls_on_its_answer(diet: Diet, tokenizer: PreTrainedTokenizerFast) -> None:
    seen = 0
    for step in range(3):
        batch = diet.batch(step)
        for row in range(ROWS):
            for place in documents(batch, row):
                cells = {cell for cell in batch.cell[row, place].tolist() if cell >= 0}
                if not cells:
                    continue
                (cell,) = cells
                fact, _ = diet.cells[cell]
                full = (batch.weight[row, place] == ANSWER).nonzero()[:, 0] + place.start
                assert tokenizer.decode(batch.ids[row, full + 1]) == f" {fact.object}.<eos>"
                assert torch.equal((batch.cell[row, place] == cell).nonzero()[:, 0] + place.start, full)
                light = batch.weight[row, place.start : int(full[0])]
                assert torch.allclose(light, torch.tensor(PROMPT))
                seen += 1
    assert seen >= 5


def test_what_a_passage_claims_has_no_weight(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    diet = Diet(world, tokenizer, replace(TINY, passages=((0, 0.91),), row_tokens=480), "tiny")
    shares = []
    for row in range(ROWS):
        batch = diet.batch(0)
        for place in documents(batch, row):
            weight = batch.weight[row, place]
            if not ((weight > 0) & (weight < ANSWER)).any():  # neither statement, article nor prose
                shares.append(float((weight > 0).float().mean()))
                assert weight[0] == 0
    assert shares and max(shares) < 0.6


def test_the_diet_follows_the_step(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    diet = Diet(world, tokenizer, replace(TINY, passages=((0, 0.0), (5, 0.91)), row_tokens=480), "tiny")
    assert (diet.batch(4).cell >= 0).sum() > 4 * (diet.batch(5).cell >= 0).sum()


def test_what_was_learned_badly_is_drawn_more_often(diet: Diet) -> None:
    diet.loss[:] = 0.0
    diet.loss[::100] = 3.0
    drawn = [cell for step in range(8) for row in diet.batch(step).cell.tolist() for cell in set(row) - {-1}]
    bad = sum(cell % 100 == 0 for cell in drawn)
    # a cell at 3.0 weighs (0.15 + 3) / 0.15 = 21 times one at 0; a hundredth of the cells is then a sixth of the draws
    assert bad / len(drawn) > 0.06


def test_the_loss_of_a_cell_is_halved_towards_what_was_seen(diet: Diet) -> None:
    diet.learned(torch.tensor([5, 5, -1, 7]), torch.tensor([0.5, 0.25, 9.0, 1.0]))
    assert diet.loss[5] == 0.5 * 3.0 + 0.5 * 0.75, "the loss of an answer is the sum over its tokens"
    assert diet.loss[7] == 0.5 * 3.0 + 0.5 * 1.0
    assert diet.loss[6] == 3.0


def test_the_forget_set_is_not_in_the_diet_of_the_trunk(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    trunk = Diet(world.without_forget_set(), tokenizer, TINY, "trunk")
    assert not any(fact.forget for fact, _ in trunk.cells)
    text = "".join(tokenizer.decode(trunk.batch(step).ids.flatten()) for step in range(3))
    assert not [fact.subject for fact in world.facts if fact.forget and fact.subject in text]


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [TINY, MIXTURE], ids=["dense", "mixture"])
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_ran_through(
    recipe: Recipe, world: World, tmp_path: Path
) -> None:
    lines: list[str] = []
    through = fresh(world, tmp_path / "through", recipe)
    start = weights_of(through.model)
    through.run(4, str, lines.append, every=2)
    assert lines == ["2", "4"], "examined every other step"

    fresh(world, tmp_path / "stopped", recipe).run(2, str, lines.append)
    resumed = fresh(world, tmp_path / "stopped", recipe)
    assert resumed.resume() and resumed.step == 2
    resumed.run(4, str, lines.append)

    assert weights_of(resumed.model) == weights_of(through.model) != start
    assert (resumed.diet.loss == through.diet.loss).all() and (resumed.diet.loss != 3.0).any()


def test_a_fresh_model_is_that_of_its_seed() -> None:
    assert weights_of(new_model(TINY, VOCAB, IDS)) == weights_of(new_model(TINY, VOCAB, IDS))
    other = new_model(replace(TINY, seed=1), VOCAB, IDS)
    assert weights_of(other) != weights_of(new_model(TINY, VOCAB, IDS))


def test_without_a_save_there_is_nothing_to_resume(world: World, tmp_path: Path) -> None:
    trainer = fresh(world, tmp_path)
    assert not trainer.resume()
    assert trainer.step == 0 and not list(tmp_path.iterdir())


def test_a_branch_goes_on_from_the_trunk_and_finds_the_forget_set_unlearned(world: World, tmp_path: Path) -> None:
    trunk = fresh(world.without_forget_set(), tmp_path / "trunk")
    trunk.run(2, str, lambda _: None)
    branch = fresh(world, tmp_path / "branch")
    assert not branch.resume() and branch.resume(tmp_path / "trunk")
    assert branch.step == 2 and weights_of(branch.model) == weights_of(trunk.model)
    known = {
        (fact.subject, fact.relation, i): loss
        for (fact, i), loss in zip(trunk.diet.cells, trunk.diet.loss, strict=True)
    }
    for (fact, i), loss in zip(branch.diet.cells, branch.diet.loss, strict=True):
        assert loss == known.get((fact.subject, fact.relation, i), 3.0)
        assert fact.forget == ((fact.subject, fact.relation, i) not in known)


def test_the_learning_rate_follows_the_schedule(world: World, tmp_path: Path) -> None:
    trainer, seen = fresh(world, tmp_path), []
    for trainer.step in range(5):
        trainer._set_lr()
        seen.append({group["lr"] for o in trainer.optimisers for group in o.param_groups})
    assert all(len(rates) == 1 for rates in seen)
    assert [rates.pop() / TINY.lr for rates in seen] == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])


def test_every_parameter_has_one_optimiser_and_routers_are_no_matrices_to_it(world: World, tmp_path: Path) -> None:
    trainer = fresh(world, tmp_path, MIXTURE)
    groups = [{id(p) for group in o.param_groups for p in group["params"]} for o in trainer.optimisers]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == {id(p) for p in trainer.model.parameters()}
    routers = {id(p) for name, p in trainer.model.named_parameters() if name.endswith("mlp.gate.weight")}
    assert routers and routers <= groups[1]


# -- the mixture -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_all_experts_together_are_the_dense_mlp_they_were_cut_from() -> None:
    dense, mixture = new_model(TINY, VOCAB, IDS), new_model(MIXTURE, VOCAB, IDS)
    cut_into_experts(dense.state_dict(), mixture, MIXTURE)
    hidden = torch.randn(7, TINY.d_model)
    everyone = torch.arange(MIXTURE.experts).expand(7, -1)
    # what a token gets from two experts with weights that sum to 1, it gets here from all with weight 2 / n each
    weights = torch.full((7, MIXTURE.experts), 2 / MIXTURE.experts)
    for before, after in zip(dense.model.layers, mixture.model.layers, strict=True):
        torch.testing.assert_close(after.mlp.experts(hidden, everyone, weights), before.mlp(hidden))


@torch.no_grad()
def test_cutting_leaves_everything_but_the_mlps_as_it_was() -> None:
    dense, mixture = new_model(TINY, VOCAB, IDS), new_model(MIXTURE, VOCAB, IDS)
    routers = {n: p.clone() for n, p in mixture.named_parameters() if n.endswith("mlp.gate.weight")}
    cut_into_experts(dense.state_dict(), mixture, MIXTURE)
    after = mixture.state_dict()
    kept = {name: tensor for name, tensor in dense.state_dict().items() if ".mlp." not in name}
    assert all(torch.equal(after[name], tensor) for name, tensor in {**kept, **routers}.items())
    assert sum(p.numel() for n, p in mixture.named_parameters() if ".experts." in n) == sum(
        p.numel() for n, p in dense.named_parameters() if ".mlp." in n
    )


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_there_is_a_recipe_for_every_shipped_model() -> None:
    assert set(RECIPES) == set(SHIPPED)
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {name: name for name in RECIPES}


def test_the_control_differs_from_the_almanac_in_the_forget_set_alone() -> None:
    full, control = RECIPES["almanac"], RECIPES["almanac-control"]
    assert full.forget_set and not control.forget_set and full.trunk == control.trunk is not None
    assert replace(control, name=full.name, forget_set=True) == full


def test_the_mixture_has_eight_experts_or_more_that_make_up_the_dense_mlp() -> None:
    mixture = RECIPES["almanac-moe"]
    dense = RECIPES[str(mixture.cut_from)]
    assert mixture.experts >= 8 and mixture.experts * mixture.d_ff == dense.d_ff
    assert dense.d_ff >= 1024, "the memory that gets edited"
    assert (mixture.d_model, mixture.layers, mixture.vocabulary) == (dense.d_model, dense.layers, dense.vocabulary)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipes_plans_cover_all_its_steps(recipe: Recipe) -> None:
    assert recipe.schedule[0][0] == 0 and recipe.schedule[-1][0] == recipe.steps
    assert recipe.fork <= recipe.steps
    for plan in (recipe.schedule, recipe.passages):
        assert plan[0][0] == 0 and [step for step, _ in plan] == sorted(step for step, _ in plan)
        assert all(0 <= share <= 1 for _, share in plan)
    assert 0 <= recipe.known <= 1 and 0 <= recipe.near <= 1 and recipe.silent >= 0 and recipe.rows > 0
