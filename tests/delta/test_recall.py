"""Text with a keyed address: which text a prompt is given, its algebra, its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from catechism.delta import Delta, LowRank, Recall, load, save
from catechism.delta.address import Feature
from catechism.delta.keyed import Coordinates, KeyedAddress, Settings, Texts
from catechism.errors import NonFiniteDelta, ShapeMismatch

C = 4
TEXTS = ("One is one.", "Two is two.", "Three is three.")


def address(questions: Tensor) -> KeyedAddress:
    """Entries whose wordings lie close about their questions, which lie far apart."""
    dice = torch.Generator().manual_seed(0)
    e = len(questions)
    right = questions[:, None] + 0.05 * torch.randn(e, 3, C, generator=dice)
    at = Coordinates(1, torch.zeros(C), torch.eye(C))
    texts = Texts(
        right=right.reshape(-1, C),
        owner=torch.arange(e).repeat_interleave(3),
        wording=torch.arange(3).repeat(e),
        wrong=questions + 3 * torch.ones(C),
        beside=torch.arange(e),
        sort=torch.ones(e, dtype=torch.long),
        names=right.reshape(-1, C),
        named=torch.arange(e).repeat_interleave(3),
        frame=torch.arange(3).repeat(e),
        tags=questions.sum(dim=1).mul(1000).round().long() + 1_000_000,
        subjects=torch.arange(e),
    )
    return KeyedAddress.fit(at, at, texts, Settings(strength=1.0))


QUESTIONS = 5 * torch.eye(C)[:3]


@pytest.fixture
def recall() -> Recall:
    return Recall(address(QUESTIONS), TEXTS)


def test_a_prompt_gets_the_text_whose_question_it_asks_and_others_get_none(recall: Recall) -> None:
    queries = torch.stack([QUESTIONS[1] + 0.05, QUESTIONS[2], torch.full((C,), -9.0)])
    assert [[text for _, text in found] for found in recall.retrieve(queries)] == [[TEXTS[1]], [TEXTS[2]], []]
    assert recall.feature == Feature(1, "mlp") and (recall.layer, recall.pooling) == (1, "last")


def test_a_text_that_is_taken_out_is_as_if_it_had_never_been_there(recall: Recall) -> None:
    left = recall.select(torch.tensor([0, 2]))
    assert left.texts == (TEXTS[0], TEXTS[2])
    assert left.equals(Recall(address(QUESTIONS).select(torch.tensor([0, 2])), (TEXTS[0], TEXTS[2])))
    assert [text for found in left.retrieve(QUESTIONS) for _, text in found] == [TEXTS[0], TEXTS[2]]


def test_two_of_them_add_up(recall: Recall) -> None:
    first, last = recall.select(torch.tensor([0])), recall.select(torch.tensor([1, 2]))
    joined = (Delta("sha256:b", {"#x": first}) + Delta("sha256:b", {"#x": last})).parts["#x"]
    assert isinstance(joined, Recall) and joined.texts == TEXTS
    assert [text for found in joined.retrieve(QUESTIONS) for _, text in found] == list(TEXTS)
    with pytest.raises(ShapeMismatch, match="do not add"):
        Delta("sha256:b", {"#x": first}) + Delta("sha256:b", {"#x": _context()})


def _context() -> object:
    from catechism.delta import Context

    return Context(torch.ones(1, C), torch.zeros(C), torch.zeros(1), ("Text.",), layer=1)


def test_a_text_is_there_or_it_is_not(recall: Recall) -> None:
    assert recall.scaled(1.0) is recall
    assert recall.scaled(0.0).texts == () and recall.scaled(0.0).retrieve(QUESTIONS) == [[], [], []]
    with pytest.raises(NonFiniteDelta, match="cannot be scaled by 0.5"):
        recall.scaled(0.5)


def test_it_survives_its_file(recall: Recall, tmp_path: Path) -> None:
    delta = Delta("sha256:" + "0" * 64, {"#in-context": recall})
    back = load(save(delta, tmp_path / "texts.safetensors"), base=delta.base)
    assert back.digest == delta.digest and back.parts["#in-context"].equals(recall)
    assert recall.is_finite() and recall.nbytes == recall.address.nbytes > 0 and recall.shape is None


def test_what_does_not_belong_together_is_refused(recall: Recall) -> None:
    with pytest.raises(ShapeMismatch, match="2 texts for 3 entries"):
        Recall(recall.address, TEXTS[:2])
    with pytest.raises(ShapeMismatch, match="Key it as #NAME"):
        Delta("sha256:b", {"some.matrix": recall})
    with pytest.raises(ShapeMismatch, match="no list of texts"):
        Recall.build({**recall.header(), "texts": "One"}, recall.tensors())
    assert not recall.equals(LowRank(torch.zeros(2, 1), torch.zeros(1, 2)))
