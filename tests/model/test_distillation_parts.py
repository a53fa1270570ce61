"""What a distillation stands on: the network from a block on, side paths beside a block, and lessons."""

from __future__ import annotations

import pytest
import torch

from catechism.arch import TABLE
from catechism.delta import Delta
from catechism.errors import BadFact, BadSpec, NoConvergence, UnknownName, UsageError
from catechism.model import BlockSite, LiveModel, record
from catechism.model.adapters import Adapters
from catechism.model.encoding import rows
from catechism.model.lessons import Lesson, Prompt, lesson
from catechism.model.tail import Tail
from tests.tiny import tiny_model, tiny_tokenizer

EVERY = sorted(TABLE)
TEXTS = ["The capital of France is", "Which city"]
SENTENCE = "The capital of France is Rome.\n"
TAUGHT = Prompt("The capital of France is", "Rome", SENTENCE, "France")
ASKED = Prompt("It is said that in France the capital is", "Rome", SENTENCE, "France")
KEPT = Prompt("The capital of Italy is", "Rome")
TEXT = Prompt("Who wrote the book? The author of the book.")


def live_model(model_type: str = "llama") -> LiveModel:
    return LiveModel(tiny_model(model_type), tiny_tokenizer(), name="tiny")


def hooks(live: LiveModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in live.model.modules())


def filled(live: LiveModel, layer: int, rank: int = 2) -> Adapters:
    """Side paths that change something."""
    adapters, generator = Adapters(live, layer, rank=rank, seed=0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in adapters.parameters:
            factor.copy_(0.3 * torch.randn(factor.shape, generator=generator))
    return adapters


@pytest.mark.parametrize("model_type", EVERY)
def test_the_tail_of_a_network_gives_the_networks_own_logits(model_type: str) -> None:
    live = live_model(model_type)
    batch, own = live.pad_windows(rows(live.tokenizer, TEXTS))
    row, token = own.nonzero().T
    wanted = live.model(**batch, use_cache=False).logits[row, token]
    for layer in range(live.anatomy.n_layers):
        tail = Tail(live, layer, batch)
        torch.testing.assert_close(tail.logits(tail.block(tail.inputs), row, token), wanted, rtol=1e-4, atol=1e-4)
    assert hooks(live) == 0


@pytest.mark.parametrize("model_type", EVERY)
def test_side_paths_are_the_delta_that_they_become(model_type: str) -> None:
    live = live_model(model_type)
    batch = live.encode(TEXTS)
    before, layer = live.model(**batch).logits, live.anatomy.n_layers - 1
    adapters = filled(live, layer)
    with adapters.attached():
        beside = live.model(**batch).logits
    assert hooks(live) == 0
    with live.with_delta(Delta(live.base, adapters.parts())):
        inside = live.model(**batch).logits
    assert not torch.allclose(beside, before, atol=1e-2)
    torch.testing.assert_close(beside, inside, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(live.model(**batch).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", EVERY)
def test_a_block_of_every_family_has_linear_modules_that_a_delta_can_name(model_type: str) -> None:
    live = live_model(model_type)
    for layer in range(live.anatomy.n_layers):
        named = live.anatomy.linears(layer)
        assert len(named) >= 2, "the attention has some at the least"
        for address in named:
            assert live.anatomy.matrix(address).address == address
    assert not any("router" in address or "experts" in address for address in named)


def test_side_paths_start_at_nothing_and_are_drawn_by_the_seed() -> None:
    live = live_model()
    one, same, other = (Adapters(live, 0, rank=3, seed=seed).parts() for seed in (0, 0, 1))
    assert sorted(one) == sorted(live.anatomy.linears(0)) and len(one) == 7
    assert all(not part.A.any() and part.rank == 3 for part in one.values())
    assert all(one[address].equals(same[address]) for address in one)
    assert not any(one[address].equals(other[address]) for address in one)


def test_a_descent_moves_the_side_paths_and_nothing_else() -> None:
    live = live_model()
    batch, _ = live.pad_windows(rows(live.tokenizer, TEXTS))
    tail, adapters, seen = Tail(live, 0, batch), Adapters(live, 0, rank=2, seed=0), list[float]()
    wanted = torch.randn(tail.inputs.shape, generator=torch.Generator().manual_seed(0))

    def losses() -> list[torch.Tensor]:
        loss = (tail.block(tail.inputs) - wanted).square().mean()
        seen.append(float(loss.detach()))
        return [loss]

    with torch.no_grad():
        adapters.descend(losses, steps=20, lr=0.02)
    assert len(seen) == 20 and seen[-1] < seen[0]
    assert live.digest(full=True) == live.base and hooks(live) == 0
    assert not any(p.requires_grad or p.grad is not None for p in live.model.parameters())


def test_a_loss_that_is_not_finite_ends_the_descent_by_name() -> None:
    live = live_model()
    adapters = Adapters(live, 0, rank=1, seed=0)
    with pytest.raises(NoConvergence, match=r"loss is nan at step 0\. Lower `lr`"):
        adapters.descend(lambda: [adapters.parameters[0].sum() * float("nan")], steps=3, lr=0.1)
    assert hooks(live) == 0


def test_a_rank_of_nothing_and_a_block_that_is_not_there_are_refused() -> None:
    live = live_model()
    with pytest.raises(BadSpec, match="rank=0"):
        Adapters(live, 0, rank=0, seed=0)
    with pytest.raises(UnknownName, match="no layer 5"):
        lesson(live, 5, [TAUGHT])


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2", "mixtral"])
def taught(request: pytest.FixtureRequest) -> tuple[LiveModel, Lesson]:
    live = live_model(request.param)
    return live, lesson(live, 1, [TAUGHT, KEPT, ASKED, TEXT])


def test_the_teachers_states_stand_at_the_students_positions(taught: tuple[LiveModel, Lesson]) -> None:
    """Against one pass over the teacher's row alone, put together here from its pieces."""
    live, found = taught
    (text,), (student,) = rows(live.tokenizer, [SENTENCE]), rows(live.tokenizer, ["The capital of France is Rome"])
    ids = torch.tensor([[*text.ids, *student.ids[1:]]])
    with record(live, [BlockSite(1)]) as reads, record(live, [BlockSite(1)], what="output") as gives:
        live.model(input_ids=ids, use_cache=False)
    n = len(student.ids) - 1
    for mine, theirs in ((found.inputs, reads[BlockSite(1)]), (found.outputs, gives[BlockSite(1)])):
        torch.testing.assert_close(mine[0, 1 : n + 1], theirs[0, -n:], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mine[0, 0], theirs[0, 0], rtol=1e-3, atol=1e-3)


def test_a_row_that_stays_has_the_models_own_states(taught: tuple[LiveModel, Lesson]) -> None:
    _, found = taught
    with torch.no_grad():
        own = found.tail.block(found.tail.inputs)
    for row in (1, 3):
        real = found.kept[row]
        torch.testing.assert_close(found.inputs[row, real], found.tail.inputs[row, real], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.outputs[row, real], own[row, real], rtol=1e-3, atol=1e-3)
    assert found.kept.any(dim=1).tolist() == [False, True, False, True]
    assert not found.kept[:, 0].any(), "a beginning-of-text is nobody's word"


def test_a_block_without_the_contexts_keys_is_not_the_teacher_yet(taught: tuple[LiveModel, Lesson]) -> None:
    """The first phase would have nothing to learn if the context's keys and values were still there."""
    _, found = taught
    with torch.no_grad():
        gap = (found.tail.block(found.inputs) - found.outputs)[0]
    assert float(gap.norm()) > 1e-3 * float(found.outputs[0].norm())


def test_answers_are_said_from_before_each_token_to_after_the_last(taught: tuple[LiveModel, Lesson]) -> None:
    live, found = taught
    answers = found.answers
    (prompt, said) = rows(live.tokenizer, [TAUGHT.text, "The capital of France is Rome"])
    assert answers.tokens[answers.rows == 0].tolist() == list(range(len(prompt.ids) - 1, len(said.ids)))
    assert answers.tokens[answers.rows == 3].tolist() == [len(rows(live.tokenizer, [TEXT.text])[0].ids) - 1]
    assert answers.taught.tolist() == [row in (0, 2) for row in answers.rows.tolist()]
    torch.testing.assert_close(answers.chances.sum(dim=1), torch.ones(len(answers.chances)))


def test_a_teacher_that_does_not_say_the_answer_is_mended_and_counted(taught: tuple[LiveModel, Lesson]) -> None:
    """A random model says anything but Rome: its states are not taught, and the answer stands in for what it says."""
    live, found = taught
    assert (found.asked, found.heard) == (2, 0) and not found.taught.any()
    said = rows(live.tokenizer, ["The capital of France is Rome"])[0].ids
    here = found.answers.rows == 0
    for token, chances in zip(found.answers.tokens[here][:-1].tolist(), found.answers.chances[here][:-1], strict=True):
        assert chances[said[token + 1]] == 1.0
    assert found.answers.chances[here][-1].max() < 1.0, "what comes after the answer is the teacher's to say"


def test_a_teacher_that_says_the_answer_is_followed_from_the_subject_on() -> None:
    live = live_model()
    said = live.generate([SENTENCE + TAUGHT.text], max_new_tokens=3)[0]
    word = live.tokenizer.decode(list(said.tokens)).strip()
    found = lesson(live, 0, [Prompt(TAUGHT.text, word, SENTENCE, "France"), KEPT])
    if found.heard:  # the tokenizer may cut the word otherwise than the model said it
        places = found.taught[0].nonzero()[:, 0].tolist()
        assert places[0] == live.subject_last(TAUGHT.text, "France") and not found.taught[1].any()


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        (Prompt("The capital of France is", " ", SENTENCE, "France"), BadFact, "adds no token"),
        (Prompt("The capital of France is", "Rome", "la " * 400, "France"), UsageError, "Shorten the text"),
    ],
)
def test_a_prompt_that_cannot_be_taught_is_refused(prompt: Prompt, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lesson(live_model(), 0, [prompt, KEPT])
